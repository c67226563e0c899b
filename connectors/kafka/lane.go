package kafka

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"sync"
	"time"

	kafka "github.com/segmentio/kafka-go"
	"github.com/tailrace/tailrace/pipeline"
)

// record is one message to be produced.
type record struct {
	key, value []byte
	headers    []kafka.Header
	time       int64 // ns UTC
	cut        int   // how often it was made smaller
}

// lane sends records to one partition, in order, one request at a time: while one is on its way the next batch fills,
// and when that is full, adding waits.
type lane struct {
	topic     string
	partition int
	cluster   *cluster
	client    *kafka.Client
	options   laneOptions
	trouble   outage

	mu     sync.Mutex
	cond   sync.Cond
	open   *pending
	spare  *pending
	due    bool // the open batch has waited for linger
	flush  int  // how many wait for all of it
	added  int64
	acked  int64
	end    int64 // offset after the last acknowledged record; -1 before
	err    error // what no retry mends
	closed bool
}

type laneOptions struct {
	batchBytes  int
	linger      time.Duration
	compression kafka.Compression
	log         *slog.Logger
	// shrink makes a record smaller that is too large for its topic, or returns false.
	shrink func(*record) bool
}

// pending is a batch that fills. Keys and values are in one arena, so that a record costs no allocation.
type pending struct {
	arena   []byte
	entries []entry
}

type entry struct {
	keyEnd, end int // of the key and the value, which follows it, in the arena
	keyNull     bool
	valueNull   bool
	headers     []kafka.Header
	time        int64
}

func newLane(topic string, partition int, c *cluster, client *kafka.Client, o laneOptions) *lane {
	l := &lane{
		topic: topic, partition: partition, cluster: c, client: client, options: o, end: -1,
		open: &pending{}, spare: &pending{},
		trouble: outage{log: o.log, what: "kafka produce", args: []any{"topic", topic, "partition", partition}, grace: 1},
	}
	l.cond.L = &l.mu
	return l
}

// await waits on cond until done or ctx ends. mu is held.
func (l *lane) await(ctx context.Context, done func() bool) error {
	if done() {
		return nil
	}
	stop := context.AfterFunc(ctx, func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.cond.Broadcast()
	})
	defer stop()
	for !done() {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		l.cond.Wait()
	}
	return nil
}

var errProducerClosed = errors.New("the producer is closed")

// add copies a record; headers are kept. It waits for room.
func (l *lane) add(ctx context.Context, r record) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.await(ctx, func() bool {
		return len(l.open.arena) < l.options.batchBytes || l.err != nil || l.closed
	}); err != nil {
		return err
	}
	if l.err != nil {
		return l.err
	}
	if l.closed {
		return errProducerClosed
	}
	p := l.open
	if len(p.entries) == 0 {
		l.cond.Broadcast() // linger begins
	}
	p.arena = append(p.arena, r.key...)
	e := entry{keyEnd: len(p.arena), keyNull: r.key == nil, valueNull: r.value == nil, headers: r.headers, time: r.time}
	p.arena = append(p.arena, r.value...)
	e.end = len(p.arena)
	p.entries = append(p.entries, e)
	l.added++
	if len(p.arena) >= l.options.batchBytes {
		l.cond.Broadcast()
	}
	return nil
}

// flushed waits until all that was added before is acknowledged.
func (l *lane) flushed(ctx context.Context) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	target := l.added
	l.flush++
	l.cond.Broadcast()
	defer func() { l.flush-- }()
	if err := l.await(ctx, func() bool { return l.acked >= target || l.err != nil || l.closed }); err != nil {
		return err
	}
	if l.acked >= target {
		return nil
	}
	if l.err != nil {
		return l.err
	}
	return errProducerClosed
}

func (l *lane) close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.closed = true
	l.cond.Broadcast()
}

func (l *lane) state() (acked, end int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.acked, l.end
}

// run sends until the lane is closed or something happens that no retry mends.
func (l *lane) run(ctx context.Context) {
	timer := time.AfterFunc(math.MaxInt64, func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.due = true
		l.cond.Broadcast()
	})
	defer timer.Stop()
	var s sender
	for {
		batch := l.take(timer)
		if batch == nil {
			return
		}
		end, err := s.sendAll(ctx, l, batch)
		l.mu.Lock()
		if err == nil {
			l.acked += int64(len(batch.entries))
			l.end = end
		} else if ctx.Err() == nil {
			l.err = err
		}
		batch.reset(4 * l.options.batchBytes)
		l.spare = batch
		l.cond.Broadcast()
		l.mu.Unlock()
		if err != nil {
			return
		}
	}
}

