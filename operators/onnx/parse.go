package onnx

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"slices"

	"google.golang.org/protobuf/encoding/protowire"
)

// Limits bound what a file may make the reader build. Weights stay in the file's bytes and need no bound of their own.
type Limits struct {
	Nodes      int // and constants, and values: each
	Rank       int // dimensions of a value
	Attributes int // of a node, and integers of an attribute
}

// DefaultLimits allow 100,000 nodes (a large language model exports some 10,000), 16 dimensions (ONNX Runtime itself
// stops at 8 for many operators) and 4096 attributes.
func DefaultLimits() Limits { return Limits{Nodes: 100_000, Rank: 16, Attributes: 4096} }

// Parse reads an ONNX file within the default limits.
func Parse(file []byte) (*Model, error) { return DefaultLimits().Parse(file) }

// Parse reads an ONNX file. The model keeps parts of file, which must not change. Fields that this package has no use for
// are skipped; weights outside the file are refused, since a model that is checked by its hash is one file.
func (l Limits) Parse(file []byte) (*Model, error) {
	m := &Model{Metadata: map[string]string{}}
	r := reader{l}
	if err := r.model(file, m); err != nil {
		return nil, fmt.Errorf("onnx: %w", err)
	}
	if len(m.Graph.Nodes) == 0 {
		return nil, errors.New("onnx: want a graph with nodes, got none")
	}
	if err := m.Check(); err != nil {
		return nil, fmt.Errorf("onnx: %w", err)
	}
	return m, nil
}

type reader struct{ Limits }

// field is one field of a message. Of num and body the one counts that the wire type says.
type field struct {
	id   protowire.Number
	wire protowire.Type
	num  uint64
	body []byte
}

// fields calls use for each field of a message.
func fields(b []byte, use func(field) error) error {
	for len(b) > 0 {
		id, wire, n := protowire.ConsumeTag(b)
		if n < 0 {
			return protowire.ParseError(n)
		}
		b = b[n:]
		f := field{id: id, wire: wire}
		switch wire {
		case protowire.VarintType:
			f.num, n = protowire.ConsumeVarint(b)
		case protowire.Fixed32Type:
			var v uint32
			v, n = protowire.ConsumeFixed32(b)
			f.num = uint64(v)
		case protowire.Fixed64Type:
			f.num, n = protowire.ConsumeFixed64(b)
		case protowire.BytesType:
			f.body, n = protowire.ConsumeBytes(b)
		default:
			return fmt.Errorf("field %d: want no groups", id)
		}
		if n < 0 {
			return protowire.ParseError(n)
		}
		b = b[n:]
		if err := use(f); err != nil {
			return err
		}
	}
	return nil
}

// expect checks a field's wire type.
func (f field) expect(wire protowire.Type) error {
	if f.wire != wire {
		return fmt.Errorf("field %d: want wire type %d, got %d", f.id, wire, f.wire)
	}
	return nil
}

func (f field) text(to *string) error {
	*to = string(f.body)
	return f.expect(protowire.BytesType)
}

func (f field) int(to *int64) error {
	*to = int64(f.num)
	return f.expect(protowire.VarintType)
}

// ints reads one integer, or many that are packed.
func (f field) ints(to *[]int64, limit int) error {
	body := f.body
	if f.wire == protowire.VarintType {
		body = protowire.AppendVarint(nil, f.num)
	} else if err := f.expect(protowire.BytesType); err != nil {
		return err
	}
	for len(body) > 0 {
		v, n := protowire.ConsumeVarint(body)
		if n < 0 {
			return protowire.ParseError(n)
		}
		if len(*to) >= limit {
			return fmt.Errorf("field %d: want at most %d integers, got more", f.id, limit)
		}
		*to, body = append(*to, int64(v)), body[n:]
	}
	return nil
}

// add appends to a list within a limit what read makes of a message.
func add[T any](f field, list *[]T, limit int, what string, read func([]byte, *T) error) error {
	if err := f.expect(protowire.BytesType); err != nil {
		return err
	}
	if len(*list) >= limit {
		return fmt.Errorf("want at most %d of %s, got more", limit, what)
	}
	var v T
	if err := read(f.body, &v); err != nil {
		return fmt.Errorf("%s %d: %w", what, len(*list), err)
	}
	*list = append(*list, v)
	return nil
}

func (r reader) model(b []byte, m *Model) error {
	return fields(b, func(f field) error {
		switch f.id {
		case modelIR:
			return f.int(&m.IRVersion)
		case modelProducer:
			return f.text(&m.Producer)
		case modelGraph:
			if err := f.expect(protowire.BytesType); err != nil {
				return err
			}
			return r.graph(f.body, &m.Graph)
		case modelOpset:
			return r.opset(f, m)
		case modelMetadata:
			if len(m.Metadata) >= r.Attributes {
				return fmt.Errorf("want at most %d metadata entries, got more", r.Attributes)
			}
			var k, v string
			err := fields(f.body, func(f field) error {
				switch f.id {
				case entryKey:
					return f.text(&k)
				case entryValue:
					return f.text(&v)
				}
				return nil
			})
			m.Metadata[k] = v
			return err
		}
		return nil
	})
}

