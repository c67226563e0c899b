package model

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math"

	"github.com/apache/arrow/go/v15/arrow"
	"github.com/apache/arrow/go/v15/arrow/array"
	"github.com/apache/arrow/go/v15/arrow/ipc"
	"github.com/apache/arrow/go/v15/arrow/memory"
	"gorgonia.org/tensor"

	"github.com/tailrace/tailrace/pipeline"
	"github.com/tailrace/tailrace/schemas"
)

// Golden is golden.arrow: inputs and the outputs that they must give, worked out apart from every backend.
type Golden struct {
	Rows    int
	X       []float32            // Rows x T x C, normalized
	Outputs map[string][]float32 // by name, Rows x the output's width
}

// width is the number of values of an output for one window.
func (m *Manifest) width(output string) int {
	if output == m.Outputs.Contrib || output == m.Outputs.Expected {
		return len(m.Channels)
	}
	return 1
}

func (m *Manifest) goldenSchema() *arrow.Schema {
	list := func(n int) arrow.DataType {
		return arrow.FixedSizeListOf(int32(n), arrow.PrimitiveTypes.Float32)
	}
	fields := []arrow.Field{{Name: schemas.NameInput, Type: list(m.WindowRows * len(m.Channels))}}
	for _, name := range m.Outputs.Names() {
		fields = append(fields, arrow.Field{Name: "out." + name, Type: list(m.width(name))})
	}
	return arrow.NewSchema(fields, nil)
}

// columns pairs each field of the schema with its values.
func (g *Golden) columns(m *Manifest) [][]float32 {
	cols := [][]float32{g.X}
	for _, name := range m.Outputs.Names() {
		cols = append(cols, g.Outputs[name])
	}
	return cols
}

func encodeGolden(g *Golden, m *Manifest) ([]byte, error) {
	schema := m.goldenSchema()
	b := array.NewRecordBuilder(memory.DefaultAllocator, schema)
	defer b.Release()
	for i, values := range g.columns(m) {
		field := schema.Field(i)
		if want := g.Rows * int(field.Type.(*arrow.FixedSizeListType).Len()); len(values) != want {
			return nil, fmt.Errorf("%s: want %d values, got %d", field.Name, want, len(values))
		}
		list := b.Field(i).(*array.FixedSizeListBuilder)
		for range g.Rows {
			list.Append(true)
		}
		list.ValueBuilder().(*array.Float32Builder).AppendValues(values, nil)
	}
	rec := b.NewRecord()
	defer rec.Release()
	var out bytes.Buffer
	w := ipc.NewWriter(&out, ipc.WithSchema(schema))
	if err := errors.Join(w.Write(rec), w.Close()); err != nil {
		return nil, err
	}
	return out.Bytes(), nil
}

// decodeGolden reads golden.arrow into memory of its own.
func decodeGolden(text []byte, m *Manifest) (g Golden, err error) {
	r, err := ipc.NewReader(bytes.NewReader(text))
	if err != nil {
		return g, err
	}
	defer r.Release()
	want := m.goldenSchema()
	if !r.Schema().Equal(want) {
		return g, fmt.Errorf("want columns %s, got %s", want, r.Schema())
	}
	g.Outputs = map[string][]float32{}
	for r.Next() {
		rec := r.Record()
		g.Rows += int(rec.NumRows())
		for i, col := range rec.Columns() {
			values, err := rowsOf(col.(*array.FixedSizeList))
			if err != nil {
				return g, fmt.Errorf("%s: %w", want.Field(i).Name, err)
			}
			if i == 0 {
				g.X = append(g.X, values...)
				continue
			}
			name := m.Outputs.Names()[i-1]
			g.Outputs[name] = append(g.Outputs[name], values...)
		}
	}
	if r.Err() != nil {
		return g, r.Err()
	}
	if g.Rows == 0 {
		return g, errors.New("want at least one row, got none")
	}
	return g, nil
}

// rowsOf returns the values of a list column that has no nulls. ListValues ignores the offset of a slice.
func rowsOf(a *array.FixedSizeList) ([]float32, error) {
	v := a.ListValues().(*array.Float32)
	if a.NullN() > 0 || v.NullN() > 0 {
		return nil, errors.New("want no nulls")
	}
	d, o := int(a.DataType().(*arrow.FixedSizeListType).Len()), a.Data().Offset()
	if v.Len() < (o+a.Len())*d {
		return nil, fmt.Errorf("want %d values, got %d", (o+a.Len())*d, v.Len())
	}
	return v.Float32Values()[o*d : (o+a.Len())*d], nil
}

// CheckGolden runs the golden inputs through s and compares every output. An output that is one number a window must be
// within rel of the wanted value, relative to it; of one that is a number a channel, every value must be within rel of
// the row's largest magnitude, since the share of a channel that had no part is 0. The error names the output, the row
// (from 0), what was wanted and what came.
func (b *Bundle) CheckGolden(ctx context.Context, s pipeline.Scorer, rel float64) error {
	m, g := &b.Manifest, &b.Golden
	x := tensor.New(tensor.WithShape(g.Rows, m.WindowRows, len(m.Channels)), tensor.WithBacking(g.X))
	got, err := s.Score(ctx, x)
	if err != nil {
		return fmt.Errorf("model %s %s: golden outputs: %w", m.Name, m.Version, err)
	}
	for _, name := range m.Outputs.Names() {
		out, ok := got[name]
		if !ok {
			return fmt.Errorf("model %s %s: golden outputs: the model has no output %q", m.Name, m.Version, name)
		}
		values, ok := out.Data().([]float32)
		if !ok || len(values) != len(g.Outputs[name]) {
			return fmt.Errorf("model %s %s: golden output %q: want %d float32, got %s %s",
				m.Name, m.Version, name, len(g.Outputs[name]), out.Dtype(), out.Shape())
		}
		if err := compareRows(g.Outputs[name], values, m.width(name), rel); err != nil {
			i := s.Info()
			return fmt.Errorf("model %s %s: golden output %q: %w on %s %s", m.Name, m.Version, name, err, i.Backend, i.Version)
		}
	}
	return nil
}

func compareRows(want, got []float32, width int, rel float64) error {
	for lo := 0; lo < len(want); lo += width {
		var scale float64
		for _, w := range want[lo : lo+width] {
			scale = max(scale, math.Abs(float64(w)))
		}
		for i := lo; i < lo+width; i++ {
			if d := math.Abs(float64(got[i]) - float64(want[i])); !(d <= rel*scale) {
				return fmt.Errorf("row %d, value %d: want %v to %g relative, got %v", lo/width, i-lo, want[i], rel, got[i])
			}
		}
	}
	return nil
}
