package kafka

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	kafka "github.com/segmentio/kafka-go"
	"github.com/tailrace/tailrace/pipeline"
	"github.com/tailrace/tailrace/schemas"
	"github.com/twmb/franz-go/pkg/kgo"
)

// suite runs against whatever broker it is given.
func suite(t *testing.T, b broker) {
	for _, c := range []struct {
		name string
		run  func(*testing.T, broker)
	}{
		{"codecs", suiteCodecs}, {"writer", suiteWriter}, {"transactions", suiteTransactions}, {"commit", suiteCommit},
		{"latest", suiteLatest}, {"group", suiteGroup}, {"bounds", suiteBounds}, {"until end", suiteUntilEnd},
		{"dead letters", suiteDeadLetters}, {"large message", suiteLargeMessage}, {"missing topic", suiteMissingTopic},
		{"out of range", suiteOutOfRange}, {"cancel", suiteCancel}, {"restart", suiteRestart}, {"brokers down", suiteDown},
		{"publisher", suitePublisher}, {"publisher restart", suitePublisherRestart},
		{"dead letter too large", suiteShrink}, {"producer", suiteProducer}, {"admin", suiteAdmin}, {"tail", suiteTail}, {"made anew", suiteMadeAnew}, {"made anew between", suiteMadeAnewBetween},
		{"retention", suiteRetention}, {"offsets set", suiteOffsetsSet}, {"times", suiteTimes},
		{"large messages", suiteLargeWhole}, {"metadata", suiteMetadata}, {"zombie", suiteZombie}, {"range", suiteRange},
		{"growth", suiteGrowth}, {"first start of many", suiteFirstStart}, {"bounded", suiteBounded}, {"kill -9", suiteKilledMember},
		{"letters", suiteLetters}, {"late rows", suiteLate}, {"rekeyed", suiteRekeyed},
	} {
		t.Run(c.name, func(t *testing.T) { c.run(t, b) })
	}
}

// Scenario: the whole suite against the broker that this project embeds.
// Guarantees: what the comment of each part says, on kfake.
func TestEmbeddedBroker(t *testing.T) { suite(t, newFake(t)) }

// Scenario: franz-go produces keys, nulls, headers and times with each codec; we read.
// Guarantees: every field comes through, with all five codecs.
func suiteCodecs(t *testing.T, b broker) {
	at := time.UnixMilli(1_700_000_000_123)
	for _, codec := range []kgo.CompressionCodec{
		kgo.NoCompression(), kgo.GzipCompression(), kgo.SnappyCompression(), kgo.Lz4Compression(), kgo.ZstdCompression(),
	} {
		topic := makeTopic(t, b, 1, nil)
		var records []*kgo.Record
		for i := range 500 {
			r := &kgo.Record{
				Topic: topic, Key: []byte("key"), Value: bytes.Repeat([]byte{byte(i)}, i), Timestamp: at.Add(time.Duration(i) * time.Millisecond),
				Headers: []kgo.RecordHeader{{Key: "a", Value: []byte{byte(i)}}, {Key: "null"}},
			}
			if i%7 == 0 {
				r.Key = nil
			}
			if i == 13 {
				r.Value = nil
			}
			records = append(records, r)
		}
		ok(t, franz(t, b, kgo.ProducerBatchCompression(codec)).ProduceSync(deadline(t), records...).FirstErr())
		for i, m := range readAll(t, b, topic) {
			want := records[i]
			if m.Offset != int64(i) || m.Time != want.Timestamp.UnixNano() || !same(m.Key, want.Key) || !same(m.Value, want.Value) {
				t.Fatalf("message %d: want %v, got %+v", i, want, m)
			}
			if len(m.Headers) != 2 || m.Headers[0].Key != "a" || !same(m.Headers[0].Value, []byte{byte(i)}) ||
				m.Headers[1].Key != "null" || m.Headers[1].Value != nil {
				t.Fatalf("message %d: headers %v", i, m.Headers)
			}
		}
	}
}

// same compares bytes and tells null from empty.
func same(a, b []byte) bool { return bytes.Equal(a, b) && (a == nil) == (b == nil) }

