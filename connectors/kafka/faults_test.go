package kafka

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	kafka "github.com/segmentio/kafka-go"
	"github.com/tailrace/tailrace/pipeline"
	"github.com/tailrace/tailrace/schemas"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// Scenario: a second member joins while the first one drains for longer than the session lasts.
// Guarantees: the first is not evicted: its commit holds, and whoever gets the partition starts at it.
func TestDrain(t *testing.T) {
	b := &fake{dir: t.TempDir(), ports: []int{0}, options: []kfake.Opt{kfake.GroupMinSessionTimeout(100 * time.Millisecond)}}
	b.start(t)
	t.Cleanup(func() { b.cluster.Close() })
	topic := makeTopic(t, b, 1, nil)
	numbers(t, b, topic, 1, 0, 10)
	c := testConfig(b, topic)
	c.SessionTimeout, c.HeartbeatInterval = 600*time.Millisecond, 100*time.Millisecond
	s := openSource(t, c)
	g := join(t, s)
	readMessages(t, only(t, g), 10)

	other := openSource(t, c)
	ctx, stop := context.WithCancel(deadline(t))
	var wait sync.WaitGroup
	t.Cleanup(wait.Wait)
	t.Cleanup(stop)
	wait.Go(func() { member(ctx, t, other, func(int32, int64) { t.Error("the second member read something") }) })
	<-g.Revoked()
	const beats = 15 // at one in 100 ms more than two sessions
	beaten := make(chan struct{}, 100)
	b.cluster.ControlKey(int16(kmsg.Heartbeat), func(kmsg.Request) (kmsg.Response, error, bool) {
		b.cluster.KeepControl()
		beaten <- struct{}{}
		return nil, nil, false
	})
	for range beats {
		select {
		case <-beaten:
		case <-ctx.Done():
			t.Fatal("heartbeats are missing")
		}
	}
	ok(t, g.Commit(deadline(t), at(0, 10)))
	ok(t, g.Close())
	g = join(t, s)
	for _, p := range g.Partitions() {
		if p.Start() != 10 {
			t.Fatalf("want start 10, got %d", p.Start())
		}
	}
}

// Scenario: a response with a wrong checksum comes once; later nothing else comes.
// Guarantees: one corrupt response is fetched again; five in a row end the read with a named place.
func TestCorruptBatch(t *testing.T) {
	b := newFake(t)
	topic := makeTopic(t, b, 1, nil)
	numbers(t, b, topic, 1, 0, 10)
	corrupt := 1
	b.cluster.ControlKey(int16(kmsg.Fetch), func(req kmsg.Request) (kmsg.Response, error, bool) {
		b.cluster.KeepControl()
		if corrupt == 0 {
			return nil, nil, false
		}
		corrupt--
		return fetchResponse(req, corruptBatch(t)), nil, true
	})
	s := openSource(t, testConfig(b, topic))
	p := only(t, join(t, s))
	if r := readMessages(t, p, 10); !slices.Equal(r.values, sequence(0, 10)) {
		t.Fatalf("got %v", r.values)
	}
	if n := s.Stats.CorruptBatches.Load(); n != 1 {
		t.Fatalf("want 1 corrupt batch, got %d", n)
	}
	b.cluster.ControlKey(int16(kmsg.Fetch), func(req kmsg.Request) (kmsg.Response, error, bool) {
		b.cluster.KeepControl()
		return fetchResponse(req, corruptBatch(t)), nil, true
	})
	var err error
	for err == nil {
		_, err = p.Read(deadline(t))
	}
	if !errors.Is(err, errCorrupt) || !strings.Contains(err.Error(), topic) {
		t.Fatalf("got %v", err)
	}
}

