// Package window cuts the grid's rows of each asset into windows of event time, tumbling or hopping.
//
// A window is [start, start + size) with start a multiple of hop since 1970-01-01 UTC, and holds the T = size / grid
// rows whose grid times are in it. It is emitted when the watermark reaches its last grid time, whether or not the asset
// still speaks: a missing row is null samples. Windows come in order of their ends, assets of one end in the order they
// were first seen. A window without a row is not emitted, so silence makes no windows. At the end of input every window
// with a row is emitted.
//
// Of n rows of an asset without a gap, the first at a multiple of hop, come exactly floor((n - T) / H) + 1 windows with
// an empty cut, H = hop / grid. The others have a reason: cut_start if the window begins before the asset's first row,
// else cut_end if the input ended before the asset's rows reached the window's end.
//
// In: schemas.WideFields and a float64 column per channel, with their schemas.Layout. Out: schemas.WindowFields; coverage
// is the mean of the rows' coverages, a missing row counting 0.
//
// State: the rows of open windows, bounded by max_state. Rows that can't be used are counted: late (at or before the
// watermark), duplicate (same asset and time; the first counts), off_grid, out_of_range, max_assets, max_state.
package window

import (
	"context"
	"errors"
	"fmt"
	"math"

	"github.com/apache/arrow/go/v15/arrow"
	"github.com/apache/arrow/go/v15/arrow/array"
	"github.com/tailrace/tailrace/pipeline"
	"github.com/tailrace/tailrace/pipeline/state"
	"github.com/tailrace/tailrace/schemas"
)

// Columns of the input; the channels follow.
const (
	inAsset = iota
	inTS
	inTSIngest
	inCoverage
	inKFirst
	inKLast
	inRevision
	inColumns
)

// none stands for no time: later than all.
const none = math.MaxInt64

// farthest is how far from 1970 a row may be, in ns, so that a window around it has times.
const farthest = math.MaxInt64 - int64(2*maxSize)

// maxCells bounds T * C, since a list's length is an int32 and one window must fit in memory many times.
const maxCells = 1 << 26

// Operator cuts the windows of one partition.
type Operator struct {
	config   Config
	settings pipeline.Settings
	span     span
	channels int

	names     *schemas.Keys // the assets by index in assets, and the output's dictionary
	assets    []asset
	watermark int64
	next      int64 // the earliest next of the assets
	state     int64 // bytes of rows held
	windows   *windowBuilder
}

var _ pipeline.Operator = (*Operator)(nil)

// New returns an operator; c must be valid.
func New(c Config, s pipeline.Settings) *Operator {
	if c.Kind == Tumbling {
		c.Hop = c.Size
	}
	return &Operator{
		config: c, settings: s, span: span{size: int64(c.Size), hop: int64(c.Hop)},
		names: schemas.NewKeys(s.Alloc, c.MaxAssets), watermark: math.MinInt64, next: none,
	}
}

// Bind wants align's rows on a grid that divides size and hop.
func (o *Operator) Bind(in *arrow.Schema) (*arrow.Schema, error) {
	layout, err := schemas.LayoutOf(in)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", pipeline.ErrConfig, err)
	}
	if err := o.check(in, layout); err != nil {
		return nil, fmt.Errorf("%w: %w", pipeline.ErrConfig, err)
	}
	o.span.grid, o.channels = int64(layout.Grid), len(layout.Channels)
	layout.Size, layout.Hop = int(o.config.Size/layout.Grid), int(o.config.Hop/layout.Grid)
	out, err := layout.With(schemas.WindowFields(layout.Size, o.channels))
	if err != nil {
		return nil, err
	}
	o.windows = newWindowBuilder(o.settings.Alloc, out, layout.Size, o.channels)
	return out, nil
}

// check reports everything about the input that does not fit.
func (o *Operator) check(in *arrow.Schema, layout schemas.Layout) error {
	if layout.Grid <= 0 || len(layout.Channels) == 0 {
		return fmt.Errorf("layout: want a grid and channels, got grid %v and %d channels", layout.Grid, len(layout.Channels))
	}
	fields := schemas.WideFields()
	for _, channel := range layout.Channels {
		fields = append(fields, arrow.Field{Name: channel.Tag, Type: arrow.PrimitiveTypes.Float64})
	}
	if len(in.Fields()) != len(fields) {
		return fmt.Errorf("want the %d columns of align with %d channels, got %d", len(fields), len(layout.Channels), len(in.Fields()))
	}
	var faults []error
	for i, field := range fields {
		if got := in.Field(i); got.Name != field.Name || !arrow.TypeEqual(got.Type, field.Type) {
			faults = append(faults, fmt.Errorf("column %d: want %s %s, got %s %s", i, field.Name, field.Type, got.Name, got.Type))
		}
	}
	if o.config.Size%layout.Grid != 0 {
		faults = append(faults, fmt.Errorf("size %v: want a multiple of the grid %v", o.config.Size, layout.Grid))
	}
	if o.config.Hop%layout.Grid != 0 {
		faults = append(faults, fmt.Errorf("hop %v: want a multiple of the grid %v", o.config.Hop, layout.Grid))
	}
	if rows := int64(o.config.Size / layout.Grid); rows > maxCells/int64(len(layout.Channels)) {
		faults = append(faults, fmt.Errorf("size %v: want at most %d values a window, got %d rows (grid %v) of %d channels",
			o.config.Size, maxCells, rows, layout.Grid, len(layout.Channels)))
	}
	return errors.Join(faults...)
}

