package onnx

import (
	"fmt"
	"slices"
)

// Builder grows a graph. Its methods return values with their shapes known; the first mistake is kept and reported by
// [Builder.Model], so that a graph reads as a list of formulas. It is for one goroutine.
type Builder struct {
	graph  Graph
	names  map[string]bool
	values map[string]Value
	err    error
}

// Value is a value of the graph that a Builder grows. The zero Value stands for a mistake that was kept.
type Value struct {
	Name  string
	Type  DType
	Shape Shape
}

// NewBuilder starts a graph.
func NewBuilder(name string) *Builder {
	return &Builder{graph: Graph{Name: name}, names: map[string]bool{}, values: map[string]Value{}}
}

// Input adds an input.
func (b *Builder) Input(name string, t DType, shape ...Dim) Value {
	b.name(name)
	b.graph.Inputs = append(b.graph.Inputs, ValueInfo{Name: name, Type: t, Shape: shape})
	return b.keep(Value{Name: name, Type: t, Shape: shape})
}

// keep remembers a value by its name, for those who walk the nodes again.
func (b *Builder) keep(v Value) Value {
	b.values[v.Name] = v
	return v
}

// Floats adds a float32 constant; without sizes it is a scalar.
func (b *Builder) Floats(name string, values []float32, sizes ...int) Value {
	return b.constant(NewFloats(name, values, wide(sizes)...), sizes)
}

// Scalar adds a float32 constant of one value.
func (b *Builder) Scalar(name string, v float32) Value { return b.Floats(name, []float32{v}) }

// Ints adds an int64 constant; without sizes it is a scalar.
func (b *Builder) Ints(name string, values []int64, sizes ...int) Value {
	return b.constant(NewInts(name, values, wide(sizes)...), sizes)
}

func (b *Builder) constant(t Tensor, sizes []int) Value {
	size := 4
	if t.Type == Int64 {
		size = 8
	}
	if _, err := t.elements(t.Type, size); err != nil {
		return b.fail(t.Name, "%w", err)
	}
	b.name(t.Name)
	b.graph.Inits = append(b.graph.Inits, t)
	shape := Shape{}
	for _, n := range sizes {
		shape = append(shape, Fixed(n))
	}
	return b.keep(Value{Name: t.Name, Type: t.Type, Shape: shape})
}

func wide(sizes []int) []int64 {
	var dims []int64
	for _, n := range sizes {
		dims = append(dims, int64(n))
	}
	return dims
}

// Output makes v an output.
func (b *Builder) Output(v Value) {
	b.graph.Outputs = append(b.graph.Outputs, ValueInfo(v))
}

// Model returns the graph as a model, or the first mistake.
func (b *Builder) Model(producer string, metadata map[string]string) (*Model, error) {
	m := &Model{IRVersion: IRVersion, Opset: Opset, Producer: producer, Metadata: metadata, Graph: b.graph}
	if b.err != nil {
		return nil, fmt.Errorf("onnx: graph %s: %w", b.graph.Name, b.err)
	}
	if err := m.Check(); err != nil {
		return nil, fmt.Errorf("onnx: graph %s: %w", b.graph.Name, err)
	}
	return m, nil
}

func (b *Builder) fail(name, format string, args ...any) Value {
	if b.err == nil {
		b.err = fmt.Errorf("%s: %w", name, fmt.Errorf(format, args...))
	}
	return Value{}
}

// name keeps that a name is taken.
func (b *Builder) name(name string) {
	if name == "" || b.names[name] {
		b.fail(name, "want a name of its own, got %q", name)
	}
	b.names[name] = true
}

// node adds a call of op whose one result is called name.
func (b *Builder) node(op, name string, t DType, shape Shape, attrs []Attr, in ...Value) Value {
	b.name(name)
	n := Node{Op: op, Name: name, Outputs: []string{name}, Attrs: attrs}
	for _, v := range in {
		n.Inputs = append(n.Inputs, v.Name)
	}
	b.graph.Nodes = append(b.graph.Nodes, n)
	return b.keep(Value{Name: name, Type: t, Shape: shape})
}

func integer(name string, v int64) Attr { return Attr{Name: name, Kind: AttrInt, Int: v} }

// Add gives x + y, broadcast.
func (b *Builder) Add(name string, x, y Value) Value {
	return b.elementwise("Add", name, Float32, x, y)
}

// Sub gives x - y, broadcast.
func (b *Builder) Sub(name string, x, y Value) Value {
	return b.elementwise("Sub", name, Float32, x, y)
}

// Mul gives x * y, broadcast.
func (b *Builder) Mul(name string, x, y Value) Value {
	return b.elementwise("Mul", name, Float32, x, y)
}

// Div gives x / y, broadcast.
func (b *Builder) Div(name string, x, y Value) Value {
	return b.elementwise("Div", name, Float32, x, y)
}

// Greater gives x > y, broadcast.
func (b *Builder) Greater(name string, x, y Value) Value {
	return b.elementwise("Greater", name, Bool, x, y)
}