// Scenario: kafka-go's Writer produces with each codec, which for snappy means frames of its own, into a topic that
// stamps times.
// Guarantees: the values come through, with the broker's append time where the broker can do that.
func suiteWriter(t *testing.T, b broker) {
	topic := makeTopic(t, b, 1, map[string]string{"message.timestamp.type": "LogAppendTime"})
	before := time.Now().Add(-time.Second)
	n := 0
	for _, codec := range []kafka.Compression{0, kafka.Gzip, kafka.Snappy, kafka.Lz4, kafka.Zstd} {
		transport := &kafka.Transport{}
		w := kafka.Writer{
			Addr: kafka.TCP(b.addrs()...), Topic: topic, RequiredAcks: kafka.RequireAll, Compression: codec,
			BatchTimeout: time.Millisecond, Transport: transport,
		}
		var messages []kafka.Message
		for range 100 {
			messages = append(messages, kafka.Message{Value: bytes.Repeat([]byte{byte(n)}, 100), Time: time.UnixMilli(1)})
			n++
		}
		ok(t, w.WriteMessages(deadline(t), messages...))
		ok(t, w.Close())
		transport.CloseIdleConnections()
	}
	got := readAll(t, b, topic)
	if len(got) != n {
		t.Fatalf("want %d messages, got %d", n, len(got))
	}
	for i, m := range got {
		if !bytes.Equal(m.Value, bytes.Repeat([]byte{byte(i)}, 100)) || b.stampsTimes() && m.Time < before.UnixNano() {
			t.Fatalf("message %d: got %v", i, m)
		}
	}
}

// Scenario: transactions, some aborted, among plain records; then one that stays open.
// Guarantees: aborted records and markers are left out, offsets go on over them, and the open transaction is not read.
func suiteTransactions(t *testing.T, b broker) {
	topic := makeTopic(t, b, 1, nil)
	c := franz(t, b, kgo.TransactionalID("tx-"+topic))
	var want []int64
	for i := range 6 {
		ok(t, c.BeginTransaction())
		for range 3 {
			ok(t, c.ProduceSync(deadline(t), &kgo.Record{Topic: topic, Value: []byte{'0' + byte(i)}}).FirstErr())
		}
		commit := kgo.TransactionEndTry(i%2 == 0)
		if commit {
			want = append(want, int64(i), int64(i), int64(i))
		}
		ok(t, c.EndTransaction(deadline(t), commit))
	}
	numbers(t, b, topic, 1, 100, 2)
	want = append(want, 100, 101)
	ok(t, c.BeginTransaction())
	ok(t, c.ProduceSync(deadline(t), &kgo.Record{Topic: topic, Value: []byte("7")}).FirstErr())

	s := openSource(t, testConfig(b, topic))
	p := only(t, join(t, s))
	r := readMessages(t, p, len(want))
	if !slices.Equal(r.values, want) {
		t.Fatalf("want %v, got %v", want, r.values)
	}
	d, err := p.Read(deadline(t))
	ok(t, err)
	if d.Messages != 0 || !d.CaughtUp || d.Lag != 0 {
		t.Fatalf("want nothing more, got %+v", d)
	}
	if r.next != 6*4+2 {
		t.Fatalf("want offset 26 next, got %d", r.next)
	}
	if s.Stats.AbortedMessages.Load() == 0 || s.Stats.ControlBatches.Load() != 6 {
		t.Fatalf("want 6 markers and aborted messages counted, got %v", s.Counters())
	}
	ok(t, c.EndTransaction(deadline(t), kgo.TryAbort))
}

// Scenario: read, commit half, close, join anew.
// Guarantees: a member starts where the group committed, and joining commits nothing by itself.
func suiteCommit(t *testing.T, b broker) {
	topic := makeTopic(t, b, 1, nil)
	numbers(t, b, topic, 1, 0, 100)
	c := testConfig(b, topic)
	s := openSource(t, c)
	g := join(t, s)
	stored, err := Committed(deadline(t), b.addrs(), c.Group, topic)
	ok(t, err)
	if len(stored) > 0 {
		t.Fatalf("want nothing committed yet, got %v", stored)
	}
	r := readMessages(t, only(t, g), 100)
	if !slices.Equal(r.values, sequence(0, 100)) || !slices.Equal(r.offsets, sequence(0, 100)) {
		t.Fatalf("got %v", r.values)
	}
	ok(t, g.Commit(deadline(t), at(0, 50)))
	ok(t, g.Close())
	ok(t, s.Close())

	s = openSource(t, c)
	p := only(t, join(t, s))
	if p.Start() != 50 {
		t.Fatalf("want start 50, got %d", p.Start())
	}
	if r := readMessages(t, p, 50); !slices.Equal(r.values, sequence(50, 50)) {
		t.Fatalf("got %v", r.values)
	}
}

