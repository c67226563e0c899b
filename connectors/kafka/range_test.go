package kafka

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/apache/arrow/go/v15/arrow"
	"github.com/apache/arrow/go/v15/arrow/array"
	"github.com/apache/arrow/go/v15/arrow/memory"
	"github.com/tailrace/tailrace/pipeline"
	"github.com/tailrace/tailrace/pipeline/state"
	"github.com/tailrace/tailrace/schemas"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// readToEnd reads up to io.EOF and gives every row and every dead letter as text, and where deliveries ended.
func readToEnd(t *testing.T, p pipeline.Partition) (rows, dead []string, cuts []int64) {
	t.Helper()
	next := p.Start()
	for ctx := deadline(t); ; {
		d, err := p.Read(ctx)
		if errors.Is(err, io.EOF) {
			return rows, dead, cuts
		}
		ok(t, err)
		if d.First != next {
			t.Fatalf("want a delivery from offset %d on, got %d", next, d.First)
		}
		next = d.Next
		cuts = append(cuts, d.Next)
		if d.Batch != nil {
			rows = append(rows, rowTexts(t, d.Batch)...)
		}
		for _, l := range d.Dead {
			dead = append(dead, fmt.Sprintf("%d %s %x", l.Message.Offset, l.Reject, l.Message.Value))
		}
		d.Release()
	}
}

// firstOffset is that of a partition's first row.
func firstOffset(t *testing.T, g pipeline.Generation, p pipeline.Partition) int64 {
	t.Helper()
	_, end := p.Bounds()
	r, err := g.Range(deadline(t), pipeline.Stretch{Partition: p.ID(), From: p.Start(), To: end})
	ok(t, err)
	defer r.Close()
	for {
		d, err := r.Read(deadline(t))
		ok(t, err)
		if d.Batch != nil {
			offset := d.Batch.Column(schemas.ColKOffset).(*array.Int64).Value(0)
			d.Release()
			return offset
		}
	}
}

// rowTexts is every column of every row.
func rowTexts(t *testing.T, rec arrow.Record) (rows []string) {
	t.Helper()
	for i := range int(rec.NumRows()) {
		row := ""
		for _, c := range rec.Columns() {
			row += c.ValueStr(i) + "|"
		}
		rows = append(rows, row)
	}
	return rows
}

