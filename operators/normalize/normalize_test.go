package normalize

import (
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/apache/arrow/go/v15/arrow"
	"github.com/apache/arrow/go/v15/arrow/memory"

	"github.com/tailrace/tailrace/operators/model"
	"github.com/tailrace/tailrace/operators/onnx"
	"github.com/tailrace/tailrace/pipeline"
	"github.com/tailrace/tailrace/pipeline/pipelinetest"
	"github.com/tailrace/tailrace/schemas"
)

// writeBundle writes a bundle of windows of two rows of a second and returns its folder and its layout.
func writeBundle(t testing.TB, channels ...model.Channel) (string, schemas.Layout) {
	t.Helper()
	b := onnx.NewBuilder("sum")
	x := b.Input("x", onnx.Float32, onnx.Var("N"), onnx.Fixed(2), onnx.Fixed(len(channels)))
	b.Output(b.Sum("score", b.Flatten("flat", x), 1, true))
	graph, err := b.Model("test", nil)
	if err != nil {
		t.Fatal(err)
	}
	bundle := &model.Bundle{
		ONNX: graph.Marshal(),
		Manifest: model.Manifest{
			Name: "sum", Version: "1", File: model.ModelFile{Opset: graph.Opset}, Channels: channels, Grid: time.Second, WindowRows: 2,
			Outputs: model.Outputs{Score: "score"}, Thresholds: map[string]float64{"0.99": 3},
		},
		Golden: model.Golden{Rows: 1, X: make([]float32, 2*len(channels)), Outputs: map[string][]float32{"score": {0}}},
	}
	dir := filepath.Join(t.TempDir(), "models", "sum", "1")
	if err := model.Write(dir, bundle); err != nil {
		t.Fatal(err)
	}
	layout := schemas.Layout{Grid: time.Second, Size: 2, Hop: 1}
	for _, c := range channels {
		layout.Channels = append(layout.Channels, schemas.Channel{Tag: c.Tag, Unit: c.Unit})
	}
	return dir, layout
}

func schemaOf(t testing.TB, l schemas.Layout) *arrow.Schema {
	t.Helper()
	schema, err := l.With(schemas.WindowFields(l.Size, len(l.Channels)))
	if err != nil {
		t.Fatal(err)
	}
	return schema
}

var twoChannels = []model.Channel{{Tag: "temp", Unit: "degC", Mean: 120, Std: 0.5}, {Tag: "flow", Unit: "m3/h", Mean: -2, Std: 4}}

// Scenario: Samples with nulls, NaN, infinities, a constant channel, a deviation that float32 loses beside its mean, and
// a bitmap that starts inside a byte.
// Guarantees: The values are those worked out by hand.
func TestNormalize(t *testing.T) {
	inf, nan := math.Inf(1), math.NaN()
	mean, std := []float64{120, -2, 7}, []float64{0.5, 4, 0}
	samples := []float64{121, 2, 9, 120.0000001, 1e308, 7, nan, inf, 7, 500, -inf, 7}
	// Bit 3 + i is sample i; sample 9, 500, is missing.
	valid := []byte{0b11111000, 0b01101111}
	want := []float32{2, 1, 0, 2e-7, math.MaxFloat32, 0, 0, math.MaxFloat32, 0, 0, -math.MaxFloat32, 0}
	got := make([]float32, len(samples))
	for i := range got {
		got[i] = 99 // whatever memory held
	}
	Normalize(got, samples, valid, 3, mean, std)
	for i := range want {
		if d := math.Abs(float64(got[i]) - float64(want[i])); d > 1e-6*math.Abs(float64(want[i])) {
			t.Errorf("value %d: want %v, got %v", i, want[i], got[i])
		}
	}
	Normalize(got, samples, nil, 0, mean, std)
	if got[9] != 760 {
		t.Errorf("value 9 without a bitmap: want 760, got %v", got[9])
	}
}

// Scenario: The contract's checks over windows with missing samples, read through a relative path.
// Guarantees: Cuts change nothing, nothing lent is kept, nothing leaks, errors come back.
func TestContract(t *testing.T) {
	dir, layout := writeBundle(t, twoChannels...)
	schema := schemaOf(t, layout)
	pipelinetest.CheckOperator(t, pipelinetest.OperatorCheck{
		New: func(s pipeline.Settings) (pipeline.Operator, error) {
			s.Dir = filepath.Dir(filepath.Dir(dir))
			c := defaults()
			c.Model = "sum/1"
			return New(c, s), nil
		},
		Schema: schema,
		Input: func(mem memory.Allocator) []pipelinetest.Step {
			rec, err := pipelinetest.ReadTable(mem, schema, nil,
				"asset samples\na [121,2,120,-]\nb [-,-,-,-]\na [119,-6,120.25,0]\nb [NaN,2,120,-2]\n")
			if err != nil {
				t.Fatal(err)
			}
			return []pipelinetest.Step{{Batch: rec}, {Watermark: 5}}
		},
	})
}

