package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/tailrace/tailrace/deploy/native"
	"github.com/tailrace/tailrace/operators/onnx"
	"github.com/tailrace/tailrace/operators/ort"
)

// The task. bench/peers/gorgonia holds the same; that both start at the same loss shows it.
const (
	batch        = 64
	learningRate = 0.001
	seed         = 1
	checkedSteps = 100 // before the clock starts
	// Adam's, which gorgonia has by default.
	beta1, beta2 = 0.9, 0.999
)

const (
	// leastRatio is what training promises over the peer.
	leastRatio = 5
	// firstApart is how far the first losses may lie apart, relative: the sums of float32 in another order.
	firstApart = 1e-4
	// checkedApart is the same after checkedSteps, through which small differences grow.
	checkedApart = 1e-2
)

type trainingConfig struct {
	seconds float64
	rounds  int
	// peer is the folder of the peer's module.
	peer string
	log  io.Writer
}

// trained is what one side did in one round; the peer prints it.
type trained struct {
	Name           string  `json:"name"`
	Version        string  `json:"version"`
	Steps          int     `json:"steps"`
	Seconds        float64 `json:"seconds"`
	StepsPerSecond float64 `json:"steps_per_second"`
	LossFirst      float64 `json:"loss_first"`
	// LossChecked is that of step checkedSteps, which both sides do before the clock starts.
	LossChecked float64 `json:"loss_checked"`
	LossLast    float64 `json:"loss_last"`
}

// trainingResult is the JSON object of the benchmark.
type trainingResult struct {
	Benchmark string `json:"benchmark"`
	Go        string `json:"go"`
	CPUs      int    `json:"cpus"`
	// Procs is GOMAXPROCS of both sides. Ours computes on one thread whatever it is.
	Procs  int       `json:"gomaxprocs"`
	Ours   []trained `json:"ours"`
	Theirs []trained `json:"theirs"`
	// The medians over the rounds.
	OursStepsPerSecond   float64 `json:"ours_steps_per_second"`
	TheirsStepsPerSecond float64 `json:"theirs_steps_per_second"`
	// Ratio is the one median by the other.
	Ratio      float64 `json:"ratio"`
	LeastRatio float64 `json:"least_ratio"`
	// Faults are the gates that failed.
	Faults []string `json:"faults"`
}

// training measures steps a second of the dense autoencoder on both sides in turn.
func training(ctx context.Context, c trainingConfig) (_ *trainingResult, err error) {
	if g, err := newTrainer(ctx); err != nil { // a build that runs no graphs says so before it builds the peer
		return nil, err
	} else if err := g.graph.Close(); err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "tailrace-bench-")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	peer := filepath.Join(dir, "peer")
	build := exec.CommandContext(ctx, "go", "build", "-o", peer, ".")
	build.Dir = c.peer
	build.Env = append(os.Environ(), "GOWORK=off")
	if said, err := build.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("build the peer in %s (run this in the repository's root, or name it with --peer): %w: %s",
			c.peer, err, strings.TrimSpace(string(said)))
	}
	r := &trainingResult{
		Benchmark: "training", Go: runtime.Version(), CPUs: runtime.NumCPU(), Procs: runtime.GOMAXPROCS(0),
		LeastRatio: leastRatio, Faults: []string{},
	}
	for round := range c.rounds {
		ours, err := trainOurs(ctx, c.seconds)
		if err != nil {
			return nil, err
		}
		theirs, err := trainTheirs(ctx, peer, c.seconds)
		if err != nil {
			return nil, err
		}
		fmt.Fprintf(c.log, "round %d: %s %.0f steps/s, %s %s %.0f steps/s\n",
			round+1, ours.Name, ours.StepsPerSecond, theirs.Name, theirs.Version, theirs.StepsPerSecond)
		r.Ours, r.Theirs = append(r.Ours, ours), append(r.Theirs, theirs)
		if r.Faults = wrong(ours, theirs); len(r.Faults) > 0 {
			return r, nil // times of wrong results say nothing
		}
	}
	r.OursStepsPerSecond, r.TheirsStepsPerSecond = medianSpeed(r.Ours), medianSpeed(r.Theirs)
	r.Ratio = r.OursStepsPerSecond / r.TheirsStepsPerSecond
	fmt.Fprintf(c.log, "medians: %.0f and %.0f steps/s, ratio %.2f (at least %d is wanted)\n",
		r.OursStepsPerSecond, r.TheirsStepsPerSecond, r.Ratio, leastRatio)
	if !(r.Ratio >= leastRatio) {
		r.Faults = append(r.Faults, fmt.Sprintf("the ratio is %.2f, want at least %d", r.Ratio, leastRatio))
	}
	return r, nil
}

