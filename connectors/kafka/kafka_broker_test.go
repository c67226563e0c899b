//go:build kafka

package kafka

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/tailrace/tailrace/connectors/kafka/kafkatest"
	"github.com/twmb/franz-go/pkg/kgo"
)

// apache is Apache Kafka in a Java process.
type apache struct{ *kafkatest.Broker }

func (a apache) addrs() []string    { return []string{a.Addr()} }
func (a apache) stop(t *testing.T)  { a.Stop(t) }
func (a apache) start(t *testing.T) { a.Start(t) }
func (a apache) stampsTimes() bool  { return true }

// drainSession is the shortest session of the broker under test, so that a drain outlasts it soon.
const drainSession = 600 * time.Millisecond

// Scenario: the whole suite against Apache Kafka, and what only it can show.
// Guarantees: what the comment of each part says, on the broker that users run.
func TestApacheKafka(t *testing.T) {
	b := apache{kafkatest.New(t, kafkatest.Config{Properties: map[string]string{
		"group.min.session.timeout.ms": fmt.Sprint(drainSession.Milliseconds()),
		"log.cleaner.backoff.ms":       "100",
	}})}
	suite(t, b)
	t.Run("compaction", func(t *testing.T) { testCompaction(t, b) })
	t.Run("drain", func(t *testing.T) { testLongDrain(t, b) })
	t.Run("kill", func(t *testing.T) { testKill(t, b) })
}

// Scenario: a compacted topic after the cleaner: of many values of a few keys the last ones are left, in batches with
// holes, and batches without any record.
// Guarantees: what is left is read once each and offsets go on over the holes, up to the end.
func testCompaction(t *testing.T, b apache) {
	topic := makeTopic(t, b, 1, map[string]string{
		"cleanup.policy": "compact", "segment.ms": "50", "min.cleanable.dirty.ratio": "0.001", "max.compaction.lag.ms": "50",
	})
	const rounds, keys = 20, 10
	c := franz(t, b)
	for round := range rounds {
		var records []*kgo.Record
		for key := range keys {
			records = append(records, &kgo.Record{
				Topic: topic, Key: fmt.Appendf(nil, "k%d", key), Value: fmt.Append(nil, round*keys+key),
			})
		}
		ok(t, c.ProduceSync(deadline(t), records...).FirstErr())
	}
	// The last segment is never cleaned: one message more, again and again, makes the one before ready.
	const last = rounds * keys
	ctx := deadline(t)
	var pause backoff
	sent := 0
	for len(readAll(t, b, topic)) > keys+sent {
		ok(t, c.ProduceSync(ctx, &kgo.Record{Topic: topic, Key: []byte("last"), Value: fmt.Append(nil, last)}).FirstErr())
		sent++
		ok(t, pause.wait(ctx))
	}
	config := testConfig(b, topic)
	config.Until = UntilEnd
	p := only(t, join(t, openSource(t, config)))
	values := map[int64]int{}
	next := p.Start()
	for end, err := EndOffsets(ctx, b.addrs(), topic); next < end[0]; {
		ok(t, err)
		d, err := p.Read(ctx)
		ok(t, err)
		if d.First != next {
			t.Fatalf("want a delivery from offset %d on, got %d", next, d.First)
		}
		next = d.Next
		for _, v := range rows(d) {
			values[v]++
		}
		d.Release()
	}
	if next != last+int64(sent) {
		t.Fatalf("want offset %d next, got %d", last+sent, next)
	}
	for v := range int64(last) {
		if want := map[bool]int{true: 1}[v >= last-keys]; values[v] != want {
			t.Fatalf("value %d: want it %d times, got %d", v, want, values[v])
		}
	}
}

// Scenario: a second member joins while the first one drains for three sessions.
// Guarantees: the first is not evicted: its commit holds.
func testLongDrain(t *testing.T, b apache) {
	topic := makeTopic(t, b, 1, nil)
	numbers(t, b, topic, 1, 0, 10)
	c := testConfig(b, topic)
	c.SessionTimeout, c.HeartbeatInterval = drainSession, drainSession/6
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
	<-time.After(3 * drainSession) // the drain
	ok(t, g.Commit(ctx, at(0, 10)))
	ok(t, g.Close())
	for _, p := range join(t, s).Partitions() {
		if p.Start() != 10 {
			t.Fatalf("want start 10, got %d", p.Start())
		}
	}
}

// Scenario: the broker is killed while a source reads and a publisher's topic is written, and comes back.
// Guarantees: what was acknowledged is there and is read once, from where reading was.
func testKill(t *testing.T, b apache) {
	topic := makeTopic(t, b, 1, nil)
	numbers(t, b, topic, 1, 0, 1000)
	p := only(t, join(t, openSource(t, testConfig(b, topic))))
	r := readMessages(t, p, 1000)
	numbers(t, b, topic, 1, 1000, 1000)
	b.Kill()
	b.start(t)
	r = readMessagesFrom(t, p, r.next, 1000)
	for i, v := range r.values {
		if v != int64(1000+i) {
			t.Fatalf("message %d: got %d", i, v)
		}
	}
}
