package schemas

import (
	"errors"
	"math"
	"testing"

	"github.com/apache/arrow/go/v15/arrow"
)

// Scenario: late rows with each kind of value: an integer with its numeric view, a number, a text, a bool, none, and a number
// that is not finite.
// Guarantees: the value is what the source sent, as exactly as JSON can; what JSON can't say is null.
func TestLateRows(t *testing.T) {
	b := NewTelemetryBuilder(newChecked(t), "plant", 3)
	defer b.Release()
	at := Row{TS: 1_700_000_000_123_456_789, Asset: []byte("a\"b"), Tag: []byte("t"), Quality: Uncertain, Flags: FlagLate | FlagHistorical}
	for i, set := range []func(r *Row){
		func(r *Row) { r.Int, r.HasInt, r.Value, r.HasValue = 1<<53+1, true, 1<<53, true },
		func(r *Row) { r.Value, r.HasValue = -0.5, true },
		func(r *Row) { r.Str = []byte("on\u00e9") },
		func(r *Row) { r.VType, r.Value, r.HasValue = TypeBool, 1, true },
		func(*Row) {},
		func(r *Row) { r.Value, r.HasValue = math.Inf(1), true },
	} {
		r := at
		set(&r)
		r.Idx = int32(i)
		b.Append(&r, 77, 5)
	}
	rec := b.NewRecord()
	defer rec.Release()
	want := []string{"9007199254740993", "-0.5", `"on` + "\u00e9" + `"`, "1", "null", "null"}
	n := 0
	err := LateRows(rec, "p", func(row *LateRow, text []byte) error {
		wanted := `{"asset":"a\"b","tag":"t","ts":"2023-11-14T22:13:20.123456789Z","value":` + want[n] +
			`,"quality":1,"flags":257,"k_topic":"plant","k_part":3,"k_offset":77,"k_idx":` + string(rune('0'+n)) + `,"pipeline":"p"}`
		if string(text) != wanted || row.Asset != `a"b` {
			t.Errorf("row %d: want %s, got %s", n, wanted, text)
		}
		n++
		return nil
	})
	if err != nil || n != len(want) {
		t.Fatalf("want %d rows, got %d, %v", len(want), n, err)
	}
}

// Scenario: a record of another schema, and a receiver that fails at the second row.
// Guarantees: the first is an error that names the schema that was wanted; the receiver's error comes back and ends it.
func TestLateRowsRefused(t *testing.T) {
	mem := newChecked(t)
	events, err := NewEvents(mem, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer events.Release()
	if err := LateRows(events, "p", func(*LateRow, []byte) error { return nil }); err == nil {
		t.Fatal("want an error for a record of events")
	}
	b := NewTelemetryBuilder(mem, "plant", 0)
	defer b.Release()
	for range 3 {
		b.Append(&Row{}, 1, 1)
	}
	var rec arrow.Record = b.NewRecord()
	defer rec.Release()
	enough, n := errors.New("enough"), 0
	err = LateRows(rec, "p", func(*LateRow, []byte) error {
		if n++; n == 2 {
			return enough
		}
		return nil
	})
	if !errors.Is(err, enough) || n != 2 {
		t.Fatalf("got %v after %d rows", err, n)
	}
}
