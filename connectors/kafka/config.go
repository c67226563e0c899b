package kafka

import (
	"fmt"
	"math"
	"net"
	"time"

	"github.com/tailrace/tailrace/connectors/credentials"
	"github.com/tailrace/tailrace/pipeline"
)

// SourceConfig says where telemetry comes from.
type SourceConfig struct {
	// Brokers are the addresses to start from, host:port.
	Brokers []string `yaml:"brokers"`
	// TLS encrypts connections to the brokers. Without it they are plaintext.
	TLS *credentials.TLS `yaml:"tls,omitempty"`
	// SASL logs in. Without it the brokers see nobody, or the client certificate's subject.
	SASL *SASL `yaml:"sasl,omitempty"`
	// Topic is what is read. It must exist.
	Topic string `yaml:"topic"`
	// Group is the consumer group; "tailrace." and the pipeline's id if empty. No other kind of client may join it.
	Group string `yaml:"group,omitempty"`
	// Start is where a partition begins that has no committed offset: earliest or latest.
	Start string `yaml:"start,omitempty"`
	// Until ends the input: "" never, "end" at the end that each partition had when the program started.
	Until string `yaml:"until,omitempty"`

	// SessionTimeout is how long the group waits for a member that has gone silent.
	SessionTimeout time.Duration `yaml:"session_timeout,omitempty"`
	// RebalanceTimeout is how long the group waits for members to settle what is in flight.
	RebalanceTimeout time.Duration `yaml:"rebalance_timeout,omitempty"`
	// HeartbeatInterval is the time between heartbeats, at most a third of session_timeout.
	HeartbeatInterval time.Duration `yaml:"heartbeat_interval,omitempty"`
	// PartitionWatchInterval is the time between looks for partitions that the topic has gained, which begin a new
	// generation.
	PartitionWatchInterval time.Duration `yaml:"partition_watch_interval,omitempty"`
	// RequestTimeout is how long a broker may take for an answer, beside the time it was told to wait.
	RequestTimeout time.Duration `yaml:"request_timeout,omitempty"`

	// FetchMaxWait is how long a broker holds a fetch at the partition's end.
	FetchMaxWait time.Duration `yaml:"fetch_max_wait,omitempty"`
	// FetchMaxBytes is what one fetch of one partition brings at most, if no single record batch is larger.
	FetchMaxBytes pipeline.Bytes `yaml:"fetch_max_bytes,omitempty"`
	// MaxMessageBytes is the largest record batch, as fetched and decompressed. A larger fetch stops the partition; a
	// batch that decompresses to more is refused as a dead letter.
	MaxMessageBytes pipeline.Bytes `yaml:"max_message_bytes,omitempty"`
	// MaxDecodeBytes is the largest message that is parsed. A larger one is refused as a dead letter.
	MaxDecodeBytes pipeline.Bytes `yaml:"max_decode_bytes,omitempty"`
	// DeadLetterMaxValue is the largest refused message, key and headers included, that is kept whole. Of a larger one
	// the first 64 KiB, the length and the SHA-256 are kept.
	DeadLetterMaxValue pipeline.Bytes `yaml:"dead_letter_max_value,omitempty"`
	// BatchRows is how many rows or messages a batch has at most.
	BatchRows int `yaml:"batch_rows,omitempty"`
}

// The values of Start and Until.
const (
	StartEarliest = "earliest"
	StartLatest   = "latest"
	UntilEnd      = "end"
)

// Access is how the brokers are reached. Relative paths start in dir, the folder of the pipeline file.
func (c *SourceConfig) Access(dir string) Access {
	return Access{Brokers: c.Brokers, TLS: c.TLS.In(dir), SASL: c.SASL.in(dir)}
}

