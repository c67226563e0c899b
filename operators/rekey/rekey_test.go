package rekey

import (
	"context"
	"testing"

	"github.com/apache/arrow/go/v15/arrow"
	"github.com/apache/arrow/go/v15/arrow/memory"

	"github.com/tailrace/tailrace/pipeline"
	"github.com/tailrace/tailrace/pipeline/pipelinetest"
	"github.com/tailrace/tailrace/schemas"
)

// rows makes one batch with a row of each kind: in time, late, suspect, historical, bad, null and with a text.
func rows(mem memory.Allocator) arrow.Record {
	b := schemas.NewTelemetryBuilder(mem, "plant", 3)
	defer b.Release()
	for i, r := range []schemas.Row{
		{TS: 10, HasValue: true, Value: 1.5, VType: schemas.TypeFloat, Quality: schemas.Good},
		{TS: 5, HasValue: true, Value: 2, VType: schemas.TypeFloat, Quality: schemas.Good, Flags: schemas.FlagLate},
		{TS: 1 << 61, HasValue: true, Value: 3, VType: schemas.TypeFloat, Quality: schemas.Good, Flags: schemas.FlagClockSuspect},
		{TS: 11, VType: schemas.TypeNull, Quality: schemas.Bad, Status: 0x80000000},
		{TS: 12, HasInt: true, Int: 7, HasValue: true, Value: 7, VType: schemas.TypeInt, Flags: schemas.FlagHistorical},
		{TS: 13, Str: []byte("open"), VType: schemas.TypeString, Unit: []byte("C62"), Src: []byte("gateway"), SrcSeq: 9},
	} {
		r.Asset, r.Tag = []byte{'a' + byte(i%2)}, []byte("t")
		b.Append(&r, int64(100+i), int64(20+i))
	}
	return b.NewRecord()
}

// Scenario: rows of every kind, cut in every way, with restarts, failures and ended contexts.
// Guarantees: rekey keeps the contract of operators.
func TestContract(t *testing.T) {
	pipelinetest.CheckOperator(t, pipelinetest.OperatorCheck{
		New:    func(pipeline.Settings) (pipeline.Operator, error) { return New(), nil },
		Schema: schemas.Telemetry(),
		Input: func(mem memory.Allocator) []pipelinetest.Step {
			return []pipelinetest.Step{{Batch: rows(mem)}, {Watermark: 9}, {Batch: rows(mem)}}
		},
	})
}

// Scenario: rows of every kind.
// Guarantees: they leave by Rekeyed, as they came, and nothing leaves elsewhere.
func TestRowsAsTheyCame(t *testing.T) {
	mem := memory.NewCheckedAllocator(memory.NewGoAllocator())
	defer mem.AssertSize(t, 0)
	in := rows(mem)
	defer in.Release()
	var out pipelinetest.Collector
	defer out.Release()
	op := New()
	if _, err := op.Bind(schemas.Telemetry()); err != nil {
		t.Fatal(err)
	}
	if err := op.Process(context.Background(), in, &out); err != nil {
		t.Fatal(err)
	}
	if len(out.Rekeyed) != 1 || len(out.Rows)+len(out.Events)+len(out.Late) != 0 {
		t.Fatalf("want one batch to Rekeyed, got %d, and %d others", len(out.Rekeyed), len(out.Rows)+len(out.Events)+len(out.Late))
	}
	if want, got := pipelinetest.WriteTable([]arrow.Record{in}), pipelinetest.WriteTable(out.Rekeyed); want != got {
		t.Errorf("want\n%s\ngot\n%s", want, got)
	}
}