// Scenario: One batch of windows, all other columns with values of their own.
// Guarantees: All columns pass as they are, x is worked out by hand, and the layout carries the model's statistics.
func TestPassesAllColumns(t *testing.T) {
	dir, layout := writeBundle(t, twoChannels...)
	settings := pipelinetest.Settings(t)
	c := defaults()
	c.Model = dir
	o := New(c, settings)
	defer o.Close()
	in := schemaOf(t, layout)
	out, err := o.Bind(in)
	if err != nil {
		t.Fatal(err)
	}
	table := "" +
		"asset window_start window_end ts ts_ingest n coverage cut k_first k_last revision samples\n" +
		"a     1s           3s         2s 9s        2 0.75     \"\"  4       5      3        [121,2,120,-]\n"
	rec, err := pipelinetest.ReadTable(settings.Alloc, in, nil, table)
	if err != nil {
		t.Fatal(err)
	}
	var got pipelinetest.Collector
	defer got.Release()
	err = o.Process(t.Context(), rec, &got)
	rec.Release()
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.SplitAfter(table, "\n")
	want := strings.TrimSuffix(lines[0], "\n") + "       x\n" + strings.TrimSuffix(lines[1], "\n") + " [2,1,0,0]\n"
	if text := pipelinetest.WriteTable(got.Rows); text != want {
		t.Errorf("want\n%sgot\n%s", want, text)
	}
	bound, err := schemas.LayoutOf(out)
	if err != nil {
		t.Fatal(err)
	}
	if m := bound.Model; m == nil || m.Name != "sum" || !slices.Equal(m.Mean, []float64{120, -2}) || m.Thresholds["0.99"] != 3 {
		t.Errorf("want the model's statistics in the layout, got %+v", m)
	}
}

// Scenario: A pipeline that differs from the bundle in everything, one with a missing tag, and a bundle with a changed byte.
// Guarantees: Every difference is named in one error that wraps ErrConfig.
func TestBindNamesDifferences(t *testing.T) {
	dir, layout := writeBundle(t, twoChannels...)
	bind := func(l schemas.Layout) error {
		c := defaults()
		c.Model = dir
		o := New(c, pipelinetest.Settings(t))
		defer o.Close()
		_, err := o.Bind(schemaOf(t, l))
		return err
	}
	other := layout
	other.Channels = []schemas.Channel{{Tag: "temp", Unit: "K"}, {Tag: "level"}}
	other.Grid, other.Size = time.Minute, 3
	wantIn(t, bind(other), "degC", "got K", "flow", "level", "1s", "1m0s", "want 2, got 3")
	short := layout
	short.Channels = layout.Channels[:1]
	wantIn(t, bind(short), "channels: want as well flow")
	if err := bind(layout); err != nil {
		t.Errorf("the bundle's own layout: want no error, got %v", err)
	}

	path := filepath.Join(dir, model.ModelName)
	graph, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	graph[len(graph)-1] ^= 1
	if err := os.WriteFile(path, graph, 0o644); err != nil {
		t.Fatal(err)
	}
	wantIn(t, bind(layout), model.ModelName)
}

func wantIn(t *testing.T, err error, parts ...string) {
	t.Helper()
	if !errors.Is(err, pipeline.ErrConfig) {
		t.Fatalf("want an error of configuration, got %v", err)
	}
	for _, part := range parts {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("want %q in: %v", part, err)
		}
	}
}

// Scenario: A config without a model.
// Guarantees: The fault names the key.
func TestValidate(t *testing.T) {
	c := Config{}
	var paths []string
	for _, f := range c.Validate() {
		paths = append(paths, f.Path)
	}
	if want := []string{"model", "max_model"}; !slices.Equal(paths, want) {
		t.Errorf("want faults at %v, got %v", want, paths)
	}
}

// BenchmarkNormalize takes windows of 60 rows of 50 channels, all samples there.
func BenchmarkNormalize(b *testing.B) {
	const rows, channels = 60, 50
	samples, x := make([]float64, 100*rows*channels), make([]float32, 100*rows*channels)
	mean, std := make([]float64, channels), make([]float64, channels)
	for c := range std {
		std[c] = 2
	}
	for _, valid := range []([]byte){nil, make([]byte, len(samples)/8+1)} {
		b.Run(fmt.Sprintf("bitmap=%v", valid != nil), func(b *testing.B) {
			for i := range valid {
				valid[i] = 0xFF
			}
			b.SetBytes(int64(8 * len(samples)))
			for b.Loop() {
				Normalize(x, samples, valid, 0, mean, std)
			}
			b.ReportMetric(float64(100*b.N)/b.Elapsed().Seconds(), "windows/s")
		})
	}
}
