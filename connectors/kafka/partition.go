package kafka

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math"
	"time"

	"github.com/apache/arrow/go/v15/arrow"
	kafka "github.com/segmentio/kafka-go"
	"github.com/tailrace/tailrace/pipeline"
	"github.com/tailrace/tailrace/schemas"
	"github.com/tailrace/tailrace/schemas/formats"
)

const (
	noBound = math.MaxInt64
	// shortValue is what is kept of a refused message that is too large to be kept whole.
	shortValue = 64 << 10
	// corruptTries is how often a batch is fetched again when its checksum is wrong. The network may have done it once;
	// after that it is the broker's disk.
	corruptTries = 5
	// unknownTries is how often the partition may be unknown while it is read. Brokers that start say so for a while.
	unknownTries = 30
)

// partition reads one partition into telemetry.
type partition struct {
	from    *reader
	place   place
	bound   func() int64 // the offset to end at
	stats   *Stats
	fetch   *fetcher
	decoder formats.Decoder
	refused map[int64]string // reasons for which messages were refused when they were read first
	rows    *schemas.TelemetryBuilder
	message formats.Message
	pause   backoff
	trouble outage
	fault   error // of the fetch after what was delivered last
	corrupt int   // in a row
	unknown int   // in a row
	closed  bool
}

var _ pipeline.Partition = (*partition)(nil)

func (p *partition) Topic() string { return p.fetch.topic }
func (p *partition) ID() int32     { return p.fetch.partition }

// Close closes the connection. It may be called again.
func (p *partition) Close() error {
	if p.closed {
		return nil
	}
	p.closed = true
	p.trouble.end()
	p.rows.Release()
	return p.fetch.close()
}

// Read gives what is left of a response, up to batch_rows, or waits for the next one.
func (p *partition) Read(ctx context.Context) (pipeline.Delivery, error) {
	f := p.fetch
	for {
		f.bound = p.bound()
		if f.next >= f.bound {
			f.drop()
			return pipeline.Delivery{}, io.EOF
		}
		err := p.fault
		p.fault = nil
		if err == nil && f.drained() {
			err = f.receive(ctx)
		}
		if err == nil {
			p.pause.reset()
			p.trouble.works()
			p.from.cluster.settled.Store(true)
			p.unknown = 0
			d, err := p.deliver()
			if err != nil {
				return d, err
			}
			if d.Next != d.First {
				p.corrupt = 0
			}
			if p.fault == nil || d.Next != d.First {
				return d, nil
			}
			continue
		}
		if ctx.Err() != nil {
			return pipeline.Delivery{}, ctx.Err()
		}
		err = p.from.cluster.final(p.from.cluster.grant(err, "Read", p.Topic(), p.from.config.Group))
		if err := p.permanent(ctx, err); err != nil {
			return pipeline.Delivery{}, fmt.Errorf("kafka: topic %q, partition %d: %w", p.Topic(), p.ID(), err)
		}
		p.trouble.failed(err)
		if err := p.pause.wait(ctx); err != nil {
			return pipeline.Delivery{}, err
		}
	}
}

// permanent returns the error to give up with, or nil if err may pass.
func (p *partition) permanent(ctx context.Context, err error) error {
	gone := errors.Is(err, errUnknownTopic) || errors.Is(err, kafka.UnknownTopicOrPartition) ||
		errors.Is(err, unknownTopicID) || errors.Is(err, inconsistentTopicID)
	if !gone {
		p.unknown = 0
	}
	switch {
	case errors.Is(err, pipeline.ErrConfig):
		return err
	case errors.Is(err, errOutOfRange):
		return p.outOfRange(ctx)
	case errors.Is(err, errOldFormat):
		return fmt.Errorf("%w: %w", pipeline.ErrConfig, err)
	case errors.Is(err, errCorrupt):
		if p.corrupt++; p.corrupt == corruptTries {
			return fmt.Errorf("fetched %d times: %w", p.corrupt, err)
		}
	case gone:
		if p.unknown++; p.unknown == unknownTries {
			return fmt.Errorf("%w: it was there when reading began: %w", pipeline.ErrConfig, err)
		}
	}
	return nil
}

func (p *partition) outOfRange(ctx context.Context) error {
	first, end, err := p.from.offsets(ctx, []int{int(p.ID())})
	if err != nil {
		return fmt.Errorf("%w: offset %d: %w; its range could not be read: %w",
			pipeline.ErrConfig, p.fetch.next, errOutOfRange, err)
	}
	err = fmt.Errorf("%w: offset %d: %w: want %d to %d; retention has deleted it, or the topic was made anew",
		pipeline.ErrConfig, p.fetch.next, errOutOfRange, first[p.ID()], end[p.ID()])
	if group := p.from.config.Group; group != "" {
		return fmt.Errorf("%w: set the offsets of group %q to where reading is to go on", err, group)
	}
	return err
}

