package pipeline

import (
	"context"
	"errors"
	"io"

	"github.com/apache/arrow/go/v15/arrow"
	"github.com/apache/arrow/go/v15/arrow/array"
	"github.com/tailrace/tailrace/schemas"
)

// flow is a chain with the event-time clock that drives it.
type flow struct {
	chain *chain
	clock watermark
}

// process runs a batch of telemetry.v1 through the chain, cut wherever the watermark moves, and returns the rows that
// came at or behind it.
func (f *flow) process(ctx context.Context, batch arrow.Record) (late []int, err error) {
	ts := batch.Column(schemas.ColTS).(*array.Timestamp).TimestampValues()
	flags := batch.Column(schemas.ColFlags).(*array.Uint32).Uint32Values()
	start := 0
	for i := range ts {
		if flags[i]&uint32(schemas.FlagClockSuspect) != 0 {
			continue // a clock that is wrong is stored, and moves nothing
		}
		at := int64(ts[i])
		if at <= f.clock.value {
			late = append(late, i)
			continue
		}
		after := f.clock.after(at)
		if after == f.clock.value {
			continue
		}
		if err := f.slice(ctx, batch, start, i+1); err != nil {
			return nil, err
		}
		start = i + 1
		f.clock.value = after
		if err := f.chain.advance(ctx, after); err != nil {
			return nil, err
		}
	}
	return late, f.slice(ctx, batch, start, len(ts))
}

func (f *flow) slice(ctx context.Context, batch arrow.Record, from, to int) error {
	if from == to {
		return nil
	}
	s := batch.NewSlice(int64(from), int64(to))
	defer s.Release()
	return f.chain.process(ctx, s)
}

// Offline runs the steps of a plan over recorded telemetry, with the same clock and cuts as a task: what is trained is
// what is served.
type Offline struct {
	flow flow
	out  func(arrow.Record) error
}

// NewOffline makes and binds steps. out borrows each record that the last step gives.
func NewOffline(steps []Step, settings Settings, w WatermarkConfig, out func(arrow.Record) error) (*Offline, error) {
	o := &Offline{out: out}
	c, err := newChain(steps, settings, telemetrySchema, o)
	o.flow = flow{chain: c, clock: newWatermark(w)}
	return o, err
}

// Schema is that of the last step's rows.
func (o *Offline) Schema() *arrow.Schema { return o.flow.chain.schemas[len(o.flow.chain.schemas)-1] }

// Run takes telemetry.v1 from next, which gives its reference, until io.EOF, and finishes the chain.
func (o *Offline) Run(ctx context.Context, next func(context.Context) (arrow.Record, error)) error {
	for {
		batch, err := next(ctx)
		if errors.Is(err, io.EOF) {
			return o.flow.chain.finish(ctx)
		}
		if err != nil {
			return err
		}
		_, err = o.flow.process(ctx, batch)
		batch.Release()
		if err != nil {
			return err
		}
	}
}

// Close releases the steps.
func (o *Offline) Close() error { return o.flow.chain.close() }

func (o *Offline) rows(_ context.Context, batch arrow.Record) error {
	defer batch.Release()
	return o.out(batch)
}

func (o *Offline) events(_ context.Context, batch arrow.Record) error {
	batch.Release()
	return nil
}
