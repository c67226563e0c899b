package onnx

import "slices"

// Relu gives max(x, 0).
func (b *Builder) Relu(name string, x Value) Value { return b.unary("Relu", name, x) }

// Tanh gives the hyperbolic tangent of x.
func (b *Builder) Tanh(name string, x Value) Value { return b.unary("Tanh", name, x) }

// Sigmoid gives 1 / (1 + e^-x).
func (b *Builder) Sigmoid(name string, x Value) Value { return b.unary("Sigmoid", name, x) }

// Exp gives e^x.
func (b *Builder) Exp(name string, x Value) Value { return b.unary("Exp", name, x) }

// Sqrt gives the square root of x.
func (b *Builder) Sqrt(name string, x Value) Value { return b.unary("Sqrt", name, x) }

func (b *Builder) unary(op, name string, x Value, attrs ...Attr) Value {
	if x.Type != Float32 {
		return b.fail(name, "%s: want float32, got %s", op, x.Type)
	}
	return b.node(op, name, Float32, x.Shape, attrs, x)
}

// Softmax gives e^x over its sum, for each row of x [N,K].
func (b *Builder) Softmax(name string, x Value) Value { return b.rowwise("Softmax", name, x) }

// LogSoftmax gives the logarithm of Softmax, also where Softmax is too small for a float32.
func (b *Builder) LogSoftmax(name string, x Value) Value { return b.rowwise("LogSoftmax", name, x) }

func (b *Builder) rowwise(op, name string, x Value) Value {
	if len(x.Shape) != 2 {
		return b.fail(name, "%s: want [N,K], got %s", op, x.Shape)
	}
	return b.unary(op, name, x, integer("axis", 1))
}

// Linear gives xw + c for x [N,K], w [K,M] and c [M].
func (b *Builder) Linear(name string, x, w, c Value) Value {
	if len(c.Shape) != 1 || len(w.Shape) != 2 || c.Shape[0] != w.Shape[1] {
		return b.fail(name, "Linear: want w [K,M] and c [M], got %s and %s", w.Shape, c.Shape)
	}
	return b.gemm(name, x, w, false, false, c)
}

// gemm gives the product of x and y, each transposed if its flag says so, plus an optional bias.
func (b *Builder) gemm(name string, x, y Value, transX, transY bool, bias ...Value) Value {
	for _, v := range append([]Value{x, y}, bias...) {
		if v.Type != Float32 {
			return b.fail(name, "Gemm: want float32, got %s", v.Type)
		}
	}
	if len(x.Shape) != 2 || len(y.Shape) != 2 {
		return b.fail(name, "Gemm: want two matrices, got %s and %s", x.Shape, y.Shape)
	}
	left, right := slices.Clone(x.Shape), slices.Clone(y.Shape)
	var attrs []Attr
	if transX {
		slices.Reverse(left)
		attrs = append(attrs, integer("transA", 1))
	}
	if transY {
		slices.Reverse(right)
		attrs = append(attrs, integer("transB", 1))
	}
	if left[1] != right[0] {
		return b.fail(name, "Gemm: want [M,K] and [K,N], got %s and %s", left, right)
	}
	return b.node("Gemm", name, Float32, Shape{left[0], right[1]}, attrs, append([]Value{x, y}, bias...)...)
}

// asFloat gives 1 where x is true and 0 where it is not.
func (b *Builder) asFloat(name string, x Value) Value {
	return b.node("Cast", name, Float32, x.Shape, []Attr{integer("to", int64(Float32))}, x)
}

// reshape gives x in another shape of as many elements, whose sizes are fixed.
func (b *Builder) reshape(name string, x Value, to Shape) Value {
	return b.node("Reshape", name, x.Type, to, nil, x, b.shape(name, to))
}

// expand repeats x along the dimensions of to that it has with size 1.
func (b *Builder) expand(name string, x Value, to Shape) Value {
	return b.node("Expand", name, x.Type, to, nil, x, b.shape(name, to))
}

func (b *Builder) shape(name string, s Shape) Value {
	sizes := make([]int64, len(s))
	for i, d := range s {
		sizes[i] = d.Size
	}
	return b.Ints(name+".shape", sizes, len(sizes))
}

// Total gives the sum of all elements of x, a scalar.
func (b *Builder) Total(name string, x Value) Value {
	if x.Type != Float32 {
		return b.fail(name, "ReduceSum: want float32, got %s", x.Type)
	}
	axes := make([]int64, len(x.Shape))
	for i := range axes {
		axes[i] = int64(i)
	}
	at := b.Ints(name+".axes", axes, len(axes))
	return b.node("ReduceSum", name, Float32, Shape{}, []Attr{integer("keepdims", 0)}, x, at)
}

// MeanSquared is the loss mean((x-y)^2) over all elements of two values of one fixed shape, a scalar.
func (b *Builder) MeanSquared(name string, x, y Value) Value {
	if !fixed(x.Shape) || !slices.Equal(x.Shape, y.Shape) {
		return b.fail(name, "MeanSquared: want two values of one fixed shape, got %s and %s", x.Shape, y.Shape)
	}
	e := b.Sub(name+".error", x, y)
	sum := b.Total(name+".sum", b.Mul(name+".squared", e, e))
	return b.Mul(name, sum, b.Scalar(name+".share", 1/float32(elements(x.Shape))))
}

// CrossEntropy is the loss of the classes that logits [N,K] give, against y [N,K], whose rows sum to 1: the mean over the
// rows of -sum(y * log softmax(logits)), a scalar. N and K are fixed.
func (b *Builder) CrossEntropy(name string, logits, y Value) Value {
	if !fixed(logits.Shape) || !slices.Equal(logits.Shape, y.Shape) {
		return b.fail(name, "CrossEntropy: want two values of one fixed shape, got %s and %s", logits.Shape, y.Shape)
	}
	log := b.LogSoftmax(name+".log", logits)
	sum := b.Total(name+".sum", b.Mul(name+".right", y, log))
	return b.Mul(name, sum, b.Scalar(name+".share", -1/float32(logits.Shape[0].Size)))
}

// elements counts the elements of a fixed shape.
func elements(s Shape) int64 {
	n := int64(1)
	for _, d := range s {
		n *= d.Size
	}
	return n
}
