package train

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"

	"github.com/tailrace/tailrace/operators/onnx"
	"github.com/tailrace/tailrace/operators/ort"
	"github.com/tailrace/tailrace/pipeline"
)

// Progress is how far training has come, after each pass over the windows of a net.
type Progress struct {
	Part, Parts   int // nets from 1: the one that is kept, then those that thresholds are taken from
	Epoch, Epochs int // passes from 1, and the most that there will be
	Windows       int // that a pass learns from
	Loss          float64
	Validation    float64 // NaN where nothing is held back
}

// Runtime is what nets are trained with.
type Runtime struct {
	// Library gives the path of ONNX Runtime.
	Library ort.LibraryPath
	// Progress is called after every pass; nil for nobody.
	Progress func(Progress)
}

// WithRuntime gives t what it trains nets with. PCA needs none.
func (t *Trainer) WithRuntime(r Runtime) *Trainer {
	t.runtime = r
	return t
}

// momentum is that of sgd, and the moments and epsilon of Adam are those of its paper.
const momentum = 0.9

var errNoRuntime = errors.New("nets are trained by ONNX Runtime, which this build cannot run (built without a C compiler, " +
	"CGO_ENABLED=0); want a build with one, or train a pca")

// set is windows and what a net should make of them, one after the other.
type set struct {
	x, y []float64
	n    int
}

// curve is the losses after each pass.
type curve struct{ training, validation []float64 }

// descent trains one net.
type descent struct {
	net    Net
	seed   int64
	graph  *ort.Graph
	batch  int
	x, y   *ort.Tensor
	rate   *ort.Tensor
	loss   *ort.Tensor
	state  [2][]*ort.Tensor // now and next; a step swaps them
	in     []*ort.Tensor
	out    []*ort.Tensor
	step   int
	target int // the width of y
}

// lossOf writes what is to fall, from the net's last layer and what is wanted.
type lossOf func(b *onnx.Builder, got, want onnx.Value) onnx.Value

// newDescent builds the graph of a step and opens it.
func (t *Trainer) newDescent(ctx context.Context, c *Net, d *dense, windows int, loss lossOf) (*descent, error) {
	if !ort.Available || t.runtime.Library == nil {
		return nil, fmt.Errorf("%w: %w", pipeline.ErrConfig, errNoRuntime)
	}
	s := &descent{net: *c, seed: t.config.Seed, batch: min(c.Batch, windows), target: d.sizes[len(d.sizes)-1]}
	b := onnx.NewBuilder("step")
	x := b.Input("x", onnx.Float32, onnx.Fixed(s.batch), onnx.Fixed(d.sizes[0]))
	y := b.Input("y", onnx.Float32, onnx.Fixed(s.batch), onnx.Fixed(s.target))
	var parameters []onnx.Value
	got := d.layers(b, x, func(name string, _ int, sizes ...int) onnx.Value {
		var shape onnx.Shape
		for _, n := range sizes {
			shape = append(shape, onnx.Fixed(n))
		}
		parameters = append(parameters, b.Input(name, onnx.Float32, shape...))
		return parameters[len(parameters)-1]
	})
	var optimizer onnx.Optimizer = onnx.Adam{Beta1: beta1, Beta2: beta2, Epsilon: 1e-8}
	if c.Optimizer == SGD {
		optimizer = onnx.Momentum{Decay: momentum}
	}
	state := b.Step(loss(b, got, y), parameters, optimizer)
	m, err := b.Model("tailrace", nil)
	if err != nil {
		return nil, err
	}
	if s.graph, err = ort.OpenGraph(ctx, "step of "+t.config.Name, m.Marshal(), t.runtime.Library); err != nil {
		return nil, err
	}
	if err := s.allocate(x, y, state); err != nil {
		return nil, errors.Join(err, s.graph.Close())
	}
	return s, nil
}

// The moments of Adam, from its paper.
const beta1, beta2 = 0.9, 0.999

