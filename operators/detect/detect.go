// Package detect turns scores into predictions and anomaly events.
//
// Each asset has a state: an event opens when the score, smoothed by an exponential mean, has been over the threshold
// for on_delay, and closes when it has been under leave * threshold for off_delay; then none opens for cooldown. All
// times are event time. A window without a score (its reason says why) neither opens nor closes anything and lets no
// delay run. Threshold and scores are compared as float32, as they are stored.
//
// In: the columns of window and score with their schemas.Layout and its Model. Out: schemas.Predictions, a row for each
// window in the order given, and schemas.Events: one message when an event opens (event_seq 0, firing) and one when it
// closes (1, resolved), with the same id. An event starts at the end of its first window over the threshold, so that its
// id does not depend on when it was found. At the end of input an open event stays open: the input ended, not the
// anomaly.
//
// A window that comes late, as a correction (revision over 0) or after a newer one of its asset, gives a prediction that
// stands by itself: is_anomaly says whether its score is over the threshold, score_smooth is null, and nothing opens,
// closes or is delayed by it. What was decided on what was known then stays decided; who wants the decisions of corrected
// data reads it again with a bounded run.
//
// State: per asset some 200 bytes, and at most max_assets of them. Windows of further assets are counted as max_assets
// and pass without events.
package detect

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/apache/arrow/go/v15/arrow"
	"github.com/apache/arrow/go/v15/arrow/array"

	"github.com/tailrace/tailrace/pipeline"
	"github.com/tailrace/tailrace/schemas"
)

// Operator detects over the assets of one partition.
type Operator struct {
	config   Config
	settings pipeline.Settings
	layout   schemas.Layout
	model    *schemas.ModelInfo
	rule     rule
	columns  columns

	names  *schemas.Keys // the assets by index in assets
	assets []asset
	ranked []int32 // scratch: channels by share
	out    *predictions
}

// asset is the state of one asset.
type asset struct {
	state    standing
	evidence evidence
	changed  bool // since the last snapshot
}

var _ pipeline.Operator = (*Operator)(nil)

// New returns an operator; c must be valid.
func New(c Config, s pipeline.Settings) *Operator {
	return &Operator{config: c, settings: s, names: schemas.NewKeys(s.Alloc, c.MaxAssets)}
}

// Bind wants the rows of score, and finds the threshold.
func (o *Operator) Bind(in *arrow.Schema) (*arrow.Schema, error) {
	layout, err := schemas.LayoutOf(in)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", pipeline.ErrConfig, err)
	}
	if layout.Model == nil {
		return nil, fmt.Errorf("%w: layout: want a model, as score gives it: is the step missing?", pipeline.ErrConfig)
	}
	o.layout, o.model = layout, layout.Model
	var statistics error
	if n := len(layout.Channels); len(o.model.Mean) != n || len(o.model.Std) != n {
		statistics = fmt.Errorf("model %s %s: want a mean and a std for each of %d channels, got %d and %d",
			o.model.Name, o.model.Version, n, len(o.model.Mean), len(o.model.Std))
	}
	threshold, missing := o.threshold()
	columns, bad := bindColumns(in, layout.Size, len(layout.Channels))
	if err := errors.Join(statistics, missing, bad); err != nil {
		return nil, fmt.Errorf("%w: %w", pipeline.ErrConfig, err)
	}
	o.columns = columns
	o.rule = rule{
		enter: threshold, leave: o.config.Leave * threshold, halfLife: float64(o.config.Smooth),
		onDelay: int64(o.config.OnDelay), offDelay: int64(o.config.OffDelay), cooldown: int64(o.config.Cooldown),
		hop: int64(layout.Hop) * int64(layout.Grid),
	}
	o.out = newPredictions(o.settings.Alloc, o.model)
	return schemas.Predictions(), nil
}

