package simulation

import (
	"context"
	"math"

	"github.com/apache/arrow/go/v15/arrow"
	"github.com/apache/arrow/go/v15/arrow/array"
	"github.com/apache/arrow/go/v15/arrow/memory"
	"github.com/tailrace/tailrace/pipeline"
	"github.com/tailrace/tailrace/schemas"
)

// gauge scores a window as a model would, with the largest mean of its channels' absolute values, so that detect has
// something to work on. It needs no bundle and no library.
type gauge struct {
	pipeline.Stateless
	settings pipeline.Settings
	in, out  *arrow.Schema
	channels int
}

var _ pipeline.Operator = (*gauge)(nil)

func newGauge(s pipeline.Settings) (pipeline.Operator, error) { return &gauge{settings: s}, nil }

func (g *gauge) Bind(in *arrow.Schema) (*arrow.Schema, error) {
	layout, err := schemas.LayoutOf(in)
	if err != nil {
		return nil, err
	}
	g.in, g.channels = in, len(layout.Channels)
	layout.Model = &schemas.ModelInfo{
		Name: "gauge", Version: "1", Mean: make([]float64, g.channels), Std: make([]float64, g.channels),
	}
	for i := range layout.Model.Std {
		layout.Model.Std[i] = 1
	}
	g.out, err = layout.With(append(in.Fields(), schemas.ScoreFields(g.channels)...))
	return g.out, err
}

func (g *gauge) Process(ctx context.Context, in arrow.Record, out pipeline.Emitter) error {
	if in.NumRows() == 0 {
		return nil
	}
	fields := schemas.ScoreFields(g.channels)
	scores, shares := array.NewFloat32Builder(g.settings.Alloc), array.NewFloat32Builder(g.settings.Alloc)
	reasons := array.NewDictionaryBuilder(g.settings.Alloc, schemas.Dict).(*array.BinaryDictionaryBuilder)
	outputs := array.NewMapBuilder(g.settings.Alloc, arrow.BinaryTypes.String, arrow.PrimitiveTypes.Float32, false)
	builders := []array.Builder{scores, reasons, shares, outputs}
	list := in.Column(g.in.FieldIndices(schemas.NameSamples)[0]).(*array.FixedSizeList)
	for i := range int(in.NumRows()) {
		score, share := g.score(list, i)
		scores.Append(score)
		if err := reasons.AppendString(""); err != nil {
			return err
		}
		shares.AppendValues(share, nil)
		outputs.Append(true)
	}
	var made []arrow.Array
	for _, b := range builders {
		column := b.NewArray()
		defer column.Release()
		b.Release()
		made = append(made, column)
	}
	data := array.NewData(fields[2].Type, int(in.NumRows()), []*memory.Buffer{nil}, []arrow.ArrayData{made[2].Data()}, 0, 0)
	defer data.Release()
	lists := array.NewFixedSizeListData(data) // shares of the score, and what was expected: whoever reads it has the same
	defer lists.Release()
	cols := append(append([]arrow.Array(nil), in.Columns()...), made[0], made[1], lists, lists, made[3])
	return out.Emit(ctx, pipeline.Rows, array.NewRecord(g.out, cols, in.NumRows()))
}

// score gives the largest of the channels' means, and each one's share in their sum.
func (g *gauge) score(list *array.FixedSizeList, row int) (largest float32, shares []float32) {
	width := int(list.DataType().(*arrow.FixedSizeListType).Len())
	values := list.ListValues().(*array.Float64)
	at := (list.Data().Offset() + row) * width
	means, sum := make([]float64, g.channels), 0.0
	for c := range means {
		n := 0
		for k := at + c; k < at+width; k += g.channels {
			if values.IsValid(k) {
				means[c] += math.Abs(values.Value(k))
				n++
			}
		}
		if n > 0 {
			means[c] /= float64(n)
		}
		sum += means[c]
		largest = max(largest, float32(means[c]))
	}
	for _, m := range means {
		if sum > 0 {
			m /= sum
		}
		shares = append(shares, float32(m))
	}
	return largest, shares
}