func (s *descent) allocate(x, y onnx.Value, state []onnx.Value) (err error) {
	one := func(shape onnx.Shape) *ort.Tensor {
		var sizes []int64
		for _, d := range shape {
			sizes = append(sizes, d.Size)
		}
		t, fault := s.graph.Tensor(sizes...)
		err = errors.Join(err, fault)
		return t
	}
	s.x, s.y = one(x.Shape), one(y.Shape)
	s.rate, s.loss = one(onnx.Shape{onnx.Fixed(1)}), one(onnx.Shape{onnx.Fixed(1)})
	for i := range s.state {
		for _, v := range state {
			s.state[i] = append(s.state[i], one(v.Shape))
		}
	}
	return err
}

// run trains d for so many passes. If watch is not nil, it gives the validation loss after each, and d gets the weights of
// the lowest; the pass that gave it is returned. Else d gets the last.
func (s *descent) run(ctx context.Context, d *dense, data set, epochs int, watch func(*dense) float64, report func(epoch int, loss, validation float64)) (
	best int, c curve, err error) {
	for i, w := range d.weights {
		copy(s.state[0][i].Data, w)
	}
	order := make([]int, data.n)
	for i := range order {
		order[i] = i
	}
	r := rand.New(rand.NewPCG(uint64(s.seed), streamOrder))
	kept, lowest := d.clone(), math.Inf(1)
	for epoch := 1; epoch <= epochs; epoch++ {
		r.Shuffle(len(order), func(i, k int) { order[i], order[k] = order[k], order[i] })
		sum, steps := 0.0, 0
		for lo := 0; lo+s.batch <= len(order); lo += s.batch {
			if err := ctx.Err(); err != nil {
				return 0, c, err
			}
			loss, err := s.once(data, order[lo:lo+s.batch])
			if err != nil {
				return 0, c, err
			}
			sum, steps = sum+loss, steps+1
		}
		for i := range d.weights {
			copy(d.weights[i], s.state[0][i].Data)
		}
		loss, validation := sum/float64(steps), math.NaN()
		if math.IsNaN(loss) || math.IsInf(loss, 0) {
			return 0, c, fmt.Errorf("epoch %d: the loss is %v: want a lower learning_rate than %v", epoch, loss, s.net.LearningRate)
		}
		c.training = append(c.training, loss)
		if watch != nil {
			validation = watch(d)
			c.validation = append(c.validation, validation)
			if validation < lowest {
				best, lowest, kept = epoch, validation, d.clone()
			}
		}
		report(epoch, loss, validation)
		if watch != nil && epoch-best >= s.net.Patience {
			break
		}
	}
	if watch != nil {
		d.weights = kept.weights
	}
	return best, c, nil
}

// once makes one step on the windows at, and returns the loss before it.
func (s *descent) once(data set, at []int) (float64, error) {
	width := len(data.x) / data.n
	for i, w := range at {
		for k, v := range data.x[w*width : (w+1)*width] {
			s.x.Data[i*width+k] = float32(v)
		}
		for k, v := range data.y[w*s.target : (w+1)*s.target] {
			s.y.Data[i*s.target+k] = float32(v)
		}
	}
	s.step++
	rate := s.net.LearningRate
	if s.net.Optimizer == Adam {
		rate *= math.Sqrt(1-math.Pow(beta2, float64(s.step))) / (1 - math.Pow(beta1, float64(s.step)))
	}
	s.rate.Data[0] = float32(rate)
	parameters := s.parameters()
	s.in = append(append(append(append(s.in[:0], s.x, s.y), s.state[0][:parameters]...), s.rate), s.state[0][parameters:]...)
	s.out = append(append(s.out[:0], s.loss), s.state[1]...)
	if err := s.graph.Run(s.in, s.out); err != nil {
		return 0, err
	}
	s.state[0], s.state[1] = s.state[1], s.state[0]
	return float64(s.loss.Data[0]), nil
}

// parameters counts those among the state: the rest are their moments.
func (s *descent) parameters() int {
	if s.net.Optimizer == Adam {
		return len(s.state[0]) / 3
	}
	return len(s.state[0]) / 2
}
