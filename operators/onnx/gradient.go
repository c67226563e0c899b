package onnx

import (
	"fmt"
	"slices"
)

// Gradients adds the nodes that compute the derivative of loss, a scalar, by each of the values by, in their order and of
// their shapes: reverse accumulation over the nodes that are there. Every shape on the way must be fixed.
//
// It differentiates Gemm, MatMul, Add, Sub, Mul (broadcast or not), ReduceSum, Reshape, Flatten, Relu, Tanh, Sigmoid, Exp,
// Softmax and LogSoftmax; any other operator between loss and by is a mistake that [Builder.Model] reports. The derivative
// of Relu at 0 is 0.
func (b *Builder) Gradients(loss Value, by ...Value) []Value {
	if len(loss.Shape) != 0 || loss.Type != Float32 {
		b.fail(loss.Name, "Gradients: want a scalar float32, got %s %s", loss.Type, loss.Shape)
		return make([]Value, len(by))
	}
	t := &tape{b: b, needed: map[string]bool{}, grads: map[string]Value{}}
	for _, v := range by {
		t.needed[v.Name] = true
	}
	forward := slices.Clone(b.graph.Nodes)
	for _, n := range forward {
		if slices.ContainsFunc(n.Inputs, func(in string) bool { return t.needed[in] }) {
			t.needed[n.Outputs[0]] = true
		}
	}
	t.grads[loss.Name] = b.Scalar(t.name(loss.Name), 1)
	for _, n := range slices.Backward(forward) {
		g, reached := t.grads[n.Outputs[0]]
		if !reached || !t.needed[n.Outputs[0]] || b.err != nil {
			continue
		}
		t.node(n, g)
	}
	out := make([]Value, len(by))
	for i, v := range by {
		g, ok := t.grads[v.Name]
		if !ok {
			b.fail(v.Name, "Gradients: %s does not depend on it", loss.Name)
			return out
		}
		out[i] = g
	}
	return out
}

// tape is one run of Gradients.
type tape struct {
	b      *Builder
	needed map[string]bool  // values that lead from what is differentiated by
	grads  map[string]Value // what has come together so far, in the shape of the value
	count  int
}

// name gives the names of the nodes that are added.
func (t *tape) name(of string) string {
	t.count++
	return fmt.Sprintf("d%d.%s", t.count, of)
}

// node passes g, the derivative by the result of n, on to n's inputs.
func (t *tape) node(n Node, g Value) {
	b, y := t.b, t.b.values[n.Outputs[0]]
	in := make([]Value, len(n.Inputs))
	for i, name := range n.Inputs {
		in[i] = b.values[name]
	}
	switch n.Op {
	case "Gemm", "MatMul":
		t.product(n, in, g)
	case "Add":
		t.give(in[0], func() Value { return g })
		t.give(in[1], func() Value { return g })
	case "Sub":
		t.give(in[0], func() Value { return g })
		t.give(in[1], func() Value { return b.Mul(t.name(n.Name), g, b.Scalar(t.name("minus"), -1)) })
	case "Mul":
		t.give(in[0], func() Value { return b.Mul(t.name(n.Name), g, in[1]) })
		t.give(in[1], func() Value { return b.Mul(t.name(n.Name), g, in[0]) })
	case "ReduceSum":
		t.give(in[0], func() Value { return t.spread(n, g, in[0], in[1]) })
	case "Reshape", "Flatten":
		t.give(in[0], func() Value { return b.reshape(t.name(n.Name), g, in[0].Shape) })
	case "Relu":
		zero := b.Scalar(t.name("zero"), 0)
		t.give(in[0], func() Value {
			return b.Mul(t.name(n.Name), g, b.asFloat(t.name("on"), b.Greater(t.name("above"), y, zero)))
		})
	case "Tanh": // 1 - y^2
		t.give(in[0], func() Value {
			slope := b.Sub(t.name("slope"), b.Scalar(t.name("one"), 1), b.Mul(t.name("squared"), y, y))
			return b.Mul(t.name(n.Name), g, slope)
		})
	case "Sigmoid": // y (1 - y)
		t.give(in[0], func() Value {
			slope := b.Mul(t.name("slope"), y, b.Sub(t.name("rest"), b.Scalar(t.name("one"), 1), y))
			return b.Mul(t.name(n.Name), g, slope)
		})
	case "Exp":
		t.give(in[0], func() Value { return b.Mul(t.name(n.Name), g, y) })
	case "Softmax": // y (g - sum(g y))
		t.give(in[0], func() Value {
			mean := b.Sum(t.name("mean"), b.Mul(t.name("weighed"), g, y), 1, true)
			return b.Mul(t.name(n.Name), y, b.Sub(t.name("off"), g, mean))
		})
	case "LogSoftmax": // g - e^y sum(g)
		t.give(in[0], func() Value {
			sum := b.Sum(t.name("sum"), g, 1, true)
			return b.Sub(t.name(n.Name), g, b.Mul(t.name("shared"), b.Exp(t.name("softmax"), y), sum))
		})
	default:
		b.fail(n.Name, "Gradients: %s: %w", n.Op, ErrUnsupported)
	}
}

