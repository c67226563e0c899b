package schemas_test

import (
	"testing"

	"github.com/apache/arrow/go/v15/arrow/array"
	"github.com/apache/arrow/go/v15/arrow/memory"

	"github.com/tailrace/tailrace/schemas"
)

// Scenario: Rows are taken out of order, one twice, from a slice that begins inside a record, with nulls and texts.
// Guarantees: Each taken row equals the one it was taken from, in every column, and it lives on when the record is gone.
func TestTakeTelemetry(t *testing.T) {
	mem := memory.NewCheckedAllocator(memory.NewGoAllocator())
	defer mem.AssertSize(t, 0)
	b := schemas.NewTelemetryBuilder(mem, "telemetry", 3)
	texts := []string{"", "run", "stop", "", "fault"}
	for i := range int64(5) {
		row := schemas.Row{TS: i, Asset: []byte{'a' + byte(i%2)}, Tag: []byte{'t' + byte(i%3)}, VType: schemas.TypeFloat,
			Value: float64(i) / 2, HasValue: i != 2, Int: i, HasInt: i == 3, Quality: schemas.Quality(i % 3), Status: uint32(i),
			Flags: schemas.Flag(i), SrcSeq: uint64(i), Idx: int32(i), TSKind: schemas.TimeSource(i)}
		if texts[i] != "" {
			row.Str, row.Unit, row.Src = []byte(texts[i]), []byte("KEL"), []byte("edge")
		}
		b.Append(&row, 100+i, 1000+i)
	}
	whole := b.NewRecord()
	b.Release()
	slice := whole.NewSlice(1, 5)
	rows := []int{3, 0, 0, 2}
	got := schemas.TakeTelemetry(mem, slice, rows)
	defer got.Release()
	if want := int64(len(rows)); got.NumRows() != want {
		t.Fatalf("want %d rows, got %d", want, got.NumRows())
	}
	for k, i := range rows {
		one, from := got.NewSlice(int64(k), int64(k)+1), slice.NewSlice(int64(i), int64(i)+1)
		if !array.RecordEqual(one, from) {
			t.Errorf("row %d: want %v, got %v", k, from, one)
		}
		one.Release()
		from.Release()
	}
	slice.Release()
	whole.Release()
	empty := schemas.TakeTelemetry(mem, got, nil)
	defer empty.Release()
	if empty.NumRows() != 0 || !empty.Schema().Equal(schemas.Telemetry()) {
		t.Errorf("want no rows of telemetry.v1, got %v", empty)
	}
}
