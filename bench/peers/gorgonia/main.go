// Gorgonia trains the dense autoencoder of bench/training.go with gorgonia and prints what it did as one JSON object. It is
// a module of its own, so that Tailrace's does not get gorgonia.
package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"runtime/debug"
	"time"

	// The version that go.mod asks for lets tensor start on this Go: the one tensor asks for stops at Go 1.21.
	_ "go4.org/unsafe/assume-no-moving-gc"

	"gorgonia.org/gorgonia"
	"gorgonia.org/tensor"
)

// The task. bench/training.go holds the same; that both start at the same loss shows it.
const (
	batch        = 64
	learningRate = 0.001
	seed         = 1
	checkedSteps = 100 // before the clock starts
)

func main() {
	seconds := flag.Float64("seconds", 3, "time to train for")
	flag.Parse()
	if err := run(*seconds); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(seconds float64) error {
	n, err := build()
	if err != nil {
		return err
	}
	vm := gorgonia.NewTapeMachine(n.graph, gorgonia.BindDualValues(n.parameters...))
	defer vm.Close()
	solver := gorgonia.NewAdamSolver(gorgonia.WithLearnRate(learningRate))
	step := func() error {
		if err := vm.RunAll(); err != nil {
			return err
		}
		if err := solver.Step(gorgonia.NodesToValueGrads(n.parameters)); err != nil {
			return err
		}
		vm.Reset()
		return nil
	}
	loss := func() float32 {
		v, _ := n.loss.Value().Data().(float32)
		return v
	}
	var first float32
	for i := range checkedSteps {
		if err := step(); err != nil {
			return err
		}
		if i == 0 {
			first = loss()
		}
	}
	checked := loss()
	steps, start := 0, time.Now()
	for time.Since(start).Seconds() < seconds {
		if err := step(); err != nil {
			return err
		}
		steps++
	}
	took := time.Since(start).Seconds()
	return json.NewEncoder(os.Stdout).Encode(map[string]any{
		"name": "gorgonia", "version": version(), "steps": steps, "seconds": took, "steps_per_second": float64(steps) / took,
		"loss_first": first, "loss_checked": checked, "loss_last": loss(),
	})
}

// network is the autoencoder with its loss and the gradients of its parameters.
type network struct {
	graph      *gorgonia.ExprGraph
	parameters gorgonia.Nodes
	loss       *gorgonia.Node
}

func build() (*network, error) {
	sizes := []int{64, 128, 64, 16, 64, 128, 64} // the input, then each layer
	r := rand.New(rand.NewPCG(seed, seed))
	n := &network{graph: gorgonia.NewGraph()}
	matrix := func(name string, rows, columns int, deviation float64) *gorgonia.Node {
		values := make([]float32, rows*columns)
		if deviation > 0 {
			for i := range values {
				values[i] = float32(deviation * r.NormFloat64())
			}
		}
		return gorgonia.NewMatrix(n.graph, tensor.Float32, gorgonia.WithShape(rows, columns), gorgonia.WithName(name),
			gorgonia.WithValue(tensor.New(tensor.WithShape(rows, columns), tensor.WithBacking(values))))
	}
	x := matrix("x", batch, sizes[0], 1)
	h := x
	var err error
	for l := 1; l < len(sizes); l++ {
		w := matrix(fmt.Sprint("w", l), sizes[l-1], sizes[l], math.Sqrt(2/float64(sizes[l-1]+sizes[l])))
		c := matrix(fmt.Sprint("c", l), 1, sizes[l], 0)
		n.parameters = append(n.parameters, w, c)
		if h, err = gorgonia.Mul(h, w); err != nil {
			return nil, err
		}
		if h, err = gorgonia.BroadcastAdd(h, c, nil, []byte{0}); err != nil {
			return nil, err
		}
		if l == len(sizes)-1 {
			break
		}
		if h, err = gorgonia.Rectify(h); err != nil {
			return nil, err
		}
	}
	if h, err = gorgonia.Sub(h, x); err != nil {
		return nil, err
	}
	if h, err = gorgonia.Square(h); err != nil {
		return nil, err
	}
	if n.loss, err = gorgonia.Mean(h); err != nil {
		return nil, err
	}
	_, err = gorgonia.Grad(n.loss, n.parameters...)
	return n, err
}

// version is gorgonia's, as linked.
func version() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return ""
	}
	for _, m := range info.Deps {
		if m.Path == "gorgonia.org/gorgonia" {
			return m.Version
		}
	}
	return ""
}
