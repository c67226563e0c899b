//go:build cgo

package ort_test

import (
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"testing"

	"pgregory.net/rapid"

	"github.com/tailrace/tailrace/deploy/native"
	"github.com/tailrace/tailrace/operators/onnx"
	"github.com/tailrace/tailrace/operators/ort"
)

func library(ctx context.Context) (string, error) {
	return native.Resolve(ctx, native.ONNXRuntime, native.Options{})
}

// dense is a net of layers, in float64 and written apart from the graph: what the graph's gradients are judged by.
type dense struct {
	batch      int
	sizes      []int // of the input, then of each layer
	activation string
	loss       string // mse or cross-entropy
	x, y       []float64
	w          [][]float64 // a matrix and a bias for each layer, in turn
}

// value is the loss, and the distance of the nearest input of a Relu from its kink.
func (d *dense) value() (loss, clear float64) {
	h, clear := d.x, math.Inf(1)
	for l := 1; l < len(d.sizes); l++ {
		in, out := d.sizes[l-1], d.sizes[l]
		w, c := d.w[2*l-2], d.w[2*l-1]
		next := make([]float64, d.batch*out)
		for n := range d.batch {
			for k := range out {
				z := c[k]
				for j := range in {
					z += h[n*in+j] * w[j*out+k]
				}
				if l < len(d.sizes)-1 {
					switch d.activation {
					case "relu":
						clear = min(clear, math.Abs(z))
						z = max(z, 0)
					case "tanh":
						z = math.Tanh(z)
					case "sigmoid":
						z = 1 / (1 + math.Exp(-z))
					}
				}
				next[n*out+k] = z
			}
			if l < len(d.sizes)-1 && d.activation == "softmax" {
				softmax(next[n*out : (n+1)*out])
			}
		}
		h = next
	}
	last := d.sizes[len(d.sizes)-1]
	for n := range d.batch {
		row, want := h[n*last:(n+1)*last], d.y[n*last:(n+1)*last]
		if d.loss == "mse" {
			for i, v := range row {
				loss += (v - want[i]) * (v - want[i]) / float64(len(h))
			}
			continue
		}
		softmax(row)
		for i, p := range row {
			loss -= want[i] * math.Log(p) / float64(d.batch)
		}
	}
	return loss, clear
}

func softmax(row []float64) {
	sum := 0.0
	for i, v := range row {
		row[i] = math.Exp(v)
		sum += row[i]
	}
	for i := range row {
		row[i] /= sum
	}
}

// graph writes the same net; parameters are inputs.
func (d *dense) graph() (b *onnx.Builder, loss onnx.Value, parameters []onnx.Value) {
	b = onnx.NewBuilder("net")
	x := b.Input("x", onnx.Float32, onnx.Fixed(d.batch), onnx.Fixed(d.sizes[0]))
	y := b.Input("y", onnx.Float32, onnx.Fixed(d.batch), onnx.Fixed(d.sizes[len(d.sizes)-1]))
	h := x
	for l := 1; l < len(d.sizes); l++ {
		name := fmt.Sprint("l", l)
		w := b.Input(name+".w", onnx.Float32, onnx.Fixed(d.sizes[l-1]), onnx.Fixed(d.sizes[l]))
		c := b.Input(name+".c", onnx.Float32, onnx.Fixed(d.sizes[l]))
		parameters = append(parameters, w, c)
		if l%2 == 0 { // both ways of writing a layer
			h = b.Add(name+".z", b.MatMul(name+".xw", h, w), c)
		} else {
			h = b.Linear(name+".z", h, w, c)
		}
		if l == len(d.sizes)-1 {
			break
		}
		h = map[string]func(string, onnx.Value) onnx.Value{
			"relu": b.Relu, "tanh": b.Tanh, "sigmoid": b.Sigmoid, "softmax": b.Softmax,
		}[d.activation](name+".h", h)
	}
	if d.loss == "mse" {
		return b, b.MeanSquared("loss", h, y), parameters
	}
	return b, b.CrossEntropy("loss", h, y), parameters
}

