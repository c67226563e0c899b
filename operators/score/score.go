package score

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/apache/arrow/go/v15/arrow"
	"github.com/apache/arrow/go/v15/arrow/array"
	"gorgonia.org/tensor"

	"github.com/tailrace/tailrace/operators/model"
	"github.com/tailrace/tailrace/pipeline"
	"github.com/tailrace/tailrace/schemas"
)

// Operator scores the windows of one task.
type Operator struct {
	pipeline.Stateless
	config   Config
	settings pipeline.Settings

	bundle  *model.Bundle
	scorer  pipeline.Scorer // the pool's
	out     *arrow.Schema
	cols    bound
	reasons *schemas.Interner
	gather  []float32 // eligible rows of a batch in which not all are
}

// bound are the indexes of the columns that are read.
type bound struct{ input, cut, coverage int }

var _ pipeline.Operator = (*Operator)(nil)

// New makes an operator that scores with the scorers of s.
func New(c Config, s pipeline.Settings) *Operator {
	return &Operator{config: c, settings: s, reasons: schemas.NewInterner(s.Alloc)}
}

// Bind loads and verifies the bundle, compares it with the rows to come, opens the scorer and checks it against the golden
// outputs. It does not wait for a context, since binding has none: what is slow, fetching a library, is the scorer
// factory's, which the program gives a context of its own.
func (o *Operator) Bind(in *arrow.Schema) (*arrow.Schema, error) {
	limits := model.DefaultLimits()
	limits.Model = o.config.MaxModel
	bundle, err := limits.Load(o.config.dir(o.settings.Dir))
	if err != nil {
		return nil, err
	}
	layout, err := schemas.LayoutOf(in)
	if err != nil {
		return nil, err
	}
	faults := []error{bundle.CheckLayout(layout), checkStatistics(bundle, layout.Model)}
	rows, channels := bundle.Manifest.WindowRows, len(bundle.Manifest.Channels)
	o.cols = bound{
		input:    find(in, schemas.NameInput, schemas.InputField(rows, channels).Type, &faults),
		cut:      find(in, schemas.NameCut, schemas.Dict, &faults),
		coverage: find(in, schemas.NameCoverage, arrow.PrimitiveTypes.Float32, &faults),
	}
	if err := errors.Join(faults...); err != nil {
		return nil, fmt.Errorf("%w: %w", pipeline.ErrConfig, err)
	}
	info := bundle.Info()
	layout.Model = &info
	fields := append(in.Fields(), schemas.ScoreFields(channels)...)
	if o.out, err = layout.With(fields); err != nil {
		return nil, err
	}
	o.bundle = bundle
	if err := o.open(context.Background()); err != nil {
		return nil, err
	}
	o.gather = make([]float32, 0, o.config.MaxBatch*rows*channels)
	return o.out, nil
}

// open takes the scorer from the pool and holds it to the golden outputs. The graph's bytes are not needed afterwards.
func (o *Operator) open(ctx context.Context) error {
	if o.settings.Scorers == nil {
		return fmt.Errorf("%w: want scorers in the settings, got none", pipeline.ErrConfig)
	}
	m := &o.bundle.Manifest
	spec := pipeline.ScorerSpec{Backend: o.config.RunsOn(), Model: o.bundle.ONNX, Name: m.Name + " " + m.Version}
	scorer, err := o.settings.Scorers.Scorer(ctx, spec)
	if err != nil {
		return err
	}
	if err := o.bundle.CheckGolden(ctx, scorer, o.config.tolerance()); err != nil {
		return fmt.Errorf("%w: %w", pipeline.ErrConfig, err)
	}
	o.scorer, o.bundle.ONNX = scorer, nil
	return nil
}

// checkStatistics tells whether the rows were normalized with the statistics of this bundle.
func checkStatistics(b *model.Bundle, by *schemas.ModelInfo) error {
	if by != nil && by.SHA256 != b.Manifest.File.SHA256 {
		return fmt.Errorf("model %s %s: the rows are normalized for %s %s, another model: "+
			"want the same bundle in normalize and score",
			b.Manifest.Name, b.Manifest.Version, by.Name, by.Version)
	}
	return nil
}