// Scenario: a partition with transactions, some aborted, dead letters and all codecs is read in small deliveries; then each
// delivery's offsets are read again, all of it at once, and a range of a partition that is another member's.
// Guarantees: the same rows and dead letters in the same order, whatever the cut; an empty range ends at once.
func suiteRange(t *testing.T, b broker) {
	topic := makeTopic(t, b, 2, nil)
	for _, codec := range []kgo.CompressionCodec{kgo.NoCompression(), kgo.ZstdCompression(), kgo.Lz4Compression()} {
		c := franz(t, b, kgo.TransactionalID("tx-"+topic), kgo.ProducerBatchCompression(codec))
		for commit := range 2 {
			ok(t, c.BeginTransaction())
			var records []*kgo.Record
			for i := range 50 {
				value := fmt.Append(nil, i)
				if i%7 == 3 {
					value = []byte("broken")
				}
				records = append(records, &kgo.Record{Topic: topic, Partition: int32(i % 2), Key: fmt.Append(nil, "k", i%5), Value: value})
			}
			ok(t, c.ProduceSync(deadline(t), records...).FirstErr())
			ok(t, c.EndTransaction(deadline(t), kgo.TransactionEndTry(commit == 1)))
		}
		c.Close()
	}
	config := testConfig(b, topic)
	config.BatchRows, config.Until = 7, UntilEnd
	s := openSource(t, config)
	g := join(t, s)
	var all []string
	for _, p := range g.Partitions() {
		rows, dead, cuts := readToEnd(t, p)
		if len(rows) == 0 || len(dead) == 0 || len(cuts) < 5 {
			t.Fatalf("partition %d: got %d rows, %d dead letters, %d deliveries", p.ID(), len(rows), len(dead), len(cuts))
		}
		reread := func(from, to int64) (rows, dead []string) {
			r, err := g.Range(deadline(t), pipeline.Stretch{Partition: p.ID(), From: from, To: to})
			ok(t, err)
			rows, dead, _ = readToEnd(t, r)
			ok(t, r.Close())
			return rows, dead
		}
		againRows, againDead := reread(p.Start(), cuts[len(cuts)-1])
		if !slices.Equal(rows, againRows) || !slices.Equal(dead, againDead) {
			t.Fatalf("partition %d: want %d rows and %d dead letters again, got %d and %d", p.ID(), len(rows), len(dead), len(againRows), len(againDead))
		}
		againRows, againDead = nil, nil
		for i, from := 0, p.Start(); i < len(cuts); from, i = cuts[i], i+1 {
			r, d := reread(from, cuts[i])
			againRows, againDead = append(againRows, r...), append(againDead, d...)
		}
		if !slices.Equal(rows, againRows) || !slices.Equal(dead, againDead) {
			t.Fatalf("partition %d: the rows of its deliveries read again differ", p.ID())
		}
		// A message that the first decoder refused, since it had seen too much, is refused again by one that has seen nothing.
		offset := firstOffset(t, g, p)
		refused, err := g.Range(deadline(t), pipeline.Stretch{
			Partition: p.ID(), From: p.Start(), To: cuts[len(cuts)-1], Refused: []state.Refusal{{Offset: offset, Reason: "full"}},
		})
		ok(t, err)
		fewer, more, _ := readToEnd(t, refused)
		ok(t, refused.Close())
		want := fmt.Sprintf("%d cardinality: full ", offset)
		if len(fewer) != len(rows)-1 || len(more) != len(dead)+1 || !slices.ContainsFunc(more, func(l string) bool { return strings.HasPrefix(l, want) }) {
			t.Fatalf("partition %d: want one row fewer and the dead letter %q, got %d rows of %d and %v", p.ID(), want, len(fewer), len(rows), more)
		}
		if r, d := reread(5, 5); len(r)+len(d) > 0 {
			t.Fatalf("want nothing in an empty range, got %v", r)
		}
		all = append(all, rows...)
	}
	if _, err := g.Range(deadline(t), pipeline.Stretch{From: 5, To: 4}); err == nil {
		t.Fatal("want a refusal of a range that ends before it begins")
	}
	if n := s.Stats.RefusedMessages.Load(); n == 0 || int(n) >= len(all) {
		t.Fatalf("want refused messages counted once, got %d", n)
	}
}

// addPartitions makes a topic have n partitions.
func addPartitions(t *testing.T, b broker, topic string, n int32) {
	t.Helper()
	req := kmsg.NewPtrCreatePartitionsRequest()
	one := kmsg.NewCreatePartitionsRequestTopic()
	one.Topic, one.Count = topic, n
	req.Topics = append(req.Topics, one)
	res, err := req.RequestWith(deadline(t), franz(t, b))
	ok(t, err)
	ok(t, kerr.ErrorForCode(res.Topics[0].ErrorCode))
}

// Scenario: a group that began at the latest message reads a topic of one partition, which gains a second with messages.
// Guarantees: the generation ends by itself; the next has the new partition from its first message, the old one where it was.
func suiteGrowth(t *testing.T, b broker) {
	topic := makeTopic(t, b, 1, nil)
	numbers(t, b, topic, 1, 0, 10)
	c := testConfig(b, topic)
	c.Start, c.PartitionWatchInterval = StartLatest, 100*time.Millisecond
	s := openSource(t, c)
	g := join(t, s)
	if p := only(t, g); p.Start() != 10 {
		t.Fatalf("want start 10, got %d", p.Start())
	}
	ok(t, g.Commit(deadline(t), at(0, 10)))
	addPartitions(t, b, topic, 2)
	var pause backoff
	for ctx := deadline(t); ; ok(t, pause.wait(ctx)) {
		if topic, err := s.cluster.topic(ctx, topic); err == nil && len(topic.leaders) == 2 {
			break
		}
	}
	ok(t, franz(t, b).ProduceSync(deadline(t), &kgo.Record{Topic: topic, Partition: 1, Value: []byte("77")}).FirstErr())
	select {
	case <-g.Revoked():
	case <-deadline(t).Done():
		t.Fatal("want the generation revoked")
	}
	ok(t, g.Close())
	parts := join(t, s).Partitions()
	if len(parts) != 2 || parts[0].Start() != 10 || parts[1].Start() != 0 {
		t.Fatalf("want starts 10 and 0, got %d partitions, %v", len(parts), parts)
	}
	if r := readMessages(t, parts[1], 1); r.values[0] != 77 {
		t.Fatalf("got %v", r.values)
	}
}

