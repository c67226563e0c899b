package pipelinetest

import (
	"context"
	"errors"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/apache/arrow/go/v15/arrow"
	"github.com/apache/arrow/go/v15/arrow/array"
	"github.com/apache/arrow/go/v15/arrow/memory"
	"github.com/tailrace/tailrace/pipeline"
	"github.com/tailrace/tailrace/schemas"
)

// Step is one call of an operator: Process if there is a batch, else Advance.
type Step struct {
	Batch     arrow.Record
	Watermark int64 // ns UTC
}

// OperatorCheck is an operator and the input that its contract is checked with.
type OperatorCheck struct {
	New    func(pipeline.Settings) (pipeline.Operator, error)
	Schema *arrow.Schema
	// Input makes the steps anew, with memory from mem. The check owns the batches.
	Input func(mem memory.Allocator) []Step
}

// errEmit is what the failing emitter gives.
var errEmit = errors.New("the emitter fails")

// cutSeeds is how many random cuts are tried beside the regular ones.
const cutSeeds = 8

// CheckOperator checks what pipeline.Operator promises: the output does not depend on how batches are cut nor on where a
// restart took the state over, empty batches are allowed, nothing lent is kept, Close releases state at any point, an
// emitter's error stops the call and comes back, an ended context does too, two operators share nothing, emitted rows have
// the schema of Bind, and damaged state is refused.
func CheckOperator(t *testing.T, c OperatorCheck) {
	t.Helper()
	whole := c.output(t, wholeBatch)
	if strings.Count(whole, "\n") < 2 {
		t.Fatalf("want an input that gives rows, got %q", whole)
	}
	same := func(name string, cut func(arrow.Record) []int64) {
		t.Run(name, func(t *testing.T) {
			if got := c.output(t, cut); got != whole {
				t.Errorf("the output depends on the cuts\n--- whole batches\n%s--- cut\n%s", whole, got)
			}
		})
	}
	same("twice", wholeBatch)
	same("row by row, with empty batches", func(rec arrow.Record) []int64 {
		var sizes []int64
		for range rec.NumRows() {
			sizes = append(sizes, 1, 0)
		}
		return append(sizes, 0)
	})
	for seed := range uint64(cutSeeds) {
		random := rand.New(rand.NewPCG(seed, 0))
		same("random cuts", func(rec arrow.Record) []int64 { return randomCut(random, rec) })
	}
	c.checkRestore(t, whole)
	t.Run("close without bind", func(t *testing.T) { c.start(t, false).close(t) })
	t.Run("bind refuses a schema without columns", func(t *testing.T) {
		r := c.start(t, false)
		defer r.close(t)
		if _, err := r.op.Bind(arrow.NewSchema(nil, nil)); err == nil {
			t.Error("want an error, got none")
		}
	})
	t.Run("close with state", c.closeEarly)
	t.Run("emitter fails", func(t *testing.T) { c.failing(t, context.Background()) })
	t.Run("context ends", func(t *testing.T) {
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		c.failing(t, ctx)
	})
}

// operatorRun is one life of the operator.
type operatorRun struct {
	op       pipeline.Operator
	settings pipeline.Settings
	schema   *arrow.Schema
}

func (c OperatorCheck) start(t *testing.T, bind bool) *operatorRun {
	t.Helper()
	return c.startWith(t, Settings(t), bind)
}

func (c OperatorCheck) startWith(t *testing.T, s pipeline.Settings, bind bool) *operatorRun {
	t.Helper()
	r := &operatorRun{settings: s}
	var err error
	if r.op, err = c.New(r.settings); err != nil {
		t.Fatalf("new: %v", err)
	}
	if bind {
		if r.schema, err = r.op.Bind(c.Schema); err != nil {
			t.Fatalf("bind: %v", err)
		}
	}
	return r
}

func (r *operatorRun) close(t *testing.T) {
	t.Helper()
	if err := r.op.Close(); err != nil {
		t.Errorf("close: %v", err)
	}
}

// output runs all steps with each batch cut into pieces of the given sizes, and returns what came out as text.
func (c OperatorCheck) output(t *testing.T, cut func(arrow.Record) []int64) string {
	t.Helper()
	r := c.start(t, true)
	var out Collector
	defer out.Release()
	ctx := context.Background()
	for _, step := range c.Input(r.settings.Alloc) {
		if err := r.step(ctx, step, cut, &out); err != nil {
			t.Fatal(err)
		}
	}
	if err := r.op.Finish(ctx, &out); err != nil {
		t.Fatalf("finish: %v", err)
	}
	r.close(t)
	return r.text(t, &out)
}

