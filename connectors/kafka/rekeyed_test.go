package kafka

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"testing"

	"github.com/apache/arrow/go/v15/arrow"
	"github.com/apache/arrow/go/v15/arrow/array"
	"github.com/apache/arrow/go/v15/arrow/memory"
	"github.com/tailrace/tailrace/pipeline"
	"github.com/tailrace/tailrace/schemas"
	"github.com/tailrace/tailrace/schemas/formats"
	"github.com/tailrace/tailrace/schemas/formats/rekeyed"
	"github.com/twmb/franz-go/pkg/kgo"
)

// rowsOf makes rows of a partition, offsets [from, to), of five assets in turn, each for two rows.
func rowsOf(mem memory.Allocator, partition int32, from, to int) arrow.Record {
	b := schemas.NewTelemetryBuilder(mem, "plant", partition)
	defer b.Release()
	for i := from; i < to; i++ {
		r := schemas.Row{
			TS: int64(i), Asset: fmt.Appendf(nil, "press %d", i/2%5), Tag: fmt.Appendf(nil, "%d:%d", partition, i), VType: schemas.TypeFloat,
			HasValue: true, Value: float64(i),
		}
		b.Append(&r, int64(i), 1)
	}
	return b.NewRecord()
}

// rekeyedRows reads a topic of rekeyed rows, and returns the tags of each asset in order, the partition that it is in, and how many
// rows were left out. seen is what each partition's decoder knows before, and is brought up to date.
func rekeyedRows(t *testing.T, b broker, topic string, from map[int32]int64, seen map[int32][]byte) (tags map[string][]string, in map[string]int32, dropped int) {
	t.Helper()
	mem := memory.NewCheckedAllocator(memory.NewGoAllocator())
	defer mem.AssertSize(t, 0)
	c := DefaultSourceConfig()
	c.Brokers, c.Topic = b.addrs(), topic
	s, err := NewBounded(c, pipeline.Settings{Alloc: mem}, func() (formats.Decoder, error) { return rekeyed.New(rekeyed.DefaultConfig()) }, Span{})
	ok(t, err)
	defer func() { ok(t, s.Close()) }()
	g, err := s.Next(deadline(t))
	ok(t, err)
	defer func() { ok(t, g.Close()) }()
	tags, in = map[string][]string{}, map[string]int32{}
	for _, p := range g.Partitions() {
		ok(t, p.StartAt(from[p.ID()], seen[p.ID()]))
		for {
			d, err := p.Read(deadline(t))
			if errors.Is(err, io.EOF) {
				break
			}
			ok(t, err)
			if len(d.Dead) > 0 {
				t.Fatalf("refused: %v", d.Dead[0].Reject)
			}
			from[p.ID()], seen[p.ID()] = d.Next, d.Decoder
			dropped += d.Dropped[rekeyed.Resent]
			if d.Batch != nil {
				text := func(column, row int) string {
					of := d.Batch.Column(column).(*array.Dictionary)
					return of.Dictionary().(*array.String).Value(of.GetValueIndex(row))
				}
				for i := range int(d.Batch.NumRows()) {
					asset := text(schemas.ColAsset, i)
					if at, known := in[asset]; known && at != p.ID() {
						t.Fatalf("%s: in partition %d and in %d", asset, at, p.ID())
					}
					in[asset] = p.ID()
					tags[asset] = append(tags[asset], text(schemas.ColTag, i))
				}
			}
			d.Release()
		}
	}
	return tags, in, dropped
}

// Scenario: rows of five assets from two partitions are published, some of them again; the topic is read to its end; more rows are
// published, with some of those before, and read by another reader with the state of the first.
// Guarantees: the topic is made with the partitions that the config says; an asset is in the one that Java clients choose; each row
// is given once and in order, though it was sent twice; what is left out is counted.
func suiteRekeyed(t *testing.T, b broker) {
	mem := memory.NewCheckedAllocator(memory.NewGoAllocator())
	defer mem.AssertSize(t, 0)
	p := openPublisherWith(t, b, pipeline.Settings{Pipeline: "plant", Rekeyed: true}, func(c *PublisherConfig) { c.RekeyedPartitions = 3 })
	publish := func(partition int32, from, to int) {
		rows := rowsOf(mem, partition, from, to)
		defer rows.Release()
		ok(t, p.PublishRekeyed(deadline(t), "id", rows))
	}
	const rows = 3000 // some messages are full
	want := func(asset int, from, to int) (tags []string) {
		for i := from; i < to; i++ {
			if i/2%5 == asset {
				tags = append(tags, fmt.Sprint(i))
			}
		}
		return tags
	}
	from, seen := map[int32]int64{}, map[int32][]byte{}
	check := func(first, end, resent int) {
		t.Helper()
		ok(t, p.Flush(deadline(t)))
		tags, in, dropped := rekeyedRows(t, b, p.rekeyed, from, seen)
		if dropped != resent {
			t.Errorf("want %d rows left out, got %d", resent, dropped)
		}
		for asset := range 5 {
			name := fmt.Sprintf("press %d", asset)
			for partition := range 2 {
				var got []string
				for _, tag := range tags[name] {
					if tag[0] == byte('0'+partition) {
						got = append(got, tag[2:])
					}
				}
				if !slices.Equal(got, want(asset, first, end)) {
					t.Errorf("%s, partition %d: want %d rows in order, got %d: %.200v", name, partition, len(want(asset, first, end)), len(got), got)
				}
			}
			chosen := kgo.StickyKeyPartitioner(nil).ForTopic(p.rekeyed).Partition(&kgo.Record{Key: []byte(name)}, 3)
			if in[name] != int32(chosen) {
				t.Errorf("%s: want it in partition %d, got %d", name, chosen, in[name])
			}
		}
	}
	publish(0, 0, rows)
	publish(1, 0, 100)
	publish(0, 10, 60)
	publish(1, 50, rows)
	check(0, rows, 50+50)
	publish(1, rows-20, rows+40)
	publish(0, rows, rows+40)
	check(rows, rows+40, 20)

	other := openPublisher(t, b, nil)
	batch := rowsOf(mem, 0, 0, 1)
	defer batch.Release()
	if err := other.PublishRekeyed(deadline(t), "id", batch); !errors.Is(err, pipeline.ErrConfig) {
		t.Errorf("want a publisher of another pipeline to refuse rows, got %v", err)
	}
	if _, _, err := newCluster(b.addrs()).offsets(deadline(t), other.rekeyed); !errors.Is(err, errUnknownTopic) {
		t.Errorf("want no topic made, got %v", err)
	}
}