// Scenario: two processes start a group together, at the latest message; one commits its partitions before the other looks.
// Guarantees: the other's partitions start at the latest message as well: they are no gain of the topic.
func suiteFirstStart(t *testing.T, b broker) {
	topic := makeTopic(t, b, 2, nil)
	numbers(t, b, topic, 2, 0, 10)
	c := testConfig(b, topic)
	c.Start = StartLatest
	s := openSource(t, c)
	info, err := s.cluster.topic(deadline(t), topic)
	ok(t, err)
	ok(t, s.look(deadline(t), info)) // before it joins
	client := newCluster(b.addrs()).client(topic)
	defer closeClient(client)
	commitByHand(t, client, c.Group, topic, 0, 10)
	for _, p := range join(t, s).Partitions() {
		if p.Start() != 10 {
			t.Fatalf("partition %d: want start 10, got %d", p.ID(), p.Start())
		}
	}
}

// bounded opens a bounded source whose memory is checked.
func bounded(t *testing.T, c SourceConfig, span Span) *Bounded {
	t.Helper()
	mem := memory.NewCheckedAllocator(memory.DefaultAllocator)
	s, err := NewBounded(c, pipeline.Settings{Pipeline: "p", Alloc: mem}, newDigits, span)
	ok(t, err)
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
		mem.AssertSize(t, 0)
	})
	return s
}

