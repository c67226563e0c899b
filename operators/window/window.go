package window

import (
	"cmp"
	"context"
	"math"
	"slices"

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

// farthest is how far from 1970 a row may be, in ns, so that a window around it has times: of the longest window, with
// the longest rolls, and the one after it.
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
