package pipelinetest

import (
	"context"
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/apache/arrow/go/v15/arrow"
	"github.com/apache/arrow/go/v15/arrow/array"
	"github.com/apache/arrow/go/v15/arrow/memory"

	"github.com/tailrace/tailrace/pipeline"
	"github.com/tailrace/tailrace/pipeline/state"
	"github.com/tailrace/tailrace/schemas"
)

// counting numbers the rows of each asset, and is as forgetful as it is told to be.
type counting struct {
	mem            memory.Allocator
	counts         map[string]int64
	changed        map[string]bool
	forgets        bool // what it counted
	forgetsChanges bool // in snapshots that are not full
}

func newCounting(mem memory.Allocator) *counting {
	return &counting{mem: mem, counts: map[string]int64{}, changed: map[string]bool{}}
}

var numbered = arrow.NewSchema([]arrow.Field{
	{Name: "asset", Type: schemas.Dict}, {Name: "n", Type: arrow.PrimitiveTypes.Int64},
}, nil)

func (*counting) Bind(in *arrow.Schema) (*arrow.Schema, error) {
	if len(in.Fields()) != 2 {
		return nil, fmt.Errorf("want 2 columns, got %d", len(in.Fields()))
	}
	return in, nil
}

func (c *counting) Process(ctx context.Context, in arrow.Record, out pipeline.Emitter) error {
	if in.NumRows() == 0 {
		return nil
	}
	assets := in.Column(0).(*array.Dictionary)
	b := array.NewInt64Builder(c.mem)
	defer b.Release()
	for i := range assets.Len() {
		name := string([]byte(assets.Dictionary().(*array.String).Value(assets.GetValueIndex(i))))
		c.counts[name]++
		c.changed[name] = true
		b.Append(c.counts[name])
	}
	numbers := b.NewArray()
	defer numbers.Release()
	return out.Emit(ctx, pipeline.Rows, array.NewRecord(numbered, []arrow.Array{assets, numbers}, in.NumRows()))
}

func (*counting) Advance(context.Context, int64, pipeline.Emitter) error { return nil }
func (*counting) Finish(context.Context, pipeline.Emitter) error         { return nil }
func (*counting) Close() error                                           { return nil }

func (c *counting) Snapshot(w *state.Writer, full bool) error {
	w.Version(1)
	for name, n := range c.counts {
		if c.forgets || !full && (c.forgetsChanges || !c.changed[name]) {
			continue
		}
		var e state.Encoder
		e.Int(n)
		w.Put(name, e.Bytes)
	}
	clear(c.changed)
	return nil
}

func (c *counting) Restore(r *state.Reader) error {
	if v := r.Version(); v != 1 {
		return fmt.Errorf("want version 1, got %d", v)
	}
	for name, value := range r.All() {
		d := state.NewDecoder(value)
		c.counts[name] = d.Int()
		if err := d.Err(); err != nil {
			return err
		}
	}
	return nil
}

// countingCheck is of rows of three assets over four steps.
func countingCheck(t *testing.T, change func(*counting)) OperatorCheck {
	return OperatorCheck{
		New: func(s pipeline.Settings) (pipeline.Operator, error) {
			c := newCounting(s.Alloc)
			change(c)
			return c, nil
		},
		Schema: numbered,
		Input: func(mem memory.Allocator) []Step {
			var steps []Step
			for _, text := range []string{"asset\na\nb\na\n", "asset\nb\nc\n", "asset\na\nc\nb\n", "asset\na\nb\nc\n"} {
				rec, err := ReadTable(mem, numbered, nil, text)
				if err != nil {
					t.Fatal(err)
				}
				steps = append(steps, Step{Batch: rec}, Step{Watermark: int64(len(steps))})
			}
			return steps
		},
	}
}

// Scenario: An operator with state by asset that is written and read as the contract says.
// Guarantees: It passes the checks.
func TestCheckOperatorPassesWithState(t *testing.T) {
	CheckOperator(t, countingCheck(t, func(*counting) {}))
}

// Scenario: Operators that leave out what they counted, or what has changed since the last snapshot.
// Guarantees: Their output after a restart differs from the undisturbed one, so that the check fails them; with snapshots
// alone, and no restart, it does not.
func TestRestoreShowsWhatIsForgotten(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*counting)
		again  int
		same   bool
	}{
		"nothing forgotten":     {func(*counting) {}, 1, true},
		"all forgotten":         {func(c *counting) { c.forgets = true }, 1, false},
		"changes forgotten":     {func(c *counting) { c.forgetsChanges = true }, 1, false},
		"forgotten, no restart": {func(c *counting) { c.forgets = true }, 0, true},
	} {
		t.Run(name, func(t *testing.T) {
			check := countingCheck(t, c.change)
			r := restoring{check: check, random: rand.New(rand.NewPCG(1, 1)), again: c.again}
			got := r.output(t, func(_ *rand.Rand, rec arrow.Record) []int64 { return wholeBatch(rec) })
			if want := check.output(t, wholeBatch); (got == want) != c.same {
				t.Errorf("want the same output: %v, got\n%s--- undisturbed\n%s", c.same, got, want)
			}
		})
	}
}