// fill draws the data and the parameters, rounded to what the graph gets, away from the kinks of Relu.
func (d *dense) fill(seed uint64) {
	r := rand.New(rand.NewPCG(seed, 0))
	draw := func(n int, scale float64) []float64 {
		out := make([]float64, n)
		for i := range out {
			out[i] = float64(float32(scale * r.NormFloat64()))
		}
		return out
	}
	for {
		last := d.sizes[len(d.sizes)-1]
		d.x, d.y, d.w = draw(d.batch*d.sizes[0], 1), draw(d.batch*last, 1), nil
		if d.loss != "mse" {
			clear(d.y)
			for n := range d.batch {
				d.y[n*last+r.IntN(last)] = 1
			}
		}
		for l := 1; l < len(d.sizes); l++ {
			d.w = append(d.w, draw(d.sizes[l-1]*d.sizes[l], 1/math.Sqrt(float64(d.sizes[l-1]))), draw(d.sizes[l], 0.5))
		}
		if _, kink := d.value(); kink > 1e-3 {
			return
		}
	}
}

// open makes a graph and, for each of its values, a tensor.
func openGraph(t rapid.TB, b *onnx.Builder) (g *ort.Graph, in, out []*ort.Tensor) {
	t.Helper()
	m, err := b.Model("test", nil)
	if err != nil {
		t.Fatal(err)
	}
	if g, err = ort.OpenGraph(context.Background(), "test", m.Marshal(), library); err != nil {
		t.Fatal(err)
	}
	ins, outs := m.Signature()
	for i, v := range append(ins, outs...) {
		var sizes []int64
		for _, d := range v.Shape {
			sizes = append(sizes, d.Size)
		}
		one, err := g.Tensor(sizes...)
		if err != nil {
			t.Fatal(err)
		}
		if i < len(ins) {
			in = append(in, one)
		} else {
			out = append(out, one)
		}
	}
	return g, in, out
}

func set(to *ort.Tensor, values []float64) {
	for i, v := range values {
		to.Data[i] = float32(v)
	}
}

// Scenario: nets of random shapes, activations and losses; central differences of the net in float64, steps of 1e-5.
// Guarantees: for each parameter, the graph's derivatives differ by at most 1e-3 of the largest.
func TestGradients(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		d := &dense{
			batch:      rapid.IntRange(1, 6).Draw(t, "batch"),
			sizes:      rapid.SliceOfN(rapid.IntRange(2, 7), 2, 4).Draw(t, "sizes"),
			activation: rapid.SampledFrom([]string{"relu", "tanh", "sigmoid", "softmax"}).Draw(t, "activation"),
			loss:       rapid.SampledFrom([]string{"mse", "cross-entropy"}).Draw(t, "loss"),
		}
		d.fill(rapid.Uint64().Draw(t, "seed"))
		b, loss, parameters := d.graph()
		for _, g := range b.Gradients(loss, parameters...) {
			b.Output(g)
		}
		g, in, out := openGraph(t, b)
		defer g.Close()
		set(in[0], d.x)
		set(in[1], d.y)
		for i, w := range d.w {
			set(in[2+i], w)
		}
		if err := g.Run(in, out); err != nil {
			t.Fatal(err)
		}
		for k, w := range d.w {
			largest, off := 0.0, 0.0
			for i := range w {
				const step = 1e-5
				at := w[i]
				w[i] = at + step
				up, _ := d.value()
				w[i] = at - step
				down, _ := d.value()
				w[i] = at
				got := float64(out[k].Data[i])
				largest, off = max(largest, math.Abs(got)), max(off, math.Abs(got-(up-down)/(2*step)))
			}
			// Behind a Relu that is off everywhere, and behind the bias that a softmax does not feel, derivatives are 0 but
			// for rounding: 1e-6 stands for what float32 leaves there.
			if !(off <= max(1e-3*largest, 1e-6)) {
				t.Errorf("%s: want the differences to 1e-3 of %v, got %v off", parameters[k].Name, largest, off)
			}
		}
	})
}