// Scenario: start latest on a topic with messages, a commit of where that is, a restart, then messages.
// Guarantees: old messages are not read, those between the first start and the restart are.
func suiteLatest(t *testing.T, b broker) {
	topic := makeTopic(t, b, 1, nil)
	numbers(t, b, topic, 1, 0, 10)
	c := testConfig(b, topic)
	c.Start = StartLatest
	s := openSource(t, c)
	g := join(t, s)
	if start := only(t, g).Start(); start != 10 {
		t.Fatalf("want start 10, got %d", start)
	}
	ok(t, g.Commit(deadline(t), at(0, 10)))
	ok(t, g.Close())
	ok(t, s.Close())
	numbers(t, b, topic, 1, 10, 5)
	if r := readMessages(t, only(t, join(t, openSource(t, c))), 5); !slices.Equal(r.values, sequence(10, 5)) {
		t.Fatalf("got %v", r.values)
	}
}

// member reads generation after generation into seen until ctx ends.
func member(ctx context.Context, t *testing.T, s *Source, seen func(partition int32, value int64)) {
	for {
		g, err := s.Next(ctx)
		if err != nil {
			return
		}
		reading, stop := context.WithCancel(ctx)
		var wait sync.WaitGroup
		var mu sync.Mutex
		next := map[int32]pipeline.Commit{}
		for _, p := range g.Partitions() {
			wait.Go(func() {
				for {
					d, err := p.Read(reading)
					if err != nil {
						return
					}
					for _, v := range rows(d) {
						seen(p.ID(), v)
					}
					mu.Lock()
					next[p.ID()] = pipeline.Commit{Offset: d.Next}
					mu.Unlock()
					d.Release()
				}
			})
		}
		select {
		case <-g.Revoked():
		case <-ctx.Done():
		}
		stop()
		wait.Wait()
		if err := g.Commit(context.WithoutCancel(ctx), next); err != nil {
			t.Error(err)
		}
		if err := g.Close(); err != nil {
			t.Error(err)
		}
	}
}

// Scenario: three members join one after the other and leave while messages come in.
// Guarantees: with commits at every revocation, each message is read exactly once: none is lost, none is doubled.
func suiteGroup(t *testing.T, b broker) {
	const partitions, each = 4, 500
	topic := makeTopic(t, b, partitions, nil)
	var mu sync.Mutex
	count := map[int64]int{}
	read := make(chan struct{}, partitions*each*4)
	seen := func(p int32, v int64) {
		mu.Lock()
		count[int64(p)*1_000_000+v]++
		mu.Unlock()
		read <- struct{}{}
	}
	var wait sync.WaitGroup
	start := func() (leave func()) {
		s := openSource(t, testConfig(b, topic))
		ctx, cancel := context.WithCancel(deadline(t))
		wait.Go(func() {
			member(ctx, t, s, seen)
			if err := s.Close(); err != nil {
				t.Error(err)
			}
		})
		return cancel
	}
	await := func(n int) {
		ctx := deadline(t)
		for range n {
			select {
			case <-read:
			case <-ctx.Done():
				t.Fatal("messages are missing")
			}
		}
	}
	leave1 := start()
	for i := range 5 {
		numbers(t, b, topic, partitions, i*each/5, each/5)
		await(partitions * each / 5)
		switch i {
		case 0:
			defer start()()
		case 1:
			defer start()()
		case 2:
			leave1()
		}
	}
	for p := range int64(partitions) {
		for v := range int64(each) {
			if n := count[p*1_000_000+v]; n != 1 {
				t.Fatalf("partition %d, value %d: want it once, got %d", p, v, n)
			}
		}
	}
	t.Cleanup(wait.Wait)
}

// Scenario: a bound inside a batch, at the end while the reader waits there, and one that is reached already.
// Guarantees: io.EOF once the offset is the bound, nothing past it, again and again.
func suiteBounds(t *testing.T, b broker) {
	topic := makeTopic(t, b, 2, nil)
	numbers(t, b, topic, 2, 0, 100)
	s := openSource(t, testConfig(b, topic))
	s.Until(map[int32]int64{0: 42})
	g := join(t, s)
	p := g.Partitions()[0]
	r := readMessages(t, p, 42)
	for range 2 {
		if _, err := p.Read(deadline(t)); !errors.Is(err, io.EOF) {
			t.Fatalf("want EOF, got %v", err)
		}
	}
	if r.next != 42 || !slices.Equal(r.values, sequence(0, 42)) {
		t.Fatalf("want 42 messages, got %v up to %d", r.values, r.next)
	}
	p = g.Partitions()[1]
	readMessages(t, p, 100)
	done := make(chan error, 1)
	go func() {
		for {
			d, err := p.Read(deadline(t))
			if err != nil || d.Messages > 0 {
				done <- err
				return
			}
			s.Until(map[int32]int64{1: 100}) // now it waits at the end
		}
	}()
	if err := <-done; !errors.Is(err, io.EOF) {
		t.Fatalf("want EOF, got %v", err)
	}
}