// DefaultSourceConfig has every default.
func DefaultSourceConfig() SourceConfig {
	return SourceConfig{
		Start:                  StartEarliest,
		SessionTimeout:         30 * time.Second, // a pause of the machine or the collector is no reason to move partitions
		RebalanceTimeout:       time.Minute,      // one slow insert can be settled
		HeartbeatInterval:      3 * time.Second,  // a tenth of the session: several may be lost
		PartitionWatchInterval: 5 * time.Second,  // rare, and nothing is lost by waiting
		RequestTimeout:         10 * time.Second, // longer than a leader election
		FetchMaxWait:           250 * time.Millisecond,
		FetchMaxBytes:          4 << 20,   // some ten thousand small records: enough to spread the cost of a request
		MaxMessageBytes:        64 << 20,  // far over what brokers are set to, and what a process of 1 GiB can bear
		MaxDecodeBytes:         1 << 20,   // the broker's own default limit
		DeadLetterMaxValue:     900 << 10, // with headers it fits the 1 MiB that a topic takes by default
		BatchRows:              16384,     // columns of 128 KiB stay in the second-level cache
	}
}

// Validate gives every fault.
func (c *SourceConfig) Validate() []pipeline.Fault {
	faults := append(validBrokers(c.Brokers), validDoors(c.TLS, c.SASL)...)
	fault := func(path, format string, args ...any) {
		faults = append(faults, pipeline.Faultf(path, format, args...))
	}
	if c.Topic == "" {
		fault("topic", "want the name of a topic, got nothing")
	}
	if c.Start != StartEarliest && c.Start != StartLatest {
		fault("start", "want earliest or latest, got %q", c.Start)
	}
	if c.Until != "" && c.Until != UntilEnd {
		fault("until", "want nothing or end, got %q", c.Until)
	}
	for _, d := range []struct {
		path string
		d    time.Duration
	}{
		{"session_timeout", c.SessionTimeout}, {"rebalance_timeout", c.RebalanceTimeout},
		{"heartbeat_interval", c.HeartbeatInterval}, {"partition_watch_interval", c.PartitionWatchInterval},
		{"request_timeout", c.RequestTimeout}, {"fetch_max_wait", c.FetchMaxWait},
	} {
		// The protocol counts in milliseconds of 32 bits.
		if d.d < time.Millisecond || d.d/time.Millisecond > math.MaxInt32 {
			fault(d.path, "want at least 1ms and at most 596h, got %s", d.d)
		}
	}
	if c.HeartbeatInterval > c.SessionTimeout/3 {
		fault("heartbeat_interval",
			"want at most a third of session_timeout (%s), so that one lost heartbeat evicts nobody, got %s",
			c.SessionTimeout, c.HeartbeatInterval)
	}
	for _, b := range []struct {
		path string
		b    pipeline.Bytes
	}{
		{"fetch_max_bytes", c.FetchMaxBytes}, {"max_message_bytes", c.MaxMessageBytes}, {"max_decode_bytes", c.MaxDecodeBytes},
		{"dead_letter_max_value", c.DeadLetterMaxValue},
	} {
		// The protocol counts in bytes of 31 bits, and a response has a little more than its batches.
		if b.b < 1<<10 || b.b > 1<<30 {
			fault(b.path, "want 1KiB to 1GiB, got %d bytes", int64(b.b))
		}
	}
	if c.MaxMessageBytes < c.FetchMaxBytes {
		fault("max_message_bytes", "want at least fetch_max_bytes (%d), got %d",
			int64(c.FetchMaxBytes), int64(c.MaxMessageBytes))
	}
	if c.BatchRows < 1 || c.BatchRows > 1<<24 {
		fault("batch_rows", "want 1 to %d, got %d", 1<<24, c.BatchRows)
	}
	return faults
}

// PublisherConfig says where events and dead letters go.
type PublisherConfig struct {
	// Brokers are the addresses to start from, host:port.
	Brokers []string `yaml:"brokers"`
	// TLS encrypts connections to the brokers. Without it they are plaintext.
	TLS *credentials.TLS `yaml:"tls,omitempty"`
	// SASL logs in. Without it the brokers see nobody, or the client certificate's subject.
	SASL *SASL `yaml:"sasl,omitempty"`
	// Prefix stands before the names of the topics.
	Prefix string `yaml:"prefix,omitempty"`
	// CreateTopics makes topics that are missing.
	CreateTopics bool `yaml:"create_topics"`
	// Partitions is how many partitions a topic that is made gets.
	Partitions int `yaml:"partitions,omitempty"`
	// RekeyedPartitions is how many partitions telemetry.rekeyed.v1 gets if it is made. Each is a task of the pipeline that
	// reads it. The topic can't grow later without moving assets.
	RekeyedPartitions int `yaml:"rekeyed_partitions,omitempty"`
	// Replication is how many copies a topic that is made gets; -1 for the brokers' default.
	Replication int `yaml:"replication,omitempty"`
	// BatchBytes is how much is sent to a partition at once, and how much may wait for it behind that; then publishing
	// waits.
	BatchBytes pipeline.Bytes `yaml:"batch_bytes,omitempty"`
	// Linger is how long a record waits for others to travel with it.
	Linger time.Duration `yaml:"linger,omitempty"`
	// RequestTimeout is how long a broker may take to acknowledge.
	RequestTimeout time.Duration `yaml:"request_timeout,omitempty"`
}

