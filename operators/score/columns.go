package score

import (
	"math"

	"github.com/apache/arrow/go/v15/arrow"
	"github.com/apache/arrow/go/v15/arrow/array"
	"github.com/apache/arrow/go/v15/arrow/memory"

	"github.com/tailrace/tailrace/schemas"
)

// scored are the model's outputs by name, for the rows that were scored, in order.
type scored struct {
	rows   int
	values map[string][]float32
}

// row returns the values of an output for scored row i; nil if the model has no such output.
func (s *scored) row(name string, i int) []float32 {
	width := len(s.values[name]) / s.rows
	return s.values[name][i*width : (i+1)*width]
}

// finite tells whether every value of scored row i is a number.
func (s *scored) finite(i int) bool {
	for name := range s.values {
		for _, v := range s.row(name, i) {
			if f := float64(v); math.IsNaN(f) || math.IsInf(f, 0) {
				return false
			}
		}
	}
	return true
}

// columns builds the added columns. A row of which the model made what is no number gets the reason for it.
func (o *Operator) columns(reasons []string, s *scored) []arrow.Array {
	m := &o.bundle.Manifest
	fields := schemas.ScoreFields(len(m.Channels))
	mem := o.settings.Alloc
	list := fields[2].Type.(*arrow.FixedSizeListType) // contrib; expected is the same
	score := array.NewFloat32Builder(mem)
	reason := array.NewInt32Builder(mem)
	contrib := newLists(mem, list)
	expected := newLists(mem, list)
	outputs := array.NewMapBuilder(mem, arrow.BinaryTypes.String, arrow.PrimitiveTypes.Float32, false)
	defer func() {
		for _, b := range []array.Builder{score, reason, contrib.lists, expected.lists, outputs} {
			b.Release()
		}
	}()
	names, values := outputs.KeyBuilder().(*array.StringBuilder), outputs.ItemBuilder().(*array.Float32Builder)

	next := 0 // of the scored rows
	for _, why := range reasons {
		at := next
		if why == "" {
			next++
			if !s.finite(at) {
				why = schemas.ReasonModelFault
			}
		}
		reason.Append(o.reasons.ID([]byte(why)))
		outputs.Append(true)
		if why != "" {
			score.AppendNull()
			contrib.append(nil)
			expected.append(nil)
			continue
		}
		score.Append(s.row(m.Outputs.Score, at)[0])
		contrib.append(s.row(m.Outputs.Contrib, at))
		expected.append(s.row(m.Outputs.Expected, at))
		for _, name := range m.Outputs.Scalars {
			names.Append(name)
			values.Append(s.row(name, at)[0])
		}
	}
	indexes := reason.NewArray()
	defer indexes.Release()
	return []arrow.Array{
		score.NewArray(),
		array.NewDictionaryArray(schemas.Dict, indexes, o.reasons.Dictionary()),
		contrib.newArray(),
		expected.newArray(),
		outputs.NewArray(),
	}
}

// lists builds a column of one number a channel.
type lists struct {
	typ    *arrow.FixedSizeListType
	lists  *array.FixedSizeListBuilder
	values *array.Float32Builder
	zeros  []float32
}

func newLists(mem memory.Allocator, t *arrow.FixedSizeListType) lists {
	b := array.NewFixedSizeListBuilder(mem, t.Len(), t.Elem())
	return lists{typ: t, lists: b, values: b.ValueBuilder().(*array.Float32Builder), zeros: make([]float32, t.Len())}
}

// append adds a row, null if there are no values. Its numbers are then zeros, since the items themselves have no nulls.
func (l *lists) append(values []float32) {
	l.lists.Append(len(values) > 0)
	if len(values) == 0 {
		values = l.zeros
	}
	l.values.AppendValues(values, nil)
}

// newArray returns the column. The builder's own array would say that the items may be null.
func (l *lists) newArray() arrow.Array {
	loose := l.lists.NewArray()
	defer loose.Release()
	from := loose.Data()
	data := array.NewData(l.typ, from.Len(), from.Buffers(), from.Children(), from.NullN(), 0)
	defer data.Release()
	return array.MakeFromData(data)
}
