package schemas

import (
	"fmt"
	"math"
	"testing"

	"github.com/apache/arrow/go/v15/arrow"
	"github.com/apache/arrow/go/v15/arrow/array"
	"github.com/apache/arrow/go/v15/arrow/memory"
	"pgregory.net/rapid"
)

// dirty hands out memory full of garbage, as allocators outside Go's may.
type dirty struct{ memory.Allocator }

func (d dirty) Allocate(size int) []byte {
	b := d.Allocator.Allocate(size)
	for i := range b {
		b[i] = 0xA5
	}
	return b
}

func (d dirty) Reallocate(size int, old []byte) []byte {
	b := d.Allocate(size)
	copy(b, old)
	d.Free(old)
	return b
}

func newChecked(t testing.TB) memory.Allocator {
	checked := memory.NewCheckedAllocator(memory.NewGoAllocator())
	t.Cleanup(func() { checked.AssertSize(t, 0) })
	return dirty{checked}
}

func dictText(rec arrow.Record, col, row int) string {
	d := rec.Column(col).(*array.Dictionary)
	if d.IsNull(row) {
		return "(null)"
	}
	return d.Dictionary().(*array.String).Value(d.GetValueIndex(row))
}

// Scenario: two rows, one with everything a row can have, one with as little as it can.
// Guarantees: every column of telemetry.v1 has the row's value, and null where the row has none.
func TestBuilderColumns(t *testing.T) {
	b := NewTelemetryBuilder(newChecked(t), "plant", 7)
	defer b.Release()
	b.Append(&Row{
		TS: 11, TSKind: TimeFromGateway, Asset: []byte("press"), Tag: []byte("temp"), VType: TypeUint,
		Value: 1.5, HasValue: true, Int: -9,
		HasInt: true, Str: []byte("on"), Quality: Uncertain, Status: 0x40900000, Flags: FlagLate | FlagClamped, Unit: []byte("CEL"),
		Src: []byte("edge1"), SrcSeq: math.MaxUint64, Idx: 3,
	}, 100, 12)
	b.Append(&Row{TS: -1, Asset: []byte("press"), Tag: []byte("flow")}, 101, 13)
	if b.Len() != 2 {
		t.Fatalf("want 2 rows, got %d", b.Len())
	}
	rec := b.NewRecord()
	defer rec.Release()
	if !rec.Schema().Equal(Telemetry()) || rec.NumRows() != 2 || b.Len() != 0 {
		t.Fatalf("got %s, %d rows, %d left", rec.Schema(), rec.NumRows(), b.Len())
	}
	dicts := map[int]bool{ColAsset: true, ColTag: true, ColUnit: true, ColSrc: true, ColKTopic: true}
	want := map[int][2]string{
		ColTSKind: {"1", "0"}, ColAsset: {"press", "press"}, ColTag: {"temp", "flow"}, ColVType: {"3", "0"},
		ColValue:    {"1.5", "(null)"},
		ColValueInt: {"-9", "(null)"}, ColValueStr: {"on", "(null)"}, ColQuality: {"1", "0"},
		ColStatus: {"1083179008", "0"},
		ColFlags:  {"272", "0"}, ColUnit: {"CEL", "(null)"}, ColSrc: {"edge1", ""}, ColSrcSeq: {"18446744073709551615",
			"0"},
		ColKTopic: {"plant", "plant"}, ColKPart: {"7", "7"}, ColKOffset: {"100", "101"}, ColKIdx: {"3", "0"},
		ColTS:       {"1970-01-01T00:00:00.000000011Z", "1969-12-31T23:59:59.999999999Z"},
		ColTSIngest: {"1970-01-01T00:00:00.000000012Z", "1970-01-01T00:00:00.000000013Z"},
	}
	for col := range telemetryColumns {
		for row := range 2 {
			got := rec.Column(col).ValueStr(row)
			if dicts[col] {
				got = dictText(rec, col, row)
			}
			if ts, ok := rec.Column(col).(*array.Timestamp); ok {
				got = ts.Value(row).ToTime(arrow.Nanosecond).Format("2006-01-02T15:04:05.999999999Z07:00")
			}
			if got != want[col][row] {
				t.Errorf("%s, row %d: want %s, got %s", Telemetry().Field(col).Name, row, want[col][row], got)
			}
		}
	}
}

// Scenario: records one after the other, with new assets in the second and none in the third.
// Guarantees: an asset keeps its index in every record; the dictionary is the same array until an asset is new; records
// do not change when the builder goes on.
func TestBuilderDictionariesStay(t *testing.T) {
	b := NewTelemetryBuilder(newChecked(t), "plant", 0)
	defer b.Release()
	var recs []arrow.Record
	for _, assets := range [][]string{{"a", "b", "a"}, {"c", "b"}, {"a"}, {}} {
		for _, a := range assets {
			b.Append(&Row{Asset: []byte(a), Tag: []byte("t")}, 0, 0)
		}
		rec := b.NewRecord()
		defer rec.Release()
		recs = append(recs, rec)
	}
	data := func(i int) arrow.ArrayData { return recs[i].Column(ColAsset).(*array.Dictionary).Dictionary().Data() }
	want := [][]int{{0, 1, 0}, {2, 1}, {0}, {}}
	for i, rec := range recs {
		d := rec.Column(ColAsset).(*array.Dictionary)
		for row, id := range want[i] {
			if got := d.GetValueIndex(row); got != id || d.Dictionary().(*array.String).Value(id) != b.Assets.Text(int32(id)) {
				t.Errorf("record %d, row %d: want index %d, got %d", i, row, id, got)
			}
		}
	}
	if data(0) == data(1) || data(1) != data(2) || data(2) != data(3) {
		t.Error("want a new dictionary in the second record, and the same in the third and fourth")
	}
	if n := data(0).Len(); n != 2 {
		t.Errorf("the first record's dictionary grew to %d", n)
	}
}