// threshold returns the score above which a window is anomalous, rounded to float32 as scores are, so that who compares
// the stored columns finds the same windows.
func (o *Operator) threshold() (float64, error) {
	if o.config.Threshold.Fixed != nil {
		return float64(float32(*o.config.Threshold.Fixed)), nil
	}
	key := strconv.FormatFloat(*o.config.Threshold.Quantile, 'f', -1, 64)
	value, ok := o.model.Thresholds[key]
	if !ok {
		there := strings.Join(slices.Sorted(maps.Keys(o.model.Thresholds)), ", ")
		if there == "" {
			there = "none"
		}
		return 0, fmt.Errorf("threshold: want a quantile of model %s %s (it has %s), got %s", o.model.Name, o.model.Version, there, key)
	}
	if !usable(value) {
		return 0, fmt.Errorf("threshold: want a score above 0, got %v for quantile %s of model %s %s", value, key, o.model.Name, o.model.Version)
	}
	return float64(float32(value)), nil
}

// Process gives a prediction for each window, and the events that windows open or close.
func (o *Operator) Process(ctx context.Context, in arrow.Record, out pipeline.Emitter) error {
	if in.NumRows() == 0 {
		return nil
	}
	b := o.columns.read(in)
	assetOf := o.names.Table(b.assets)
	var events []schemas.Event
	refused := 0
	for i, index := range b.assetIndex {
		id := assetOf[index]
		if id < 0 {
			if id = o.add(b.assets, index, id); id < 0 {
				refused++
				o.addRow(b, i, nil, false)
				continue
			}
		}
		a := &o.assets[id]
		score := b.score(i)
		if b.revision[i] > 0 || a.state.late(int64(b.end[i])) {
			o.addRow(b, i, &standing{open: score > o.rule.enter}, false)
			continue
		}
		a.changed = true
		c, compared := a.state.step(&o.rule, int64(b.end[i]), score)
		if compared && (a.state.open || a.state.rising() || c == closed) {
			if a.state.onset == int64(b.end[i]) {
				a.evidence.reset()
			}
			a.evidence.add(o, b, i, score, a.state.smooth)
		}
		if c != nothing {
			events = append(events, o.event(b, i, a, o.names.Text(id), c))
		}
		o.addRow(b, i, &a.state, compared)
	}
	o.settings.Drop("max_assets", refused)
	if err := out.Emit(ctx, pipeline.Rows, o.out.record(in, &o.columns)); err != nil || len(events) == 0 {
		return err
	}
	rec, err := schemas.NewEvents(o.settings.Alloc, events)
	if err != nil {
		return err
	}
	return out.Emit(ctx, pipeline.Events, rec)
}

// add returns the index of an asset that is not in the table yet.
func (o *Operator) add(column *array.Dictionary, index, id int32) int32 {
	if id == schemas.KeyRefused {
		return id
	}
	if id = o.names.Add(column, index); int(id) == len(o.assets) {
		o.assets = append(o.assets, asset{state: newStanding()})
	}
	return id
}

// addRow adds the columns that detect makes for row i. s is nil for an asset that is not watched.
func (o *Operator) addRow(b *batch, i int, s *standing, compared bool) {
	p := o.out
	p.model.Append(0)
	p.threshold.Append(float32(o.rule.enter))
	p.anomaly.Append(s != nil && s.open)
	p.backfill.Append(o.settings.Backfill)
	if compared {
		p.smooth.Append(float32(s.smooth))
	} else {
		p.smooth.AppendNull()
	}
	p.contrib.Append(true)
	for _, channel := range o.top(b, i) {
		p.contribTag.Append(o.layout.Channels[channel].Tag)
		p.contribShare.Append(b.contrib.row(i)[channel])
	}
}

// Advance does nothing: windows come in order, and delays count windows.
func (o *Operator) Advance(context.Context, int64, pipeline.Emitter) error { return nil }

// Finish does nothing: an open event stays open.
func (o *Operator) Finish(context.Context, pipeline.Emitter) error { return nil }

// Close releases the builders.
func (o *Operator) Close() error {
	if o.out != nil {
		o.out.release()
		o.out = nil
	}
	o.names.Release()
	return nil
}
