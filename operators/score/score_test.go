package score

import (
	"context"
	"errors"
	"math"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/apache/arrow/go/v15/arrow"
	"github.com/apache/arrow/go/v15/arrow/array"
	"github.com/apache/arrow/go/v15/arrow/memory"
	"go.uber.org/goleak"
	"gorgonia.org/tensor"

	"github.com/tailrace/tailrace/deploy/native"
	"github.com/tailrace/tailrace/operators/model"
	"github.com/tailrace/tailrace/operators/onnx"
	"github.com/tailrace/tailrace/operators/ort"
	"github.com/tailrace/tailrace/operators/reference"
	"github.com/tailrace/tailrace/pipeline"
	"github.com/tailrace/tailrace/pipeline/pipelinetest"
	"github.com/tailrace/tailrace/schemas"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// bundle writes a bundle of two rows of two channels, all in numbers that float32 holds exactly: the score is the sum of
// the window, "ratio" the score over its last value, the shares the sums of the channels, the last row what is expected.
func bundle(t testing.TB, edit func(*model.Bundle)) (dir string) {
	t.Helper()
	g := onnx.NewBuilder("small")
	x := g.Input("x", onnx.Float32, onnx.Var("N"), onnx.Fixed(2), onnx.Fixed(2))
	sum := g.Sum("score", g.Flatten("flat", x), 1, true)
	last := g.At("expected", x, 1, 1)
	g.Output(sum)
	g.Output(g.Div("ratio", sum, g.Sum("last_sum", last, 1, true)))
	g.Output(g.Sum("contrib", x, 1, false))
	g.Output(last)
	graph, err := g.Model("test", nil)
	if err != nil {
		t.Fatal(err)
	}
	b := &model.Bundle{ONNX: graph.Marshal(), Manifest: model.Manifest{
		Name: "small", Version: "1", File: model.ModelFile{Opset: onnx.Opset},
		Channels: []model.Channel{{Tag: "t", Unit: "CEL", Mean: 1, Std: 2}, {Tag: "p", Mean: 3, Std: 4}},
		Grid:     time.Second, WindowRows: 2, MinCoverage: 0.9,
		Outputs:    model.Outputs{Score: "score", Scalars: []string{"ratio"}, Contrib: "contrib", Expected: "expected"},
		Thresholds: map[string]float64{"0.99": 5},
		TrainedOn:  model.TrainedOn{From: time.Unix(0, 0).UTC(), To: time.Unix(9, 0).UTC()},
	}}
	b.Golden = model.Golden{Rows: 1, X: []float32{1, 2, 3, 5}, Outputs: map[string][]float32{"score": {11}, "ratio": {11. / 8}, "contrib": {4, 7}, "expected": {3, 5}}}
	if edit != nil {
		edit(b)
	}
	dir = filepath.Join(t.TempDir(), "bundle")
	if err := model.Write(dir, b); err != nil {
		t.Fatal(err)
	}
	return dir
}

// pool hands out one scorer.
type pool struct {
	scorer pipeline.Scorer
	err    error
	asked  []pipeline.ScorerSpec
}

func (p *pool) Scorer(ctx context.Context, spec pipeline.ScorerSpec) (pipeline.Scorer, error) {
	p.asked = append(p.asked, spec)
	if p.scorer == nil && p.err == nil {
		p.scorer, p.err = reference.New(ctx, spec)
	}
	return p.scorer, p.err
}

func settings(t testing.TB) pipeline.Settings {
	s := pipelinetest.Settings(t)
	s.Scorers = &pool{}
	return s
}

func config(dir string) Config {
	c := DefaultConfig()
	c.Model, c.Backend = dir, reference.Backend
	return c
}

// row is a window as normalize gives it, as far as score reads it.
type row struct {
	x        [4]float32
	coverage float32
	cut      string
}

func schema(t testing.TB, edit func(*schemas.Layout)) *arrow.Schema {
	t.Helper()
	l := schemas.Layout{Grid: time.Second, Size: 2, Hop: 1, Channels: []schemas.Channel{{Tag: "t", Unit: "CEL"}, {Tag: "p"}}}
	if edit != nil {
		edit(&l)
	}
	s, err := l.With([]arrow.Field{
		{Name: schemas.NameCoverage, Type: arrow.PrimitiveTypes.Float32}, {Name: schemas.NameCut, Type: schemas.Dict}, schemas.InputField(l.Size, 2),
	})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func record(t testing.TB, mem memory.Allocator, rows []row) arrow.Record {
	t.Helper()
	coverage, cut := array.NewFloat32Builder(mem), array.NewDictionaryBuilder(mem, schemas.Dict).(*array.BinaryDictionaryBuilder)
	field := schemas.InputField(2, 2)
	x := newLists(mem, field.Type.(*arrow.FixedSizeListType))
	defer coverage.Release()
	defer cut.Release()
	defer x.lists.Release()
	for _, r := range rows {
		coverage.Append(r.coverage)
		if err := cut.AppendString(r.cut); err != nil {
			t.Fatal(err)
		}
		x.append(r.x[:])
	}
	columns := []arrow.Array{coverage.NewArray(), cut.NewArray(), x.newArray()}
	rec := array.NewRecord(schema(t, nil), columns, int64(len(rows)))
	for _, c := range columns {
		c.Release()
	}
	return rec
}

var (
	nan     = float32(math.NaN())
	inf     = float32(math.Inf(1))
	example = []row{
		{x: [4]float32{1, 2, 3, 5}, coverage: 1},
		{x: [4]float32{9, 9, 9, 9}, coverage: 1, cut: schemas.ReasonCutStart},
		{x: [4]float32{0.5, 0, 0, 1}, coverage: 0.9},
		{x: [4]float32{9, 9, 9, 9}, coverage: 0.75},
		{x: [4]float32{nan, 0, 1, 1}, coverage: 1},
		{x: [4]float32{1, 1, inf, 1}, coverage: 1},
		{x: [4]float32{1, 1, 1, -1}, coverage: 1}, // the ratio is 2/0
		{x: [4]float32{-1, 0, 2, 2}, coverage: 1},
		{x: [4]float32{9, 9, 9, 9}, coverage: 1, cut: schemas.ReasonCutEnd},
	}
)

// run binds an operator and gives what it emits for rows as text.
func run(t *testing.T, c Config, s pipeline.Settings, rows []row) string {
	t.Helper()
	op := New(c, s)
	defer op.Close()
	if _, err := op.Bind(schema(t, nil)); err != nil {
		t.Fatal(err)
	}
	rec := record(t, s.Alloc, rows)
	defer rec.Release()
	var out pipelinetest.Collector
	defer out.Release()
	if err := op.Process(context.Background(), rec, &out); err != nil {
		t.Fatal(err)
	}
	return pipelinetest.WriteTable(out.Rows, "score", "reason", "contrib", "expected", "outputs")
}

// Scenario: whole windows, cut ones, one with too little, and ones of which the model makes NaN, infinity, or an infinite
// other output.
// Guarantees: the numbers worked out by hand where there is a score; null and the reason where there is none; coverage
// 0.9 is enough for 0.9; rows keep their order.
func TestScores(t *testing.T) {
	const want = `
score reason            contrib expected outputs
11    ""                [4,7]   [3,5]    {ratio=1.375}
-     cut_start         -       -        {}
1.5   ""                [0.5,1] [0,1]    {ratio=1.5}
-     insufficient_data -       -        {}
-     model_fault       -       -        {}
-     model_fault       -       -        {}
-     model_fault       -       -        {}
3     ""                [1,2]   [2,2]    {ratio=0.75}
-     cut_end           -       -        {}
`
	for _, batch := range []int{1, 2, 3, 128} {
		c := config(bundle(t, nil))
		c.MaxBatch = batch
		if got := "\n" + run(t, c, settings(t), example); got != want {
			t.Errorf("batches of %d: want\n%s\ngot\n%s", batch, want, got)
		}
	}
}

// Scenario: the same on ONNX Runtime, where the build has it, chosen by auto; else auto on the reference backend.
// Guarantees: the same rows.
func TestAuto(t *testing.T) {
	c := config(bundle(t, nil))
	want := run(t, c, settings(t), example)
	c.Backend = BackendAuto
	s := settings(t)
	p := s.Scorers.(*pool)
	name := reference.Backend
	if ort.Available {
		name = ort.Backend
		open := ort.Factory(func(ctx context.Context) (string, error) {
			return native.Resolve(ctx, native.ONNXRuntime, native.Options{})
		})
		b, err := model.Load(c.Model)
		if err != nil {
			t.Fatal(err)
		}
		if p.scorer, err = open(context.Background(), pipeline.ScorerSpec{Model: b.ONNX, Name: "small"}); err != nil {
			t.Fatal(err)
		}
		defer p.scorer.Close()
	}
	if got := run(t, c, s, example); got != want {
		t.Errorf("want\n%s\ngot\n%s", want, got)
	}
	if len(p.asked) != 1 || p.asked[0].Backend != name {
		t.Errorf("want one scorer asked for on %s, got %+v", name, p.asked)
	}
}

// Scenario: the contract's checks.
// Guarantees: cuts change nothing, nothing lent is kept, nothing leaks, errors come back.
func TestContract(t *testing.T) {
	dir := bundle(t, nil)
	pipelinetest.CheckOperator(t, pipelinetest.OperatorCheck{
		New: func(s pipeline.Settings) (pipeline.Operator, error) {
			s.Scorers = &pool{}
			c := config(dir)
			c.MaxBatch = 4
			return New(c, s), nil
		},
		Schema: schema(t, nil),
		Input: func(mem memory.Allocator) []pipelinetest.Step {
			return []pipelinetest.Step{{Batch: record(t, mem, example)}, {Watermark: 1}, {Batch: record(t, mem, example[2:])}}
		},
	})
}

// watch is a scorer that keeps the addresses of what it is given.
type watch struct {
	pipeline.Scorer
	at    []*float32
	sizes []int
	fail  error
}

func (w *watch) Score(ctx context.Context, x *tensor.Dense) (map[string]*tensor.Dense, error) {
	if w.fail != nil {
		return nil, w.fail
	}
	w.at = append(w.at, &x.Data().([]float32)[0])
	w.sizes = append(w.sizes, x.Shape()[0])
	return w.Scorer.Score(ctx, x)
}

// Scenario: 10 whole windows in the middle of a longer batch, scored 4 at a time.
// Guarantees: the model is given the column's own memory, from the slice's first row on, in batches of 4, 4 and 2.
func TestNoCopy(t *testing.T) {
	s := settings(t)
	c := config(bundle(t, nil))
	c.MaxBatch = 4
	b, err := model.Load(c.Model)
	if err != nil {
		t.Fatal(err)
	}
	inner, err := reference.New(context.Background(), pipeline.ScorerSpec{Model: b.ONNX})
	if err != nil {
		t.Fatal(err)
	}
	w := &watch{Scorer: inner}
	s.Scorers = &pool{scorer: w}
	op := New(c, s)
	defer op.Close()
	if _, err := op.Bind(schema(t, nil)); err != nil {
		t.Fatal(err)
	}
	w.at, w.sizes = nil, nil // of the golden inputs
	rows := make([]row, 20)
	for i := range rows {
		rows[i] = row{x: [4]float32{float32(i), 0, 1, 1}, coverage: 1}
	}
	rec := record(t, s.Alloc, rows)
	defer rec.Release()
	slice := rec.NewSlice(5, 15)
	defer slice.Release()
	var out pipelinetest.Collector
	defer out.Release()
	if err := op.Process(context.Background(), slice, &out); err != nil {
		t.Fatal(err)
	}
	values := rec.Column(2).(*array.FixedSizeList).ListValues().(*array.Float32).Float32Values()
	if want := []*float32{&values[4*5], &values[4*9], &values[4*13]}; !slices.Equal(w.at, want) || !slices.Equal(w.sizes, []int{4, 4, 2}) {
		t.Errorf("want the column's memory in batches of 4, 4 and 2, got %v", w.sizes)
	}
	if got := out.Rows[0].Column(3).(*array.Float32).Value(0); got != 7 {
		t.Errorf("row 5: want a score of 7, got %v", got)
	}
	w.fail = errors.New("the device is gone")
	if err := op.Process(context.Background(), slice, &out); !errors.Is(err, w.fail) {
		t.Errorf("want %v, got %v", w.fail, err)
	}
}

// Scenario: bundles, layouts and scorers that do not fit.
// Guarantees: Bind refuses each, with what was wanted and what came, as what no retry mends.
func TestBindRefuses(t *testing.T) {
	other := &schemas.ModelInfo{Name: "other", Version: "2", SHA256: "00"}
	for name, c := range map[string]struct {
		bundle func(*model.Bundle)
		layout func(*schemas.Layout)
		config func(*Config)
		pool   pipeline.ScorerPool
		want   string
	}{
		"no bundle":      {config: func(c *Config) { c.Model = "none" }, pool: &pool{}, want: "open none"},
		"other order":    {layout: func(l *schemas.Layout) { slices.Reverse(l.Channels) }, pool: &pool{}, want: "channels[0].tag: want t, got p; channels[1].tag: want p, got t"},
		"other size":     {layout: func(l *schemas.Layout) { l.Size = 3 }, pool: &pool{}, want: "window rows: want 2, got 3"},
		"and its column": {layout: func(l *schemas.Layout) { l.Size = 3 }, pool: &pool{}, want: `column "x": want fixed_size_list`},
		"other model":    {layout: func(l *schemas.Layout) { l.Model = other }, pool: &pool{}, want: "normalized for other 2, another model"},
		"golden":         {bundle: func(b *model.Bundle) { b.Golden.Outputs["score"][0] = 11.5 }, pool: &pool{}, want: `golden output "score": row 0, value 0: want 11.5 to 0.0001 relative, got 11`},
		"no scorers":     {want: "want scorers in the settings"},
		"large":          {config: func(c *Config) { c.MaxModel = 10 }, pool: &pool{}, want: "model.onnx: want at most 10 bytes"},
	} {
		t.Run(name, func(t *testing.T) {
			s := settings(t)
			s.Scorers = c.pool
			cfg := config(bundle(t, c.bundle))
			if c.config != nil {
				c.config(&cfg)
			}
			op := New(cfg, s)
			defer op.Close()
			_, err := op.Bind(schema(t, c.layout))
			if !errors.Is(err, pipeline.ErrConfig) || !strings.Contains(err.Error(), c.want) {
				t.Errorf("want an error that wraps %v with %q, got %v", pipeline.ErrConfig, c.want, err)
			}
		})
	}
	s := settings(t)
	refused := errors.New("no such device")
	s.Scorers = &pool{err: refused}
	op := New(config(bundle(t, nil)), s)
	defer op.Close()
	if _, err := op.Bind(schema(t, nil)); !errors.Is(err, refused) {
		t.Errorf("want %v, got %v", refused, err)
	}
}

// Scenario: a bundle in a folder beside the pipeline file, rows that normalize has marked with this model.
// Guarantees: it is found from the pipeline file's folder; the layout of the rows tells the model to the steps after.
func TestBindTellsTheModel(t *testing.T) {
	dir := bundle(t, nil)
	b, err := model.Load(dir)
	if err != nil {
		t.Fatal(err)
	}
	info := b.Info()
	s := settings(t)
	s.Dir = filepath.Dir(dir)
	op := New(config(filepath.Base(dir)), s)
	defer op.Close()
	for _, by := range []*schemas.ModelInfo{nil, &info} {
		out, err := op.Bind(schema(t, func(l *schemas.Layout) { l.Model = by }))
		if err != nil {
			t.Fatal(err)
		}
		l, err := schemas.LayoutOf(out)
		if err != nil || l.Model == nil || l.Model.SHA256 != info.SHA256 || l.Model.Thresholds["0.99"] != 5 {
			t.Errorf("want the model in the layout, got %+v (%v)", l.Model, err)
		}
		if out.NumFields() != 8 || out.Field(3).Name != schemas.NameScore {
			t.Errorf("want three columns and five more, got %s", out)
		}
	}
}

// Scenario: a Config in which everything is wrong, and the component's way to an operator.
// Guarantees: each fault with its key; the component gives an operator.
func TestConfig(t *testing.T) {
	c := Config{Backend: "cuda", MaxBatch: 0}
	var got []string
	for _, f := range c.Validate() {
		got = append(got, f.Path)
	}
	if want := []string{"model", "backend", "max_batch", "max_model"}; !slices.Equal(got, want) {
		t.Errorf("want faults at %v, got %v", want, got)
	}
	component := Component()
	filled := component.NewConfig().(*Config)
	filled.Model = "m"
	if faults := filled.Validate(); len(faults) > 0 {
		t.Errorf("want no faults, got %v", faults)
	}
	build, err := component.New(filled)
	if err != nil {
		t.Fatal(err)
	}
	op, err := build(settings(t))
	if err != nil {
		t.Fatal(err)
	}
	if err := op.Close(); err != nil {
		t.Error(err)
	}
}

func BenchmarkProcess(b *testing.B) {
	mem := memory.NewGoAllocator()
	op := New(config(bundle(b, nil)), pipeline.Settings{Alloc: mem, Scorers: &pool{}})
	defer op.Close()
	if _, err := op.Bind(schema(b, nil)); err != nil {
		b.Fatal(err)
	}
	rec := record(b, mem, slices.Repeat(example[:1], 1024))
	defer rec.Release()
	var out pipelinetest.Collector
	b.ReportAllocs()
	for b.Loop() {
		if err := op.Process(context.Background(), rec, &out); err != nil {
			b.Fatal(err)
		}
		out.Release()
	}
	b.ReportMetric(float64(b.N*1024)/b.Elapsed().Seconds(), "rows/s")
}
