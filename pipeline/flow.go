package pipeline

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/apache/arrow/go/v15/arrow"
	"github.com/apache/arrow/go/v15/arrow/memory"
	"github.com/tailrace/tailrace/pipeline/eventtime"
	"github.com/tailrace/tailrace/pipeline/state"
)

// flow is the event-time clock of a partition and the chains that it drives: one for what is live, and one for history,
// made when its first row comes.
type flow struct {
	clock   *eventtime.Clock
	live    *chain
	history *chain
	open    func(eventtime.Lane) (*chain, error)
}

// newFlow makes and binds the live chain. open makes the chain of a lane.
func newFlow(c WatermarkConfig, mem memory.Allocator, open func(eventtime.Lane) (*chain, error)) (*flow, error) {
	live, err := open(eventtime.Live)
	if err != nil {
		return nil, err
	}
	return &flow{clock: eventtime.New(c.clock(), mem), live: live, open: open}, nil
}

// clock is the config as the clock takes it.
func (c *WatermarkConfig) clock() eventtime.Config {
	return eventtime.Config{
		OutOfOrder: c.OutOfOrder, Step: c.Step, AllowedLateness: c.AllowedLateness, IdleTimeout: c.IdleTimeout,
		MaxSkew: c.MaxSkew, MinTime: c.MinTime.UnixNano(), LateAfter: c.LateAfter, MaxDevices: c.MaxDevices,
	}
}

// chainOf returns the chain of a lane.
func (f *flow) chainOf(lane eventtime.Lane) (*chain, error) {
	if lane == eventtime.Live {
		return f.live, nil
	}
	if f.history == nil {
		c, err := f.open(lane)
		if err != nil {
			return nil, fmt.Errorf("the lane of history: %w", err)
		}
		f.history = c
	}
	return f.history, nil
}

// chains are those that there are.
func (f *flow) chains() []*chain {
	if f.history == nil {
		return []*chain{f.live}
	}
	return []*chain{f.live, f.history}
}

// process runs a batch of telemetry.v1 through the chains, cut wherever a watermark moves, and returns the rows as they are to
// be stored, which the caller owns. base is the number of the batch's first row, from which its edits count.
func (f *flow) process(ctx context.Context, mem memory.Allocator, batch arrow.Record, base int64) (stored []arrow.Record, v *judged, err error) {
	verdict := f.clock.Judge(batch)
	v = &judged{Verdict: verdict}
	for _, e := range verdict.Edits {
		v.edits = append(v.edits, state.Edit{Row: base + int64(e.Row), Drop: e.Drop, Flags: e.Flags})
	}
	flagged := edited(mem, batch, base, v.edits)
	defer flagged.Release()
	if err := f.spans(ctx, flagged, verdict.Spans); err != nil {
		return nil, nil, err
	}
	return kept(flagged, base, v.edits), v, nil
}

// judged is what the clock says of a batch.
type judged struct {
	eventtime.Verdict
	edits []state.Edit
}

// tick lets the idle clock run: now is the time of a barrier, caughtUp whether the task is at the partition's end.
func (f *flow) tick(ctx context.Context, now int64, caughtUp bool) error {
	return f.spans(ctx, nil, f.clock.Tick(now, caughtUp))
}

func (f *flow) spans(ctx context.Context, batch arrow.Record, spans []eventtime.Span) error {
	for _, s := range spans {
		c, err := f.chainOf(s.Lane)
		if err != nil {
			return err
		}
		if s.To > s.From {
			if err := processSlice(ctx, c, batch, s.From, s.To); err != nil {
				return err
			}
		}
		if s.Moved {
			if err := c.advance(ctx, s.Watermark); err != nil {
				return err
			}
		}
	}
	return nil
}

func processSlice(ctx context.Context, c *chain, batch arrow.Record, from, to int) error {
	s := batch.NewSlice(int64(from), int64(to))
	defer s.Release()
	return c.process(ctx, s)
}

func (f *flow) finish(ctx context.Context) error {
	for _, c := range f.chains() {
		if err := c.finish(ctx); err != nil {
			return err
		}
	}
	return nil
}

