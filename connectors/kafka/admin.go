package kafka

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"net"
	"slices"
	"strconv"
	"time"

	kafka "github.com/segmentio/kafka-go"
	"github.com/segmentio/kafka-go/protocol/createtopics"
	"github.com/segmentio/kafka-go/protocol/metadata"
	"github.com/tailrace/tailrace/connectors/credentials"
	"github.com/tailrace/tailrace/pipeline"
)

// createVersion of CreateTopics is in every broker from 2.4 to 4.x, and takes -1 for the brokers' own replication.
const createVersion = 4

func newCluster(brokers []string) *cluster {
	return &cluster{brokers: brokers, timeout: DefaultSourceConfig().RequestTimeout}
}

// CreateTopic makes a topic with the brokers' default replication. One that exists already stays as it is.
func CreateTopic(ctx context.Context, brokers []string, name string, partitions int, configs map[string]string) error {
	return Access{Brokers: brokers}.CreateTopic(ctx, name, partitions, configs)
}

// Access is how brokers are reached.
type Access struct {
	Brokers []string
	TLS     *credentials.TLS
	SASL    *SASL
}

func (a Access) cluster() *cluster {
	c := newCluster(a.Brokers)
	c.tls, c.sasl = a.TLS, a.SASL
	return c
}

// CreateTopic is [CreateTopic] for brokers with closed doors.
func (a Access) CreateTopic(ctx context.Context, name string, partitions int, configs map[string]string) error {
	c := a.cluster()
	if err := c.create(ctx, name, partitions, -1, configs); err != nil {
		return fmt.Errorf("kafka: %w", c.final(err))
	}
	return nil
}

// create asks the controller, as others refuse. It returns once the topic is known.
func (c *cluster) create(ctx context.Context, name string, partitions, replication int, configs map[string]string) error {
	if partitions < 1 || partitions > math.MaxInt32 {
		return fmt.Errorf("%w: topic %q: want at least 1 partition, got %d", pipeline.ErrConfig, name, partitions)
	}
	m, err := c.ask(ctx, metadataVersion, &metadata.Request{TopicNames: []string{}})
	if err != nil {
		return fmt.Errorf("topic %q: %w", name, err)
	}
	brokers := m.(*metadata.Response)
	i := slices.IndexFunc(brokers.Brokers, func(b metadata.ResponseBroker) bool { return b.NodeID == brokers.ControllerID })
	if i < 0 {
		return fmt.Errorf("topic %q: %w", name, kafka.NotController)
	}
	controller := net.JoinHostPort(brokers.Brokers[i].Host, strconv.Itoa(int(brokers.Brokers[i].Port)))
	topic := createtopics.RequestTopic{Name: name, NumPartitions: int32(partitions), ReplicationFactor: int16(replication)}
	for _, key := range slices.Sorted(maps.Keys(configs)) {
		topic.Configs = append(topic.Configs, createtopics.RequestConfig{Name: key, Value: configs[key]})
	}
	m, err = c.askBroker(ctx, controller, createVersion, &createtopics.Request{
		Topics: []createtopics.RequestTopic{topic}, TimeoutMs: int32(c.timeout.Milliseconds()),
	})
	if err != nil {
		return fmt.Errorf("topic %q: controller %s: %w", name, controller, err)
	}
	for _, t := range m.(*createtopics.Response).Topics {
		switch code := kafka.Error(t.ErrorCode); {
		case code == 0, code == kafka.TopicAlreadyExists:
		case code.Temporary():
			return fmt.Errorf("topic %q: create: %w", name, code)
		case credentials.Refused(c.grant(code, "Create", name, "")):
			return c.grant(code, "Create", name, "")
		default:
			return fmt.Errorf("%w: topic %q: create: %w: %s", pipeline.ErrConfig, name, code, t.ErrorMessage)
		}
	}
	_, err = c.await(ctx, name, nil)
	return err
}

// EndOffsets gives the offset after the last message of each partition. Like the functions below it asks again for some
// seconds while the brokers' answer is one that passes.
func EndOffsets(ctx context.Context, brokers []string, topic string) (map[int32]int64, error) {
	_, end, err := newCluster(brokers).offsets(ctx, topic)
	return end, err
}

