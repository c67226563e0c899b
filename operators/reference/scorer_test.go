package reference_test

import (
	"context"
	"errors"
	"math"
	"strings"
	"sync"
	"testing"

	"go.uber.org/goleak"
	"gorgonia.org/tensor"

	"github.com/tailrace/tailrace/operators/onnx"
	"github.com/tailrace/tailrace/operators/reference"
	"github.com/tailrace/tailrace/pipeline"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// build makes a scorer of a graph over x [N,2,3].
func build(t testing.TB, grow func(*onnx.Builder, onnx.Value)) pipeline.Scorer {
	t.Helper()
	b := onnx.NewBuilder("test")
	grow(b, b.Input("x", onnx.Float32, onnx.Var("N"), onnx.Fixed(2), onnx.Fixed(3)))
	m, err := b.Model("test", nil)
	if err != nil {
		t.Fatal(err)
	}
	s, err := reference.New(context.Background(), pipeline.ScorerSpec{Model: m.Marshal(), Name: "test"})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func input(values ...float32) *tensor.Dense {
	return tensor.New(tensor.WithShape(len(values)/6, 2, 3), tensor.WithBacking(values))
}

// two windows, worked with below by hand.
func two() *tensor.Dense { return input(1, 2, 3, 4, 5, 6, -1, 0, 1, 2, -2, 0.5) }

// Scenario: each operator over two windows, and over the first alone.
// Guarantees: the results worked out by hand, in the right shape; a batch of one gives the batch of two's first rows.
func TestOperators(t *testing.T) {
	nan := float32(math.NaN())
	for name, c := range map[string]struct {
		grow  func(*onnx.Builder, onnx.Value) onnx.Value
		shape []int
		want  []float32
	}{
		"MatMul": {func(b *onnx.Builder, x onnx.Value) onnx.Value {
			return b.MatMul("y", b.Flatten("f", x), b.Floats("w", []float32{1, 0, 0, 1, 1, 1, 0, 0, 2, 0, 0, -2}, 6, 2))
		}, []int{2, 2}, []float32{1 + 3 + 10, 2 + 3 - 12, -1 + 1 - 4, 0 + 1 - 1}},
		"MatMul to one": {func(b *onnx.Builder, x onnx.Value) onnx.Value {
			return b.MatMul("y", b.Flatten("f", x), b.Floats("w", []float32{1, 1, 1, 1, 1, 1}, 6, 1))
		}, []int{2, 1}, []float32{21, 0.5}},
		"Add a row": {func(b *onnx.Builder, x onnx.Value) onnx.Value {
			return b.Add("y", x, b.Floats("w", []float32{10, 20, 30}, 3))
		}, []int{2, 2, 3}, []float32{11, 22, 33, 14, 25, 36, 9, 20, 31, 12, 18, 30.5}},
		"Sub from a scalar": {func(b *onnx.Builder, x onnx.Value) onnx.Value {
			return b.Sub("y", b.Scalar("w", 1), x)
		}, []int{2, 2, 3}, []float32{0, -1, -2, -3, -4, -5, 2, 1, 0, -1, 3, 0.5}},
		"Mul a column": {func(b *onnx.Builder, x onnx.Value) onnx.Value {
			return b.Mul("y", x, b.Floats("w", []float32{2, -1}, 2, 1))
		}, []int{2, 2, 3}, []float32{2, 4, 6, -4, -5, -6, -2, 0, 2, -2, 2, -0.5}},
		"Div by itself": {func(b *onnx.Builder, x onnx.Value) onnx.Value {
			return b.Div("y", x, x)
		}, []int{2, 2, 3}, []float32{1, 1, 1, 1, 1, 1, 1, nan, 1, 1, 1, 1}},
		"Where": {func(b *onnx.Builder, x onnx.Value) onnx.Value {
			return b.Where("y", b.Greater("g", x, b.Floats("w", []float32{1, 2, 0.5}, 3)), x, b.Scalar("z", -9))
		}, []int{2, 2, 3}, []float32{-9, -9, 3, 4, 5, 6, -9, -9, 1, 2, -9, -9}},
		"Sum of rows": {func(b *onnx.Builder, x onnx.Value) onnx.Value {
			return b.Sum("y", x, 1, false)
		}, []int{2, 3}, []float32{5, 7, 9, 1, -2, 1.5}},
		"Sum of channels, kept": {func(b *onnx.Builder, x onnx.Value) onnx.Value {
			return b.Sum("y", x, 2, true)
		}, []int{2, 2, 1}, []float32{6, 15, 0, 0.5}},
		"Last row": {func(b *onnx.Builder, x onnx.Value) onnx.Value {
			return b.At("y", x, 1, 1)
		}, []int{2, 3}, []float32{4, 5, 6, 2, -2, 0.5}},
		"Last channel": {func(b *onnx.Builder, x onnx.Value) onnx.Value {
			return b.At("y", x, 2, 2)
		}, []int{2, 2}, []float32{3, 6, 1, 0.5}},
		"Flatten and back": {func(b *onnx.Builder, x onnx.Value) onnx.Value {
			return b.Unflatten("y", b.Flatten("f", x), 3, 2)
		}, []int{2, 3, 2}, []float32{1, 2, 3, 4, 5, 6, -1, 0, 1, 2, -2, 0.5}},
		"the input itself": {func(b *onnx.Builder, x onnx.Value) onnx.Value {
			b.Flatten("f", x)
			return x
		}, []int{2, 2, 3}, []float32{1, 2, 3, 4, 5, 6, -1, 0, 1, 2, -2, 0.5}},
	} {
		t.Run(name, func(t *testing.T) {
			var out string
			s := build(t, func(b *onnx.Builder, x onnx.Value) { y := c.grow(b, x); b.Output(y); out = y.Name })
			for n := 2; n >= 1; n-- {
				x := input(two().Data().([]float32)[:6*n]...)
				got, err := s.Score(context.Background(), x)
				if err != nil {
					t.Fatal(err)
				}
				want, shape := c.want[:len(c.want)/2*n], append([]int{n}, c.shape[1:]...)
				if !got[out].Shape().Eq(tensor.Shape(shape)) {
					t.Errorf("want shape %v, got %v", shape, got[out].Shape())
				}
				if !equal(want, got[out].Data()) {
					t.Errorf("batch of %d: want %v, got %v", n, want, got[out].Data())
				}
				if got[out] == x {
					t.Error("want memory of its own, got the input")
				}
			}
		})
	}
}

func equal(want []float32, got any) bool {
	values, ok := got.([]float32)
	if !ok || len(values) != len(want) {
		return false
	}
	for i, w := range want {
		if values[i] != w && (w == w || values[i] == values[i]) {
			return false
		}
	}
	return true
}

// Scenario: batches of other shapes and types, an ended context.
// Guarantees: an error that says what the input is.
func TestScoreRefuses(t *testing.T) {
	s := build(t, func(b *onnx.Builder, x onnx.Value) { b.Output(b.Flatten("y", x)) })
	for _, x := range []*tensor.Dense{
		tensor.New(tensor.WithShape(1, 3, 2), tensor.WithBacking(make([]float32, 6))),
		tensor.New(tensor.WithShape(6), tensor.WithBacking(make([]float32, 6))),
		tensor.New(tensor.WithShape(1, 2, 3), tensor.WithBacking(make([]float64, 6))),
	} {
		if _, err := s.Score(context.Background(), x); err == nil || !strings.Contains(err.Error(), `input "x": want float32 [N,2,3]`) {
			t.Errorf("%v %v: want an error, got %v", x.Dtype(), x.Shape(), err)
		}
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := s.Score(ctx, two()); !errors.Is(err, context.Canceled) {
		t.Errorf("want %v, got %v", context.Canceled, err)
	}
}

// Scenario: a model with an operator that is not known here, one with a known operator in an unknown form, a broken file.
// Guarantees: refused when it is opened, naming the operator; the error is one that no retry mends.
func TestNewRefuses(t *testing.T) {
	good := func() *onnx.Model {
		b := onnx.NewBuilder("test")
		b.Output(b.Sum("y", b.Input("x", onnx.Float32, onnx.Var("N"), onnx.Fixed(2), onnx.Fixed(3)), 1, true))
		m, err := b.Model("test", nil)
		if err != nil {
			t.Fatal(err)
		}
		return m
	}
	conv, all, broken := good(), good(), good().Marshal()
	conv.Graph.Nodes[0].Op = "Conv"
	all.Graph.Nodes[0].Inputs = all.Graph.Nodes[0].Inputs[:1]
	for want, file := range map[string][]byte{
		"operator Conv of node \"y\"":                conv.Marshal(),
		"operator ReduceSum of node \"y\" with 1 in": all.Marshal(),
		"onnx:": broken[:20],
	} {
		_, err := reference.New(context.Background(), pipeline.ScorerSpec{Model: file, Name: "m"})
		if !errors.Is(err, pipeline.ErrConfig) || !strings.Contains(err.Error(), want) {
			t.Errorf("want an error that wraps %v with %q, got %v", pipeline.ErrConfig, want, err)
		}
	}
}

// Scenario: one scorer from eight goroutines, each with its own windows.
// Guarantees: each gets its own results; run it with -race.
func TestManyCallers(t *testing.T) {
	s := build(t, func(b *onnx.Builder, x onnx.Value) {
		b.Output(b.MatMul("y", b.Flatten("f", x), b.Floats("w", []float32{1, 1, 1, 1, 1, 1}, 6, 1)))
	})
	var wg sync.WaitGroup
	for g := range 8 {
		wg.Go(func() {
			v := float32(g)
			for range 200 {
				got, err := s.Score(context.Background(), input(v, v, v, v, v, v))
				if err != nil || !equal([]float32{6 * v}, got["y"].Data()) {
					t.Errorf("want %v, got %v (%v)", 6*v, got, err)
					return
				}
			}
		})
	}
	wg.Wait()
	if i := s.Info(); i.Backend != "reference" || i.Provider != "cpu" {
		t.Errorf("want reference on cpu, got %+v", i)
	}
}
