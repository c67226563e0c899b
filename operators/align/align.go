// Package align turns long telemetry into rows on a grid: one per asset and grid time, one column per channel.
//
// With value: hold, a row at grid time g has, for each channel, the newest usable sample with a time in (g - max_gap, g]:
// the last observation carried forward, which needs no later sample and so adds no latency. With value: mean it has the
// mean over [g - grid, g) of the value so held, each value weighted by how long it holds there (sum(v*dt) / sum(dt) over
// the time that is covered): over data reported by exception a plain mean would weigh busy seconds most. A sample at exactly
// g then counts from the next row on. Usable is a finite number of a quality other than bad whose clock is not suspect.
// Grid times are multiples of grid since 1970-01-01 UTC.
//
// In: schemas.Telemetry. Out: schemas.WideFields, then a nullable float64 column per channel in its unit, with the
// schemas.Layout. Rows come in order of grid time, assets of one time in the order they were first seen; a row is emitted
// when the watermark reaches its time. An asset all of whose values are older than max_gap has no rows until it speaks
// again, so a jump in time makes no more than max_gap / grid rows per asset. At the end of input rows go up to the first
// grid time that the asset's newest sample counts in.
//
// A sample whose row is out is late. With a lateness in the settings, samples that are late by no more correct what is out:
// at the next Advance (or Finish), before the new rows, every row that such a sample changes or makes is given once more,
// whole, in order of grid time, with a revision one higher than it had, however many samples changed it; a row that was
// never out has revision 0. Such rows keep the place of their window in time, not in the order of rows. What is later
// than that, or late at all without a lateness, leaves as it came by the output Late.
//
// State: per asset and channel the held value, the samples that wait for the watermark, and with a lateness those of
// lateness + max_gap before it; all are bounded by Config. If more samples than max_open_samples are to be kept, those late
// by more than what is kept leave as late. What is not used is counted: unknown_tag, no_value, not_finite, bad_quality,
// clock_suspect, late, duplicate (same asset, tag and time; the first counts), out_of_range, max_assets, max_open_samples.
package align

import (
	"context"
	"errors"
	"fmt"
	"math"

	"github.com/apache/arrow/go/v15/arrow"
	"github.com/apache/arrow/go/v15/arrow/array"
	"github.com/tailrace/tailrace/pipeline"
	"github.com/tailrace/tailrace/schemas"
)

// none stands for no time: later than all, or as a sample's time earlier than all with its sign turned.
const none = math.MaxInt64

// Operator aligns the assets of one partition.
type Operator struct {
	config   Config
	settings pipeline.Settings
	timing
	lateness int64 // ns
	farthest int64 // ns; samples farther from 1970 are refused, so that sums with gap and grid can't overflow

	names    *schemas.Keys    // the assets by index in assets, and the output's dictionary
	channels map[string]int32 // index in Channels by tag
	tags     arrow.ArrayData  // the dictionary that tagTable belongs to
	tagTable []int32          // index in Channels by dictionary index; -1 for other tags

	assets  []asset
	emitted int64 // rows at or before it are out
	horizon int64 // late samples at or before it correct nothing
	trimmed int64 // what the horizon was when the assets last forgot what lies before it
	next    int64 // the earliest next of the assets
	open    int   // samples in all lanes that wait
	kept    int   // samples in all lanes that have counted and may serve a correction
	late    []lateSample
	refused []int // scratch: the rows of a batch that are too late
	rows    *rowBuilder
	dropped drops
}

var _ pipeline.Operator = (*Operator)(nil)

// New returns an operator; c must be valid.
func New(c Config, s pipeline.Settings) *Operator {
	if c.MaxGap == 0 {
		c.MaxGap = 3 * c.Grid
	}
	o := &Operator{
		config: c, settings: s, timing: timing{grid: int64(c.Grid), gap: int64(c.MaxGap), mean: c.Value == valueMean},
		lateness: max(0, int64(s.Lateness)), names: schemas.NewKeys(s.Alloc, c.MaxAssets), channels: map[string]int32{},
		emitted: math.MinInt64, horizon: math.MinInt64, trimmed: math.MinInt64, next: none,
	}
	o.farthest = math.MaxInt64 - o.gap - 2*o.grid
	for i, channel := range c.Channels {
		o.channels[channel.Tag] = int32(i)
	}
	return o
}