// text writes all that came out.
func (r *operatorRun) text(t *testing.T, out *Collector) string {
	t.Helper()
	for _, rec := range out.Rows {
		if !rec.Schema().Equal(r.schema) {
			t.Fatalf("rows: want the schema of Bind\n%s\ngot\n%s", r.schema, rec.Schema())
		}
	}
	for _, rec := range append(out.Late, out.Rekeyed...) {
		if !rec.Schema().Equal(schemas.Telemetry()) {
			t.Fatalf("late and rekeyed rows: want telemetry.v1\n%s\ngot\n%s", schemas.Telemetry(), rec.Schema())
		}
	}
	return WriteTable(out.Rows) + WriteTable(out.Events) + WriteTable(out.Late) + WriteTable(out.Rekeyed) +
		"dropped " + r.settings.Drops.(*Drops).Take() + "\n"
}

// step calls the operator with pieces in memory of their own, freed right after the call.
func (r *operatorRun) step(ctx context.Context, s Step, cut func(arrow.Record) []int64, out pipeline.Emitter) error {
	if s.Batch == nil {
		return r.op.Advance(ctx, s.Watermark, out)
	}
	defer s.Batch.Release()
	var at int64
	for _, n := range cut(s.Batch) {
		slice := s.Batch.NewSlice(at, at+n)
		at += n
		piece, err := clone(r.settings.Alloc, slice)
		if err == nil {
			err = r.processAndFree(ctx, piece, out)
		}
		slice.Release()
		if err != nil {
			return err
		}
	}
	return nil
}

func (r *operatorRun) processAndFree(ctx context.Context, piece arrow.Record, out pipeline.Emitter) error {
	defer piece.Release()
	return r.op.Process(ctx, piece, out)
}

// clone copies a slice's rows. A row stands hidden in front, so that offsets are tried as well.
func clone(mem memory.Allocator, rec arrow.Record) (arrow.Record, error) {
	columns := make([]arrow.Array, rec.NumCols())
	defer func() {
		for _, column := range columns {
			if column != nil {
				column.Release()
			}
		}
	}()
	for i, column := range rec.Columns() {
		if rec.NumRows() == 0 {
			columns[i] = column
			column.Retain()
			continue
		}
		head := array.NewSlice(column, 0, 1)
		both, err := array.Concatenate([]arrow.Array{head, column}, mem)
		head.Release()
		if err != nil {
			return nil, err
		}
		columns[i] = array.NewSlice(both, 1, int64(both.Len()))
		both.Release()
	}
	return array.NewRecord(rec.Schema(), columns, rec.NumRows()), nil
}

// closeEarly closes after each number of steps.
func (c OperatorCheck) closeEarly(t *testing.T) {
	for upTo := 1; ; upTo++ {
		r := c.start(t, true)
		var out Collector
		steps := c.Input(r.settings.Alloc)
		for i, s := range steps {
			if i >= upTo {
				if s.Batch != nil {
					s.Batch.Release()
				}
				continue
			}
			if err := r.step(context.Background(), s, wholeBatch, &out); err != nil {
				t.Fatal(err)
			}
		}
		r.close(t)
		out.Release()
		if upTo >= len(steps) {
			return
		}
	}
}

func wholeBatch(rec arrow.Record) []int64 { return []int64{rec.NumRows()} }

func randomCut(random *rand.Rand, rec arrow.Record) []int64 {
	var sizes []int64
	for left := rec.NumRows(); left > 0; {
		n := random.Int64N(left + 1)
		sizes, left = append(sizes, n), left-n
	}
	return sizes
}

// failing lets the first, the second, ... Emit fail and wants the error back from the call that emitted.
func (c OperatorCheck) failing(t *testing.T, ctx context.Context) {
	for failAt := 1; failAt <= 8; failAt++ {
		r := c.start(t, true)
		out := Collector{FailAt: failAt, Err: errEmit}
		var err error
		for _, s := range c.Input(r.settings.Alloc) {
			switch {
			case err == nil:
				err = r.step(ctx, s, wholeBatch, &out)
			case s.Batch != nil:
				s.Batch.Release()
			}
		}
		if err == nil {
			err = r.op.Finish(ctx, &out)
		}
		r.close(t)
		out.Release()
		want := errEmit
		if ctx.Err() != nil {
			want = ctx.Err()
		}
		if reached := out.Calls() >= failAt || ctx.Err() != nil && out.Calls() > 0; reached && !errors.Is(err, want) {
			t.Fatalf("emit %d fails: want %v from the call, got %v", failAt, want, err)
		}
	}
}
