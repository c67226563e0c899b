// Package window cuts the grid's rows of each asset into windows of event time.
//
// The kinds of windows, each [start, end):
//   - tumbling and hopping: [start, start + size) with start a multiple of hop since 1970-01-01 UTC.
//   - session: from an asset's first row after a gap to its last row before the next, grid included. A row that is gap or
//     more after the one before begins another session; so does one that is max_duration or more after the start.
//   - count: the last rows of the asset, whatever their times, one window every so many rows.
//   - trigger: from pre before the row for which start holds to post after the row for which stop does; the stop's row is
//     the first that is not in the window (if post is 0s). Rows are judged one by one: the stop counts from the row after
//     the start, and its row may be the next start. If no stop comes within max_duration of the start, the window is closed
//     there by force, and the next begins only after stop has held, or start has not. A window of less than min_duration from
//     start to stop is not given; its rows are counted as too_short.
//   - calendar: hours, shifts, days, weeks (from Monday) or months as the clocks of a zone show them: a day has 23 or 25
//     hours when they are changed. Hours are counted from the start of the day, and the last of a day may be shorter.
//
// Windows are given at the watermark at which all their rows are in, whether or not the asset still speaks: at the last
// grid time of the window; for session when nothing can go on with it; for trigger not before the stop's own row. They come
// in the order of those times, assets of one time in the order they were first seen. A window without a row is not given, so
// silence makes no windows. At the end of input every window that has rows is given (of count, one with the rows left over).
//
// Of n rows of an asset without a gap, the first at a multiple of hop, come exactly floor((n - T) / H) + 1 windows with
// an empty cut, T = size / grid, H = hop / grid; of count T = rows, H = every. The others have a reason: cut_start if the
// window begins before the asset's first row (for trigger also with it), else cut_end if the input ended before the window
// did, else max_duration if it was closed by force.
//
// In: schemas.WideFields and a float64 column per channel, with their schemas.Layout. Out: schemas.WindowFields with T the
// most rows that a window can have: max_duration / grid for session, (pre + max_duration + post) / grid for trigger, for
// calendar what its zone asks for. Row k of the samples is the k-th grid time at or after start, for count the k-th row; a
// missing row, and what lies behind a shorter window, is null. n counts the rows; coverage is the mean of the rows' coverages
// over the grid times in [start, end), over T for count, a missing row counting 0.
//
// With a lateness in the settings, rows at or before the watermark, by no more than the lateness, correct what is out: at the
// next Advance (or Finish), before other windows, each window that they change or make is given once more, by window end,
// with a revision one higher than it had; one that was never out has revision 0. Windows are those that the same rows in
// order would have given. Where bounds depend on rows, a late row may so replace a window by others: the old one is given
// once more, with n 0 and cut withdrawn. A row of a time held before replaces that row if its revision is over 0.
//
// State: the rows of open windows and, with a lateness, of windows that can still be corrected, bounded by max_state. If
// more is to be kept, the latter are let go, the oldest first. Rows that can't be used are counted: late (at or before the
// watermark by more than the lateness), duplicate (same asset and time; the first counts), off_grid, out_of_range, max_assets,
// max_state (no room for the row, or for what it would correct).
package window

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/apache/arrow/go/v15/arrow"
	"github.com/apache/arrow/go/v15/arrow/array"
	"github.com/tailrace/tailrace/pipeline"
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

// farthest is how far from 1970 a row may be, in ns, so that a window around it has times: of the longest window, with the
// longest rolls, and the one after it.
const farthest = math.MaxInt64 - int64(6*maxSize)

// maxCells bounds T * C, since a list's length is an int32 and one window must fit in memory many times.
const maxCells = 1 << 26

// Operator cuts the windows of one partition.
type Operator struct {
	config   Config
	settings pipeline.Settings
	lateness int64 // ns
	grid     int64 // ns
	channels int
	kind     kind
	trigger  *conditions // of kind trigger, else nil
	shape    string      // what the state depends on

	names     *schemas.Keys // the assets by index in assets, and the output's dictionary
	assets    []asset
	watermark int64
	settled   int64   // rows at or before it are late
	wake      timers  // when an asset's rows or windows are due
	keep      timers  // with a lateness: when an asset has something that need not be kept longer
	corrected []int32 // assets with corrected set
	state     int64   // bytes of rows and windows held
	unsaved   []int32 // assets with unsaved set

	windows *windowBuilder
	ready   []output // these three are kept for their memory
	found   []bounds
	touched []int32
}

// output is a window to be given.
type output struct {
	bounds
	asset    int32
	revision uint32
}

var _ pipeline.Operator = (*Operator)(nil)

// New returns an operator; c must be valid.
func New(c Config, s pipeline.Settings) *Operator {
	return &Operator{
		config: c, settings: s, lateness: int64(max(s.Lateness, 0)),
		names: schemas.NewKeys(s.Alloc, c.MaxAssets), watermark: math.MinInt64, settled: math.MinInt64,
	}
}

