package pipelinetest

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/apache/arrow/go/v15/arrow"
	"github.com/apache/arrow/go/v15/arrow/array"
	"github.com/apache/arrow/go/v15/arrow/memory"

	"github.com/tailrace/tailrace/pipeline"
	"github.com/tailrace/tailrace/schemas"
)

// Scenario: A table with a value of every type that the engine's schemas have, nulls among them.
// Guarantees: What is read is written again letter by letter, and cuts between records don't show.
func TestTableRoundTrip(t *testing.T) {
	mem := NewAllocator(t)
	item := arrow.Field{Name: "item", Type: arrow.PrimitiveTypes.Float64, Nullable: true}
	schema := arrow.NewSchema([]arrow.Field{
		{Name: "ts", Type: schemas.NanosUTC}, {Name: "asset", Type: schemas.Dict}, {Name: "v", Type: arrow.PrimitiveTypes.Float64, Nullable: true},
		{Name: "flag", Type: arrow.FixedWidthTypes.Boolean}, {Name: "list", Type: arrow.FixedSizeListOfField(2, item)},
		{Name: "map", Type: arrow.MapOf(arrow.BinaryTypes.String, arrow.PrimitiveTypes.Float32)},
	}, nil)
	text := "" +
		"ts     asset v    flag  list  map\n" +
		"-1.5s  a     -    true  [1,-] {}\n" +
		"1h0m0s \"b c\" NaN  false [-,2] {x=1,y=2.5}\n" +
		"0s     \"\"    +Inf true  [3,4] {z=-1}\n"
	rec, err := ReadTable(mem, schema, nil, text)
	if err != nil {
		t.Fatal(err)
	}
	defer rec.Release()
	head, tail := rec.NewSlice(0, 1), rec.NewSlice(1, 3)
	defer head.Release()
	defer tail.Release()
	for _, list := range [][]arrow.Record{{rec}, {head, tail}} {
		if got := WriteTable(list); got != text {
			t.Errorf("want\n%sgot\n%s", text, got)
		}
	}
	for _, bad := range []string{"nope\n1", "ts\n", "ts\nx", "ts asset\n1s", "ts list\n1s [1]"} {
		if rec, err := ReadTable(mem, schema, nil, bad); err == nil && rec.NumRows() > 0 {
			t.Errorf("%q: want an error, got %v", bad, rec)
		} else if err == nil {
			rec.Release()
		}
	}
}

// Scenario: A slice is kept after its memory was freed, and after it grew.
// Guarantees: It does not show its old values.
func TestPoison(t *testing.T) {
	mem := Poison{memory.NewGoAllocator()}
	kept := mem.Allocate(64)
	kept[0] = 1
	moved := mem.Reallocate(128, kept)
	if kept[0] == 1 || moved[0] != 1 {
		t.Errorf("after growing: want the old slice overwritten and the new one whole, got %d and %d", kept[0], moved[0])
	}
	mem.Free(moved)
	if moved[0] != poisonByte {
		t.Errorf("after Free: want %d, got %d", poisonByte, moved[0])
	}
}

// recorder is a test that fails quietly.
type recorder struct {
	testing.TB
	failed  bool
	cleanup []func()
}

func (r *recorder) Cleanup(f func())      { r.cleanup = append(r.cleanup, f) }
func (r *recorder) Helper()               {}
func (r *recorder) Errorf(string, ...any) { r.failed = true }

// Scenario: A test ends while it holds memory.
// Guarantees: The allocator fails it.
func TestAllocatorSeesLeak(t *testing.T) {
	r := &recorder{TB: t}
	NewAllocator(r).Allocate(64)
	for _, f := range r.cleanup {
		f()
	}
	if !r.failed {
		t.Error("want a failed test, got none")
	}
}

// Scenario: A script whose expected part is right, and the same with -update.
// Guarantees: Commands get their arguments, input and place; a rewritten file is the same file.
func TestScript(t *testing.T) {
	const text = "# A comment.\necho a b\nline 1\n\nline 2\n----\n[a b] line 1||line 2|\n\nquiet\n----\n"
	path := filepath.Join(t.TempDir(), "script.txt")
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	run := func(t *testing.T, c Command) string {
		if c.Name == "quiet" {
			return ""
		}
		return "[" + strings.Join(c.Args, " ") + "] " + strings.ReplaceAll(c.Input, "\n", "|")
	}
	RunScript(t, path, run)
	old := *update
	*update = true
	RunScript(t, path, run)
	*update = old
	got, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if string(got) != text {
		t.Errorf("want\n%q\ngot\n%q", text, got)
	}
}

// passing is an operator without faults.
type passing struct{ pipeline.Stateless }

func (passing) Bind(in *arrow.Schema) (*arrow.Schema, error) {
	if len(in.Fields()) == 0 {
		return nil, errors.New("want columns")
	}
	return in, nil
}

func (passing) Process(ctx context.Context, in arrow.Record, out pipeline.Emitter) error {
	in.Retain()
	return out.Emit(ctx, pipeline.Rows, in)
}

// Scenario: An operator that passes batches on, with dictionaries, lists and nulls in its input.
// Guarantees: It passes the checks: they hold against an operator that keeps the contract.
func TestCheckOperatorPasses(t *testing.T) {
	schema := arrow.NewSchema(schemas.WindowFields(2, 1), nil)
	CheckOperator(t, OperatorCheck{
		New:    func(pipeline.Settings) (pipeline.Operator, error) { return passing{}, nil },
		Schema: schema,
		Input: func(mem memory.Allocator) []Step {
			rec, err := ReadTable(mem, schema, nil, "asset samples\na [1,-]\nb [-,2]\na [3,4]\n")
			if err != nil {
				t.Fatal(err)
			}
			return []Step{{Batch: rec}, {Watermark: 1}}
		},
	})
}

// Scenario: A sink that fails once, then is asked again.
// Guarantees: Nothing is kept of the failed write, and everything of the other until Close.
func TestSink(t *testing.T) {
	mem, ctx := NewAllocator(t), context.Background()
	b := array.NewRecordBuilder(mem, arrow.NewSchema([]arrow.Field{{Name: "v", Type: arrow.PrimitiveTypes.Int64}}, nil))
	b.Field(0).(*array.Int64Builder).AppendValues([]int64{1, 2}, nil)
	rec := b.NewRecord()
	b.Release()
	c := &pipeline.Checkpoint{Parts: map[pipeline.Table][]pipeline.Part{pipeline.Predictions: {{Batches: []arrow.Record{rec}}}}}
	s := Sink{FailWrites: 1, Err: errEmit}
	if _, err := s.Write(ctx, c); !errors.Is(err, errEmit) || s.Rows(pipeline.Predictions) != 0 {
		t.Errorf("first write: want %v and no rows, got %v and %d", errEmit, err, s.Rows(pipeline.Predictions))
	}
	if _, err := s.Write(ctx, c); err != nil || s.Rows(pipeline.Predictions) != 2 {
		t.Errorf("second write: want 2 rows, got %v and %d", err, s.Rows(pipeline.Predictions))
	}
	rec.Release()
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}
