package train

import (
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/tailrace/tailrace/operators/model"
	"github.com/tailrace/tailrace/operators/onnx"
)

// lossCurve is the bundle's picture of a net's training.
const lossCurve = "loss.png"

// netFit is a net that was trained on a part of the windows, with what was measured of them.
type netFit struct {
	scaling scaling
	net     *dense
	curve   curve
	best    int // the pass whose weights were kept
	trained int // windows that it learnt from
}

// task is what an autoencoder and a classifier do not share.
type task struct {
	net    *Net
	sizes  []int
	loss   lossOf
	target func(w window, z []float64) []float64 // what the net should make of a window
	error  func(got, want []float64) float64     // the loss of one window, in float64
}

// set makes the windows into what a net learns from.
func (k *task) set(s *scaling, rows []window) set {
	data := set{n: len(rows)}
	for _, w := range rows {
		z := s.normalize([]window{w})
		data.x, data.y = append(data.x, z...), append(data.y, k.target(w, z)...)
	}
	return data
}

// mean is the loss over a set.
func (k *task) mean(d *dense, data set) float64 {
	in, out, sum := d.sizes[0], d.sizes[len(d.sizes)-1], 0.0
	for i := range data.n {
		sum += k.error(d.apply(data.x[i*in:(i+1)*in]), data.y[i*out:(i+1)*out])
	}
	return sum / float64(data.n)
}

// fitNet trains the net that is kept: the latest windows are held back, and the weights of their lowest loss win. Mean and
// standard deviation are those of the windows that it learns from.
func (t *Trainer) fitNet(ctx context.Context, k *task) (netFit, error) {
	n := len(t.windows)
	from := n - max(1, int(k.net.Validation*float64(n)))
	rest := apart(t.windows, from, n, t.gap(k.net))
	if len(rest) < 2 {
		return netFit{}, fmt.Errorf("validation: want windows at least %d rows before the latest %d, got %d of %d",
			k.net.Gap, n-from, len(rest), n)
	}
	return t.trainNet(ctx, k, rest, t.windows[from:], k.net.Epochs, 1)
}

func (t *Trainer) gap(n *Net) time.Duration { return time.Duration(n.Gap) * t.layout.Grid }

// trainNet trains on rows, stopped by watched if there are any, as one part of what Fit trains.
func (t *Trainer) trainNet(ctx context.Context, k *task, rows, watched []window, epochs, part int) (f netFit, err error) {
	if f.scaling, err = t.fitScaling(rows); err != nil {
		return f, err
	}
	f.net, f.trained = newDense(k.sizes, k.net.Activation, t.config.Seed), len(rows)
	s, err := t.newDescent(ctx, k.net, f.net, len(rows), k.loss)
	if err != nil {
		return f, err
	}
	defer s.graph.Close()
	var watch func(*dense) float64
	if len(watched) > 0 {
		data := k.set(&f.scaling, watched)
		watch = func(d *dense) float64 { return k.mean(d, data) }
	}
	f.best, f.curve, err = s.run(ctx, f.net, k.set(&f.scaling, rows), epochs, watch, func(epoch int, loss, validation float64) {
		if t.runtime.Progress != nil {
			t.runtime.Progress(Progress{
				Part: part, Parts: 1 + t.config.Folds, Epoch: epoch, Epochs: epochs, Windows: len(rows), Loss: loss, Validation: validation,
			})
		}
	})
	return f, err
}

