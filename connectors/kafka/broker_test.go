package kafka

import (
	"bytes"
	"context"
	"fmt"
	"strconv"
	"testing"
	"time"

	"github.com/apache/arrow/go/v15/arrow/array"
	"github.com/apache/arrow/go/v15/arrow/memory"
	"github.com/tailrace/tailrace/pipeline"
	"github.com/tailrace/tailrace/schemas"
	"github.com/tailrace/tailrace/schemas/formats"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
)

// broker is the cluster under test. The suite asks it for nothing that a real one can't do.
type broker interface {
	addrs() []string
	// stop ends the cluster and start brings it back at the same addresses with its data.
	stop(t *testing.T)
	start(t *testing.T)
	// stampsTimes says that message.timestamp.type=LogAppendTime has an effect. kfake takes the setting and ignores it.
	stampsTimes() bool
}

// fake is a kfake cluster with a data folder.
type fake struct {
	dir     string
	ports   []int
	cluster *kfake.Cluster
	listen  []string
	options []kfake.Opt
}

func newFake(t *testing.T) *fake {
	f := &fake{dir: t.TempDir(), ports: []int{0}}
	f.start(t)
	t.Cleanup(func() {
		if f.cluster != nil {
			f.cluster.Close()
		}
	})
	return f
}

func (f *fake) stampsTimes() bool { return false }

func (f *fake) addrs() []string { return f.listen }

func (f *fake) stop(*testing.T) {
	f.cluster.Close()
	f.cluster = nil
}

func (f *fake) start(t *testing.T) {
	t.Helper()
	var err error
	f.cluster, err = kfake.NewCluster(append(f.options, kfake.Ports(f.ports...), kfake.DataDir(f.dir))...)
	if err != nil {
		t.Fatal(err)
	}
	f.listen = f.cluster.ListenAddrs()
	for i, a := range f.listen {
		_, port, _ := bytes.Cut([]byte(a), []byte(":"))
		f.ports[i], _ = strconv.Atoi(string(port))
	}
}

// deadline bounds a test, so that a fault shows as a failure with a place.
func deadline(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	t.Cleanup(cancel)
	return ctx
}

func ok(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func makeTopic(t *testing.T, b broker, partitions int, configs map[string]string) string {
	t.Helper()
	name := fmt.Sprintf("t-%d", time.Now().UnixNano())
	ok(t, CreateTopic(deadline(t), b.addrs(), name, partitions, configs))
	return name
}

// franz is a franz-go client: the other implementation, which the tests produce with.
func franz(t *testing.T, b broker, opts ...kgo.Opt) *kgo.Client {
	t.Helper()
	c, err := kgo.NewClient(append([]kgo.Opt{
		kgo.SeedBrokers(b.addrs()...), kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.ProducerBatchMaxBytes(64 << 20),
		kgo.BrokerMaxWriteBytes(100 << 20), kgo.MaxBufferedBytes(200 << 20),
	}, opts...)...)
	ok(t, err)
	t.Cleanup(c.Close)
	return c
}

// numbers produces n messages with the values from..from+n-1 to each of the partitions.
func numbers(t *testing.T, b broker, topic string, partitions, from, n int) {
	t.Helper()
	var records []*kgo.Record
	for p := range partitions {
		for i := range n {
			records = append(records, &kgo.Record{
				Topic: topic, Partition: int32(p), Key: []byte("press"), Value: []byte(strconv.Itoa(from + i)),
			})
		}
	}
	ok(t, franz(t, b).ProduceSync(deadline(t), records...).FirstErr())
}

// digits decodes a number and refuses what is none.
type digits struct{}

func (digits) Decode(m *formats.Message, b *schemas.TelemetryBuilder) error {
	n, err := strconv.Atoi(string(m.Value))
	if err != nil {
		return formats.Rejectf(schemas.DeadInvalidJSON, "value: want a number, got %.20q", m.Value)
	}
	b.Append(&schemas.Row{TS: m.Time, Asset: m.Key, Tag: []byte("n"), VType: schemas.TypeInt, Int: int64(n), HasInt: true}, m.Offset, m.Time)
	return nil
}

func newDigits() (formats.Decoder, error) { return digits{}, nil }

func testConfig(b broker, topic string) SourceConfig {
	c := DefaultSourceConfig()
	c.Brokers, c.Topic, c.Group = b.addrs(), topic, "g-"+topic
	c.SessionTimeout, c.HeartbeatInterval, c.FetchMaxWait = 6*time.Second, 100*time.Millisecond, 50*time.Millisecond
	c.RequestTimeout = 3 * time.Second
	return c
}

// openSource returns a source whose memory is checked.
func openSource(t *testing.T, c SourceConfig) *Source {
	t.Helper()
	if faults := c.Validate(); len(faults) > 0 {
		t.Fatal(faults)
	}
	mem := memory.NewCheckedAllocator(memory.DefaultAllocator)
	s, err := NewSource(c, pipeline.Settings{Pipeline: "p", Alloc: mem}, newDigits)
	ok(t, err)
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
		mem.AssertSize(t, 0)
	})
	return s
}

