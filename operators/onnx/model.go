// Package onnx writes and reads ONNX models: a builder that checks shapes as a graph grows, a writer whose bytes depend on
// nothing but the graph, and a bounded reader. It runs nothing.
//
// Source: the message definitions of onnx.proto (github.com/onnx/onnx) and the operator definitions of opset 13.
package onnx

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
)

// Versions that the builder writes. ONNX Runtime reads these since 2020, and nothing that the builder has needs more.
const (
	IRVersion = 7
	Opset     = 13
)

// ErrUnsupported marks a graph that is well formed and needs more than whoever runs it has.
var ErrUnsupported = errors.New("not supported")

// DType is an element type, numbered as in TensorProto.DataType.
type DType int32

// Element types that the builder and the reference backend know. Other numbers are read and passed on.
const (
	Float32 DType = 1
	Int64   DType = 7
	Bool    DType = 9
)

func (t DType) String() string {
	switch t {
	case Float32:
		return "float32"
	case Int64:
		return "int64"
	case Bool:
		return "bool"
	}
	return "type " + strconv.Itoa(int(t))
}

// Dim is one dimension: a size, or a name if the size is known only at run time.
type Dim struct {
	Name string
	Size int64 // counts only if Name is ""
}

// Fixed is a dimension of n.
func Fixed(n int) Dim { return Dim{Size: int64(n)} }

// Var is a dimension that is known at run time only.
func Var(name string) Dim { return Dim{Name: name} }

func (d Dim) String() string {
	if d.Name != "" {
		return d.Name
	}
	return strconv.FormatInt(d.Size, 10)
}

// Shape is the dimensions of a value, the slowest first.
type Shape []Dim

func (s Shape) String() string {
	parts := make([]string, len(s))
	for i, d := range s {
		parts[i] = d.String()
	}
	return "[" + strings.Join(parts, ",") + "]"
}

// Model is a ModelProto, without functions, training information and domains other than ONNX's own.
type Model struct {
	IRVersion int64
	Opset     int64
	Producer  string
	Metadata  map[string]string
	Graph     Graph
}

// Graph is a GraphProto. Nodes are in an order in which they can run.
type Graph struct {
	Name    string
	Nodes   []Node
	Inits   []Tensor
	Inputs  []ValueInfo
	Outputs []ValueInfo
}

// ValueInfo names a value and gives its type.
type ValueInfo struct {
	Name  string
	Type  DType
	Shape Shape
}

// Node is one call of an operator.
type Node struct {
	Op      string
	Domain  string // "" for ONNX's own operators
	Name    string
	Inputs  []string // "" for an optional input that is left out
	Outputs []string
	Attrs   []Attr
}

// AttrKind tells which field of an Attr counts, numbered as in AttributeProto.AttributeType.
type AttrKind int32

// Kinds that are read in full. An Attr of another kind has its name and kind only.
const (
	AttrFloat AttrKind = 1
	AttrInt   AttrKind = 2
	AttrInts  AttrKind = 7
)

// Attr is an attribute of a node.
type Attr struct {
	Name  string
	Kind  AttrKind
	Float float32
	Int   int64
	Ints  []int64
}

// Int returns the integer attribute name of n, or the operator's default.
func (n *Node) Int(name string, otherwise int64) int64 {
	for _, a := range n.Attrs {
		if a.Name == name && a.Kind == AttrInt {
			return a.Int
		}
	}
	return otherwise
}

// Tensor is a constant. Raw is little-endian, in row-major order; [Parse] leaves it in the file's bytes.
type Tensor struct {
	Name string
	Type DType
	Dims []int64
	Raw  []byte
}

// NewFloats returns a float32 constant of the shape dims.
func NewFloats(name string, values []float32, dims ...int64) Tensor {
	raw := make([]byte, 0, 4*len(values))
	for _, v := range values {
		raw = binary.LittleEndian.AppendUint32(raw, math.Float32bits(v))
	}
	return Tensor{Name: name, Type: Float32, Dims: dims, Raw: raw}
}

// NewInts returns an int64 constant of the shape dims.
func NewInts(name string, values []int64, dims ...int64) Tensor {
	raw := make([]byte, 0, 8*len(values))
	for _, v := range values {
		raw = binary.LittleEndian.AppendUint64(raw, uint64(v))
	}
	return Tensor{Name: name, Type: Int64, Dims: dims, Raw: raw}
}

// Floats decodes a float32 constant.
func (t *Tensor) Floats() ([]float32, error) {
	n, err := t.elements(Float32, 4)
	if err != nil {
		return nil, err
	}
	out := make([]float32, n)
	for i := range out {
		out[i] = math.Float32frombits(binary.LittleEndian.Uint32(t.Raw[4*i:]))
	}
	return out, nil
}

// Ints decodes an int64 constant.
func (t *Tensor) Ints() ([]int64, error) {
	n, err := t.elements(Int64, 8)
	if err != nil {
		return nil, err
	}
	out := make([]int64, n)
	for i := range out {
		out[i] = int64(binary.LittleEndian.Uint64(t.Raw[8*i:]))
	}
	return out, nil
}

