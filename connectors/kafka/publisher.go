package kafka

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"time"

	"github.com/apache/arrow/go/v15/arrow"
	"github.com/apache/arrow/go/v15/arrow/array"
	kafka "github.com/segmentio/kafka-go"
	"github.com/tailrace/tailrace/connectors/credentials"
	"github.com/tailrace/tailrace/pipeline"
	"github.com/tailrace/tailrace/schemas"
)

// The headers of an event.
const (
	headerSchema  = "schema"
	headerStatus  = "status"
	headerEventID = "event-id"
)

// Publisher writes events to anomaly.events.v1, rows that came too late to pipeline.late.v1 and refused messages to
// pipeline.dlq.v1, at least once; in a pipeline with the step rekey also all rows to telemetry.rekeyed.v1.
type Publisher struct {
	config   PublisherConfig
	settings pipeline.Settings
	producer *Producer
	events   string
	late     string
	dead     string
	rekeyed  string
	topics   map[string]int // all that it writes, with the partitions that each gets if it is made
}

var _ pipeline.Publisher = (*Publisher)(nil)

// NewPublisher returns a publisher that has not connected yet.
func NewPublisher(c PublisherConfig, set pipeline.Settings) (*Publisher, error) {
	p := &Publisher{
		config: c, settings: set,
		events: c.Prefix + schemas.TopicEvents, late: c.Prefix + schemas.TopicLate, dead: c.Prefix + schemas.TopicDeadLetters,
		rekeyed: c.Prefix + schemas.TopicRekeyed,
	}
	p.topics = map[string]int{p.events: c.Partitions, p.late: c.Partitions, p.dead: c.Partitions}
	if set.Rekeyed {
		p.topics[p.rekeyed] = c.RekeyedPartitions
	}
	p.producer = NewProducer(ProducerConfig{
		Brokers: c.Brokers, TLS: c.TLS.In(set.Dir), SASL: c.SASL.in(set.Dir), Topics: slices.Sorted(maps.Keys(p.topics)),
		BatchBytes: int(c.BatchBytes), Linger: c.Linger, Timeout: c.RequestTimeout, Log: set.Log,
	})
	p.producer.shrink = func(topic string) func(*record) bool {
		if topic == p.dead {
			return shrinkDead
		}
		return nil
	}
	return p, nil
}

// Open makes missing topics if it is told to, and looks them up.
func (p *Publisher) Open(ctx context.Context) error {
	if p.config.CreateTopics {
		for _, name := range slices.Sorted(maps.Keys(p.topics)) {
			if err := p.create(ctx, name, p.topics[name]); err != nil {
				return err
			}
		}
	}
	return p.producer.Open(ctx)
}

func (p *Publisher) create(ctx context.Context, name string, partitions int) error {
	var pause backoff
	refused := 0
	trouble := outage{log: p.settings.Log, what: "kafka topic", args: []any{"topic", name, "brokers", p.config.Brokers}}
	for {
		_, err := p.producer.cluster.topic(ctx, name)
		if errors.Is(err, errUnknownTopic) {
			err = p.producer.cluster.create(ctx, name, partitions, p.config.Replication, nil)
		}
		switch {
		case err == nil:
			trouble.works()
			return nil
		case ctx.Err() != nil:
			return ctx.Err()
		case errors.Is(err, pipeline.ErrConfig):
			return fmt.Errorf("kafka: %w", err)
		case credentials.Refused(err):
			if refused++; refused == refusedTries || !credentials.Fresh(err) {
				return fmt.Errorf("kafka: %w", p.producer.cluster.final(err))
			}
		}
		trouble.failed(err)
		if err := pause.wait(ctx); err != nil {
			return err
		}
	}
}

// PublishEvents queues the rows of batch, keyed by asset.
func (p *Publisher) PublishEvents(ctx context.Context, batch arrow.Record) error {
	l, ok := p.producer.topics[p.events]
	if !ok {
		return errNotOpen
	}
	events, err := schemas.EventsOf(batch)
	if err != nil {
		return fmt.Errorf("kafka: %w", err)
	}
	texts, ok := batch.Column(schemas.EventJSON).(*array.String)
	if !ok {
		return fmt.Errorf("kafka: events: want utf8, got %s", batch.Column(schemas.EventJSON).DataType())
	}
	now := time.Now().UnixNano()
	for i := range events {
		key := []byte(events[i].Asset)
		err := l.list[l.of(key)].add(ctx, record{key: key, value: []byte(texts.Value(i)), time: now, headers: []kafka.Header{
			{Key: headerSchema, Value: []byte(events[i].Schema)},
			{Key: headerStatus, Value: []byte(events[i].Status)},
			{Key: headerEventID, Value: []byte(events[i].EventID)},
		}})
		if err != nil {
			return err
		}
	}
	return nil
}

