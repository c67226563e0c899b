package onnx

import (
	"math"
	"slices"

	"google.golang.org/protobuf/encoding/protowire"
)

// Field numbers of onnx.proto.
const (
	modelIR, modelProducer, modelGraph, modelOpset, modelMetadata            = 1, 2, 7, 8, 14
	opsetDomain, opsetVersion                                                = 1, 2
	entryKey, entryValue                                                     = 1, 2
	graphNode, graphName, graphInit, graphInput, graphOutput                 = 1, 2, 5, 11, 12
	nodeInput, nodeOutput, nodeName, nodeOp, nodeAttr, nodeDomain            = 1, 2, 3, 4, 5, 7
	attrName, attrFloat, attrInt, attrInts, attrType                         = 1, 2, 3, 8, 20
	tensorDims, tensorType, tensorFloats, tensorInts, tensorName, tensorRaw  = 1, 2, 4, 7, 8, 9
	tensorExternal, tensorLocation                                           = 13, 14
	valueName, valueType                                                     = 1, 2
	typeTensor, tensorTypeElem, tensorTypeShape, shapeDim, dimValue, dimName = 1, 1, 2, 1, 1, 2
)

// Marshal returns the model as an ONNX file. The same model gives the same bytes.
func (m *Model) Marshal() []byte {
	var b []byte
	b = number(b, modelIR, m.IRVersion)
	b = text(b, modelProducer, m.Producer)
	b = message(b, modelGraph, m.Graph.marshal())
	b = message(b, modelOpset, number(text(nil, opsetDomain, ""), opsetVersion, m.Opset))
	keys := make([]string, 0, len(m.Metadata))
	for k := range m.Metadata {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	for _, k := range keys {
		b = message(b, modelMetadata, text(text(nil, entryKey, k), entryValue, m.Metadata[k]))
	}
	return b
}

func (g *Graph) marshal() []byte {
	var b []byte
	for i := range g.Nodes {
		b = message(b, graphNode, g.Nodes[i].marshal())
	}
	b = text(b, graphName, g.Name)
	for i := range g.Inits {
		b = message(b, graphInit, g.Inits[i].marshal())
	}
	for i := range g.Inputs {
		b = message(b, graphInput, g.Inputs[i].marshal())
	}
	for i := range g.Outputs {
		b = message(b, graphOutput, g.Outputs[i].marshal())
	}
	return b
}

func (n *Node) marshal() []byte {
	var b []byte
	for _, in := range n.Inputs {
		b = always(b, nodeInput, in) // an empty name keeps its place
	}
	for _, out := range n.Outputs {
		b = always(b, nodeOutput, out)
	}
	b = text(b, nodeName, n.Name)
	b = text(b, nodeOp, n.Op)
	for _, a := range n.Attrs {
		b = message(b, nodeAttr, a.marshal())
	}
	return text(b, nodeDomain, n.Domain)
}

func (a *Attr) marshal() []byte {
	b := text(nil, attrName, a.Name)
	switch a.Kind {
	case AttrFloat:
		b = protowire.AppendTag(b, attrFloat, protowire.Fixed32Type)
		b = protowire.AppendFixed32(b, math.Float32bits(a.Float))
	case AttrInt:
		b = number(b, attrInt, a.Int)
	case AttrInts:
		for _, v := range a.Ints {
			b = number(b, attrInts, v)
		}
	}
	return number(b, attrType, int64(a.Kind))
}

func (t *Tensor) marshal() []byte {
	var b []byte
	for _, d := range t.Dims {
		b = number(b, tensorDims, d)
	}
	b = number(b, tensorType, int64(t.Type))
	b = text(b, tensorName, t.Name)
	return message(b, tensorRaw, t.Raw)
}

func (v *ValueInfo) marshal() []byte {
	var shape []byte
	for _, d := range v.Shape {
		if d.Name != "" {
			shape = message(shape, shapeDim, text(nil, dimName, d.Name))
		} else {
			shape = message(shape, shapeDim, number(nil, dimValue, d.Size))
		}
	}
	elem := message(number(nil, tensorTypeElem, int64(v.Type)), tensorTypeShape, shape)
	return message(text(nil, valueName, v.Name), valueType, message(nil, typeTensor, elem))
}

func number(b []byte, field protowire.Number, v int64) []byte {
	return protowire.AppendVarint(protowire.AppendTag(b, field, protowire.VarintType), uint64(v))
}

func text(b []byte, field protowire.Number, s string) []byte {
	if s == "" {
		return b
	}
	return always(b, field, s)
}

func always(b []byte, field protowire.Number, s string) []byte {
	return protowire.AppendString(protowire.AppendTag(b, field, protowire.BytesType), s)
}

func message(b []byte, field protowire.Number, m []byte) []byte {
	return protowire.AppendBytes(protowire.AppendTag(b, field, protowire.BytesType), m)
}