// take waits for a batch that should go, and takes it. It returns nil when the lane is closed.
func (l *lane) take(timer *time.Timer) *pending {
	l.mu.Lock()
	defer l.mu.Unlock()
	for lingers := false; ; {
		p := l.open
		switch {
		case l.closed:
			return nil
		case len(p.entries) > 0 && (l.due || l.flush > 0 || l.options.linger == 0 || len(p.arena) >= l.options.batchBytes):
			timer.Stop()
			l.due = false
			l.open, l.spare = l.spare, nil
			l.cond.Broadcast()
			return p
		case len(p.entries) > 0 && !lingers:
			lingers = true
			timer.Reset(l.options.linger)
		}
		l.cond.Wait()
	}
}

func (p *pending) reset(keep int) {
	p.arena, p.entries = p.arena[:0], p.entries[:0]
	if cap(p.arena) > keep {
		p.arena = nil // it was for one large record
	}
}

// sender turns batches into requests. It reuses what kafka-go needs for a record.
type sender struct {
	batch   []record
	records []kafka.Record
	bodies  []body
}

// body is a [kafka.Bytes]. Being an io.WriterTo it can be compressed without a copy.
type body struct{ bytes.Reader }

func (*body) Close() error { return nil }

// sendAll sends a batch and returns the offset after it.
func (s *sender) sendAll(ctx context.Context, l *lane, p *pending) (end int64, err error) {
	s.batch = s.batch[:0]
	from := 0
	for _, e := range p.entries {
		r := record{headers: e.headers, time: e.time}
		if !e.keyNull {
			r.key = p.arena[from:e.keyEnd:e.keyEnd]
		}
		if !e.valueNull {
			r.value = p.arena[e.keyEnd:e.end:e.end]
		}
		from = e.end
		s.batch = append(s.batch, r)
	}
	return s.send(ctx, l, s.batch)
}

// send retries until batch is acknowledged. One that is too large for the topic is halved, down to single records,
// which are made smaller if they can be.
func (s *sender) send(ctx context.Context, l *lane, batch []record) (end int64, err error) {
	var pause backoff
	for {
		end, err = s.try(ctx, l, batch)
		switch {
		case err == nil:
			l.trouble.works()
			return end, nil
		case ctx.Err() != nil:
			return 0, ctx.Err()
		case errors.Is(err, kafka.MessageSizeTooLarge), errors.Is(err, kafka.RecordListTooLarge):
			if len(batch) > 1 {
				if _, err = s.send(ctx, l, batch[:len(batch)/2]); err != nil {
					return 0, err
				}
				batch = batch[len(batch)/2:]
				continue
			}
			if l.options.shrink != nil && l.options.shrink(&batch[0]) {
				continue
			}
			return 0, fmt.Errorf("%w: kafka: topic %q: a record of %d bytes is over the topic's max.message.bytes: %w",
				pipeline.ErrConfig, l.topic, len(batch[0].key)+len(batch[0].value), err)
		case !mayPass(err):
			return 0, fmt.Errorf("%w: kafka: topic %q, partition %d: produce: %w", pipeline.ErrConfig, l.topic, l.partition, err)
		}
		l.trouble.failed(l.cluster.grant(err, "Write", l.topic, ""))
		closeClient(l.client) // the leader may have moved
		if err := pause.wait(ctx); err != nil {
			return 0, err
		}
	}
}

// mayPass tells errors of producing that a retry may mend: all of the network, those that Kafka calls retriable, and a door
// that was open when the producer was opened.
func mayPass(err error) bool {
	var code kafka.Error
	if !errors.As(err, &code) {
		return true
	}
	switch code {
	case kafka.Unknown, kafka.BrokerNotAvailable, kafka.TopicAuthorizationFailed, kafka.ClusterAuthorizationFailed,
		kafka.SASLAuthenticationFailed:
		return true
	}
	return code.Temporary()
}

func (s *sender) try(ctx context.Context, l *lane, batch []record) (end int64, err error) {
	if cap(s.records) < len(batch) {
		s.records = make([]kafka.Record, len(batch))
		s.bodies = make([]body, 2*len(batch))
	}
	records := s.records[:len(batch)]
	for i, r := range batch {
		records[i] = kafka.Record{Time: time.Unix(0, r.time), Headers: r.headers}
		if r.key != nil {
			s.bodies[2*i].Reset(r.key)
			records[i].Key = &s.bodies[2*i]
		}
		if r.value != nil {
			s.bodies[2*i+1].Reset(r.value)
			records[i].Value = &s.bodies[2*i+1]
		}
	}
	res, err := l.client.Produce(ctx, &kafka.ProduceRequest{
		Topic: l.topic, Partition: l.partition, RequiredAcks: kafka.RequireAll,
		Records: kafka.NewRecordReader(records...), Compression: l.options.compression,
	})
	if err != nil {
		return 0, err
	}
	if res.Error != nil {
		return 0, res.Error
	}
	return res.BaseOffset + int64(len(batch)), nil
}
