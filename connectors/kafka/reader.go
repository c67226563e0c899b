package kafka

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"

	kafka "github.com/segmentio/kafka-go"
	"github.com/tailrace/tailrace/pipeline"
	"github.com/tailrace/tailrace/schemas"
	"github.com/tailrace/tailrace/schemas/formats"
)

// reader is what the sources have in common: a topic, how it is reached and how it is decoded.
type reader struct {
	Stats Stats

	config   SourceConfig
	settings pipeline.Settings
	decoder  pipeline.NewDecoder
	cluster  *cluster
	client   *kafka.Client
	troubles troubles // of the partitions
}

func (r *reader) open(c SourceConfig, set pipeline.Settings, decoder pipeline.NewDecoder) {
	r.config, r.settings, r.decoder = c, set, decoder
	r.cluster = &cluster{brokers: c.Brokers, timeout: c.RequestTimeout, tls: c.TLS.In(set.Dir), sasl: c.SASL.in(set.Dir)}
	r.client = r.cluster.client(c.Topic)
}

// Trouble says why a partition gets nothing, though it is retried, or "". It may be called at any time.
func (r *reader) Trouble() string { return r.troubles.first() }

// Counters gives Stats by name.
func (r *reader) Counters() map[string]int64 { return r.Stats.Counters() }

// log and warn say something if there is somewhere to say it.
func (r *reader) log(text string, args ...any) {
	if r.settings.Log != nil {
		r.settings.Log.Info(text, args...)
	}
}

func (r *reader) warn(text string, args ...any) {
	if r.settings.Log != nil {
		r.settings.Log.Warn(text, args...)
	}
}

// offsets reads the first offset and the end of partitions.
func (r *reader) offsets(ctx context.Context, ids []int) (first, end map[int32]int64, err error) {
	return offsets(ctx, r.client, r.config.Topic, ids)
}

// place is where a partition stands as a generation begins.
type place struct {
	id         topicID
	commit     pipeline.Commit
	committed  bool
	start      int64
	first, end int64
}

// partition makes the reader of a partition, which ends at what bound says.
func (r *reader) partition(id int32, at place, bound func() int64, stats *Stats) (*partition, error) {
	d, err := r.decoder()
	if err != nil {
		return nil, fmt.Errorf("%w: decoder: %w", pipeline.ErrConfig, err)
	}
	limits := fetchLimits{
		maxWait: r.config.FetchMaxWait, maxBytes: int(r.config.FetchMaxBytes), maxBatch: int(r.config.MaxMessageBytes),
	}
	return &partition{
		from: r, place: at, bound: bound, stats: stats, decoder: d,
		fetch: newFetcher(r.cluster, r.config.Topic, id, at.start, limits, stats),
		rows:  schemas.NewTelemetryBuilder(r.settings.Alloc, r.config.Topic, id),
		trouble: outage{
			log: r.settings.Log, what: "kafka partition", args: []any{"topic", r.config.Topic, "partition", id}, grace: 1,
			board: &r.troubles,
		},
	}, nil
}

// reread makes the reader of messages that were read before. They are counted nowhere: they were then.
func (r *reader) reread(s pipeline.Stretch, topic topicID) (*partition, error) {
	if s.From < 0 || s.To < s.From {
		return nil, fmt.Errorf("kafka: topic %q, partition %d: want a range of offsets, got %d to %d",
			r.config.Topic, s.Partition, s.From, s.To)
	}
	p, err := r.partition(s.Partition, place{id: topic, start: s.From, first: s.From, end: s.To}, func() int64 { return s.To }, new(Stats))
	if err != nil {
		return nil, err
	}
	p.refused = make(map[int64]string, len(s.Refused))
	for _, refusal := range s.Refused {
		p.refused[refusal.Offset] = refusal.Reason
	}
	if err := p.StartAt(s.From, s.Decoder); err != nil {
		return nil, errors.Join(err, p.Close())
	}
	return p, nil
}

func (p *partition) TopicID() string { return hex.EncodeToString(p.place.id[:]) }

func (p *partition) Committed() (pipeline.Commit, bool) { return p.place.commit, p.place.committed }

func (p *partition) Start() int64 { return p.place.start }

func (p *partition) Bounds() (first, end int64) { return p.place.first, p.place.end }

// StartAt sets where reading begins, and what the decoder knows there. It comes before the first Read.
func (p *partition) StartAt(offset int64, decoder []byte) error {
	p.place.start, p.fetch.next = offset, offset
	if len(decoder) == 0 {
		return nil
	}
	d, ok := p.decoder.(formats.Stateful)
	if !ok {
		return fmt.Errorf("kafka: topic %q, partition %d: the format keeps no state, and %d bytes of it are stored: "+
			"was the source's format changed?", p.Topic(), p.ID(), len(decoder))
	}
	return d.Restore(decoder)
}