// wrong tells what is wrong with what both sides computed: they do the same task, so their losses agree, and fall.
func wrong(ours, theirs trained) []string {
	faults := []string{}
	for _, t := range []trained{ours, theirs} {
		if !(t.LossChecked < t.LossFirst/2) || !(t.LossLast < t.LossChecked) { // not a number falls neither
			faults = append(faults, fmt.Sprintf("%s: the loss does not fall: %g at first, %g after %d steps, %g at last",
				t.Name, t.LossFirst, t.LossChecked, checkedSteps, t.LossLast))
		}
	}
	for _, p := range []struct {
		at           string
		ours, theirs float64
		apart        float64
	}{
		{"the first loss", ours.LossFirst, theirs.LossFirst, firstApart},
		{fmt.Sprintf("the loss of step %d", checkedSteps), ours.LossChecked, theirs.LossChecked, checkedApart},
	} {
		if !(math.Abs(p.ours-p.theirs) <= p.apart*math.Abs(p.theirs)) {
			faults = append(faults, fmt.Sprintf("%s: %g and %g lie further apart than %g of it", p.at, p.ours, p.theirs, p.apart))
		}
	}
	return faults
}

func medianSpeed(rounds []trained) float64 {
	return medianOf(rounds, func(t trained) float64 { return t.StepsPerSecond })
}

func trainTheirs(ctx context.Context, program string, seconds float64) (t trained, err error) {
	var said strings.Builder
	command := exec.CommandContext(ctx, program, "-seconds", fmt.Sprint(seconds))
	command.Env = append(os.Environ(), fmt.Sprint("GOMAXPROCS=", runtime.GOMAXPROCS(0)))
	command.Stderr = &said
	out, err := command.Output()
	if err != nil {
		return t, fmt.Errorf("the peer: %w: %s", err, strings.TrimSpace(said.String()))
	}
	if err := json.Unmarshal(out, &t); err != nil {
		return t, fmt.Errorf("the peer's output: %w", err)
	}
	return t, nil
}

// trainOurs does checkedSteps, then as many steps as fit into seconds.
func trainOurs(ctx context.Context, seconds float64) (_ trained, err error) {
	t := trained{Name: "tailrace"}
	for _, l := range native.Manifest() {
		if l.Name == native.ONNXRuntime {
			t.Version = "onnxruntime " + l.Version
		}
	}
	g, err := newTrainer(ctx)
	if err != nil {
		return t, err
	}
	defer func() { err = errors.Join(err, g.graph.Close()) }()
	for i := range checkedSteps {
		if err := g.step(); err != nil {
			return t, err
		}
		if i == 0 {
			t.LossFirst = g.loss()
		}
	}
	t.LossChecked = g.loss()
	start := time.Now()
	for time.Since(start).Seconds() < seconds {
		if err := g.step(); err != nil {
			return t, err
		}
		t.Steps++
	}
	t.Seconds = time.Since(start).Seconds()
	t.StepsPerSecond, t.LossLast = float64(t.Steps)/t.Seconds, g.loss()
	return t, ctx.Err()
}