// fetchResponse answers a fetch with given batches.
func fetchResponse(req kmsg.Request, batches []byte) kmsg.Response {
	asked := req.(*kmsg.FetchRequest)
	res := asked.ResponseKind().(*kmsg.FetchResponse)
	topic := kmsg.NewFetchResponseTopic()
	topic.TopicID = asked.Topics[0].TopicID
	partition := kmsg.NewFetchResponseTopicPartition()
	partition.Partition = asked.Topics[0].Partitions[0].Partition
	partition.HighWatermark, partition.LastStableOffset = 1000, 1000
	partition.RecordBatches = batches
	topic.Partitions = append(topic.Partitions, partition)
	res.Topics = append(res.Topics, topic)
	return res
}

// Scenario: a batch that decompresses to far more than the limit, and one with malformed records, between good ones.
// Guarantees: each is one dead letter that says why, and the stream goes on after it.
func TestRefusedBatches(t *testing.T) {
	b := newFake(t)
	topic := makeTopic(t, b, 1, nil)
	bomb := rawBatch(t, 10, kafka.Zstd, record{value: bytes.Repeat([]byte{0}, 8<<20)}, record{value: []byte("0")})
	malformed := rawBatch(t, 12, 0, record{value: []byte("12")}, record{value: []byte("13")})
	malformed[len(malformed)-4] = 0x7f // the second record's value length
	seal(malformed)
	var batches []byte
	batches = append(batches, rawBatch(t, 9, 0, record{value: []byte("9")})...)
	batches = append(batches, bomb...)
	batches = append(batches, malformed...)
	batches = append(batches, rawBatch(t, 14, kafka.Lz4, record{value: []byte("14")})...)
	b.cluster.ControlKey(int16(kmsg.Fetch), func(req kmsg.Request) (kmsg.Response, error, bool) {
		return fetchResponse(req, batches), nil, true
	})
	c := testConfig(b, topic)
	c.FetchMaxBytes, c.MaxMessageBytes = 1<<20, 1<<20
	s := openSource(t, c)
	r := reading{next: 0}
	p := only(t, join(t, s))
	for r.messages < 5 {
		d, err := p.Read(deadline(t))
		ok(t, err)
		r.take(t, d)
	}
	if !slices.Equal(r.values, []int64{9, 12, 14}) || len(r.dead) != 2 || r.next != 15 {
		t.Fatalf("got %v, %d dead letters, next %d", r.values, len(r.dead), r.next)
	}
	if d := r.dead[0]; d.Reject.Code != schemas.DeadTooLarge || d.Message.Offset != 10 || !bytes.Equal(d.Message.Value, bomb) ||
		!strings.Contains(d.Reject.Reason, "offsets 10 to 11 (2 records)") {
		t.Fatalf("got %v at %d", d.Reject, d.Message.Offset)
	}
	if d := r.dead[1]; d.Reject.Code != schemas.DeadUnreadable || d.Message.Offset != 13 || !bytes.Equal(d.Message.Value, malformed) {
		t.Fatalf("got %v at %d", d.Reject, d.Message.Offset)
	}
	if s.Stats.RefusedBatches.Load() != 2 || s.Stats.RefusedRecords.Load() != 4 {
		t.Fatalf("got %v", s.Counters())
	}
}

// Scenario: a response over max_message_bytes.
// Guarantees: an error of configuration that names the limit, and a count.
func TestOversizeResponse(t *testing.T) {
	b := newFake(t)
	topic := makeTopic(t, b, 1, map[string]string{"max.message.bytes": "10000000"})
	ok(t, franz(t, b, kgo.ProducerBatchCompression(kgo.NoCompression())).ProduceSync(deadline(t),
		&kgo.Record{Topic: topic, Value: make([]byte, 2<<20)}).FirstErr())
	c := testConfig(b, topic)
	c.FetchMaxBytes, c.MaxMessageBytes = 1<<20, 1<<20
	s := openSource(t, c)
	_, err := only(t, join(t, s)).Read(deadline(t))
	if !errors.Is(err, pipeline.ErrConfig) || !strings.Contains(err.Error(), "max_message_bytes") || s.Stats.OversizeFetches.Load() != 1 {
		t.Fatalf("got %v", err)
	}
}

