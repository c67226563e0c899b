//go:build cgo

package ort_test

import (
	"context"
	"errors"
	"math"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"

	"gorgonia.org/tensor"

	"github.com/tailrace/tailrace/deploy/native"
	"github.com/tailrace/tailrace/operators/onnx"
	"github.com/tailrace/tailrace/operators/ort"
	"github.com/tailrace/tailrace/operators/reference"
	"github.com/tailrace/tailrace/pipeline"
)

func factory() pipeline.ScorerFactory {
	return ort.Factory(func(ctx context.Context) (string, error) {
		return native.Resolve(ctx, native.ONNXRuntime, native.Options{})
	})
}

// graph has outputs of three ranks: y [N,4], last [N,3] and x doubled [N,2,3].
func graph(t testing.TB) []byte {
	t.Helper()
	b := onnx.NewBuilder("test")
	x := b.Input("x", onnx.Float32, onnx.Var("N"), onnx.Fixed(2), onnx.Fixed(3))
	w := make([]float32, 24)
	r := rand.New(rand.NewPCG(1, 1))
	for i := range w {
		w[i] = float32(r.NormFloat64())
	}
	b.Output(b.MatMul("y", b.Flatten("f", x), b.Floats("w", w, 6, 4)))
	b.Output(b.At("last", x, 1, 1))
	b.Output(b.Add("double", x, x))
	m, err := b.Model("test", nil)
	if err != nil {
		t.Fatal(err)
	}
	return m.Marshal()
}

