// Package normalize turns windows into a model's input: (sample - mean) / std, each channel with the statistics that its
// model was trained with, read from the model bundle and never from the data at hand.
//
// In: the columns of window with their schemas.Layout. Out: all of them and schemas.NameInput, float32. A missing sample
// becomes 0, which is the channel's mean; how much is missing is said by coverage, and score refuses what has too
// little. A channel that was constant in training (std under 1e-12 of its unit) is 0 throughout. It keeps no state.
package normalize

import (
	"context"
	"errors"
	"fmt"
	"math"
	"path/filepath"
	"slices"
	"strings"

	"github.com/apache/arrow/go/v15/arrow"
	"github.com/apache/arrow/go/v15/arrow/array"
	"github.com/apache/arrow/go/v15/arrow/bitutil"
	"github.com/apache/arrow/go/v15/arrow/memory"

	"github.com/tailrace/tailrace/operators/model"
	"github.com/tailrace/tailrace/pipeline"
	"github.com/tailrace/tailrace/schemas"
)

// minStd is the deviation under which a channel counts as constant.
const minStd = 1e-12

// Operator normalizes the windows of one task.
type Operator struct {
	pipeline.Stateless
	config   Config
	settings pipeline.Settings
	samples  int // column
	mean     []float64
	std      []float64
	out      *arrow.Schema
}

var _ pipeline.Operator = (*Operator)(nil)

// New returns an operator; c must be valid.
func New(c Config, s pipeline.Settings) *Operator { return &Operator{config: c, settings: s} }

// Bind loads the bundle and compares it with the windows to come.
func (o *Operator) Bind(in *arrow.Schema) (*arrow.Schema, error) {
	layout, err := schemas.LayoutOf(in)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", pipeline.ErrConfig, err)
	}
	dir := o.config.Model
	if !filepath.IsAbs(dir) {
		dir = filepath.Join(o.settings.Dir, dir)
	}
	limits := model.DefaultLimits()
	limits.Model = o.config.MaxModel
	bundle, err := limits.Load(dir)
	if err != nil {
		return nil, err
	}
	column, err := findSamples(in, layout)
	if err := errors.Join(missingTags(bundle, layout), bundle.CheckLayout(layout), err); err != nil {
		return nil, fmt.Errorf("%w: %w", pipeline.ErrConfig, err)
	}
	info := bundle.Info()
	layout.Model = &info
	o.samples, o.mean, o.std = column, info.Mean, info.Std
	fields := append(slices.Clone(in.Fields()), schemas.InputField(layout.Size, len(layout.Channels)))
	o.out, err = layout.With(fields)
	return o.out, err
}

// missingTags names the model's channels that no step before gives: the position of each difference helps little then.
func missingTags(b *model.Bundle, l schemas.Layout) error {
	var missing []string
	for _, want := range b.Manifest.Channels {
		if !slices.ContainsFunc(l.Channels, func(got schemas.Channel) bool { return got.Tag == want.Tag }) {
			missing = append(missing, want.Tag)
		}
	}
	if len(missing) == 0 {
		return nil
	}
	return fmt.Errorf("model %s %s: channels: want as well %s", b.Manifest.Name, b.Manifest.Version, strings.Join(missing, ", "))
}

// findSamples returns the index of the column of samples, which must be of the layout's size.
func findSamples(in *arrow.Schema, l schemas.Layout) (int, error) {
	at := in.FieldIndices(schemas.NameSamples)
	if len(at) != 1 {
		return -1, fmt.Errorf("column %q: want one, as window gives it, got %d", schemas.NameSamples, len(at))
	}
	want := arrow.FixedSizeListOfField(int32(l.Size*len(l.Channels)), arrow.Field{Name: "item", Type: arrow.PrimitiveTypes.Float64, Nullable: true})
	if got := in.Field(at[0]).Type; !arrow.TypeEqual(got, want) {
		return -1, fmt.Errorf("column %q: want %s, got %s", schemas.NameSamples, want, got)
	}
	return at[0], nil
}

// Process adds the column.
func (o *Operator) Process(ctx context.Context, in arrow.Record, out pipeline.Emitter) error {
	if in.NumRows() == 0 {
		return nil
	}
	list := in.Column(o.samples).(*array.FixedSizeList)
	// ListValues ignores the offset of a slice.
	width := int(list.DataType().(*arrow.FixedSizeListType).Len())
	from, n := list.Data().Offset()*width, list.Len()*width
	values := list.ListValues().(*array.Float64)
	var valid []byte
	if values.NullN() > 0 {
		valid = values.NullBitmapBytes()
	}

	buffer := memory.NewResizableBuffer(o.settings.Alloc)
	defer buffer.Release()
	buffer.Resize(n * arrow.Float32SizeBytes)
	Normalize(arrow.Float32Traits.CastFromBytes(buffer.Bytes()), values.Float64Values()[from:from+n],
		valid, values.Data().Offset()+from, o.mean, o.std)

	field := o.out.Field(len(o.out.Fields()) - 1)
	items := array.NewData(arrow.PrimitiveTypes.Float32, n, []*memory.Buffer{nil, buffer}, nil, 0, 0)
	defer items.Release()
	data := array.NewData(field.Type, list.Len(), []*memory.Buffer{nil}, []arrow.ArrayData{items}, 0, 0)
	defer data.Release()
	input := array.NewFixedSizeListData(data)
	defer input.Release()
	return out.Emit(ctx, pipeline.Rows, array.NewRecord(o.out, append(slices.Clone(in.Columns()), input), in.NumRows()))
}

// Close has nothing to release.
func (o *Operator) Close() error { return nil }

// Normalize writes (samples - mean) / std to x, 0 for a sample that is missing, not finite, or of a constant channel.
// samples are rows of len(mean) channels in the channels' units. Bit at+i of valid tells whether samples[i] is there;
// nil means that all are. The arithmetic is in float64, since a deviation can be small beside its mean; what exceeds
// float32 becomes its largest value.
func Normalize(x []float32, samples []float64, valid []byte, at int, mean, std []float64) {
	channels := len(mean)
	for start := 0; start < len(samples); start += channels {
		row, out := samples[start:start+channels], x[start:start+channels]
		for c, v := range row {
			out[c] = 0
			if std[c] < minStd || valid != nil && !bitutil.BitIsSet(valid, at+start+c) {
				continue
			}
			if z := (v - mean[c]) / std[c]; z == z {
				out[c] = float32(min(max(z, -math.MaxFloat32), math.MaxFloat32))
			}
		}
	}
}
