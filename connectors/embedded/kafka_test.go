package embedded

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

func startKafka(t *testing.T, c KafkaConfig) *Kafka {
	t.Helper()
	k, err := StartKafka(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := k.Close(); err != nil {
			t.Error(err)
		}
	})
	return k
}

func kafkaClient(t *testing.T, k *Kafka, opts ...kgo.Opt) *kgo.Client {
	t.Helper()
	c, err := kgo.NewClient(append([]kgo.Opt{kgo.SeedBrokers(k.Addrs()...), kgo.AllowAutoTopicCreation()}, opts...)...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

// consume reads n values of a topic as a member of group, and commits.
func consume(t *testing.T, k *Kafka, topic, group string, n int) (values []string) {
	t.Helper()
	c := kafkaClient(t, k, kgo.ConsumerGroup(group), kgo.ConsumeTopics(topic), kgo.DisableAutoCommit(),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	defer c.CloseAllowingRebalance() // leaves the group
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	for len(values) < n {
		fetches := c.PollRecords(ctx, n-len(values))
		if err := fetches.Err(); err != nil {
			t.Fatal(err)
		}
		fetches.EachRecord(func(r *kgo.Record) { values = append(values, string(r.Value)) })
	}
	if err := c.CommitUncommittedOffsets(ctx); err != nil {
		t.Fatal(err)
	}
	return values
}

// Scenario: messages are produced and half of them committed; the broker is ended and started in the same folder.
// Guarantees: the messages and the group's offset are still there, at the same address.
func TestKafkaKeepsItsData(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "a", "kafka")
	k := startKafka(t, KafkaConfig{Dir: dir})
	addr := k.Addrs()[0]
	for _, v := range []string{"1", "2", "3", "4"} {
		if err := kafkaClient(t, k).ProduceSync(t.Context(), &kgo.Record{Topic: "t", Value: []byte(v)}).FirstErr(); err != nil {
			t.Fatal(err)
		}
	}
	if got := consume(t, k, "t", "g", 2); strings.Join(got, "") != "12" {
		t.Fatalf("got %v", got)
	}
	if err := k.Close(); err != nil {
		t.Fatal(err)
	}
	k = startKafka(t, KafkaConfig{Dir: dir, Addr: addr})
	if k.Addrs()[0] != addr {
		t.Fatalf("want %s, got %v", addr, k.Addrs())
	}
	if got := consume(t, k, "t", "g", 2); strings.Join(got, "") != "34" {
		t.Fatalf("got %v", got)
	}
}

// Scenario: a port that something else listens on; a folder below a plain file; addresses that are none of ours.
// Guarantees: an error each that says what was wanted, the port by its number.
func TestKafkaCannotStart(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, err = StartKafka(t.Context(), KafkaConfig{Dir: t.TempDir(), Addr: l.Addr().String()})
	port := strconv.Itoa(l.Addr().(*net.TCPAddr).Port)
	if !errors.Is(err, syscall.EADDRINUSE) || !strings.Contains(err.Error(), port) {
		t.Fatalf("want port %s taken, got %v", port, err)
	}
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := StartKafka(t.Context(), KafkaConfig{Dir: filepath.Join(file, "kafka")}); !errors.Is(err, syscall.ENOTDIR) {
		t.Fatalf("got %v", err)
	}
	for _, addr := range []string{"0.0.0.0:9092", "127.0.0.1", "127.0.0.1:x", "127.0.0.1:65536", "127.0.0.1:-1"} {
		if _, err := StartKafka(t.Context(), KafkaConfig{Dir: t.TempDir(), Addr: addr}); err == nil || !strings.Contains(err.Error(), "want") {
			t.Fatalf("%s: got %v", addr, err)
		}
	}
}

// Scenario: three brokers.
// Guarantees: three loopback addresses, all of them in the metadata.
func TestKafkaBrokers(t *testing.T) {
	k := startKafka(t, KafkaConfig{Dir: t.TempDir(), Brokers: 3})
	res, err := kmsg.NewPtrMetadataRequest().RequestWith(t.Context(), kafkaClient(t, k))
	if err != nil {
		t.Fatal(err)
	}
	if len(k.Addrs()) != 3 || len(res.Brokers) != 3 {
		t.Fatalf("got %v and %d brokers", k.Addrs(), len(res.Brokers))
	}
	for i, a := range k.Addrs() {
		if want := net.JoinHostPort("127.0.0.1", strconv.Itoa(int(res.Brokers[i].Port))); a != want {
			t.Fatalf("broker %d: want %s, got %s", i, want, a)
		}
	}
}