// find returns the index of the one column of a name and a type.
func find(in *arrow.Schema, name string, want arrow.DataType, faults *[]error) int {
	at := in.FieldIndices(name)
	if len(at) != 1 {
		*faults = append(*faults, fmt.Errorf("column %q: want one, got %d", name, len(at)))
		return -1
	}
	if got := in.Field(at[0]).Type; !arrow.TypeEqual(got, want) {
		*faults = append(*faults, fmt.Errorf("column %q: want %s, got %s", name, want, got))
	}
	return at[0]
}

// Process scores a batch.
func (o *Operator) Process(ctx context.Context, in arrow.Record, out pipeline.Emitter) error {
	if in.NumRows() == 0 {
		return nil
	}
	reasons := o.judge(in)
	scored, err := o.score(ctx, in, reasons)
	if err != nil {
		return err
	}
	added := o.columns(reasons, scored)
	cols := append(append([]arrow.Array(nil), in.Columns()...), added...)
	rec := array.NewRecord(o.out, cols, in.NumRows())
	for _, c := range added {
		c.Release()
	}
	return out.Emit(ctx, pipeline.Rows, rec)
}

// judge gives for each row the reason why it is not scored, or "".
func (o *Operator) judge(in arrow.Record) []string {
	cut := in.Column(o.cols.cut).(*array.Dictionary)
	texts := cut.Dictionary().(*array.String)
	coverage := in.Column(o.cols.coverage).(*array.Float32)
	// In float32, as the column is: 0.9 is larger as a float64.
	enough := float32(o.bundle.Manifest.MinCoverage)
	reasons := make([]string, in.NumRows())
	for i := range reasons {
		reasons[i] = texts.Value(cut.GetValueIndex(i))
		if reasons[i] == "" && !(coverage.Value(i) >= enough) {
			reasons[i] = schemas.ReasonInsufficientData
		}
	}
	return reasons
}

// score runs the model over the rows without a reason, in batches, and returns the outputs by name, row after row.
func (o *Operator) score(ctx context.Context, in arrow.Record, reasons []string) (*scored, error) {
	x, err := rowsOf(in.Column(o.cols.input).(*array.FixedSizeList))
	if err != nil {
		return nil, fmt.Errorf("column %q: %w", schemas.NameInput, err)
	}
	m := &o.bundle.Manifest
	rows, channels := m.WindowRows, len(m.Channels)
	width := rows * channels
	out := &scored{values: map[string][]float32{}}
	flush := func(values []float32) error {
		if len(values) == 0 {
			return nil
		}
		// No copy: the tensor is the column's own memory, or gather's.
		batch := tensor.New(tensor.WithShape(len(values)/width, rows, channels), tensor.WithBacking(values))
		out.rows += batch.Shape()[0]
		got, err := o.scorer.Score(ctx, batch)
		if err != nil {
			return err
		}
		for _, name := range m.Outputs.Names() {
			y, ok := got[name].Data().([]float32)
			if !ok {
				return fmt.Errorf("model %s %s: output %q: want float32, got %s", m.Name, m.Version, name, got[name].Dtype())
			}
			out.values[name] = append(out.values[name], y...)
		}
		return nil
	}
	for lo := 0; lo < len(reasons); lo += o.config.MaxBatch {
		hi := min(lo+o.config.MaxBatch, len(reasons))
		batch := o.eligible(x[lo*width:hi*width], reasons[lo:hi], width)
		if err := flush(batch); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// eligible returns the rows of x that have no reason against them: x itself if that is all, else a copy.
func (o *Operator) eligible(x []float32, reasons []string, width int) []float32 {
	if !slices.ContainsFunc(reasons, func(r string) bool { return r != "" }) {
		return x
	}
	o.gather = o.gather[:0]
	for i, r := range reasons {
		if r == "" {
			o.gather = append(o.gather, x[i*width:(i+1)*width]...)
		}
	}
	return o.gather
}

// Close releases the dictionary. The scorer is the pool's.
func (o *Operator) Close() error {
	o.reasons.Release()
	return nil
}

// rowsOf returns the values of a list column that has no nulls. ListValues ignores the offset of a slice.
func rowsOf(a *array.FixedSizeList) ([]float32, error) {
	v := a.ListValues().(*array.Float32)
	if a.NullN() > 0 || v.NullN() > 0 {
		return nil, fmt.Errorf("want no nulls, got %d", max(a.NullN(), v.NullN()))
	}
	d, o := int(a.DataType().(*arrow.FixedSizeListType).Len()), a.Data().Offset()
	return v.Float32Values()[o*d : (o+a.Len())*d], nil
}