// Bind wants align's rows on a grid that divides the lengths.
func (o *Operator) Bind(in *arrow.Schema) (*arrow.Schema, error) {
	layout, err := schemas.LayoutOf(in)
	if err == nil {
		err = o.check(in, layout)
	}
	if err == nil {
		err = o.bindKind(layout)
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %w", pipeline.ErrConfig, err)
	}
	rows, hop := o.kind.layout()
	layout.Size, layout.Hop = int(rows), int(hop)
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
	for _, length := range []struct {
		key string
		d   time.Duration
	}{
		{"size", o.config.Size}, {"hop", o.config.Hop}, {"gap", o.config.Gap}, {"pre", o.config.Pre}, {"post", o.config.Post},
		{"max_duration", o.config.MaxDuration},
	} {
		if length.d%layout.Grid != 0 {
			faults = append(faults, fmt.Errorf("%s %v: want a multiple of the grid %v", length.key, length.d, layout.Grid))
		}
	}
	if o.config.Kind == Session && o.config.Gap <= layout.Grid {
		faults = append(faults, fmt.Errorf("gap %v: want more than the grid %v, or each row is a session", o.config.Gap, layout.Grid))
	}
	return errors.Join(faults...)
}

// bindKind makes the kind of windows for a layout that fits.
func (o *Operator) bindKind(layout schemas.Layout) error {
	c, grid := &o.config, int64(layout.Grid)
	switch c.Kind {
	case Tumbling:
		o.kind = placed{fixed{int64(c.Size), int64(c.Size), grid}, grid}
	case Hopping:
		o.kind = placed{fixed{int64(c.Size), int64(c.Hop), grid}, grid}
	case Session:
		o.kind = session{gap: int64(c.Gap), longest: int64(c.MaxDuration), grid: grid}
	case Count:
		every, _ := c.everyRows()
		o.kind = count{size: int64(c.Rows), every: int64(every), grid: grid}
	case Trigger:
		conditions, err := newConditions(c, layout.Channels)
		if err != nil {
			return err
		}
		o.trigger = conditions
		o.kind = trigger{pre: int64(c.Pre), post: int64(c.Post), shortest: int64(c.MinDuration), longest: int64(c.MaxDuration), grid: grid}
	case Calendar:
		calendar, err := newCalendar(c, grid)
		if err != nil {
			return err
		}
		o.kind = placed{calendar, grid}
	default:
		return fmt.Errorf("kind: want one of %v, got %q", kindNames, c.Kind)
	}
	o.grid, o.channels = grid, len(layout.Channels)
	switch rows, _ := o.kind.layout(); {
	case rows < 1:
		return fmt.Errorf("grid %v: want one that a window has room for", layout.Grid)
	case rows > maxCells/int64(o.channels):
		return fmt.Errorf("want at most %d values a window, got %d rows (grid %v) of %d channels", maxCells, rows, layout.Grid, o.channels)
	}
	o.shape = shapeOf(c, layout)
	return nil
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
		revision = in.Column(inRevision).(*array.Uint32).Uint32Values()
	)
	samples := make([]*array.Float64, o.channels)
	for c := range samples {
		samples[c] = in.Column(inColumns + c).(*array.Float64)
	}
	assetOf := o.names.Table(column)
	var dropped drops
	for i := range times {
		ts, id := int64(times[i]), assetOf[indexes[i]]
		switch {
		case ts < -farthest || ts > farthest:
			dropped.outOfRange++
			continue
		case ts%o.grid != 0:
			dropped.offGrid++
			continue
		case ts <= o.settled:
			dropped.late++
			continue
		case id >= 0 && ts <= o.assets[id].settled:
			dropped.maxState++
			continue
		case !o.fits() && !(id >= 0 && o.assets[id].holds(ts)) && !o.makeRoom():
			dropped.maxState++
			continue
		}
		if id < 0 {
			if id = o.add(column, indexes[i], id); id < 0 {
				dropped.maxAssets++
				continue
			}
		}
		a := &o.assets[id]
		if ts <= a.settled { // what it would correct was let go to make room for it
			dropped.maxState++
			continue
		}
		r := row{ts: ts, arrived: int64(arrived[i]), first: first[i], last: last[i], coverage: coverage[i]}
		at, added, ok := a.put(r, revision[i] > 0, o.channels)
		if !ok {
			dropped.duplicate++
			continue
		}
		cells := a.cells[at*o.channels : (at+1)*o.channels]
		for c, values := range samples {
			cells[c] = math.NaN()
			if values.IsValid(i) {
				cells[c] = values.Value(i)
			}
		}
		if o.trigger != nil {
			a.rows[at].flags = o.trigger.flags(cells)
		}
		if added {
			o.state += o.rowBytes()
		}
		o.file(id, a, at)
	}
	dropped.report(&o.settings)
	return nil
}

// rowBytes is what a held row counts.
func (o *Operator) rowBytes() int64 { return int64(rowOverhead + 8*o.channels) }