// DefaultPublisherConfig has every default.
func DefaultPublisherConfig() PublisherConfig {
	return PublisherConfig{
		CreateTopics:      true,
		Partitions:        4,         // events are few; this lets a few consumers share them
		RekeyedPartitions: 12,        // shared evenly by 2, 3, 4 or 6 processes
		Replication:       -1,        // the operator of the cluster knows better
		BatchBytes:        512 << 10, // with its frame well under the 1 MiB that a topic takes by default
		Linger:            5 * time.Millisecond,
		RequestTimeout:    10 * time.Second,
	}
}

// Access is how the brokers are reached. Relative paths start in dir, the folder of the pipeline file.
func (c *PublisherConfig) Access(dir string) Access {
	return Access{Brokers: c.Brokers, TLS: c.TLS.In(dir), SASL: c.SASL.in(dir)}
}

// Validate gives every fault.
func (c *PublisherConfig) Validate() []pipeline.Fault {
	faults := append(validBrokers(c.Brokers), validDoors(c.TLS, c.SASL)...)
	fault := func(path, format string, args ...any) {
		faults = append(faults, pipeline.Faultf(path, format, args...))
	}
	if c.Partitions < 1 || c.Partitions > 10000 {
		fault("partitions", "want 1 to 10000, got %d", c.Partitions)
	}
	if c.RekeyedPartitions < 1 || c.RekeyedPartitions > 10000 {
		fault("rekeyed_partitions", "want 1 to 10000, got %d", c.RekeyedPartitions)
	}
	if c.Replication != -1 && (c.Replication < 1 || c.Replication > math.MaxInt16) {
		fault("replication", "want -1 (the brokers' default) or at least 1, got %d", c.Replication)
	}
	if c.BatchBytes < 1<<10 || c.BatchBytes > 1<<30 {
		fault("batch_bytes", "want 1KiB to 1GiB, got %d bytes", int64(c.BatchBytes))
	}
	if c.Linger < 0 || c.Linger > time.Minute {
		fault("linger", "want 0s to 1m, got %s", c.Linger)
	}
	if c.RequestTimeout < time.Millisecond {
		fault("request_timeout", "want at least 1ms, got %s", c.RequestTimeout)
	}
	return faults
}

func validBrokers(brokers []string) []pipeline.Fault {
	if len(brokers) == 0 {
		return []pipeline.Fault{pipeline.Faultf("brokers", "want at least one host:port, got none")}
	}
	var faults []pipeline.Fault
	for i, b := range brokers {
		host, port, err := net.SplitHostPort(b)
		if err != nil || host == "" || port == "" {
			faults = append(faults, pipeline.Faultf(fmt.Sprintf("brokers[%d]", i), "want host:port, got %q", b))
		}
	}
	return faults
}

// SourceComponent is the source "kafka".
func SourceComponent() pipeline.Component[pipeline.NewSource] {
	return pipeline.Define("Reads telemetry from a Kafka topic as a member of a consumer group.", DefaultSourceConfig(),
		func(c SourceConfig) (pipeline.NewSource, error) {
			return func(set pipeline.Settings, decoder pipeline.NewDecoder) (pipeline.Source, error) {
				return NewSource(c, set, decoder)
			}, nil
		})
}

// PublisherComponent is the publisher "kafka".
func PublisherComponent() pipeline.Component[pipeline.NewPublisher] {
	return pipeline.Define("Writes events and dead letters to Kafka topics.", DefaultPublisherConfig(),
		func(c PublisherConfig) (pipeline.NewPublisher, error) {
			return func(set pipeline.Settings) (pipeline.Publisher, error) {
				return NewPublisher(c, set)
			}, nil
		})
}