// Scenario: three brokers; the partition's leader moves twice while messages come.
// Guarantees: the new leader is found and nothing is lost.
func TestLeaderMoves(t *testing.T) {
	b := &fake{dir: t.TempDir(), ports: []int{0, 0, 0}}
	b.start(t)
	t.Cleanup(func() { b.cluster.Close() })
	topic := makeTopic(t, b, 1, nil)
	p := only(t, join(t, openSource(t, testConfig(b, topic))))
	var next int64
	for i := range int64(4) {
		numbers(t, b, topic, 1, int(i)*10, 10)
		r := readMessagesFrom(t, p, next, 10)
		if !slices.Equal(r.values, sequence(i*10, 10)) {
			t.Fatalf("got %v", r.values)
		}
		next = r.next
		ok(t, b.cluster.MoveTopicPartition(topic, 0, (b.cluster.LeaderFor(topic, 0)+1)%3))
	}
}

// Scenario: three brokers; the group's coordinator moves before each commit, leaders with it, and one broker goes for good.
// Guarantees: no message is lost or doubled between what was committed and what is read, whichever generation commits.
func TestCoordinatorMoves(t *testing.T) {
	b := &fake{dir: t.TempDir(), ports: []int{0, 0, 0}}
	b.start(t)
	t.Cleanup(func() { b.cluster.Close() })
	topic := makeTopic(t, b, 1, nil)
	s := openSource(t, testConfig(b, topic))
	g := join(t, s)
	for i := range int64(5) {
		numbers(t, b, topic, 1, int(i)*10, 10)
		if i == 3 {
			ok(t, b.cluster.RemoveNode(b.cluster.LeaderFor(topic, 0)))
		}
		b.cluster.RehashCoordinators()
		b.cluster.ShufflePartitionLeaders()
		for done := false; !done; {
			p := only(t, g)
			if r := readMessagesFrom(t, p, p.Start(), int((i+1)*10-p.Start())); !slices.Equal(r.values, sequence(p.Start(), (i+1)*10-p.Start())) {
				t.Fatalf("got %v from %d", r.values, p.Start())
			}
			done = g.Commit(deadline(t), at(0, (i+1)*10)) == nil
			ok(t, g.Close())
			g = join(t, s)
			if start := only(t, g).Start(); done && start != (i+1)*10 || start > (i+1)*10 {
				t.Fatalf("committed %v: want to start at %d, got %d", done, (i+1)*10, start)
			}
		}
	}
}

// Scenario: a broker that knows only old versions of Fetch.
// Guarantees: an error of configuration that says which version is wanted.
func TestOldBroker(t *testing.T) {
	b := newFake(t)
	topic := makeTopic(t, b, 1, nil)
	b.cluster.ControlKey(int16(kmsg.ApiVersions), func(req kmsg.Request) (kmsg.Response, error, bool) {
		b.cluster.KeepControl()
		if req.GetVersion() != 0 { // kafka-go's client asks with 0 as well, so all of its answers are old here
			return nil, nil, false
		}
		res := req.ResponseKind().(*kmsg.ApiVersionsResponse)
		res.ApiKeys = append(res.ApiKeys, kmsg.ApiVersionsResponseApiKey{ApiKey: 1, MinVersion: 0, MaxVersion: 10})
		return res, nil, true
	})
	f := newFetcher(newCluster(b.addrs()), topic, 0, 0, fetchLimits{maxWait: time.Millisecond, maxBytes: 1 << 20, maxBatch: 1 << 20}, &Stats{})
	defer f.close()
	if err := f.receive(deadline(t)); !errors.Is(err, pipeline.ErrConfig) || !strings.Contains(err.Error(), "Fetch version 13") {
		t.Fatalf("got %v", err)
	}
}