// takeSpent returns what each step has used since the last time, over both lanes.
func (f *flow) takeSpent() []stepTime {
	spent := f.live.takeSpent()
	if f.history != nil {
		for i, s := range f.history.takeSpent() {
			spent[i].took += s.took
			spent[i].rows += s.rows
		}
	}
	return spent
}

// snapshot writes the state of the clock and of all steps.
func (f *flow) snapshot(full bool) ([]state.Step, error) {
	w := state.NewWriter()
	if err := f.clock.Snapshot(w, full); err != nil {
		return nil, fmt.Errorf("the event-time clock: %w", err)
	}
	steps := []state.Step{{Name: state.ClockStep, State: w}}
	steps, err := f.live.snapshot(steps, "", full)
	if err != nil || f.history == nil {
		return steps, err
	}
	return f.history.snapshot(steps, state.HistoryPrefix, full)
}

// restore takes what snapshot wrote. It returns the steps whose state could not be used since the pipeline file has changed.
func (f *flow) restore(from []state.RestoredStep) (lost []string, err error) {
	states := map[string]state.RestoredStep{}
	for _, s := range from {
		states[s.Name] = s
		if strings.HasPrefix(s.Name, state.HistoryPrefix) {
			if _, err := f.chainOf(eventtime.History); err != nil {
				return nil, err
			}
		}
	}
	if s, ok := states[state.ClockStep]; ok && s.State.Version() > 0 {
		if err := f.clock.Restore(s.State); err != nil {
			return nil, fmt.Errorf("the event-time clock: %w", err)
		}
	}
	lost, err = f.live.restore(states, "")
	if err == nil && f.history != nil {
		var more []string
		more, err = f.history.restore(states, state.HistoryPrefix)
		lost = append(lost, more...)
	}
	return lost, err
}

func (f *flow) close() error {
	f.clock.Release()
	var faults []error
	for _, c := range f.chains() {
		faults = append(faults, c.close())
	}
	return errors.Join(faults...)
}

// Offline runs the steps of a plan over recorded telemetry, with the same clock and cuts as a task: what is trained is
// what is served.
type Offline struct {
	flow *flow
	mem  memory.Allocator
	out  func(arrow.Record) error
}

// NewOffline makes and binds steps. out borrows each record that the last step gives.
func NewOffline(steps []Step, settings Settings, w WatermarkConfig, out func(arrow.Record) error) (*Offline, error) {
	o := &Offline{out: out, mem: settings.Alloc}
	settings.Lateness = w.AllowedLateness
	flow, err := newFlow(w, settings.Alloc, func(lane eventtime.Lane) (*chain, error) {
		settings.Backfill = lane == eventtime.History
		return newChain(steps, settings, telemetrySchema, o)
	})
	o.flow = flow
	return o, err
}

// Schema is that of the last step's rows.
func (o *Offline) Schema() *arrow.Schema { return o.flow.live.schemas[len(o.flow.live.schemas)-1] }

// Run takes telemetry.v1 from next, which gives its reference, until io.EOF, and finishes the chain.
func (o *Offline) Run(ctx context.Context, next func(context.Context) (arrow.Record, error)) error {
	for {
		batch, err := next(ctx)
		if errors.Is(err, io.EOF) {
			return o.flow.finish(ctx)
		}
		if err != nil {
			return err
		}
		stored, _, err := o.flow.process(ctx, o.mem, batch, 0)
		releaseAll(stored)
		batch.Release()
		if err != nil {
			return err
		}
	}
}

// Close releases the steps.
func (o *Offline) Close() error { return o.flow.close() }

func (o *Offline) rows(_ context.Context, batch arrow.Record) error {
	defer batch.Release()
	return o.out(batch)
}

func (o *Offline) events(_ context.Context, batch arrow.Record) error {
	batch.Release()
	return nil
}

func (o *Offline) late(_ context.Context, batch arrow.Record) error {
	batch.Release()
	return nil
}

func (o *Offline) rekeyed(_ context.Context, batch arrow.Record) error {
	batch.Release()
	return nil
}