// trainer steps a graph. The state that one step writes, the next one reads.
type trainer struct {
	graph *ort.Graph
	// in and out are the arguments of even and of odd steps; the loss is the first of out.
	in, out [2][]*ort.Tensor
	rate    *ort.Tensor
	n       int
}

func (g *trainer) step() error {
	g.n++
	t := float64(g.n)
	g.rate.Data[0] = float32(learningRate * math.Sqrt(1-math.Pow(beta2, t)) / (1 - math.Pow(beta1, t)))
	return g.graph.Run(g.in[g.n%2], g.out[g.n%2])
}

func (g *trainer) loss() float64 { return float64(g.out[g.n%2][0].Data[0]) }

// newTrainer builds the autoencoder with the update of its parameters by Adam, and opens it.
func newTrainer(ctx context.Context) (_ *trainer, err error) {
	sizes := []int{64, 128, 64, 16, 64, 128, 64} // the input, then each layer
	b := onnx.NewBuilder("autoencoder")
	x := b.Input("x", onnx.Float32, onnx.Fixed(batch), onnx.Fixed(sizes[0]))
	h := x
	var parameters []onnx.Value
	for l := 1; l < len(sizes); l++ {
		name := fmt.Sprint("layer", l)
		w := b.Input(name+"_w", onnx.Float32, onnx.Fixed(sizes[l-1]), onnx.Fixed(sizes[l]))
		c := b.Input(name+"_c", onnx.Float32, onnx.Fixed(sizes[l]))
		parameters = append(parameters, w, c)
		h = b.Linear(name, h, w, c)
		if l < len(sizes)-1 {
			h = b.Relu(name+"_relu", h)
		}
	}
	state := b.Step(b.MeanSquared("loss", h, x), parameters, onnx.Adam{Beta1: beta1, Beta2: beta2, Epsilon: 1e-8})
	m, err := b.Model("tailrace", nil)
	if err != nil {
		return nil, err
	}
	graph, err := ort.OpenGraph(ctx, "autoencoder", m.Marshal(), func(ctx context.Context) (string, error) {
		return native.Resolve(ctx, native.ONNXRuntime, native.Options{})
	})
	if err != nil {
		return nil, err
	}
	g := &trainer{graph: graph}
	if err := g.makeTensors(x, parameters, state); err != nil {
		return nil, errors.Join(err, graph.Close())
	}
	return g, nil
}

// makeTensors makes the data, then the weights, from one seed in that order, as the peer does; the rest starts at zero.
func (g *trainer) makeTensors(x onnx.Value, parameters, state []onnx.Value) error {
	var errs []error
	tensor := func(s onnx.Shape) *ort.Tensor {
		var sizes []int64
		for _, d := range s {
			sizes = append(sizes, d.Size)
		}
		t, err := g.graph.Tensor(sizes...)
		errs = append(errs, err)
		return t
	}
	one := onnx.Shape{onnx.Fixed(1)}
	data, rate, loss := tensor(x.Shape), tensor(one), tensor(one)
	var states [2][]*ort.Tensor
	for k := range states {
		for _, v := range state {
			states[k] = append(states[k], tensor(v.Shape))
		}
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	r := rand.New(rand.NewPCG(seed, seed))
	fill := func(values []float32, deviation float64) {
		for i := range values {
			values[i] = float32(deviation * r.NormFloat64())
		}
	}
	fill(data.Data, 1)
	g.rate = rate
	for i, p := range parameters {
		if len(p.Shape) == 2 {
			fill(states[1][i].Data, math.Sqrt(2/float64(p.Shape[0].Size+p.Shape[1].Size)))
		}
	}
	n := len(parameters)
	for k, s := range states { // the first step is an odd one
		g.in[k] = slices.Concat([]*ort.Tensor{data}, s[:n], []*ort.Tensor{rate}, s[n:])
		g.out[k] = slices.Concat([]*ort.Tensor{loss}, states[1-k])
	}
	return nil
}
