package reference

import (
	"fmt"
	"math"
	"slices"

	"gorgonia.org/tensor"

	"github.com/tailrace/tailrace/operators/onnx"
)

// kernel computes the one output of a node.
type kernel func(*environment, *onnx.Node) (*tensor.Dense, error)

// kernelOf returns the kernel of a node, if this package knows the operator in the form that the node uses.
func kernelOf(n *onnx.Node) (kernel, bool) {
	inputs := 2
	var run kernel
	switch n.Op {
	case "Add":
		run = elementwise(func(x, y float32) float32 { return x + y })
	case "Sub":
		run = elementwise(func(x, y float32) float32 { return x - y })
	case "Mul":
		run = elementwise(func(x, y float32) float32 { return x * y })
	case "Div":
		run = elementwise(func(x, y float32) float32 { return x / y })
	case "Greater":
		run = elementwise(func(x, y float32) bool { return x > y })
	case "Where":
		run, inputs = where, 3
	case "MatMul":
		run = matMul
	case "Gemm":
		if len(n.Inputs) == 3 && len(n.Attrs) == 0 { // as the builder writes a layer: xw + c
			run, inputs = gemm, 3
		}
	case "Relu":
		run, inputs = unary(func(x float64) float64 { return max(x, 0) }), 1
	case "Tanh":
		run, inputs = unary(math.Tanh), 1
	case "Sigmoid":
		run, inputs = unary(func(x float64) float64 { return 1 / (1 + math.Exp(-x)) }), 1
	case "Softmax":
		if n.Int("axis", -1) == 1 {
			run, inputs = softmax, 1
		}
	case "Flatten":
		run, inputs = flatten, 1
	case "Reshape":
		run = reshape
	case "ReduceSum":
		run = reduceSum
	case "Gather":
		run = gather
	}
	ok := run != nil && n.Domain == "" && len(n.Inputs) == inputs && len(n.Outputs) == 1 && n.Outputs[0] != ""
	return run, ok
}

// operands returns the first count inputs of a node.
func (e *environment) operands(n *onnx.Node, count int) ([]*tensor.Dense, error) {
	out := make([]*tensor.Dense, count)
	for i := range out {
		v, err := e.get(n.Inputs[i])
		if err != nil {
			return nil, err
		}
		out[i] = v
	}
	return out, nil
}

func floats(t *tensor.Dense) ([]float32, error) { return values[float32](t) }

// values returns the backing of t in row-major order. A tensor of one value has a backing that is no slice.
func values[T any](t *tensor.Dense) ([]T, error) {
	switch v := t.Data().(type) {
	case []T:
		return v, nil
	case T:
		return []T{v}, nil
	}
	return nil, fmt.Errorf("want %T, got %s", *new(T), t.Dtype())
}

func matMul(e *environment, n *onnx.Node) (*tensor.Dense, error) {
	in, err := e.operands(n, 2)
	if err != nil {
		return nil, err
	}
	if len(in[0].Shape()) != 2 || len(in[1].Shape()) != 2 {
		return nil, fmt.Errorf("%w: want two matrices, got %v and %v", onnx.ErrUnsupported, in[0].Shape(), in[1].Shape())
	}
	return in[0].MatMul(in[1])
}

// elementwise applies f to operands that broadcast.
func elementwise[R float32 | bool](f func(x, y float32) R) kernel {
	return func(e *environment, n *onnx.Node) (*tensor.Dense, error) {
		in, err := e.operands(n, 2)
		if err != nil {
			return nil, err
		}
		x, err := floats(in[0])
		if err != nil {
			return nil, err
		}
		y, err := floats(in[1])
		if err != nil {
			return nil, err
		}
		shape, err := broadcast(in[0].Shape(), in[1].Shape())
		if err != nil {
			return nil, err
		}
		out := make([]R, size(shape))
		if slices.Equal(in[0].Shape(), in[1].Shape()) {
			for i, v := range x {
				out[i] = f(v, y[i])
			}
			return dense(out, shape...), nil
		}
		each(shape, [][]int{strides(in[0].Shape(), shape), strides(in[1].Shape(), shape)}, func(i int, at []int) {
			out[i] = f(x[at[0]], y[at[1]])
		})
		return dense(out, shape...), nil
	}
}

func where(e *environment, n *onnx.Node) (*tensor.Dense, error) {
	in, err := e.operands(n, 3)
	if err != nil {
		return nil, err
	}
	cond, err := values[bool](in[0])
	if err != nil {
		return nil, err
	}
	x, err := floats(in[1])
	if err != nil {
		return nil, err
	}
	y, err := floats(in[2])
	if err != nil {
		return nil, err
	}
	shape, err := broadcast(in[1].Shape(), in[2].Shape())
	if err == nil {
		shape, err = broadcast(in[0].Shape(), shape)
	}
	if err != nil {
		return nil, err
	}
	out := make([]float32, size(shape))
	steps := [][]int{strides(in[0].Shape(), shape), strides(in[1].Shape(), shape), strides(in[2].Shape(), shape)}
	each(shape, steps, func(i int, at []int) {
		if cond[at[0]] {
			out[i] = x[at[1]]
		} else {
			out[i] = y[at[2]]
		}
	})
	return dense(out, shape...), nil
}

func flatten(e *environment, n *onnx.Node) (*tensor.Dense, error) {
	in, err := e.operands(n, 1)
	if err != nil {
		return nil, err
	}
	x, err := floats(in[0])
	if err != nil {
		return nil, err
	}
	if axis := n.Int("axis", 1); axis != 1 || len(in[0].Shape()) < 2 {
		return nil, fmt.Errorf("%w: want axis 1 of two dimensions or more, got axis %d of %v",
			onnx.ErrUnsupported, axis, in[0].Shape())
	}
	first := in[0].Shape()[0]
	return dense(x, first, len(x)/first), nil
}