// elements counts the elements and compares them with the bytes that are there.
func (t *Tensor) elements(want DType, size int) (int, error) {
	if t.Type != want {
		return 0, fmt.Errorf("constant %q: want %s, got %s", t.Name, want, t.Type)
	}
	n := int64(1)
	for _, d := range t.Dims {
		if d < 0 || d > 0 && n > math.MaxInt32*int64(1<<20)/d {
			return 0, fmt.Errorf("constant %q: want sizes of 0 or more that fit in memory, got %v", t.Name, t.Dims)
		}
		n *= d
	}
	if len(t.Raw)%size != 0 || int64(len(t.Raw)/size) != n {
		return 0, fmt.Errorf("constant %q: want %d bytes for %v, got %d", t.Name, n*int64(size), t.Dims, len(t.Raw))
	}
	return int(n), nil
}

// Check tells whether every value has one origin that stands before its use, which the writer and whoever runs the graph
// rely on.
func (m *Model) Check() error {
	g := &m.Graph
	origin := map[string]string{}
	define := func(name, by string) error {
		if name == "" {
			return fmt.Errorf("%s: want a name, got none", by)
		}
		if first, ok := origin[name]; ok {
			return fmt.Errorf("%s: value %q: %s gives it already", by, name, first)
		}
		origin[name] = by
		return nil
	}
	for i := range g.Inits {
		if err := define(g.Inits[i].Name, fmt.Sprintf("constant %d", i)); err != nil {
			return err
		}
	}
	for i, in := range g.Inputs {
		// Old writers list constants among the inputs too, as defaults.
		if _, ok := origin[in.Name]; ok {
			continue
		}
		if err := define(in.Name, fmt.Sprintf("input %d", i)); err != nil {
			return err
		}
	}
	for i, n := range g.Nodes {
		by := fmt.Sprintf("node %d (%s)", i, n.Op)
		for _, in := range n.Inputs {
			if _, ok := origin[in]; in != "" && !ok {
				return fmt.Errorf("%s: value %q is not given by anything before it", by, in)
			}
		}
		for _, out := range n.Outputs {
			if out == "" {
				continue
			}
			if err := define(out, by); err != nil {
				return err
			}
		}
	}
	for _, out := range g.Outputs {
		if _, ok := origin[out.Name]; !ok {
			return fmt.Errorf("output %q: nothing gives it", out.Name)
		}
	}
	return nil
}

// Signature returns the model's inputs that are no constants, and its outputs.
func (m *Model) Signature() (in, out []ValueInfo) {
	for _, v := range m.Graph.Inputs {
		if !slices.ContainsFunc(m.Graph.Inits, func(t Tensor) bool { return t.Name == v.Name }) {
			in = append(in, v)
		}
	}
	return in, m.Graph.Outputs
}

// WindowInput returns the one input of a model that scores windows, after checking that it is float32 [N, T, C] with T
// and C fixed and N free, and that every output is float32 with N first and the rest fixed.
func (m *Model) WindowInput() (ValueInfo, error) {
	in, out := m.Signature()
	if len(in) != 1 {
		return ValueInfo{}, fmt.Errorf("want one input, got %d", len(in))
	}
	x := in[0]
	if x.Type != Float32 || len(x.Shape) != 3 || x.Shape[0].Name == "" || !fixed(x.Shape[1:]) {
		return ValueInfo{}, fmt.Errorf("input %q: want float32 [N,T,C] with a named N, got %s %s", x.Name, x.Type, x.Shape)
	}
	if len(out) == 0 {
		return ValueInfo{}, errors.New("want at least one output, got none")
	}
	for _, y := range out {
		if y.Type != Float32 || len(y.Shape) == 0 || y.Shape[0] != x.Shape[0] || !fixed(y.Shape[1:]) {
			return ValueInfo{}, fmt.Errorf("output %q: want float32 with %s first and other sizes fixed, got %s %s",
				y.Name, x.Shape[0], y.Type, y.Shape)
		}
	}
	return x, nil
}

// fixed tells whether every size is known, and small enough to count with.
func fixed(s Shape) bool {
	n := int64(1)
	for _, d := range s {
		if d.Name != "" || d.Size < 1 || d.Size > math.MaxInt32/n {
			return false
		}
		n *= d.Size
	}
	return true
}

// Width is the number of elements behind the first dimension of a shape that WindowInput has checked.
func (s Shape) Width() int {
	n := 1
	for _, d := range s[1:] {
		n *= int(d.Size)
	}
	return n
}

// Accepts checks that a batch fits an input that WindowInput has checked: float32 [N,T,C] with N >= 1.
func (v *ValueInfo) Accepts(float32s bool, shape []int) error {
	ok := float32s && len(shape) == len(v.Shape) && shape[0] >= 1
	for i := 1; ok && i < len(shape); i++ {
		ok = int64(shape[i]) == v.Shape[i].Size
	}
	if !ok {
		return fmt.Errorf("input %q: want %s %s, got %v (float32: %t)", v.Name, v.Type, v.Shape, shape, float32s)
	}
	return nil
}