// Scenario: until end, with more messages after the start.
// Guarantees: the input ends at the end that was there at the start.
func suiteUntilEnd(t *testing.T, b broker) {
	topic := makeTopic(t, b, 1, nil)
	numbers(t, b, topic, 1, 0, 10)
	c := testConfig(b, topic)
	c.Until = UntilEnd
	p := only(t, join(t, openSource(t, c)))
	numbers(t, b, topic, 1, 10, 10)
	if r := readMessages(t, p, 10); !slices.Equal(r.values, sequence(0, 10)) {
		t.Fatalf("got %v", r.values)
	}
	if _, err := p.Read(deadline(t)); !errors.Is(err, io.EOF) {
		t.Fatalf("want EOF, got %v", err)
	}
}

// Scenario: broken messages and a tombstone among good ones.
// Guarantees: the good ones are rows; the others are dead letters with their bytes, headers, place and reason.
func suiteDeadLetters(t *testing.T, b broker) {
	topic := makeTopic(t, b, 1, nil)
	headers := []kgo.RecordHeader{{Key: "h", Value: []byte("v")}}
	ok(t, franz(t, b).ProduceSync(deadline(t),
		&kgo.Record{Topic: topic, Value: []byte("1")},
		&kgo.Record{Topic: topic, Key: []byte("k"), Value: []byte("broken"), Headers: headers},
		&kgo.Record{Topic: topic, Key: []byte("k")},
		&kgo.Record{Topic: topic, Value: []byte("4")},
	).FirstErr())
	r := readMessages(t, only(t, join(t, openSource(t, testConfig(b, topic)))), 4)
	if !slices.Equal(r.values, []int64{1, 4}) || len(r.dead) != 2 || r.messages != 4 {
		t.Fatalf("got %+v", r)
	}
	broken, null := r.dead[0], r.dead[1]
	if broken.Topic != topic || broken.Message.Offset != 1 || string(broken.Message.Value) != "broken" || broken.Length != 0 ||
		string(broken.Message.Headers[0].Value) != "v" || broken.Reject.Code != schemas.DeadInvalidJSON {
		t.Fatalf("got %+v", broken)
	}
	if null.Message.Value != nil || string(null.Message.Key) != "k" || null.Reject.Code != schemas.DeadWrongType {
		t.Fatalf("got %+v", null)
	}
}

// Scenario: a message of 20 MB, five times what a fetch brings, in a topic that takes it.
// Guarantees: it is refused in short form, with length and hash, and the stream goes on.
func suiteLargeMessage(t *testing.T, b broker) {
	topic := makeTopic(t, b, 1, map[string]string{"max.message.bytes": "33554432"})
	large := bytes.Repeat([]byte("0123456789"), 2_000_000)
	c := franz(t, b)
	for _, v := range [][]byte{[]byte("1"), large, []byte("2")} {
		ok(t, c.ProduceSync(deadline(t), &kgo.Record{Topic: topic, Value: v}).FirstErr())
	}
	s := openSource(t, testConfig(b, topic))
	r := readMessages(t, only(t, join(t, s)), 3)
	if !slices.Equal(r.values, []int64{1, 2}) || len(r.dead) != 1 {
		t.Fatalf("got %v and %d dead letters", r.values, len(r.dead))
	}
	d := r.dead[0]
	if d.Reject.Code != schemas.DeadTooLarge || d.Length != 20_000_000 || d.SHA256 != sha256.Sum256(large) ||
		!bytes.Equal(d.Message.Value, large[:64<<10]) {
		t.Fatalf("got %s, %d bytes of %d", d.Reject, len(d.Message.Value), d.Length)
	}
	if s.Stats.ShortDeadLetters.Load() != 1 {
		t.Fatalf("got %v", s.Counters())
	}
}