// deliver decodes messages of the response. What stops it early is left in fault; an error is of the decoder itself.
func (p *partition) deliver() (pipeline.Delivery, error) {
	f, c := p.fetch, &p.from.config
	started := time.Now()
	d := pipeline.Delivery{First: f.next}
	m := &p.message
	var taken int
	p.rows.Reserve(min(c.BatchRows, f.waiting()))
	for d.Messages < c.BatchRows && p.rows.Len() < c.BatchRows && taken < int(c.FetchMaxBytes) {
		err := f.message(m)
		if err != nil {
			var refused *refusedBatch
			if errors.As(err, &refused) {
				d.Messages++
				taken += len(refused.raw)
				p.refuseBatch(&d, refused)
				continue
			}
			if !errors.Is(err, errDrained) && !errors.Is(err, io.EOF) {
				p.fault = err
			}
			break
		}
		d.Messages++
		taken += len(m.Key) + len(m.Value)
		if err := p.decode(m); err != nil {
			reject, ok := err.(*formats.Reject) //nolint:errorlint // the contract of Decode says it is this very type
			if !ok {
				p.rows.NewRecord().Release()
				return pipeline.Delivery{}, fmt.Errorf("kafka: topic %q, partition %d, offset %d: decoder: %w",
					p.Topic(), p.ID(), m.Offset, err)
			}
			p.refuse(&d, m, reject)
		}
	}
	d.Next = f.next
	d.CaughtUp = f.drained() && p.fault == nil && f.next >= f.end
	d.Lag = max(0, f.end-f.next)
	if p.rows.Len() > 0 {
		d.Batch = p.rows.NewRecord()
		d.Bytes += recordBytesHeld(d.Batch)
	}
	if stateful, ok := p.decoder.(formats.Stateful); ok {
		d.Decoder = stateful.Snapshot()
	}
	if dropper, ok := p.decoder.(formats.Dropper); ok {
		d.Dropped = dropper.Dropped()
	}
	d.Decode = time.Since(started)
	return d, nil
}

func (p *partition) decode(m *formats.Message) error {
	switch limit := int(p.from.config.MaxDecodeBytes); {
	case m.Value == nil:
		return formats.Rejectf(schemas.DeadWrongType, "value: want a message, got null (a tombstone)")
	case len(m.Value) > limit:
		return formats.Rejectf(schemas.DeadTooLarge, "value: want at most max_decode_bytes (%d), got %d bytes",
			limit, len(m.Value))
	}
	if reason, ok := p.refused[m.Offset]; ok {
		return formats.Rejectf(schemas.DeadCardinality, "%s", reason)
	}
	return p.decoder.Decode(m, p.rows)
}

// refuse adds a dead letter with a copy of m.
func (p *partition) refuse(d *pipeline.Delivery, m *formats.Message, reject *formats.Reject) {
	p.stats.RefusedMessages.Add(1)
	letter := pipeline.DeadLetter{Topic: p.Topic(), Partition: p.ID(), Stage: "decode", Reject: reject, Message: *m}
	size := len(m.Key) + len(m.Value)
	for _, h := range m.Headers {
		size += len(h.Key) + len(h.Value)
	}
	if size > int(p.from.config.DeadLetterMaxValue) && len(m.Value) > shortValue {
		p.stats.ShortDeadLetters.Add(1)
		letter.Length, letter.SHA256 = int64(len(m.Value)), sha256.Sum256(m.Value)
		letter.Message.Value = m.Value[:shortValue]
	}
	d.Bytes += own(&letter.Message)
	d.Dead = append(d.Dead, letter)
}

// refuseBatch adds one dead letter for all of a batch.
func (p *partition) refuseBatch(d *pipeline.Delivery, r *refusedBatch) {
	code := schemas.DeadUnreadable
	if errors.Is(r.err, errTooLarge) {
		code = schemas.DeadTooLarge
	}
	p.refuse(d, &formats.Message{Offset: r.first, Time: r.time, Value: r.raw}, formats.Rejectf(code, "%s", r.Error()))
}

// own gives m memory of its own, in one piece, and returns its size.
func own(m *formats.Message) int64 {
	size := len(m.Key) + len(m.Value)
	for _, h := range m.Headers {
		size += len(h.Value)
	}
	arena := make([]byte, 0, size)
	keep := func(b []byte) []byte {
		if b == nil {
			return nil // null stays null
		}
		from := len(arena)
		arena = append(arena, b...)
		return arena[from:len(arena):len(arena)]
	}
	m.Key, m.Value = keep(m.Key), keep(m.Value)
	headers := m.Headers
	m.Headers = nil
	if len(headers) > 0 {
		m.Headers = make([]formats.Header, len(headers))
		for i, h := range headers {
			m.Headers[i] = formats.Header{Key: h.Key, Value: keep(h.Value)}
		}
	}
	return int64(size)
}

// recordBytesHeld is what a record's buffers hold. Dictionaries are shared between records and do not count.
func recordBytesHeld(rec arrow.Record) int64 {
	var n int
	for _, c := range rec.Columns() {
		for _, b := range c.Data().Buffers() {
			if b != nil {
				n += b.Cap()
			}
		}
	}
	return int64(n)
}