// Scenario: one value used three times and broadcast two ways; a sum over an axis and back through a reshape.
// Guarantees: the derivatives are those worked out by hand.
func TestGradientsByHand(t *testing.T) {
	b := onnx.NewBuilder("by hand")
	x := b.Input("x", onnx.Float32, onnx.Fixed(2), onnx.Fixed(2))
	r := b.Input("r", onnx.Float32, onnx.Fixed(2), onnx.Fixed(1))
	sums := b.Sum("sums", b.Flatten("flat", b.Unflatten("cube", b.Mul("x2", x, x), 2, 1)), 1, true) // by row: a^2 + b^2
	loss := b.Total("loss", b.Mul("weighed", r, b.Sub("less", sums, x)))                            // broadcasts r and sums
	for _, g := range b.Gradients(loss, x, r) {
		b.Output(g)
	}
	g, in, out := openGraph(t, b)
	defer g.Close()
	set(in[0], []float64{1, 2, 3, 4})
	set(in[1], []float64{10, -1})
	if err := g.Run(in, out); err != nil {
		t.Fatal(err)
	}
	// loss = sum_i r_i (2 (a^2 + b^2) - a - b): by a: r (4a - 1), by r: 2 (a^2 + b^2) - a - b.
	for i, want := range [][]float32{{30, 70, -11, -15}, {7, 43}} {
		for k, w := range want {
			if out[i].Data[k] != w {
				t.Errorf("output %d: want %v, got %v", i, want, out[i].Data)
			}
		}
	}
}

// Scenario: three steps of each optimizer on one parameter w = 2 whose loss is w^2, by hand from the papers' formulas.
// Guarantees: parameters and moments to 1e-6.
func TestOptimizers(t *testing.T) {
	for name, c := range map[string]struct {
		o    onnx.Optimizer
		step func(w, g float64, m []float64, t int) (next float64, rate float64)
	}{
		"momentum": {onnx.Momentum{Decay: 0.9}, func(w, g float64, m []float64, _ int) (float64, float64) {
			m[0] = 0.9*m[0] + g
			return w - 0.1*m[0], 0.1
		}},
		"adam": {onnx.Adam{Beta1: 0.9, Beta2: 0.999, Epsilon: 1e-8}, func(w, g float64, m []float64, t int) (float64, float64) {
			m[0], m[1] = 0.9*m[0]+0.1*g, 0.999*m[1]+0.001*g*g
			rate := 0.1 * math.Sqrt(1-math.Pow(0.999, float64(t))) / (1 - math.Pow(0.9, float64(t)))
			return w - rate*m[0]/(math.Sqrt(m[1])+1e-8), rate
		}},
	} {
		b := onnx.NewBuilder(name)
		w := b.Input("w", onnx.Float32, onnx.Fixed(1))
		state := b.Step(b.Total("loss", b.Mul("squared", w, w)), []onnx.Value{w}, c.o)
		g, in, out := openGraph(t, b) // in: w, rate, moments; out: loss, w, moments
		in[0].Data[0] = 2
		want, moments := 2.0, make([]float64, c.o.Moments())
		for n := 1; n <= 3; n++ {
			before := want
			var rate float64
			want, rate = c.step(want, 2*want, moments, n)
			in[1].Data[0] = float32(rate)
			if err := g.Run(in, out); err != nil {
				t.Fatal(err)
			}
			if got := float64(out[0].Data[0]); math.Abs(got-before*before) > 1e-5 {
				t.Errorf("%s, step %d: loss: want %v, got %v", name, n, before*before, got)
			}
			for i, v := range append([]float64{want}, moments...) {
				if got := float64(out[1+i].Data[0]); math.Abs(got-v) > 1e-6*max(1, math.Abs(v)) {
					t.Errorf("%s, step %d, %s: want %v, got %v", name, n, state[i].Name, v, got)
				}
			}
			in[0], out[1] = out[1], in[0]
			for i := range moments {
				in[2+i], out[2+i] = out[2+i], in[2+i]
			}
		}
		if err := g.Close(); err != nil {
			t.Error(err)
		}
	}
}

// Scenario: a run with an output too few, and tensors of no size.
// Guarantees: errors that say what was wanted.
func TestGraphRefuses(t *testing.T) {
	b := onnx.NewBuilder("refuses")
	b.Output(b.Relu("y", b.Input("x", onnx.Float32, onnx.Fixed(1))))
	g, in, _ := openGraph(t, b)
	defer g.Close()
	if err := g.Run(in, nil); err == nil {
		t.Error("want an error for no outputs, got none")
	}
	for _, sizes := range [][]int64{nil, {0}, {2, -1}} {
		if _, err := g.Tensor(sizes...); err == nil {
			t.Errorf("sizes %v: want an error, got none", sizes)
		}
	}
}