// Scenario: the topic does not exist.
// Guarantees: an error of configuration that names topic and brokers, soon.
func suiteMissingTopic(t *testing.T, b broker) {
	s := openSource(t, testConfig(b, "no-such-topic"))
	_, err := s.Next(deadline(t))
	if !errors.Is(err, pipeline.ErrConfig) || !strings.Contains(err.Error(), "no-such-topic") || !strings.Contains(err.Error(), b.addrs()[0]) {
		t.Fatalf("got %v", err)
	}
}

// Scenario: the group's committed offset is past the topic's end, as after the topic was made anew.
// Guarantees: an error of configuration with topic, partition, offset and range; never a silent start elsewhere.
func suiteOutOfRange(t *testing.T, b broker) {
	topic := makeTopic(t, b, 1, nil)
	numbers(t, b, topic, 1, 0, 10)
	s := openSource(t, testConfig(b, topic))
	g := join(t, s)
	ok(t, g.Commit(deadline(t), at(0, 500)))
	ok(t, g.Close())
	p := only(t, join(t, s))
	_, err := p.Read(deadline(t))
	if !errors.Is(err, pipeline.ErrConfig) {
		t.Fatalf("got %v", err)
	}
	for _, part := range []string{topic, "partition 0", "offset 500", "want 0 to 10"} {
		if !strings.Contains(err.Error(), part) {
			t.Fatalf("want %q in %v", part, err)
		}
	}
}

// Scenario: a read waits at the end with a long poll when its context ends; a message comes; the next read goes on.
// Guarantees: the read returns at once, and nothing is lost by it.
func suiteCancel(t *testing.T, b broker) {
	topic := makeTopic(t, b, 1, nil)
	numbers(t, b, topic, 1, 0, 1)
	c := testConfig(b, topic)
	c.FetchMaxWait = 20 * time.Second // longer than the test may take
	s := openSource(t, c)
	p := only(t, join(t, s))
	readMessages(t, p, 1)
	for i := range 5 {
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() {
			_, err := p.Read(ctx)
			done <- err
		}()
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Fatalf("got %v", err)
		}
		numbers(t, b, topic, 1, i, 1)
		if r := readMessagesFrom(t, p, int64(i+1), 1); !slices.Equal(r.values, []int64{int64(i)}) {
			t.Fatalf("got %v", r.values)
		}
	}
}

func readMessagesFrom(t *testing.T, p pipeline.Partition, next int64, n int) reading {
	t.Helper()
	r := reading{next: next}
	for r.messages < n {
		d, err := p.Read(deadline(t))
		ok(t, err)
		r.take(t, d)
	}
	return r
}

// Scenario: the broker stops and comes back while the source waits for messages.
// Guarantees: reading goes on without a gap, and commits work again, at the latest in the next generation.
func suiteRestart(t *testing.T, b broker) {
	topic := makeTopic(t, b, 1, nil)
	numbers(t, b, topic, 1, 0, 50)
	s := openSource(t, testConfig(b, topic))
	g := join(t, s)
	p := only(t, g)
	r := readMessages(t, p, 50)
	b.stop(t)
	b.start(t)
	numbers(t, b, topic, 1, 50, 50)
	if r := readMessagesFrom(t, p, r.next, 50); !slices.Equal(r.values, sequence(50, 50)) {
		t.Fatalf("got %v", r.values)
	}
	_ = g.Commit(deadline(t), at(0, 50)) // on a connection from before the restart nobody knows what becomes of it
	ok(t, g.Close())
	g = join(t, s)
	ok(t, g.Commit(deadline(t), at(0, 100)))
}

// Scenario: no broker answers at the start; a second source gives up, a first one waits; then the broker comes.
// Guarantees: Next ends with its context, and goes on once the broker is there.
func suiteDown(t *testing.T, b broker) {
	topic := makeTopic(t, b, 1, nil)
	numbers(t, b, topic, 1, 0, 1)
	c := testConfig(b, topic)
	b.stop(t)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	impatient := openSource(t, c)
	go func() {
		_, err := impatient.Next(ctx)
		done <- err
	}()
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Fatalf("got %v", err)
	}
	s := openSource(t, c)
	joined := make(chan pipeline.Generation, 1)
	go func() {
		g, err := s.Next(deadline(t))
		if err != nil {
			t.Error(err)
		}
		joined <- g
	}()
	b.start(t)
	g := <-joined
	readMessages(t, only(t, g), 1)
	ok(t, g.Close())
}
