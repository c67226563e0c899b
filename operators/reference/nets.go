package reference

import (
	"fmt"
	"math"
	"slices"

	"gorgonia.org/tensor"

	"github.com/tailrace/tailrace/operators/onnx"
)

// gemm is the matrix product plus a row.
func gemm(e *environment, n *onnx.Node) (*tensor.Dense, error) {
	product, err := matMul(e, n)
	if err != nil {
		return nil, err
	}
	y, err := floats(product)
	if err != nil {
		return nil, err
	}
	bias, err := e.get(n.Inputs[2])
	if err != nil {
		return nil, err
	}
	c, err := floats(bias)
	if err != nil {
		return nil, err
	}
	if width := product.Shape()[1]; len(c) != width {
		return nil, fmt.Errorf("%w: want a bias of %d values, got %v", onnx.ErrUnsupported, width, bias.Shape())
	}
	for i := range y {
		y[i] += c[i%len(c)]
	}
	return dense(y, product.Shape()...), nil
}

// unary applies f to every value.
func unary(f func(float64) float64) kernel {
	return func(e *environment, n *onnx.Node) (*tensor.Dense, error) {
		in, err := e.operands(n, 1)
		if err != nil {
			return nil, err
		}
		x, err := floats(in[0])
		if err != nil {
			return nil, err
		}
		out := make([]float32, len(x))
		for i, v := range x {
			out[i] = float32(f(float64(v)))
		}
		return dense(out, in[0].Shape()...), nil
	}
}

// softmax takes the largest value of a row off before it raises, so that nothing overflows.
func softmax(e *environment, n *onnx.Node) (*tensor.Dense, error) {
	in, err := e.operands(n, 1)
	if err != nil {
		return nil, err
	}
	x, err := floats(in[0])
	if err != nil {
		return nil, err
	}
	if len(in[0].Shape()) != 2 {
		return nil, fmt.Errorf("%w: want a matrix, got %v", onnx.ErrUnsupported, in[0].Shape())
	}
	out, width := make([]float32, len(x)), in[0].Shape()[1]
	for lo := 0; lo < len(x); lo += width {
		row := x[lo : lo+width]
		top, sum := slices.Max(row), 0.0
		for _, v := range row {
			sum += math.Exp(float64(v - top))
		}
		for i, v := range row {
			out[lo+i] = float32(math.Exp(float64(v-top)) / sum)
		}
	}
	return dense(out, in[0].Shape()...), nil
}