// product: y = op(A) op(B) + c gives, for A as it stands, g op(B)', for B op(A)' g, and each the other way round where it
// is transposed.
func (t *tape) product(n Node, in []Value, g Value) {
	transA, transB := n.Int("transA", 0) == 1, n.Int("transB", 0) == 1
	t.give(in[0], func() Value {
		if transA {
			return t.b.gemm(t.name(n.Name), in[1], g, transB, true)
		}
		return t.b.gemm(t.name(n.Name), g, in[1], false, !transB)
	})
	t.give(in[1], func() Value {
		if transB {
			return t.b.gemm(t.name(n.Name), g, in[0], true, transA)
		}
		return t.b.gemm(t.name(n.Name), in[0], g, !transA, false)
	})
	if len(in) == 3 {
		t.give(in[2], func() Value { return g })
	}
}

// spread gives every element of a sum the derivative of the sum.
func (t *tape) spread(n Node, g, x, axes Value) Value {
	kept := slices.Clone(x.Shape)
	at := slices.IndexFunc(t.b.graph.Inits, func(c Tensor) bool { return c.Name == axes.Name })
	if at < 0 || !fixed(x.Shape) {
		return t.b.fail(n.Name, "Gradients: ReduceSum: want constant axes and a fixed shape, got %s", x.Shape)
	}
	over, err := t.b.graph.Inits[at].Ints()
	if err != nil {
		return t.b.fail(n.Name, "Gradients: %w", err)
	}
	for _, axis := range over {
		kept[axis] = Fixed(1)
	}
	if n.Int("keepdims", 1) == 0 {
		g = t.b.reshape(t.name(n.Name), g, kept)
	}
	return t.b.expand(t.name(n.Name), g, x.Shape)
}

// give adds what grad makes to the derivative by x, if that is needed. Where x was broadcast, its share is the sum.
func (t *tape) give(x Value, grad func() Value) {
	if !t.needed[x.Name] {
		return
	}
	g := grad()
	if !fixed(x.Shape) || !fixed(g.Shape) {
		t.b.fail(x.Name, "Gradients: want fixed sizes, got %s", x.Shape)
		return
	}
	for len(g.Shape) > len(x.Shape) {
		g = t.b.Sum(t.name(x.Name), g, 0, false)
	}
	for i, d := range x.Shape {
		if d == Fixed(1) && g.Shape[i] != d {
			g = t.b.Sum(t.name(x.Name), g, i, true)
		}
	}
	if before, ok := t.grads[x.Name]; ok {
		g = t.b.Add(t.name(x.Name), before, g)
	}
	t.grads[x.Name] = g
}
