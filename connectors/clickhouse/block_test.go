package clickhouse

import (
	"math"
	"testing"
	"time"

	"github.com/apache/arrow/go/v15/arrow"
	"github.com/apache/arrow/go/v15/arrow/array"
	"pgregory.net/rapid"

	"github.com/tailrace/tailrace/pipeline"
)

// times is a record with one column of timestamps.
func times(t *rapid.T, ns []int64) arrow.Record {
	schema := arrow.NewSchema([]arrow.Field{{Name: "ts", Type: arrow.PrimitiveTypes.Int64}}, nil)
	b := array.NewRecordBuilder(arrowHeap(), schema)
	defer b.Release()
	b.Field(0).(*array.Int64Builder).AppendValues(ns, nil)
	return b.NewRecord()
}

// Scenario: parts of random batches of random times, from all that an int64 of ns can say, cut at random sizes.
// Guarantees: every row is in one block; a block is of one month by time.Time, not empty and not over the limit; the rows of
// a month keep their order; months ascend; and the same input gives the same blocks again.
func TestSplit(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		moment := rapid.OneOf(
			rapid.Int64(),
			rapid.SampledFrom([]int64{math.MinInt64, math.MaxInt64, -1, 0}),
			rapid.Int64Range(october.UnixNano(), october.AddDate(0, 3, 0).UnixNano()),
		)
		var parts []pipeline.Part
		want := map[int][]int64{}
		for id := range rapid.Int32Range(0, 3).Draw(t, "parts") {
			part := pipeline.Part{Topic: "in", Partition: id}
			for range rapid.IntRange(0, 3).Draw(t, "batches") {
				list := rapid.SliceOfN(moment, 0, 30).Draw(t, "times")
				part.Batches = append(part.Batches, times(t, list))
				for _, ns := range list {
					m := yyyymm(ns)
					want[m] = append(want[m], ns)
				}
			}
			parts = append(parts, part)
		}
		rowsMax := rapid.IntRange(1, 40).Draw(t, "rowsMax")
		cuts := split(parts, 0, rowsMax)
		got := map[int][]int64{}
		last := 0
		for i, c := range cuts {
			rows := 0
			for _, p := range c.pieces {
				rows += p.rows()
				got[c.month] = append(got[c.month], values[int64](p.column(0), p.from, p.to)...)
			}
			if rows != c.rows || rows < 1 || rows > rowsMax || c.month < last {
				t.Fatalf("block %d: %d rows (said %d, at most %d) of month %d after %d", i, rows, c.rows, rowsMax, c.month, last)
			}
			last = c.month
		}
		if len(got) != len(want) {
			t.Fatalf("months: want %d, got %d", len(want), len(got))
		}
		for m, list := range want {
			if len(got[m]) != len(list) {
				t.Fatalf("month %d: want %d rows, got %d", m, len(list), len(got[m]))
			}
			for i, ns := range list {
				if got[m][i] != ns {
					t.Fatalf("month %d, row %d: want %d, got %d", m, i, ns, got[m][i])
				}
			}
		}
		again := split(parts, 0, rowsMax)
		for i := range cuts {
			if cuts[i].month != again[i].month || cuts[i].rows != again[i].rows {
				t.Fatalf("block %d differs the second time", i)
			}
		}
	})
}

func yyyymm(ns int64) int {
	t := time.Unix(0, ns).UTC()
	return t.Year()*100 + int(t.Month())
}

// Scenario: bitmaps of random bits, read from any bit on, for any length.
// Guarantees: one byte per bit, 1 where the bit is set, or where it is not if flipped.
func TestSpread(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		bits := rapid.SliceOfN(rapid.Byte(), 1, 6).Draw(t, "bits")
		at := rapid.IntRange(0, 8*len(bits)-1).Draw(t, "at")
		dst := make([]byte, rapid.IntRange(0, 8*len(bits)-at).Draw(t, "n"))
		flip := rapid.Bool().Draw(t, "flip")
		spread(dst, bits, at, map[bool]byte{true: 0xff}[flip])
		for i, got := range dst {
			set := bits[(at+i)/8]>>((at+i)%8)&1 == 1
			if (got == 1) != (set != flip) || got > 1 {
				t.Fatalf("bit %d of %08b, flip %v: got %d", at+i, bits, flip, got)
			}
		}
	})
}