func nextOf(t *testing.T, s pipeline.Source) pipeline.Generation {
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

// Scenario: messages a second apart on two partitions are read over ranges of times and of offsets, without a group.
// Guarantees: exactly the range comes, and the group has stored nothing; a second generation goes on where the first committed;
// a range that is not there is an error of configuration.
func suiteBounded(t *testing.T, b broker) {
	topic := makeTopic(t, b, 2, nil)
	const base = 1_700_000_000
	var records []*kgo.Record
	for i := range 100 {
		records = append(records, &kgo.Record{Topic: topic, Partition: int32(i % 2), Value: fmt.Append(nil, i), Timestamp: time.Unix(base+int64(i), 0)})
	}
	ok(t, franz(t, b).ProduceSync(deadline(t), records...).FirstErr())
	c := testConfig(b, topic)
	when := func(second int64, more time.Duration) time.Time { return time.Unix(base+second, 0).Add(more) }
	for _, one := range []struct {
		span Span
		want map[int32][2]int64
	}{
		{Span{}, map[int32][2]int64{0: {0, 50}, 1: {0, 50}}},
		{Span{From: when(10, 0), To: when(20, 0)}, map[int32][2]int64{0: {5, 10}, 1: {5, 10}}},
		{Span{From: when(10, 1), To: when(20, 1)}, map[int32][2]int64{0: {6, 11}, 1: {5, 10}}}, // 1 ns more
		{Span{From: when(95, 0)}, map[int32][2]int64{0: {48, 50}, 1: {47, 50}}},
		{Span{From: when(1000, 0)}, map[int32][2]int64{0: {50, 50}, 1: {50, 50}}},
		{Span{Partitions: map[int32][2]int64{1: {3, 7}}}, map[int32][2]int64{1: {3, 7}}},
	} {
		s := bounded(t, c, one.span)
		g := nextOf(t, s)
		if !maps.Equal(s.Range(), one.want) || len(g.Partitions()) != len(one.want) {
			t.Fatalf("%+v: want %v, got %v", one.span, one.want, s.Range())
		}
		for _, p := range g.Partitions() {
			rows, _, _ := readToEnd(t, p)
			if want := one.want[p.ID()]; p.Start() != want[0] || int64(len(rows)) != want[1]-want[0] {
				t.Fatalf("%+v, partition %d: want %v, got %d rows from %d", one.span, p.ID(), want, len(rows), p.Start())
			}
		}
	}
	found, err := Access{Brokers: b.addrs()}.OffsetsAt(deadline(t), topic, when(10, 1))
	ok(t, err)
	if want := map[int32]int64{0: 6, 1: 5}; !maps.Equal(found, want) {
		t.Fatalf("want %v, got %v", want, found)
	}
	s := bounded(t, c, Span{From: when(10, 0), To: when(20, 0)})
	g := nextOf(t, s)
	ok(t, g.Commit(deadline(t), map[int32]pipeline.Commit{1: {Offset: 8, Metadata: "m"}}))
	again := nextOf(t, s)
	if err := g.Commit(deadline(t), at(1, 9)); !errors.Is(err, pipeline.ErrFenced) {
		t.Fatalf("want the generation before fenced, got %v", err)
	}
	<-g.Revoked()
	for _, p := range again.Partitions() {
		commit, has := p.Committed()
		if p.ID() == 1 && (p.Start() != 8 || !has || commit.Metadata != "m") || p.ID() == 0 && (p.Start() != 5 || has) {
			t.Fatalf("partition %d: got start %d, %v", p.ID(), p.Start(), commit)
		}
	}
	if stored, err := Committed(deadline(t), b.addrs(), c.Group, topic); err != nil || len(stored) > 0 {
		t.Fatalf("want nothing stored, got %v, %v", stored, err)
	}
	for _, span := range []Span{
		{Partitions: map[int32][2]int64{0: {0, 51}}}, {Partitions: map[int32][2]int64{2: {0, 1}}},
	} {
		if _, err := bounded(t, c, span).Next(deadline(t)); !errors.Is(err, pipeline.ErrConfig) {
			t.Fatalf("%v: got %v", span, err)
		}
	}
	if _, err := NewBounded(c, pipeline.Settings{}, newDigits, Span{From: when(2, 0), To: when(1, 0)}); !errors.Is(err, pipeline.ErrConfig) {
		t.Fatalf("got %v", err)
	}
}

// Scenario: rows that came too late are published.
// Guarantees: each is one JSON message with its value as the source sent it, keyed by its asset.
func suiteLate(t *testing.T, b broker) {
	p := openPublisher(t, b, nil)
	mem := memory.NewCheckedAllocator(memory.DefaultAllocator)
	defer mem.AssertSize(t, 0)
	build := schemas.NewTelemetryBuilder(mem, "plant", 3)
	defer build.Release()
	build.Append(&schemas.Row{
		TS: 1_700_000_000_000_000_001, Asset: []byte("a1"), Tag: []byte("t1"), Value: 1.5, HasValue: true, Quality: schemas.Good,
		Flags: schemas.FlagLate, Idx: 2,
	}, 77, 5)
	build.Append(&schemas.Row{Asset: []byte("a2"), Tag: []byte("t2"), Int: 1<<62 + 1, HasInt: true}, 78, 5)
	rec := build.NewRecord()
	defer rec.Release()
	ok(t, p.PublishLate(deadline(t), rec))
	ok(t, p.Flush(deadline(t)))
	got := readAll(t, b, p.late)
	want := []string{
		`{"asset":"a1","tag":"t1","ts":"2023-11-14T22:13:20.000000001Z","value":1.5,"quality":2,"flags":256,"k_topic":"plant","k_part":3,"k_offset":77,"k_idx":2,"pipeline":"plant"}`,
		`{"asset":"a2","tag":"t2","ts":"1970-01-01T00:00:00Z","value":4611686018427387905,"quality":0,"flags":0,"k_topic":"plant","k_part":3,"k_offset":78,"k_idx":0,"pipeline":"plant"}`,
	}
	if len(got) != 2 || string(got[0].Key) != "a1" || string(got[0].Value) != want[0] || string(got[1].Value) != want[1] {
		t.Fatalf("want %v, got %+v", want, got)
	}
}