func (b *Builder) elementwise(op, name string, result DType, x, y Value) Value {
	if x.Type != Float32 || y.Type != Float32 {
		return b.fail(name, "%s: want two float32, got %s and %s", op, x.Type, y.Type)
	}
	shape, err := Broadcast(x.Shape, y.Shape)
	if err != nil {
		return b.fail(name, "%s: %w", op, err)
	}
	return b.node(op, name, result, shape, nil, x, y)
}

// Where gives x where cond is true and y where it is not, broadcast.
func (b *Builder) Where(name string, cond, x, y Value) Value {
	if cond.Type != Bool || x.Type != Float32 || y.Type != Float32 {
		return b.fail(name, "Where: want bool and two float32, got %s, %s and %s", cond.Type, x.Type, y.Type)
	}
	shape, err := Broadcast(x.Shape, y.Shape)
	if err == nil {
		shape, err = Broadcast(cond.Shape, shape)
	}
	if err != nil {
		return b.fail(name, "Where: %w", err)
	}
	return b.node("Where", name, Float32, shape, nil, cond, x, y)
}

// MatMul gives the matrix product of x [M,K] and y [K,N].
func (b *Builder) MatMul(name string, x, y Value) Value {
	if x.Type != Float32 || y.Type != Float32 || len(x.Shape) != 2 || len(y.Shape) != 2 || x.Shape[1] != y.Shape[0] {
		return b.fail(name, "MatMul: want float32 [M,K] and [K,N], got %s %s and %s %s", x.Type, x.Shape, y.Type, y.Shape)
	}
	return b.node("MatMul", name, Float32, Shape{x.Shape[0], y.Shape[1]}, nil, x, y)
}

// Flatten gives x with all dimensions after the first made one.
func (b *Builder) Flatten(name string, x Value) Value {
	if len(x.Shape) < 2 || !fixed(x.Shape[1:]) {
		return b.fail(name, "Flatten: want two dimensions or more, fixed after the first, got %s", x.Shape)
	}
	return b.node("Flatten", name, x.Type, Shape{x.Shape[0], Fixed(x.Shape.Width())}, []Attr{integer("axis", 1)}, x)
}

// Unflatten gives x [N,K] as [N,sizes...], where the sizes multiply to K.
func (b *Builder) Unflatten(name string, x Value, sizes ...int) Value {
	shape := Shape{Dim{}}
	dims := []int64{0} // 0 keeps the dimension
	for _, n := range sizes {
		shape, dims = append(shape, Fixed(n)), append(dims, int64(n))
	}
	if len(x.Shape) != 2 || !fixed(x.Shape[1:]) || !fixed(shape[1:]) || shape.Width() != x.Shape.Width() {
		return b.fail(name, "Unflatten: want [N,K] for sizes %v that multiply to K, got %s", sizes, x.Shape)
	}
	shape[0] = x.Shape[0]
	to := b.Ints(name+".shape", dims, len(dims))
	return b.node("Reshape", name, x.Type, shape, nil, x, to)
}

// Sum gives the sum of x over one axis, which is kept with size 1 if keep is set.
func (b *Builder) Sum(name string, x Value, axis int, keep bool) Value {
	if x.Type != Float32 || axis < 0 || axis >= len(x.Shape) {
		return b.fail(name, "ReduceSum: want float32 with an axis %d, got %s %s", axis, x.Type, x.Shape)
	}
	shape, keepdims := slices.Clone(x.Shape), int64(1)
	if keep {
		shape[axis] = Fixed(1)
	} else {
		shape, keepdims = slices.Delete(shape, axis, axis+1), 0
	}
	axes := b.Ints(name+".axes", []int64{int64(axis)}, 1)
	return b.node("ReduceSum", name, Float32, shape, []Attr{integer("keepdims", keepdims)}, x, axes)
}

// At gives the slice of x at index of axis, without that axis.
func (b *Builder) At(name string, x Value, axis, index int) Value {
	if axis < 0 || axis >= len(x.Shape) || index < 0 || x.Shape[axis].Name == "" && int64(index) >= x.Shape[axis].Size {
		return b.fail(name, "Gather: want an axis %d with index %d, got %s", axis, index, x.Shape)
	}
	at := b.Ints(name+".index", []int64{int64(index)})
	shape := slices.Delete(slices.Clone(x.Shape), axis, axis+1)
	return b.node("Gather", name, x.Type, shape, []Attr{integer("axis", int64(axis))}, x, at)
}

// Broadcast returns the shape that two shapes meet in: aligned at their last dimensions, which are equal or 1.
func Broadcast(x, y Shape) (Shape, error) {
	if len(x) < len(y) {
		x, y = y, x
	}
	out := slices.Clone(x)
	for i, d := range y {
		at := len(x) - len(y) + i
		switch {
		case out[at] == d || d == Fixed(1):
		case out[at] == Fixed(1):
			out[at] = d
		default:
			return nil, fmt.Errorf("want shapes that broadcast, got %s and %s", x, y)
		}
	}
	return out, nil
}
