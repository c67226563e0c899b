// Package reference runs ONNX models in plain Go on gorgonia.org/tensor. It needs no shared library, knows only the
// operators that operators/onnx writes, and follows their definitions without shortcuts: it is the oracle for other
// backends, and what scores where there is no C compiler.
//
// Source: the ONNX operator definitions, opset 13.
package reference

import (
	"context"
	"fmt"

	// tensor panics at start on a Go version that this package does not know yet; the module's version here knows all.
	_ "go4.org/unsafe/assume-no-moving-gc"
	"gorgonia.org/tensor"

	"github.com/tailrace/tailrace/operators/onnx"
	"github.com/tailrace/tailrace/pipeline"
)

// Backend is the name of this backend in a pipeline file.
const Backend = "reference"

// Scorer runs one graph. It holds no state between calls, and calls may run side by side.
type Scorer struct {
	name    string
	input   onnx.ValueInfo
	outputs []onnx.ValueInfo
	nodes   []step
	consts  map[string]*tensor.Dense
	ints    map[string]integers // int64 constants: shapes, axes and indices
}

// integers is an int64 constant.
type integers struct {
	values []int64
	rank   int // 0 for a scalar
}

// step is a node with its kernel.
type step struct {
	node *onnx.Node
	run  kernel
}

var _ pipeline.Scorer = (*Scorer)(nil)

// New makes a Scorer. A model that needs an operator that is not known here is refused, naming the operator; the error
// wraps [onnx.ErrUnsupported] and [pipeline.ErrConfig].
func New(_ context.Context, spec pipeline.ScorerSpec) (pipeline.Scorer, error) {
	s, err := compile(spec)
	if err != nil {
		return nil, fmt.Errorf("model %s on the reference backend: %w: %w", spec.Name, pipeline.ErrConfig, err)
	}
	return s, nil
}

func compile(spec pipeline.ScorerSpec) (*Scorer, error) {
	m, err := onnx.Parse(spec.Model)
	if err != nil {
		return nil, err
	}
	s := &Scorer{name: spec.Name, consts: map[string]*tensor.Dense{}, ints: map[string]integers{}}
	if s.input, err = m.WindowInput(); err != nil {
		return nil, err
	}
	_, s.outputs = m.Signature()
	for i := range m.Graph.Inits {
		if err := s.constant(&m.Graph.Inits[i]); err != nil {
			return nil, err
		}
	}
	for i := range m.Graph.Nodes {
		n := &m.Graph.Nodes[i]
		run, ok := kernelOf(n)
		if !ok {
			return nil, fmt.Errorf("%w: operator %s of node %q with %d inputs and %d outputs",
				onnx.ErrUnsupported, n.Op, n.Name, len(n.Inputs), len(n.Outputs))
		}
		s.nodes = append(s.nodes, step{n, run})
	}
	return s, nil
}

func (s *Scorer) constant(t *onnx.Tensor) error {
	if t.Type == onnx.Int64 {
		values, err := t.Ints()
		s.ints[t.Name] = integers{values, len(t.Dims)}
		return err
	}
	values, err := t.Floats()
	if err != nil {
		return err
	}
	if len(values) == 0 {
		return fmt.Errorf("%w: constant %q is empty", onnx.ErrUnsupported, t.Name)
	}
	shape := make([]int, len(t.Dims))
	for i, d := range t.Dims {
		shape[i] = int(d)
	}
	s.consts[t.Name] = dense(values, shape...)
	return nil
}

// Score runs the graph on x.
func (s *Scorer) Score(ctx context.Context, x *tensor.Dense) (map[string]*tensor.Dense, error) {
	if err := s.input.Accepts(x.Dtype() == tensor.Float32, x.Shape()); err != nil {
		return nil, fmt.Errorf("model %s: %w", s.name, err)
	}
	env := environment{values: map[string]*tensor.Dense{s.input.Name: x}, scorer: s}
	for _, step := range s.nodes {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		out, err := step.run(&env, step.node)
		if err != nil {
			return nil, fmt.Errorf("model %s: node %q (%s): %w", s.name, step.node.Name, step.node.Op, err)
		}
		env.values[step.node.Outputs[0]] = out
	}
	outputs := make(map[string]*tensor.Dense, len(s.outputs))
	for _, o := range s.outputs {
		v, err := env.get(o.Name)
		if err != nil {
			return nil, fmt.Errorf("model %s: output: %w", s.name, err)
		}
		if v == x {
			v = v.Clone().(*tensor.Dense) // x is only lent
		}
		outputs[o.Name] = v
	}
	return outputs, nil
}

// Info says what runs.
func (s *Scorer) Info() pipeline.ScorerInfo {
	return pipeline.ScorerInfo{Backend: Backend, Provider: "cpu"}
}

// Close does nothing: the scorer holds memory only.
func (s *Scorer) Close() error { return nil }

// environment holds the values of one run.
type environment struct {
	values map[string]*tensor.Dense
	scorer *Scorer
}

func (e *environment) get(name string) (*tensor.Dense, error) {
	if v, ok := e.values[name]; ok {
		return v, nil
	}
	if v, ok := e.scorer.consts[name]; ok {
		return v, nil
	}
	return nil, fmt.Errorf("%w: value %q is no float32 or bool tensor", onnx.ErrUnsupported, name)
}

// ints returns an int64 constant, which shapes and axes must be.
func (e *environment) ints(name string) (integers, error) {
	v, ok := e.scorer.ints[name]
	if !ok {
		return v, fmt.Errorf("%w: value %q is no int64 constant", onnx.ErrUnsupported, name)
	}
	return v, nil
}

// dense wraps values, without a copy, as a tensor of a shape.
func dense[T float32 | bool](values []T, shape ...int) *tensor.Dense {
	return tensor.New(tensor.WithShape(shape...), tensor.WithBacking(values))
}
