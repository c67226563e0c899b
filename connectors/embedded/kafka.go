package embedded

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"syscall"

	"github.com/twmb/franz-go/pkg/kfake"
)

// KafkaConfig says where the broker listens and keeps its data.
type KafkaConfig struct {
	// Dir keeps topics, messages and groups. It is made if it is missing.
	Dir string
	// Addr is the address of the first broker, on the loopback interface: "127.0.0.1:9092"; port 0 or "" takes free
	// ports. Other brokers take the ports that follow.
	Addr string
	// Brokers is how many brokers the cluster has; 0 is 1. Messages are not replicated.
	Brokers int
	// Partitions is how many partitions a topic gets that is made without a number, as by the first message to it; 0
	// is 1.
	Partitions int
	// SyncWrites makes every message durable before it is acknowledged. Without it what is acknowledged survives the
	// end of the process, not that of the machine, as with Kafka's own defaults.
	SyncWrites bool
}

// Kafka is a cluster that speaks Kafka's protocol, in this process.
type Kafka struct {
	cluster *kfake.Cluster
	addrs   []string
}

// retentionCheck is how often old segments are looked for, in ms. The library's hour would let a topic with a small
// retention fill the disk meanwhile.
const retentionCheck = "1000"

// StartKafka starts a cluster that keeps its data in c.Dir and takes up what is there. If a port is taken the error
// wraps syscall.EADDRINUSE and names it. The cluster runs until Close, whatever becomes of ctx.
func StartKafka(ctx context.Context, c KafkaConfig) (*Kafka, error) {
	ports, err := c.ports()
	if err != nil {
		return nil, fmt.Errorf("kafka: address: %w", err)
	}
	if err := os.MkdirAll(c.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("kafka: data folder: %w", err)
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	options := []kfake.Opt{
		kfake.Ports(ports...),
		kfake.ClusterID("tailrace-embedded"),
		kfake.DataDir(c.Dir),
		kfake.DefaultNumPartitions(max(1, c.Partitions)),
		kfake.AllowAutoTopicCreation(), // kcat and others can make a topic in no other way
		kfake.BrokerConfigs(map[string]string{"log.cleaner.backoff.ms": retentionCheck}),
	}
	if c.SyncWrites {
		options = append(options, kfake.SyncWrites())
	}
	cluster, err := kfake.NewCluster(options...)
	if errors.Is(err, syscall.EADDRINUSE) {
		return nil, fmt.Errorf("kafka: port taken: %w: give another address, or end what listens there", err)
	}
	if err != nil {
		return nil, fmt.Errorf("kafka: %w", err)
	}
	return &Kafka{cluster: cluster, addrs: cluster.ListenAddrs()}, nil
}

// ports gives the brokers' ports, 0 for free ones.
func (c *KafkaConfig) ports() ([]int, error) {
	ports := make([]int, max(1, c.Brokers))
	if c.Addr == "" {
		return ports, nil
	}
	host, text, err := net.SplitHostPort(c.Addr)
	if err != nil {
		return nil, fmt.Errorf("want 127.0.0.1:port, got %q", c.Addr)
	}
	// The library listens there only, and that is right: the broker asks nobody for a password.
	if host != "127.0.0.1" && host != "localhost" {
		return nil, fmt.Errorf("want 127.0.0.1:port, got %q: the embedded broker has no passwords and is for this machine only",
			c.Addr)
	}
	port, err := strconv.Atoi(text)
	if err != nil || port < 0 || port+len(ports)-1 > 65535 {
		return nil, fmt.Errorf("want a port from 0 to %d, got %q", 65535-len(ports)+1, text)
	}
	if port > 0 {
		for i := range ports {
			ports[i] = port + i
		}
	}
	return ports, nil
}

// Addrs are the brokers' addresses, host:port.
func (k *Kafka) Addrs() []string { return k.addrs }

// Close stores what is in memory and ends the cluster. It may be called again.
func (k *Kafka) Close() error {
	k.cluster.Close()
	return nil
}