// CountMessages counts the offsets that a topic holds: its messages, if it has no transactions and is not compacted.
func CountMessages(ctx context.Context, brokers []string, topic string) (int64, error) {
	first, end, err := newCluster(brokers).offsets(ctx, topic)
	var n int64
	for p := range end {
		n += end[p] - first[p]
	}
	return n, err
}

// Committed gives the offsets that a group has committed for a topic. A partition without one is absent.
func Committed(ctx context.Context, brokers []string, group, topic string) (map[int32]int64, error) {
	stored, err := Access{Brokers: brokers}.Committed(ctx, group, topic)
	if err != nil {
		return nil, err
	}
	found := map[int32]int64{}
	for id, c := range stored {
		found[id] = c.Offset
	}
	return found, nil
}

// Committed gives what a group has stored for each partition of a topic. A partition without a commit is absent.
func (a Access) Committed(ctx context.Context, group, topic string) (map[int32]pipeline.Commit, error) {
	c := a.cluster()
	t, err := c.topic(ctx, topic)
	if err != nil {
		return nil, fmt.Errorf("kafka: %w", c.final(missing(err)))
	}
	client := c.client(topic)
	defer closeClient(client)
	stored, err := patiently(ctx, client, func() (map[int32]pipeline.Commit, error) {
		return committed(ctx, client, group, topic, t.partitions())
	})
	switch {
	case errors.Is(err, kafka.GroupIdNotFound): // a group without members and commits is none
		return map[int32]pipeline.Commit{}, nil
	case err != nil:
		return nil, fmt.Errorf("kafka: group %q, topic %q: %w", group, topic, c.final(c.grant(err, "Describe", topic, group)))
	}
	return stored, nil
}

// Offsets gives the first offset and the end of each partition of a topic.
func (a Access) Offsets(ctx context.Context, topic string) (first, end map[int32]int64, err error) {
	return a.cluster().offsets(ctx, topic)
}

// OffsetsAt gives the offset of the first message of each partition whose time is at or after at; if there is none, the
// partition's end. Times are the records', in milliseconds, and need not grow with the offset.
func (a Access) OffsetsAt(ctx context.Context, topic string, at time.Time) (map[int32]int64, error) {
	c := a.cluster()
	t, err := c.topic(ctx, topic)
	if err != nil {
		return nil, fmt.Errorf("kafka: %w", c.final(missing(err)))
	}
	client := c.client(topic)
	defer closeClient(client)
	found, err := patiently(ctx, client, func() (map[int32]int64, error) {
		return offsetsAt(ctx, client, topic, t.partitions(), at)
	})
	if err != nil {
		return nil, fmt.Errorf("kafka: topic %q: offsets at %s: %w", topic, at.Format(time.RFC3339Nano), c.final(err))
	}
	return found, nil
}

func (c *cluster) offsets(ctx context.Context, topic string) (first, end map[int32]int64, err error) {
	t, err := c.topic(ctx, topic)
	if err != nil {
		return nil, nil, fmt.Errorf("kafka: %w", missing(err))
	}
	client := c.client(topic)
	defer closeClient(client)
	type bounds struct{ first, end map[int32]int64 }
	b, err := patiently(ctx, client, func() (b bounds, err error) {
		b.first, b.end, err = offsets(ctx, client, topic, t.partitions())
		return b, err
	})
	if err != nil {
		return nil, nil, fmt.Errorf("kafka: topic %q: %w", topic, err)
	}
	return b.first, b.end, nil
}

// patientTries are spread over about three seconds. A new topic is known some milliseconds before its leaders lead, and
// with a cluster's first group its coordinator is only made.
const patientTries = 8

// patiently asks again while the answer is an error of Kafka's that passes.
func patiently[T any](ctx context.Context, client *kafka.Client, ask func() (T, error)) (T, error) {
	var pause backoff
	for tries := 1; ; tries++ {
		v, err := ask()
		var answer kafka.Error
		if !errors.As(err, &answer) || !answer.Temporary() || tries == patientTries {
			return v, err
		}
		closeClient(client)
		if pause.wait(ctx) != nil {
			return v, err
		}
	}
}

// missing marks an unknown topic as the user's to mend.
func missing(err error) error {
	if errors.Is(err, errUnknownTopic) {
		return fmt.Errorf("%w: %w", pipeline.ErrConfig, err)
	}
	return err
}