// join gives the source's next generation. It is closed before the source is.
func join(t *testing.T, s *Source) pipeline.Generation {
	t.Helper()
	g, err := s.Next(deadline(t))
	ok(t, err)
	t.Cleanup(func() {
		if err := g.Close(); err != nil {
			t.Error(err)
		}
	})
	return g
}

// at is a commit of one partition.
func at(partition int32, offset int64) map[int32]pipeline.Commit {
	return map[int32]pipeline.Commit{partition: {Offset: offset}}
}

// only is the generation's one partition.
func only(t *testing.T, g pipeline.Generation) pipeline.Partition {
	t.Helper()
	if n := len(g.Partitions()); n != 1 {
		t.Fatalf("want 1 partition, got %d", n)
	}
	return g.Partitions()[0]
}

// reading is what was read of a partition.
type reading struct {
	values   []int64
	offsets  []int64
	times    []int64
	dead     []pipeline.DeadLetter
	messages int
	next     int64
}

// take adds a delivery and checks that it follows on the one before.
func (r *reading) take(t *testing.T, d pipeline.Delivery) {
	t.Helper()
	defer d.Release()
	if r.next >= 0 && d.First != r.next {
		t.Fatalf("want a delivery from offset %d on, got %d", r.next, d.First)
	}
	r.next = d.Next
	r.messages += d.Messages
	r.dead = append(r.dead, d.Dead...)
	if d.Batch == nil {
		return
	}
	offsets := d.Batch.Column(schemas.ColKOffset).(*array.Int64).Int64Values()
	r.offsets = append(r.offsets, offsets...)
	r.values = append(r.values, d.Batch.Column(schemas.ColValueInt).(*array.Int64).Int64Values()...)
	for _, ts := range d.Batch.Column(schemas.ColTSIngest).(*array.Timestamp).TimestampValues() {
		r.times = append(r.times, int64(ts))
	}
	if int64(len(offsets)) > 0 && d.Bytes <= 0 {
		t.Fatalf("want bytes for %d rows, got %d", len(offsets), d.Bytes)
	}
}

// readMessages reads until n messages have come.
func readMessages(t *testing.T, p pipeline.Partition, n int) reading {
	t.Helper()
	r := reading{next: p.Start()}
	ctx := deadline(t)
	for r.messages < n {
		d, err := p.Read(ctx)
		ok(t, err)
		r.take(t, d)
	}
	return r
}

// sequence is from..from+n-1.
func sequence(from, n int64) []int64 {
	s := make([]int64, n)
	for i := range s {
		s[i] = from + int64(i)
	}
	return s
}

// rows are the values of a delivery.
func rows(d pipeline.Delivery) (values []int64) {
	if d.Batch == nil {
		return nil
	}
	return d.Batch.Column(schemas.ColValueInt).(*array.Int64).Int64Values()
}