// opset keeps the version of ONNX's own operators.
func (r reader) opset(f field, m *Model) error {
	var domain string
	var version int64
	err := fields(f.body, func(f field) error {
		switch f.id {
		case opsetDomain:
			return f.text(&domain)
		case opsetVersion:
			return f.int(&version)
		}
		return nil
	})
	if domain == "" || domain == "ai.onnx" {
		m.Opset = version
	}
	return err
}

func (r reader) graph(b []byte, g *Graph) error {
	return fields(b, func(f field) error {
		switch f.id {
		case graphNode:
			return add(f, &g.Nodes, r.Nodes, "node", r.node)
		case graphName:
			return f.text(&g.Name)
		case graphInit:
			return add(f, &g.Inits, r.Nodes, "constant", r.tensor)
		case graphInput:
			return add(f, &g.Inputs, r.Nodes, "input", r.value)
		case graphOutput:
			return add(f, &g.Outputs, r.Nodes, "output", r.value)
		}
		return nil
	})
}

func (r reader) node(b []byte, n *Node) error {
	texts := func(f field, list *[]string) error {
		return add(f, list, r.Attributes, "name", func(b []byte, s *string) error { *s = string(b); return nil })
	}
	return fields(b, func(f field) error {
		switch f.id {
		case nodeInput:
			return texts(f, &n.Inputs)
		case nodeOutput:
			return texts(f, &n.Outputs)
		case nodeName:
			return f.text(&n.Name)
		case nodeOp:
			return f.text(&n.Op)
		case nodeAttr:
			return add(f, &n.Attrs, r.Attributes, "attribute", r.attr)
		case nodeDomain:
			return f.text(&n.Domain)
		}
		return nil
	})
}

func (r reader) attr(b []byte, a *Attr) error {
	return fields(b, func(f field) error {
		switch f.id {
		case attrName:
			return f.text(&a.Name)
		case attrFloat:
			a.Float = math.Float32frombits(uint32(f.num))
			return f.expect(protowire.Fixed32Type)
		case attrInt:
			return f.int(&a.Int)
		case attrInts:
			return f.ints(&a.Ints, r.Attributes)
		case attrType:
			var kind int64
			err := f.int(&kind)
			a.Kind = AttrKind(kind)
			return err
		}
		return nil
	})
}

func (r reader) tensor(b []byte, t *Tensor) error {
	return fields(b, func(f field) error {
		switch f.id {
		case tensorDims:
			return f.ints(&t.Dims, r.Rank)
		case tensorType:
			var typ int64
			err := f.int(&typ)
			t.Type = DType(typ)
			return err
		case tensorName:
			return f.text(&t.Name)
		case tensorRaw:
			t.Raw = slices.Clip(f.body) // so that appending never writes into the file
			return f.expect(protowire.BytesType)
		case tensorFloats:
			return floatData(f, t)
		case tensorInts:
			var values []int64
			if err := f.ints(&values, math.MaxInt); err != nil {
				return err
			}
			for _, v := range values {
				t.Raw = binary.LittleEndian.AppendUint64(t.Raw, uint64(v))
			}
			return nil
		case tensorExternal, tensorLocation:
			if f.num != 0 || len(f.body) > 0 {
				return fmt.Errorf("%q: want weights inside the file, got a reference to another file", t.Name)
			}
		}
		return nil
	})
}

// floatData reads weights that are written as floats, packed or one by one; the bytes are the same as those of raw_data.
func floatData(f field, t *Tensor) error {
	switch f.wire {
	case protowire.BytesType:
		t.Raw = append(t.Raw, f.body...)
	case protowire.Fixed32Type:
		t.Raw = binary.LittleEndian.AppendUint32(t.Raw, uint32(f.num))
	default:
		return f.expect(protowire.BytesType)
	}
	return nil
}

// value reads a ValueInfoProto. Of a value that is no tensor only the name is kept.
func (r reader) value(b []byte, v *ValueInfo) error {
	return fields(b, func(f field) error {
		switch f.id {
		case valueName:
			return f.text(&v.Name)
		case valueType:
			return fields(f.body, func(f field) error {
				if f.id != typeTensor {
					return nil
				}
				return r.tensorType(f.body, v)
			})
		}
		return nil
	})
}

func (r reader) tensorType(b []byte, v *ValueInfo) error {
	return fields(b, func(f field) error {
		switch f.id {
		case tensorTypeElem:
			var typ int64
			err := f.int(&typ)
			v.Type = DType(typ)
			return err
		case tensorTypeShape:
			return fields(f.body, func(f field) error {
				if f.id != shapeDim {
					return nil
				}
				return add(f, (*[]Dim)(&v.Shape), r.Rank, "dimension", r.dim)
			})
		}
		return nil
	})
}

func (r reader) dim(b []byte, d *Dim) error {
	err := fields(b, func(f field) error {
		switch f.id {
		case dimValue:
			return f.int(&d.Size)
		case dimName:
			return f.text(&d.Name)
		}
		return nil
	})
	switch {
	case d.Name != "":
		d.Size = 0
	case d.Size <= 0:
		*d = Dim{Name: "?"} // exporters write a size that they do not know as 0, -1 or nothing
	}
	return err
}