// PublishLate queues the rows of batch as JSON, keyed by asset.
func (p *Publisher) PublishLate(ctx context.Context, batch arrow.Record) error {
	l, ok := p.producer.topics[p.late]
	if !ok {
		return errNotOpen
	}
	now := time.Now().UnixNano()
	err := schemas.LateRows(batch, p.settings.Pipeline, func(row *schemas.LateRow, text []byte) error {
		key := []byte(row.Asset)
		return l.list[l.of(key)].add(ctx, record{key: key, value: text, time: now})
	})
	if err != nil && !errors.Is(err, ctx.Err()) {
		return fmt.Errorf("kafka: %w", err)
	}
	return err
}

// PublishDead queues refused messages with the key, the value and the headers they came with. One without a key goes by
// the partition it came from, so that the order there is kept.
func (p *Publisher) PublishDead(ctx context.Context, letters []pipeline.DeadLetter) error {
	l, ok := p.producer.topics[p.dead]
	if !ok {
		return errNotOpen
	}
	now := time.Now().UnixNano()
	for i := range letters {
		d := &letters[i]
		to := int(uint32(d.Partition)) % len(l.list)
		if d.Message.Key != nil {
			to = l.of(d.Message.Key)
		}
		err := l.list[to].add(ctx, record{
			key: d.Message.Key, value: d.Message.Value, headers: p.deadHeaders(d), time: now,
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// deadHeaders are the message's own, then ours. A consumer that wants ours takes the last of a name.
func (p *Publisher) deadHeaders(d *pipeline.DeadLetter) []kafka.Header {
	headers := make([]kafka.Header, 0, len(d.Message.Headers)+11)
	for _, h := range d.Message.Headers {
		headers = append(headers, kafka.Header{Key: h.Key, Value: h.Value})
	}
	add := func(key, value string) { headers = append(headers, kafka.Header{Key: key, Value: []byte(value)}) }
	add(schemas.HeaderErrorCode, d.Reject.Code)
	add(schemas.HeaderError, d.Reject.Reason)
	add(schemas.HeaderStage, d.Stage)
	add(schemas.HeaderSrcTopic, d.Topic)
	add(schemas.HeaderSrcPartition, strconv.Itoa(int(d.Partition)))
	add(schemas.HeaderSrcOffset, strconv.FormatInt(d.Message.Offset, 10))
	add(schemas.HeaderSrcTimestamp, time.Unix(0, d.Message.Time).UTC().Format(time.RFC3339Nano))
	add(schemas.HeaderPipeline, p.settings.Pipeline)
	if d.Length > 0 {
		return append(headers, shortHeaders(d.Length, d.SHA256)...)
	}
	return headers
}

func shortHeaders(length int64, sum [sha256.Size]byte) []kafka.Header {
	return []kafka.Header{
		{Key: schemas.HeaderTruncated, Value: []byte("true")},
		{Key: schemas.HeaderSrcLength, Value: []byte(strconv.FormatInt(length, 10))},
		{Key: schemas.HeaderSrcSHA256, Value: []byte(hex.EncodeToString(sum[:]))},
	}
}

// shrinkDead makes a dead letter smaller that its topic does not take: first the short form, then without what the
// message brought. Where it came from and why it was refused always stay.
func shrinkDead(r *record) bool {
	r.cut++
	if r.cut == 1 {
		if len(r.value) > shortValue {
			if !isShort(r.headers) {
				r.headers = append(r.headers, shortHeaders(int64(len(r.value)), sha256.Sum256(r.value))...)
			}
			r.value = r.value[:shortValue]
			return true
		}
		r.cut++
	}
	if r.cut == 2 {
		if !isShort(r.headers) {
			r.headers = append(r.headers, shortHeaders(int64(len(r.value)), sha256.Sum256(r.value))...)
		}
		r.key, r.value = nil, nil
		r.headers = r.headers[ours(r.headers):]
		return true
	}
	return false
}

// ours is where our own headers begin: at the last error-code.
func ours(headers []kafka.Header) int {
	for i := len(headers) - 1; i >= 0; i-- {
		if headers[i].Key == schemas.HeaderErrorCode {
			return i
		}
	}
	return 0
}

func isShort(headers []kafka.Header) bool {
	for _, h := range headers[ours(headers):] {
		if h.Key == schemas.HeaderTruncated {
			return true
		}
	}
	return false
}

// Flush returns nil when all that was published before is acknowledged.
func (p *Publisher) Flush(ctx context.Context) error { return p.producer.Flush(ctx) }

// Close gives up what is not acknowledged.
func (p *Publisher) Close() error { return p.producer.Close() }