// Bind wants telemetry.v1.
func (o *Operator) Bind(in *arrow.Schema) (*arrow.Schema, error) {
	want := schemas.Telemetry().Fields()
	if len(in.Fields()) != len(want) {
		return nil, fmt.Errorf("%w: want the %d columns of telemetry.v1, got %d", pipeline.ErrConfig, len(want), len(in.Fields()))
	}
	var faults []error
	for i, field := range want {
		if got := in.Field(i); got.Name != field.Name || !arrow.TypeEqual(got.Type, field.Type) {
			faults = append(faults, fmt.Errorf("column %d: want %s %s, got %s %s", i, field.Name, field.Type, got.Name, got.Type))
		}
	}
	if len(faults) > 0 {
		return nil, fmt.Errorf("%w: %w", pipeline.ErrConfig, errors.Join(faults...))
	}
	fields := schemas.WideFields()
	for _, channel := range o.config.Channels {
		fields = append(fields, arrow.Field{Name: channel.Tag, Type: arrow.PrimitiveTypes.Float64, Nullable: true})
	}
	out, err := schemas.Layout{Channels: o.config.Channels, Grid: o.config.Grid}.With(fields)
	if err != nil {
		return nil, err
	}
	o.rows = newRowBuilder(o.settings.Alloc, out)
	return out, nil
}

// Process files the usable samples under their asset and channel, where they wait for the watermark, and gives those that
// are too late to Late.
func (o *Operator) Process(ctx context.Context, in arrow.Record, out pipeline.Emitter) error {
	assetColumn, tagColumn := in.Column(schemas.ColAsset).(*array.Dictionary), in.Column(schemas.ColTag).(*array.Dictionary)
	values := in.Column(schemas.ColValue).(*array.Float64)
	var (
		times   = in.Column(schemas.ColTS).(*array.Timestamp).TimestampValues()
		arrived = in.Column(schemas.ColTSIngest).(*array.Timestamp).TimestampValues()
		assets  = assetColumn.Indices().(*array.Int32).Int32Values()
		tags    = tagColumn.Indices().(*array.Int32).Int32Values()
		numbers = values.Float64Values()
		quality = in.Column(schemas.ColQuality).(*array.Uint8).Uint8Values()
		flags   = in.Column(schemas.ColFlags).(*array.Uint32).Uint32Values()
		offsets = in.Column(schemas.ColKOffset).(*array.Int64).Int64Values()
	)
	channelOf, assetOf := o.tagsOf(tagColumn), o.names.Table(assetColumn)
	nulls := values.NullN() > 0
	dropped := o.dropped.start(assetColumn.Dictionary().Len())
	closed := int64(math.MinInt64) // samples before it are late
	if o.emitted != math.MinInt64 {
		closed = o.timing.until(o.emitted)
	}
	o.refused = o.refused[:0]
	for i := range times {
		ts, channel := int64(times[i]), channelOf[tags[i]]
		if channel < 0 {
			dropped.add(unknownTag, assets[i])
			continue
		}
		switch v := numbers[i]; {
		case flags[i]&uint32(schemas.FlagClockSuspect) != 0:
			dropped.add(clockSuspect, assets[i])
			continue
		case nulls && values.IsNull(i):
			dropped.add(noValue, assets[i])
			continue
		case quality[i] == uint8(schemas.Bad):
			dropped.add(badQuality, assets[i])
			continue
		case math.IsNaN(v) || math.IsInf(v, 0):
			dropped.add(notFinite, assets[i])
			continue
		case ts < -o.farthest || ts > o.farthest:
			dropped.add(outOfRange, assets[i])
			continue
		case ts < closed && ts <= o.horizon:
			dropped.add(late, assets[i])
			o.refused = append(o.refused, i)
			continue
		case ts < closed && o.kept+len(o.late) >= o.config.MaxOpenSamples, ts >= closed && o.open >= o.config.MaxOpenSamples:
			dropped.add(maxOpen, assets[i])
			continue
		}
		id := assetOf[assets[i]]
		if id < 0 {
			if id = o.add(assetColumn, assets[i], id); id < 0 {
				dropped.add(maxAssets, assets[i])
				continue
			}
		}
		a, s := &o.assets[id], sample{point: point{ts, numbers[i]}, arrived: int64(arrived[i]), offset: offsets[i]}
		a.changed = true
		a.newest = max(a.newest, ts)
		if ts < closed {
			o.late = append(o.late, lateSample{asset: id, channel: channel, sample: s})
			continue
		}
		a.lanes[channel].add(s)
		o.open++
		if ts < o.timing.until(a.next-o.grid) { // its row is before next, and a division finds it
			a.next = o.timing.first(ts)
			o.next = min(o.next, a.next)
		}
	}
	dropped.report(&o.settings, assetColumn.Dictionary().(*array.String))
	if len(o.refused) == 0 {
		return nil
	}
	return out.Emit(ctx, pipeline.Late, schemas.TakeTelemetry(o.settings.Alloc, in, o.refused))
}