// Scenario: random rows, records cut anywhere, room reserved or not.
// Guarantees: each record has the rows appended for it, in order, nulls and all.
func TestBuilderKeepsRows(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		checked := memory.NewCheckedAllocator(memory.NewGoAllocator())
		b := NewTelemetryBuilder(dirty{checked}, "plant", 1)
		for range rapid.IntRange(1, 3).Draw(r, "records") {
			n := rapid.SampledFrom([]int{0, 1, 7, 8, 9, 63, 64, 65, 200}).Draw(r, "rows")
			b.Reserve(rapid.SampledFrom([]int{0, 1, n, 500}).Draw(r, "reserve"))
			seed := rapid.Uint64().Draw(r, "seed")
			bit := func(i, k int) bool { return (seed>>(uint(i*7+k*13)%64))&1 == 1 }
			for i := range n {
				row := Row{TS: int64(i), Asset: fmt.Appendf(nil, "asset%d", i%5), Tag: []byte("t"),
					Value: float64(i), HasValue: bit(i, 0), Int: int64(i), HasInt: bit(i, 1)}
				if bit(i, 2) {
					row.Str = fmt.Appendf(nil, "s%d", i)
				}
				if bit(i, 3) {
					row.Unit = []byte("BAR")
				}
				b.Append(&row, int64(i), 0)
			}
			rec := b.NewRecord()
			if int(rec.NumRows()) != n {
				r.Fatalf("want %d rows, got %d", n, rec.NumRows())
			}
			value, integer := rec.Column(ColValue).(*array.Float64), rec.Column(ColValueInt).(*array.Int64)
			text, unit := rec.Column(ColValueStr).(*array.String), rec.Column(ColUnit).(*array.Dictionary)
			var nulls [4]int
			for i := range n {
				ok := rec.Column(ColTS).(*array.Timestamp).Value(i) == arrow.Timestamp(i) &&
					dictText(rec, ColAsset, i) == fmt.Sprintf("asset%d", i%5) &&
					value.IsValid(i) == bit(i, 0) && (value.IsNull(i) || value.Value(i) == float64(i)) &&
					integer.IsValid(i) == bit(i, 1) && (integer.IsNull(i) || integer.Value(i) == int64(i)) &&
					text.IsValid(i) == bit(i, 2) && (text.IsNull(i) || text.Value(i) == fmt.Sprintf("s%d", i)) &&
					unit.IsValid(i) == bit(i, 3) &&
					dictText(rec, ColUnit, i) == map[bool]string{true: "BAR", false: "(null)"}[bit(i, 3)]
				if !ok {
					r.Fatalf("row %d of %d: %s", i, n, rec)
				}
				for k := range nulls {
					if !bit(i, k) {
						nulls[k]++
					}
				}
			}
			if got := [4]int{value.NullN(), integer.NullN(), text.NullN(), unit.NullN()}; got != nulls {
				r.Fatalf("want %v nulls, got %v", nulls, got)
			}
			rec.Release()
		}
		b.Release()
		checked.AssertSize(t, 0)
	})
}

// Scenario: a builder with rows in it, and one that made room only, are released.
// Guarantees: all memory is given back.
func TestBuilderRelease(t *testing.T) {
	mem := newChecked(t)
	b := NewTelemetryBuilder(mem, "plant", 0)
	b.Append(&Row{Asset: []byte("a"), Tag: []byte("t"), Str: []byte("x"), Unit: []byte("u")}, 0, 0)
	b.Release()
	b = NewTelemetryBuilder(mem, "plant", 0)
	b.Reserve(100)
	b.Release()
}

// BenchmarkBuilderAppend appends rows of 12 assets with 52 tags, records of 8192 rows.
func BenchmarkBuilderAppend(b *testing.B) {
	builder := NewTelemetryBuilder(memory.NewGoAllocator(), "plant", 0)
	defer builder.Release()
	rows := make([]Row, 8192)
	for i := range rows {
		rows[i] = Row{
			TS: int64(i), Asset: fmt.Appendf(nil, "demo.tep.d%02d_te", i/52%12), Tag: fmt.Appendf(nil, "xmeas_%02d", i%52+1),
			Value: 1, HasValue: true, Quality: Good,
		}
	}
	b.ReportAllocs()
	for b.Loop() {
		builder.Reserve(len(rows))
		for i := range rows {
			builder.Append(&rows[i], int64(i), 1)
		}
		builder.NewRecord().Release()
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(len(rows)), "ns/row")
}