// Process files the rows under their asset.
func (o *Operator) Process(_ context.Context, in arrow.Record, _ pipeline.Emitter) error {
	column := in.Column(inAsset).(*array.Dictionary)
	var (
		indexes  = column.Indices().(*array.Int32).Int32Values()
		times    = in.Column(inTS).(*array.Timestamp).TimestampValues()
		arrived  = in.Column(inTSIngest).(*array.Timestamp).TimestampValues()
		coverage = in.Column(inCoverage).(*array.Float32).Float32Values()
		first    = in.Column(inKFirst).(*array.Int64).Int64Values()
		last     = in.Column(inKLast).(*array.Int64).Int64Values()
	)
	samples := make([]*array.Float64, o.channels)
	for c := range samples {
		samples[c] = in.Column(inColumns + c).(*array.Float64)
	}
	assetOf := o.names.Table(column)
	rowBytes := int64(rowOverhead + 8*o.channels)
	var dropped drops
	for i := range times {
		ts := int64(times[i])
		switch {
		case ts < -farthest || ts > farthest:
			dropped.outOfRange++
			continue
		case ts%o.span.grid != 0:
			dropped.offGrid++
			continue
		case ts <= o.watermark:
			dropped.late++
			continue
		case o.state+rowBytes > int64(o.config.MaxState):
			dropped.maxState++
			continue
		}
		id := assetOf[indexes[i]]
		if id < 0 {
			if id = o.add(column, indexes[i], id); id < 0 {
				dropped.maxAssets++
				continue
			}
		}
		a := &o.assets[id]
		cells, ok := a.add(row{ts: ts, arrived: int64(arrived[i]), first: first[i], last: last[i], coverage: coverage[i]}, o.channels)
		if !ok {
			dropped.duplicate++
			continue
		}
		for c, values := range samples {
			cells[c] = math.NaN()
			if values.IsValid(i) {
				cells[c] = values.Value(i)
			}
		}
		o.state += rowBytes
		if a.rows[a.head].ts == ts {
			a.next = o.span.firstWindow(a)
			o.next = min(o.next, a.next)
		}
	}
	dropped.report(&o.settings)
	return nil
}

// add returns the index of an asset that is not in the table yet.
func (o *Operator) add(column *array.Dictionary, index, id int32) int32 {
	if id == schemas.KeyRefused {
		return id
	}
	if id = o.names.Add(column, index); int(id) == len(o.assets) {
		o.assets = append(o.assets, asset{next: none, done: math.MinInt64, firstEver: none})
	}
	return id
}

// Advance emits the windows whose last grid time is at or before watermark.
func (o *Operator) Advance(ctx context.Context, watermark int64, out pipeline.Emitter) error {
	if watermark <= o.watermark {
		return nil
	}
	o.watermark = watermark
	// A window with start s is due when s + size - grid <= watermark.
	lead := o.span.size - o.span.grid
	if watermark < math.MinInt64+lead {
		return nil
	}
	return o.emit(ctx, watermark-lead, false, out)
}

// Finish emits every window that has a row.
func (o *Operator) Finish(ctx context.Context, out pipeline.Emitter) error {
	return o.emit(ctx, none-1, true, out)
}

// emit gives the windows with starts from o.next to last.
func (o *Operator) emit(ctx context.Context, last int64, ending bool, out pipeline.Emitter) error {
	maxRows := max(1, int(o.config.MaxBatch)/(8*o.windows.cells()))
	rowBytes := int64(rowOverhead + 8*o.channels)
	for o.next <= last {
		start := o.next
		o.next = none
		o.windows.reserve(min(o.due(start), maxRows))
		for i := range o.assets {
			a := &o.assets[i]
			if a.next == start {
				o.windows.add(int32(i), o.span, start, a, a.cut(start, o.span, ending))
				a.done = start
				o.state -= rowBytes * int64(a.forget(start+o.span.hop, o.channels))
				a.next = o.span.firstWindow(a)
				if o.windows.len() >= maxRows {
					if err := o.flush(ctx, out); err != nil {
						return err
					}
				}
			}
			o.next = min(o.next, a.next)
		}
	}
	return o.flush(ctx, out)
}

// due counts the assets whose next window is the one at start.
func (o *Operator) due(start int64) int {
	n := 0
	for i := range o.assets {
		if o.assets[i].next == start {
			n++
		}
	}
	return n
}

func (o *Operator) flush(ctx context.Context, out pipeline.Emitter) error {
	if o.windows.len() == 0 {
		return nil
	}
	return out.Emit(ctx, pipeline.Rows, o.windows.record(o.names.Dictionary()))
}

// Snapshot writes the state by asset.
func (o *Operator) Snapshot(*state.Writer, bool) error { return nil }

// Restore takes it back.
func (o *Operator) Restore(*state.Reader) error { return nil }

// Close releases the builders and the rows held.
func (o *Operator) Close() error {
	if o.windows != nil {
		o.windows.release()
		o.windows = nil
	}
	o.assets = nil
	o.names.Release()
	return nil
}

// drops counts the rows of one batch that are not used.
type drops struct{ outOfRange, offGrid, late, duplicate, maxAssets, maxState int }

func (d *drops) report(s *pipeline.Settings) {
	s.Drop("out_of_range", d.outOfRange)
	s.Drop("off_grid", d.offGrid)
	s.Drop("late", d.late)
	s.Drop("duplicate", d.duplicate)
	s.Drop("max_assets", d.maxAssets)
	s.Drop("max_state", d.maxState)
}