// heldOutNets trains a net for each block of time on the others, as long as the kept one was, and gives every window of
// the block to use, standardized and with what the net makes of it: all windows in their order, by nets that had not seen
// their time.
func (t *Trainer) heldOutNets(ctx context.Context, k *task, epochs int, use func(w window, z, got []float64)) error {
	n := len(t.windows)
	for fold := range t.config.Folds {
		lo, hi := fold*n/t.config.Folds, (fold+1)*n/t.config.Folds
		rest := apart(t.windows, lo, hi, t.gap(k.net))
		if len(rest) < 2 {
			return fmt.Errorf("fold %d of %d: want windows at least %d rows away from it, got %d",
				fold+1, t.config.Folds, k.net.Gap, len(rest))
		}
		f, err := t.trainNet(ctx, k, rest, nil, epochs, 2+fold)
		if err != nil {
			return fmt.Errorf("fold %d of %d: %w", fold+1, t.config.Folds, err)
		}
		for _, w := range t.windows[lo:hi] {
			z := f.scaling.normalize([]window{w})
			use(w, z, f.net.apply(z))
		}
	}
	return nil
}

// outError is the mean squared error in units of its usual size.
const outError = "error"

// fitAutoencoder trains f to give back the windows z, T rows of C channels: the loss is mean((z-f(z))^2). With e = z-f(z)
// and r_c the root mean square of the errors of channel c over windows that the net had not seen,
//
//	error = mean over rows and channels of (e/r_c)^2, so 1 is usual
//
// The score is error over its first configured quantile, the share of a channel its part of the sum. Errors are weighed by
// r_c because a channel that is always given back well says more by a small error than a noisy one by a large.
func (t *Trainer) fitAutoencoder(ctx context.Context, files []model.TrainedFile) (*model.Bundle, error) {
	c, d := len(t.layout.Channels), t.features()
	k := &task{
		net: &t.config.Autoencoder, sizes: slices.Concat([]int{d}, t.config.Autoencoder.Hidden, []int{d}),
		loss:   func(b *onnx.Builder, got, want onnx.Value) onnx.Value { return b.MeanSquared("loss", got, want) },
		target: func(_ window, z []float64) []float64 { return z },
		error: func(got, want []float64) (sum float64) {
			for i, v := range got {
				sum += (v - want[i]) * (v - want[i])
			}
			return sum / float64(len(got))
		},
	}
	f, err := t.fitNet(ctx, k)
	if err != nil {
		return nil, err
	}
	var errors [][]float64
	usual := make([]float64, c)
	err = t.heldOutNets(ctx, k, f.best, func(_ window, z, got []float64) {
		e := make([]float64, d)
		for i, v := range got {
			e[i] = z[i] - v
			usual[i%c] += e[i] * e[i]
		}
		errors = append(errors, e)
	})
	if err != nil {
		return nil, err
	}
	a := &autoencoder{netFit: f, rows: t.layout.Size, weight: make([]float32, c)}
	for i, sum := range usual {
		a.weight[i] = float32(1 / math.Sqrt(sum/float64(len(errors)*t.layout.Size)))
		if w := float64(a.weight[i]); math.IsInf(w, 0) || math.IsNaN(w) {
			return nil, fmt.Errorf("channel %s: want errors that can be measured, got %v", t.layout.Channels[i].Tag, sum)
		}
	}
	scores := make([]float64, len(errors))
	for i, e := range errors {
		scores[i], _ = a.weigh(e)
	}
	a.limit = digits(quantile(scores, t.config.Quantiles[0]), limitDigits)
	graph, err := a.graph(t)
	if err != nil {
		return nil, err
	}
	b, err := t.netBundle(k, &f, graph, files)
	if err != nil {
		return nil, err
	}
	b.Golden = a.golden(t)
	b.Manifest.Outputs = model.Outputs{Score: outScore, Scalars: []string{outError}, Contrib: outContrib, Expected: outExpected}
	b.Manifest.Metrics["error_limit"] = a.limit
	for _, q := range t.config.Quantiles {
		b.Manifest.Thresholds[model.Quantile(q)] = digits(quantile(scores, q)/a.limit, limitDigits)
	}
	_, err = model.Encode(b)
	return b, err
}