func reshape(e *environment, n *onnx.Node) (*tensor.Dense, error) {
	in, err := e.operands(n, 1)
	if err != nil {
		return nil, err
	}
	x, err := floats(in[0])
	if err != nil {
		return nil, err
	}
	to, err := e.ints(n.Inputs[1])
	if err != nil {
		return nil, err
	}
	shape := make([]int, len(to.values))
	for i, d := range to.values {
		switch {
		case d > 0 && d <= int64(len(x)):
			shape[i] = int(d)
		case d == 0 && i < len(in[0].Shape()):
			shape[i] = in[0].Shape()[i]
		default:
			return nil, fmt.Errorf("%w: size %d of %v", onnx.ErrUnsupported, d, to.values)
		}
	}
	if !multiplyTo(shape, len(x)) {
		return nil, fmt.Errorf("want the size of %v, got %v", in[0].Shape(), shape)
	}
	return dense(x, shape...), nil
}

// multiplyTo tells whether the sizes multiply to n, without overflow.
func multiplyTo(shape []int, n int) bool {
	p := 1
	for _, d := range shape {
		if d < 1 || p > n/d {
			return false
		}
		p *= d
	}
	return p == n
}

// reduceSum sums over one axis. Each sum runs in the order of the axis, in float32.
func reduceSum(e *environment, n *onnx.Node) (*tensor.Dense, error) {
	in, err := e.operands(n, 1)
	if err != nil {
		return nil, err
	}
	x, err := floats(in[0])
	if err != nil {
		return nil, err
	}
	outer, length, inner, axis, err := e.axis(in[0], n.Inputs[1])
	if err != nil {
		return nil, err
	}
	out := make([]float32, outer*inner)
	for o := range outer {
		to := out[o*inner : (o+1)*inner]
		for l := range length {
			from := x[(o*length+l)*inner:]
			for i := range to {
				to[i] += from[i]
			}
		}
	}
	shape := slices.Clone([]int(in[0].Shape()))
	if n.Int("keepdims", 1) == 1 {
		shape[axis] = 1
	} else {
		shape = slices.Delete(shape, axis, axis+1)
	}
	return dense(out, shape...), nil
}

// axis splits the sizes of x at the one axis that the constant name holds.
func (e *environment) axis(x *tensor.Dense, name string) (outer, length, inner, axis int, err error) {
	constant, err := e.ints(name)
	if err != nil {
		return
	}
	axes := constant.values
	shape := x.Shape()
	if len(axes) != 1 || axes[0] < 0 || axes[0] >= int64(len(shape)) {
		err = fmt.Errorf("%w: want one axis of %v, got %v", onnx.ErrUnsupported, shape, axes)
		return
	}
	axis = int(axes[0])
	return size(shape[:axis]), shape[axis], size(shape[axis+1:]), axis, nil
}

// gather takes the slice at one index of an axis.
func gather(e *environment, n *onnx.Node) (*tensor.Dense, error) {
	in, err := e.operands(n, 1)
	if err != nil {
		return nil, err
	}
	x, err := floats(in[0])
	if err != nil {
		return nil, err
	}
	index, err := e.ints(n.Inputs[1])
	if err != nil {
		return nil, err
	}
	shape, axis := in[0].Shape(), n.Int("axis", 0)
	if axis < 0 || axis >= int64(len(shape)) || index.rank != 0 ||
		index.values[0] < 0 || index.values[0] >= int64(shape[axis]) {
		return nil, fmt.Errorf("%w: want one index of axis %d of %v, got %v", onnx.ErrUnsupported, axis, shape, index.values)
	}
	outer, length, inner := size(shape[:axis]), shape[axis], size(shape[axis+1:])
	out := make([]float32, 0, outer*inner)
	for o := range outer {
		from := (o*length + int(index.values[0])) * inner
		out = append(out, x[from:from+inner]...)
	}
	return dense(out, slices.Delete(slices.Clone([]int(shape)), int(axis), int(axis)+1)...), nil
}

func size(shape []int) int {
	n := 1
	for _, d := range shape {
		n *= d
	}
	return n
}

// broadcast returns the shape that two shapes meet in.
func broadcast(x, y []int) ([]int, error) {
	if len(x) < len(y) {
		x, y = y, x
	}
	out := slices.Clone(x)
	for i, d := range y {
		at := len(x) - len(y) + i
		switch {
		case out[at] == d || d == 1:
		case out[at] == 1:
			out[at] = d
		default:
			return nil, fmt.Errorf("want shapes that broadcast, got %v and %v", x, y)
		}
	}
	return out, nil
}

// strides are the steps through an operand of shape from for each dimension of the shape to: 0 where it is repeated.
func strides(from, to []int) []int {
	out := make([]int, len(to))
	step := 1
	for i := len(from) - 1; i >= 0; i-- {
		if from[i] != 1 {
			out[len(to)-len(from)+i] = step
		}
		step *= from[i]
	}
	return out
}

// each calls use for every element of a shape in row-major order, with the place in each operand.
func each(shape []int, steps [][]int, use func(i int, at []int)) {
	index, at := make([]int, len(shape)), make([]int, len(steps))
	for i := range size(shape) {
		use(i, at)
		for d := len(shape) - 1; d >= 0; d-- {
			index[d]++
			for k := range steps {
				at[k] += steps[k][d]
			}
			if index[d] < shape[d] {
				break
			}
			for k := range steps {
				at[k] -= steps[k][d] * shape[d]
			}
			index[d] = 0
		}
	}
}
