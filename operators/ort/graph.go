//go:build cgo

package ort

import (
	"context"
	"errors"
	"fmt"
	"runtime"

	ortgo "github.com/yalue/onnxruntime_go"

	"github.com/tailrace/tailrace/operators/onnx"
	"github.com/tailrace/tailrace/pipeline"
)

// Graph is a model of any float32 inputs and outputs, run over tensors that its caller makes once and passes again. It is
// for one goroutine.
type Graph struct {
	name    string
	in, out []onnx.ValueInfo
	session *ortgo.DynamicAdvancedSession
	// tensors are closed with the graph.
	tensors []*Tensor
	// values are the arguments of a run, kept so that a run allocates nothing here.
	values []ortgo.Value
}

// Tensor is memory that graphs read and write.
type Tensor struct {
	Data   []float32
	value  ortgo.Value
	pinner runtime.Pinner
}

// OpenGraph opens a model whose inputs and outputs are float32. Close frees it.
func OpenGraph(ctx context.Context, name string, modelFile []byte, libraryPath LibraryPath) (*Graph, error) {
	m, err := onnx.Parse(modelFile)
	if err != nil {
		return nil, fmt.Errorf("graph %s: %w: %w", name, pipeline.ErrConfig, err)
	}
	g := &Graph{name: name}
	g.in, g.out = m.Signature()
	if err := load(ctx, libraryPath); err != nil {
		return nil, fmt.Errorf("onnxruntime: %w", err)
	}
	g.values = make([]ortgo.Value, len(g.in)+len(g.out))
	if g.session, err = newSession(modelFile, g.in, g.out); err != nil {
		return nil, fmt.Errorf("graph %s on onnxruntime: %w: %w", name, pipeline.ErrConfig, err)
	}
	return g, nil
}

// Tensor makes a tensor of zeros that lives until Close. C keeps its address, so its memory is pinned. There are no tensors
// without sizes: the library does not tell C what is set in one.
func (g *Graph) Tensor(sizes ...int64) (*Tensor, error) {
	n := int64(min(len(sizes), 1))
	for _, d := range sizes {
		n *= max(d, 0)
	}
	if n < 1 {
		return nil, fmt.Errorf("graph %s: want sizes above 0, got %v", g.name, sizes)
	}
	t := &Tensor{Data: make([]float32, n)}
	t.pinner.Pin(&t.Data[0])
	v, err := ortgo.NewTensor(ortgo.Shape(sizes), t.Data)
	if err != nil {
		t.pinner.Unpin()
		return nil, fmt.Errorf("graph %s on onnxruntime: %w", g.name, err)
	}
	t.value = v
	g.tensors = append(g.tensors, t)
	return t, nil
}

// Run computes out from in, in the order of the model's inputs and outputs. No tensor may be in both.
func (g *Graph) Run(in, out []*Tensor) error {
	if len(in) != len(g.in) || len(out) != len(g.out) {
		return fmt.Errorf("graph %s: want %d inputs and %d outputs, got %d and %d", g.name, len(g.in), len(g.out), len(in), len(out))
	}
	for i, t := range in {
		g.values[i] = t.value
	}
	for i, t := range out {
		g.values[len(in)+i] = t.value
	}
	if err := g.session.Run(g.values[:len(in)], g.values[len(in):]); err != nil {
		return fmt.Errorf("graph %s on onnxruntime: %w", g.name, err)
	}
	return nil
}

// Close frees the graph and its tensors; their data are then no longer ONNX Runtime's.
func (g *Graph) Close() error {
	var errs []error
	for _, t := range g.tensors {
		errs = append(errs, t.value.Destroy())
		t.pinner.Unpin()
	}
	g.tensors = nil
	return errors.Join(append(errs, g.session.Destroy())...)
}
