package train

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"

	"github.com/tailrace/tailrace/operators/onnx"
	"github.com/tailrace/tailrace/pipeline"
)

// The functions between the layers of a net.
const (
	Relu = "relu"
	Tanh = "tanh"
)

// The ways of descent.
const (
	Adam = "adam"
	SGD  = "sgd"
)

// Net is a dense net and how it is trained: mini-batches in a seeded order, the loss of a later part of the time watched,
// the weights of its lowest kept.
type Net struct {
	// Hidden are the sizes of the layers between the input and the output. A net without is not trained.
	Hidden []int `yaml:"hidden"`
	// Activation is relu or tanh, between the layers. Default relu.
	Activation string `yaml:"activation" jsonschema:"enum=relu,enum=tanh"`
	// Epochs is the most passes over the windows. Default 200.
	Epochs int `yaml:"epochs"`
	// Batch is the windows of a step; what is left of a pass after whole batches waits for the next pass. Default 32: small
	// enough for many steps on a day of data.
	Batch int `yaml:"batch"`
	// LearningRate is that of the optimizer. Default 0.001, Adam's own.
	LearningRate float64 `yaml:"learning_rate"`
	// Optimizer is adam, or sgd with momentum 0.9. Default adam.
	Optimizer string `yaml:"optimizer" jsonschema:"enum=adam,enum=sgd"`
	// Patience is how many passes without a lower validation loss end the training. Default 20.
	Patience int `yaml:"patience"`
	// Validation is the share of the windows, the latest, that training does not learn from but is stopped by. Default 0.2.
	Validation float64 `yaml:"validation"`
	// Gap is the least rows of the grid between what is learnt and what is held out, so that the one does not give away the
	// other. Windows that share time with what is held out are left out in any case. Default 10.
	Gap int `yaml:"gap"`
}

func defaultNet() Net {
	return Net{
		Activation: Relu, Epochs: 200, Batch: 32, LearningRate: 0.001, Optimizer: Adam, Patience: 20, Validation: 0.2, Gap: 10,
	}
}

// validate reports every fault of a net that is to be trained.
func (n *Net) validate(fault func(path, format string, args ...any)) {
	for i, h := range n.Hidden {
		if h < 1 || h > 1<<16 {
			fault(fmt.Sprintf("hidden[%d]", i), "want 1 to 65536, got %d", h)
		}
	}
	if n.Activation != Relu && n.Activation != Tanh {
		fault("activation", "want relu or tanh, got %q", n.Activation)
	}
	if n.Optimizer != Adam && n.Optimizer != SGD {
		fault("optimizer", "want adam or sgd, got %q", n.Optimizer)
	}
	for name, v := range map[string]int{"epochs": n.Epochs, "batch": n.Batch, "patience": n.Patience} {
		if v < 1 {
			fault(name, "want 1 or more, got %d", v)
		}
	}
	if !(n.LearningRate > 0 && n.LearningRate <= 1) {
		fault("learning_rate", "want a number above 0, up to 1, got %v", n.LearningRate)
	}
	if !(n.Validation > 0 && n.Validation < 1) {
		fault("validation", "want a share between 0 and 1, got %v", n.Validation)
	}
	if n.Gap < 0 {
		fault("gap", "want 0 or more, got %d", n.Gap)
	}
}

// prefixed gives faults a common start of their paths.
func prefixed(prefix string, check func(fault func(path, format string, args ...any))) (faults []pipeline.Fault) {
	check(func(path, format string, args ...any) {
		faults = append(faults, pipeline.Faultf(prefix+"."+path, format, args...))
	})
	return faults
}

// dense is a net with its weights.
type dense struct {
	sizes      []int // of the input, then of each layer
	activation string
	weights    [][]float32 // for each layer a matrix, in rows of its inputs, and a bias
}

// newDense draws weights by He et al. 2015 before a Relu, by Glorot and Bengio 2010 before a Tanh. Biases are 0.
func newDense(sizes []int, activation string, seed int64) *dense {
	// A seed is all that it takes to draw the same weights again: PCG is specified by the Go documentation.
	r := rand.New(rand.NewPCG(uint64(seed), streamWeights))
	d := &dense{sizes: sizes, activation: activation}
	for l := 1; l < len(sizes); l++ {
		in, out := sizes[l-1], sizes[l]
		scale := math.Sqrt(2 / float64(in+out))
		if activation == Relu && l < len(sizes)-1 {
			scale = math.Sqrt(2 / float64(in))
		}
		w := make([]float32, in*out)
		for i := range w {
			w[i] = float32(scale * r.NormFloat64())
		}
		d.weights = append(d.weights, w, make([]float32, out))
	}
	return d
}

// What the streams of one seed are for. The golden inputs take 0.
const (
	streamWeights = 1
	streamOrder   = 2
)

// clone is a net of its own.
func (d *dense) clone() *dense {
	c := *d
	c.weights = make([][]float32, len(d.weights))
	for i, w := range d.weights {
		c.weights[i] = slices.Clone(w)
	}
	return &c
}

// apply gives the last layer for one window, worked out in float64.
func (d *dense) apply(x []float64) []float64 {
	for l := 1; l < len(d.sizes); l++ {
		w, out := d.weights[2*l-2], make([]float64, d.sizes[l])
		for k, c := range d.weights[2*l-1] {
			out[k] = float64(c)
		}
		for j, v := range x {
			if v == 0 {
				continue // half of what a Relu gives
			}
			for k, weight := range w[j*len(out) : (j+1)*len(out)] {
				out[k] += v * float64(weight)
			}
		}
		if l < len(d.sizes)-1 {
			for k, v := range out {
				if d.activation == Relu {
					out[k] = max(v, 0)
				} else {
					out[k] = math.Tanh(v)
				}
			}
		}
		x = out
	}
	return x
}

// layers writes the net over x [N,K]. The weights come from parameter, by name and shape.
func (d *dense) layers(b *onnx.Builder, x onnx.Value, parameter func(name string, i int, sizes ...int) onnx.Value) onnx.Value {
	for l := 1; l < len(d.sizes); l++ {
		name := fmt.Sprintf("layer%d", l)
		w := parameter(name+".weight", 2*l-2, d.sizes[l-1], d.sizes[l])
		c := parameter(name+".bias", 2*l-1, d.sizes[l])
		x = b.Linear(name, x, w, c)
		switch {
		case l == len(d.sizes)-1:
		case d.activation == Relu:
			x = b.Relu(name+".relu", x)
		default:
			x = b.Tanh(name+".tanh", x)
		}
	}
	return x
}

// constants writes the net with its weights as they are.
func (d *dense) constants(b *onnx.Builder, x onnx.Value) onnx.Value {
	return d.layers(b, x, func(name string, i int, sizes ...int) onnx.Value {
		return b.Floats(name, d.weights[i], sizes...)
	})
}