func open(t testing.TB, model []byte) pipeline.Scorer {
	t.Helper()
	s, err := factory()(context.Background(), pipeline.ScorerSpec{Model: model, Name: "test"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func batch(r *rand.Rand, n int) *tensor.Dense {
	x := make([]float32, 6*n)
	for i := range x {
		x[i] = float32(r.NormFloat64())
	}
	return tensor.New(tensor.WithShape(n, 2, 3), tensor.WithBacking(x))
}

// compare wants the outputs of two backends to be equal to 1e-5 of the output's largest value.
func compare(want, got map[string]*tensor.Dense) error {
	for name, w := range want {
		g, ok := got[name]
		if !ok || !g.Shape().Eq(w.Shape()) {
			return errors.New(name + ": shapes differ")
		}
		a, b := w.Data().([]float32), g.Data().([]float32)
		var scale float64
		for _, v := range a {
			scale = max(scale, math.Abs(float64(v)))
		}
		for i := range a {
			if !(math.Abs(float64(a[i])-float64(b[i])) <= 1e-5*scale) {
				return errors.New(name + ": values differ")
			}
		}
	}
	return nil
}

// Scenario: batches of many sizes from eight goroutines on one session, the garbage collector running all the time.
// Guarantees: every result equals the reference backend's, in every output; run it with -race and GODEBUG=cgocheck=1.
func TestManyCallers(t *testing.T) {
	model := graph(t)
	s := open(t, model)
	oracle, err := reference.New(context.Background(), pipeline.ScorerSpec{Model: model, Name: "test"})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	var wg sync.WaitGroup
	for g := range 8 {
		wg.Go(func() {
			r := rand.New(rand.NewPCG(uint64(g), 0))
			for i := range 150 {
				x := batch(r, 1+r.IntN(40))
				got, err := s.Score(ctx, x)
				if err != nil {
					t.Error(err)
					return
				}
				want, err := oracle.Score(ctx, x)
				if err == nil {
					err = compare(want, got)
				}
				if err != nil {
					t.Error(err)
					return
				}
				if i%10 == 0 {
					runtime.GC()
				}
			}
		})
	}
	wg.Wait()
	i := s.Info()
	if i.Backend != "onnxruntime" || i.Provider != "cpu" || !strings.HasPrefix(i.Version, "1.") {
		t.Errorf("want onnxruntime 1.x on cpu, got %+v", i)
	}
}

// Scenario: a slice of a larger tensor, as the rows from 3 to 5 of a batch.
// Guarantees: those rows are scored, not the beginning of the memory.
func TestSliceOfABatch(t *testing.T) {
	s := open(t, graph(t))
	x := batch(rand.New(rand.NewPCG(3, 3)), 8)
	view, err := x.Slice(tensor.S(3, 5))
	if err != nil {
		t.Fatal(err)
	}
	want := tensor.New(tensor.WithShape(2, 2, 3), tensor.WithBacking(x.Data().([]float32)[18:30]))
	a, err := s.Score(context.Background(), want)
	if err != nil {
		t.Fatal(err)
	}
	b, err := s.Score(context.Background(), view.(*tensor.Dense))
	if err != nil {
		t.Fatal(err)
	}
	if err := compare(a, b); err != nil {
		t.Error(err)
	}
}

// Scenario: NaN and infinity in a window.
// Guarantees: they come out as they are; the other windows of the batch are not touched.
func TestNotFinite(t *testing.T) {
	s := open(t, graph(t))
	x := batch(rand.New(rand.NewPCG(4, 4)), 3)
	x.Data().([]float32)[6] = float32(math.NaN())
	got, err := s.Score(context.Background(), x)
	if err != nil {
		t.Fatal(err)
	}
	for i, v := range got["y"].Data().([]float32) {
		if isNaN := v != v; isNaN != (i/4 == 1) {
			t.Errorf("row %d: got %v", i/4, v)
		}
	}
}

// Scenario: contexts that end before a call, while it waits for a slot or runs, and scorers that are closed under it.
// Guarantees: the call returns the context's error or one that says closed; nothing crashes; Close waits and may be
// called again.
func TestContextAndClose(t *testing.T) {
	s := open(t, graph(t))
	ended, cancel := context.WithCancel(context.Background())
	cancel()
	for range 50 { // select takes either way when both are open
		if _, err := s.Score(ended, batch(rand.New(rand.NewPCG(1, 1)), 2)); err != nil && !errors.Is(err, context.Canceled) {
			t.Fatalf("want %v, got %v", context.Canceled, err)
		}
	}
	var wg sync.WaitGroup
	for g := range 6 {
		wg.Go(func() {
			r := rand.New(rand.NewPCG(uint64(g), 9))
			for range 200 {
				ctx, cancel := context.WithCancel(context.Background())
				go cancel()
				_, err := s.Score(ctx, batch(r, 64))
				cancel()
				if err != nil && !errors.Is(err, context.Canceled) && !strings.Contains(err.Error(), "closed") {
					t.Error(err)
				}
			}
		})
	}
	wg.Go(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	wg.Wait()
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	if _, err := s.Score(context.Background(), batch(rand.New(rand.NewPCG(1, 1)), 1)); err == nil || !strings.Contains(err.Error(), "closed") {
		t.Errorf("want an error that says closed, got %v", err)
	}
}

// Scenario: a file that is no model, a graph that ONNX Runtime has no operator for, a batch of another shape.
// Guarantees: an error with the model's name that no retry mends; the batch's error has the input's shape.
func TestRefuses(t *testing.T) {
	m, err := onnx.Parse(graph(t))
	if err != nil {
		t.Fatal(err)
	}
	m.Graph.Nodes[0].Op = "NoSuchOperator"
	for _, file := range [][]byte{nil, []byte("no model"), m.Marshal()} {
		_, err := factory()(context.Background(), pipeline.ScorerSpec{Model: file, Name: "spoilt"})
		if !errors.Is(err, pipeline.ErrConfig) || !strings.Contains(err.Error(), "model spoilt") {
			t.Errorf("want an error that wraps %v with the name, got %v", pipeline.ErrConfig, err)
		}
	}
	s := open(t, graph(t))
	x := tensor.New(tensor.WithShape(1, 3, 2), tensor.WithBacking(make([]float32, 6)))
	if _, err := s.Score(context.Background(), x); err == nil || !strings.Contains(err.Error(), "want float32 [N,2,3]") {
		t.Errorf("want an error with the shape, got %v", err)
	}
}

// libraryCase tells a child process which library it is given.
const libraryCase = "TAILRACE_TEST_LIBRARY"

// Scenario: the path is no library; looking for it fails. The library is loaded once a process, so each case is a process.
// Guarantees: an error with the path that no retry mends; the resolver's error as it is.
func TestLibraryThatCannotBeLoaded(t *testing.T) {
	if os.Getenv(libraryCase) == "" {
		path := filepath.Join(t.TempDir(), "libonnxruntime.so")
		if err := os.WriteFile(path, []byte("no library"), 0o600); err != nil {
			t.Fatal(err)
		}
		again(t, path)
		again(t, "missing")
		return
	}
	errMissing := errors.New("no such library here")
	path := os.Getenv(libraryCase)
	open := ort.Factory(func(context.Context) (string, error) {
		if path == "missing" {
			return "", errMissing
		}
		return path, nil
	})
	_, err := open(context.Background(), pipeline.ScorerSpec{Model: graph(t), Name: "test"})
	if path == "missing" {
		if !errors.Is(err, errMissing) {
			t.Errorf("want %v, got %v", errMissing, err)
		}
	} else if !errors.Is(err, pipeline.ErrConfig) || !strings.Contains(err.Error(), path) {
		t.Errorf("want an error that wraps %v with the path, got %v", pipeline.ErrConfig, err)
	}
}

// again runs the calling test in a process of its own, with another library.
func again(t *testing.T, library string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^"+t.Name()+"$", "-test.v")
	cmd.Env = append(os.Environ(), libraryCase+"="+library)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("library %s: %v\n%s", library, err, out)
	}
}

func BenchmarkScore(b *testing.B) {
	model := graph(b)
	s := open(b, model)
	x := batch(rand.New(rand.NewPCG(1, 1)), 128)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	b.ReportAllocs()
	for b.Loop() {
		if _, err := s.Score(ctx, x); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.N*128)/b.Elapsed().Seconds(), "rows/s")
}
