package kafka

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	kafka "github.com/segmentio/kafka-go"
	"github.com/tailrace/tailrace/connectors/credentials"
	"github.com/tailrace/tailrace/pipeline"
)

// ProducerConfig says how records are produced.
type ProducerConfig struct {
	Brokers []string
	TLS     *credentials.TLS
	SASL    *SASL
	Topics  []string // all that will be produced to
	// BatchBytes is how much is sent to a partition at once, and how much may wait for it behind that.
	BatchBytes int
	Linger     time.Duration // how long a record waits for others; 0: only while a request is on its way
	Timeout    time.Duration // how long a broker may take to acknowledge
	LZ4        bool          // compress
	Log        *slog.Logger
}

// DefaultProducerConfig has every default but brokers and topics.
func DefaultProducerConfig() ProducerConfig {
	p := DefaultPublisherConfig()
	return ProducerConfig{BatchBytes: int(p.BatchBytes), Linger: p.Linger, Timeout: p.RequestTimeout}
}

// Producer sends records to the partition that their key's murmur2 hash names, as Java clients do. Records of one key
// stay in order. Every one is acknowledged by all replicas in sync; a retry may store a record twice. Its methods may
// be called from several goroutines.
type Producer struct {
	config  ProducerConfig
	cluster *cluster
	client  *kafka.Client
	shrink  func(topic string) func(*record) bool
	topics  map[string]*lanes
	stop    context.CancelFunc
	running sync.WaitGroup
}

// lanes are the partitions of one topic.
type lanes struct {
	list []*lane
	ids  []int
}

// NewProducer returns a producer that has not connected yet.
func NewProducer(c ProducerConfig) *Producer {
	cl := &cluster{brokers: c.Brokers, timeout: c.Timeout, tls: c.TLS, sasl: c.SASL}
	return &Producer{config: c, cluster: cl, client: cl.client(c.Topics...)}
}

// Open looks the topics up. It retries until ctx ends; a topic that does not exist gives an error that wraps
// pipeline.ErrConfig. The number of partitions is read once: a topic that gains some goes on with the old number.
func (p *Producer) Open(ctx context.Context) error {
	topics := map[string]*lanes{}
	for _, name := range p.config.Topics {
		t, err := p.cluster.await(ctx, name, p.config.Log)
		if err == nil {
			err = p.cluster.final(p.cluster.lacks(t, opWrite, name))
		}
		if err != nil {
			return fmt.Errorf("kafka: %w", err)
		}
		options := laneOptions{batchBytes: p.config.BatchBytes, linger: p.config.Linger, log: p.config.Log}
		if p.config.LZ4 {
			options.compression = kafka.Lz4
		}
		if p.shrink != nil {
			options.shrink = p.shrink(name)
		}
		l := &lanes{ids: t.partitions()}
		for _, id := range l.ids {
			l.list = append(l.list, newLane(name, id, p.cluster, p.client, options))
		}
		topics[name] = l
	}
	p.cluster.settled.Store(true)
	run, stop := context.WithCancel(context.WithoutCancel(ctx)) // lanes end with Close
	p.topics, p.stop = topics, stop
	for _, l := range topics {
		for _, one := range l.list {
			p.running.Go(func() { one.run(run) })
		}
	}
	return nil
}

// Send queues a record with a time in ns UTC; key and value are copied. It waits for room until ctx ends. An error may
// be of a record before.
func (p *Producer) Send(ctx context.Context, topic string, key, value []byte, at int64) error {
	l, ok := p.topics[topic]
	if !ok {
		return fmt.Errorf("%w: kafka: topic %q is not one of the producer's, or it is not open", pipeline.ErrConfig, topic)
	}
	return l.list[l.of(key)].add(ctx, record{key: key, value: value, time: at})
}

// of gives the partition of a key.
func (l *lanes) of(key []byte) int {
	return kafka.Murmur2Balancer{Consistent: true}.Balance(kafka.Message{Key: key}, l.ids...)
}

// Flush returns nil when all that was sent before is acknowledged.
func (p *Producer) Flush(ctx context.Context) error {
	for _, l := range p.topics {
		for _, one := range l.list {
			if err := one.flushed(ctx); err != nil {
				return err
			}
		}
	}
	return nil
}

// Produced is what was acknowledged by one partition.
type Produced struct {
	Records int64
	End     int64 // offset after the last record; -1 if there is none
}

// Produced gives what was acknowledged so far by each partition of topic.
func (p *Producer) Produced(topic string) map[int32]Produced {
	done := map[int32]Produced{}
	if l, ok := p.topics[topic]; ok {
		for i, one := range l.list {
			acked, end := one.state()
			done[int32(i)] = Produced{Records: acked, End: end}
		}
	}
	return done
}

// Close gives up what is not acknowledged yet.
func (p *Producer) Close() error {
	if p.stop != nil {
		for _, l := range p.topics {
			for _, one := range l.list {
				one.close()
			}
		}
		p.stop()
		p.running.Wait()
	}
	closeClient(p.client)
	return nil
}

var errNotOpen = errors.New("kafka: the publisher is not open")