// tagsOf returns the channel for each index of a tag dictionary.
func (o *Operator) tagsOf(column *array.Dictionary) []int32 {
	data := column.Dictionary().Data()
	if data == o.tags {
		return o.tagTable
	}
	texts := column.Dictionary().(*array.String)
	o.tags, o.tagTable = data, o.tagTable[:0]
	for i := range texts.Len() {
		channel, ok := o.channels[texts.Value(i)]
		if !ok {
			channel = -1
		}
		o.tagTable = append(o.tagTable, channel)
	}
	return o.tagTable
}

// add returns the index of an asset that is not in the table yet.
func (o *Operator) add(column *array.Dictionary, index, id int32) int32 {
	if id == schemas.KeyRefused {
		return id
	}
	if id = o.names.Add(column, index); int(id) == len(o.assets) {
		o.assets = append(o.assets, newAsset(len(o.config.Channels)))
	}
	return id
}

// Advance emits the rows that late samples have changed, and then the rows at and before watermark.
func (o *Operator) Advance(ctx context.Context, watermark int64, out pipeline.Emitter) error {
	if err := o.correct(ctx, out); err != nil || watermark < -o.farthest {
		return err
	}
	reached := floor(min(watermark, o.farthest+o.grid), o.grid)
	if reached <= o.emitted {
		return nil
	}
	if o.lateness == 0 && o.kept > 0 {
		o.forget()
	}
	o.emitted = reached
	if err := o.emit(ctx, reached, false, out); err != nil {
		return err
	}
	o.retain()
	return nil
}

// Finish emits the rows that late samples have changed, and then the rows up to the first that each asset's newest sample
// counts in.
func (o *Operator) Finish(ctx context.Context, out pipeline.Emitter) error {
	if err := o.correct(ctx, out); err != nil {
		return err
	}
	o.next = none
	for i := range o.assets {
		a := &o.assets[i]
		a.endAt(&o.timing)
		o.next = min(o.next, a.next)
	}
	return o.emit(ctx, none-1, true, out)
}

// emit gives the rows with grid times from o.next to last, a batch whenever BatchRows are together.
func (o *Operator) emit(ctx context.Context, last int64, ending bool, out pipeline.Emitter) error {
	keep, duplicates := o.lateness > 0, 0
	for o.next <= last {
		g := o.next
		o.next = none
		for i := range o.assets {
			a := &o.assets[i]
			if a.next == g {
				row := a.row(&o.timing, g, keep, o.rows.cells)
				if ending {
					a.endAt(&o.timing)
				}
				a.changed = true
				o.open -= row.samples + row.duplicates
				if keep {
					o.kept += row.samples
				}
				duplicates += row.duplicates
				o.rows.add(int32(i), g, row)
			}
			o.next = min(o.next, a.next)
		}
		if o.rows.len() >= o.config.BatchRows {
			if err := o.flush(ctx, out); err != nil {
				return err
			}
		}
	}
	o.settings.Drop("duplicate", duplicates)
	return o.flush(ctx, out)
}

func (o *Operator) flush(ctx context.Context, out pipeline.Emitter) error {
	if o.rows == nil || o.rows.len() == 0 {
		return nil
	}
	return out.Emit(ctx, pipeline.Rows, o.rows.record(o.names.Dictionary()))
}

// Close releases the builders.
func (o *Operator) Close() error {
	if o.rows != nil {
		o.rows.release()
		o.rows = nil
	}
	o.names.Release()
	return nil
}