// file notes what is to be done about the row at an index.
func (o *Operator) file(id int32, a *asset, at int) {
	o.change(id, a)
	switch {
	case a.rows[at].ts <= o.watermark:
		a.rows[at].flags |= flagChanged
		if !a.corrected {
			a.corrected = true
			o.corrected = append(o.corrected, id)
			o.keep.set(id, none)
		}
	case at == a.head || a.rows[at-1].ts <= o.watermark:
		// Of the rows after the watermark only the first can bring forward what is due.
		o.wake.set(id, o.kind.next(&a.live, a, o.watermark))
	}
}

// change marks an asset for the next snapshot.
func (o *Operator) change(id int32, a *asset) {
	if !a.unsaved {
		a.unsaved = true
		o.unsaved = append(o.unsaved, id)
	}
}

// add returns the index of an asset that is not in the table yet.
func (o *Operator) add(column *array.Dictionary, index, id int32) int32 {
	if id == schemas.KeyRefused {
		return id
	}
	if id = o.names.Add(column, index); int(id) == len(o.assets) {
		o.grow(newAsset())
	}
	return id
}

func (o *Operator) grow(a asset) {
	o.assets = append(o.assets, a)
	o.wake.grow()
	o.keep.grow()
}

// Advance gives corrections, then the windows that are due at watermark.
func (o *Operator) Advance(ctx context.Context, watermark int64, out pipeline.Emitter) error {
	if err := o.correct(ctx, out); err != nil || watermark <= o.watermark {
		return err
	}
	from := o.watermark
	o.watermark = watermark
	touched := o.touched[:0]
	o.ready = o.ready[:0]
	for id, at := o.wake.first(); at <= watermark && id >= 0; id, at = o.wake.first() {
		a := &o.assets[id]
		o.found = o.kind.run(&a.live, a, from, watermark, o.found[:0])
		for _, b := range o.found {
			o.ready = append(o.ready, output{bounds: b, asset: id})
		}
		o.settings.Drop("too_short", a.live.short)
		a.live.short = 0
		o.change(id, a)
		o.wake.set(id, o.kind.next(&a.live, a, watermark))
		touched = append(touched, id)
	}
	o.touched = touched
	if err := o.emitDue(ctx, out); err != nil {
		return err
	}
	if o.lateness > 0 {
		o.settleAll(touched)
		return nil
	}
	o.settled = watermark
	for _, id := range touched {
		a := &o.assets[id]
		o.state -= o.rowBytes() * int64(a.forget(o.kind.need(&a.live, a, watermark), o.channels))
	}
	return nil
}

// Finish gives corrections, then every window that has a row.
func (o *Operator) Finish(ctx context.Context, out pipeline.Emitter) error {
	if err := o.correct(ctx, out); err != nil {
		return err
	}
	o.ready = o.ready[:0]
	for id := range o.assets {
		a := &o.assets[id]
		o.found = o.kind.end(&a.live, a, o.watermark, o.found[:0])
		for _, b := range o.found {
			o.ready = append(o.ready, output{bounds: b, asset: int32(id)})
		}
		o.settings.Drop("too_short", a.live.short)
		a.live.short = 0
	}
	return o.emitDue(ctx, out)
}

// emitDue gives the windows in ready for the first time.
func (o *Operator) emitDue(ctx context.Context, out pipeline.Emitter) error {
	slices.SortStableFunc(o.ready, func(a, b output) int {
		return cmp.Or(cmp.Compare(a.due, b.due), cmp.Compare(a.asset, b.asset))
	})
	if o.lateness > 0 {
		for i := range o.ready {
			o.remember(&o.ready[i])
		}
	}
	return o.emit(ctx, out)
}

// emit gives the windows in ready, in that order.
func (o *Operator) emit(ctx context.Context, out pipeline.Emitter) error {
	maxRows := max(1, int(o.config.MaxBatch)/(8*o.windows.cells()))
	for i := range o.ready {
		if o.windows.len() == 0 {
			o.windows.reserve(min(len(o.ready)-i, maxRows))
		}
		w := &o.ready[i]
		o.windows.add(w, &o.assets[w.asset], o.frame(w))
		if o.windows.len() >= maxRows {
			if err := o.flush(ctx, out); err != nil {
				return err
			}
		}
	}
	return o.flush(ctx, out)
}

// frame says where the samples of a window's rows go.
func (o *Operator) frame(w *output) frame {
	if _, byRow := o.kind.(count); byRow {
		return frame{rows: o.windows.rows, last: w.end - o.grid}
	}
	first := ceil(w.start, o.grid)
	rows := int((ceil(w.end, o.grid) - first) / o.grid)
	return frame{first: first, grid: o.grid, rows: min(rows, o.windows.rows), last: floor(w.end-1, o.grid)}
}

func (o *Operator) flush(ctx context.Context, out pipeline.Emitter) error {
	if o.windows.len() == 0 {
		return nil
	}
	return out.Emit(ctx, pipeline.Rows, o.windows.record(o.names.Dictionary()))
}

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