// netBundle is what the bundles of nets share.
func (t *Trainer) netBundle(k *task, f *netFit, graph *onnx.Model, files []model.TrainedFile) (*model.Bundle, error) {
	picture, err := drawCurve(t.config.Name+" "+t.config.Version, f.curve, f.best)
	if err != nil {
		return nil, err
	}
	m := t.manifest(graph, f.scaling, files)
	m.Thresholds = map[string]float64{}
	m.Metrics = map[string]float64{
		"epochs": float64(f.best), "training_loss": digits(f.curve.training[f.best-1], limitDigits),
		"validation_loss":  digits(f.curve.validation[f.best-1], limitDigits),
		"training_windows": float64(f.trained), "held_out_windows": float64(len(t.windows)),
	}
	return &model.Bundle{ONNX: graph.Marshal(), Manifest: m, Beside: map[string][]byte{lossCurve: picture}}, nil
}

// autoencoder is everything that its graph and its golden outputs are made of.
type autoencoder struct {
	netFit
	rows   int
	weight []float32 // 1/r_c
	limit  float64   // of error, where the score is 1
}

// weigh gives the error of a window from the differences e, and each channel's part of it.
func (a *autoencoder) weigh(e []float64) (whole float64, parts []float64) {
	parts = make([]float64, len(a.weight))
	for i, v := range e {
		v *= float64(a.weight[i%len(a.weight)])
		parts[i%len(a.weight)] += v * v / float64(len(e))
	}
	for _, v := range parts {
		whole += v
	}
	return whole, parts
}

func (a *autoencoder) graph(t *Trainer) (*onnx.Model, error) {
	c := len(a.weight)
	weights := make([]float32, 0, a.rows*c)
	for range a.rows {
		weights = append(weights, a.weight...)
	}
	b := onnx.NewBuilder("autoencoder")
	x := b.Input("x", onnx.Float32, onnx.Var("N"), onnx.Fixed(a.rows), onnx.Fixed(c))
	z := b.Flatten("z", x)
	recon := a.net.constants(b, z)
	e := b.Mul("weighed", b.Sub("residual", z, recon), b.Floats("weights", weights, a.rows*c))
	parts := b.Sum("channel_parts", b.Unflatten("parts_by_row", b.Mul("parts", e, e), a.rows, c), 1, false)
	sum := b.Sum("sum", parts, 1, true)
	whole := b.Div(outError, sum, b.Scalar("size", float32(a.rows*c)))
	b.Output(b.Div(outScore, whole, b.Scalar("limit", float32(a.limit))))
	b.Output(whole)
	b.Output(b.Div(outContrib, parts, b.Add("whole", sum, b.Scalar("tiny", tiny))))
	b.Output(b.At(outExpected, b.Unflatten("reconstruction_by_row", recon, a.rows, c), 1, a.rows-1))
	return b.Model("tailrace", map[string]string{"name": t.config.Name, "version": t.config.Version, "kind": "autoencoder"})
}

// golden works the outputs of golden windows out in float64: with noise of one and of three standard deviations in turn, so
// that errors are large beside what float32 leaves of a window that is given back well.
func (a *autoencoder) golden(t *Trainer) model.Golden {
	noise := rand.New(rand.NewPCG(uint64(t.config.Seed), 0))
	g := model.Golden{Outputs: map[string][]float32{}}
	put := func(name string, values ...float64) {
		for _, v := range values {
			g.Outputs[name] = append(g.Outputs[name], float32(v))
		}
	}
	n, c := len(t.windows), len(a.weight)
	for k := range goldenRows {
		at := k * (n - 1) / (goldenRows - 1)
		z := a.scaling.normalize(t.windows[at : at+1])
		for i := range z {
			z[i] = float64(float32(z[i] + float64(1+k%2*2)*noise.NormFloat64()))
			g.X = append(g.X, float32(z[i]))
		}
		recon := a.net.apply(z)
		e := make([]float64, len(z))
		for i, v := range recon {
			e[i] = z[i] - v
		}
		whole, parts := a.weigh(e)
		for i := range parts {
			parts[i] /= whole
		}
		g.Rows++
		put(outScore, whole/a.limit)
		put(outError, whole)
		put(outContrib, parts...)
		put(outExpected, recon[len(z)-c:]...)
	}
	return g
}
