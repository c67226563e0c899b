package pipeline

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/apache/arrow/go/v15/arrow/array"
	"github.com/tailrace/tailrace/pipeline/state"
	"github.com/tailrace/tailrace/schemas"
	"github.com/tailrace/tailrace/schemas/formats"
)

// The waits between attempts at the state store: after an outage the pipeline is back within seconds.
const (
	persistMin = 100 * time.Millisecond
	persistMax = 5 * time.Second
)

// persist tries f until it works, ctx ends, or it says what no retry mends. The log has one line when it fails and one when it
// works again.
func (e *Engine) persist(ctx context.Context, trouble string, f func(context.Context) error) error {
	wait := persistMin
	for failed := false; ; failed = true {
		err := f(ctx)
		if err == nil {
			if failed {
				e.env.Log.Info("the state store works again")
			}
			return nil
		}
		switch {
		case errors.Is(err, state.ErrNotFound), errors.Is(err, state.ErrCorrupt), errors.Is(err, ErrConfig):
			return err
		case errors.Is(err, state.ErrRelease):
			return fmt.Errorf("%w: %w", ErrConfig, err)
		}
		if ctx.Err() != nil {
			return fmt.Errorf("%w: %w", context.Cause(ctx), err)
		}
		e.metrics.storeFault()
		if !failed {
			e.env.Log.Warn(trouble+", trying again", "error", err)
		}
		timer := time.NewTimer(wait/2 + rand.N(wait/2))
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return fmt.Errorf("%w: %w", context.Cause(ctx), err)
		}
		wait = min(2*wait, persistMax)
	}
}

// load reads a blob, or finds it among those that were read.
func (e *Engine) load(ctx context.Context, name string, read map[string]*state.Blob) (blob *state.Blob, err error) {
	if blob = read[name]; blob != nil {
		return blob, nil
	}
	err = e.persist(ctx, "the state store gives no blobs", func(ctx context.Context) (err error) {
		blob, err = state.Load(ctx, e.plan.Store, name)
		return err
	})
	if err == nil {
		read[name] = blob
	}
	return blob, err
}

// refuse publishes the rows that the store does not take as dead letters. It releases them.
func (e *Engine) refuse(ctx context.Context, s *settlement, rows []RefusedRow) error {
	var letters []DeadLetter
	var faults []error
	for _, r := range rows {
		letter, err := letterOf(r)
		r.Row.Release()
		if err != nil {
			faults = append(faults, err)
			continue
		}
		letters = append(letters, letter)
		if s.refused == nil {
			s.refused = map[refusedKey]int64{}
		}
		s.refused[refusedKey{r.Table, r.Partition}]++
	}
	if len(letters) > 0 {
		e.metrics.dead(letters)
		faults = append(faults, e.publisher.PublishDead(ctx, letters))
	}
	return errors.Join(faults...)
}

// letterOf makes a dead letter of a row: its columns as a JSON object, keyed by asset. The offset is the row's own, or the last
// that it rests on.
func letterOf(r RefusedRow) (DeadLetter, error) {
	text, err := r.Row.MarshalJSON()
	if err != nil {
		return DeadLetter{}, fmt.Errorf("%s: a refused row as JSON: %w", r.Table, err)
	}
	letter := DeadLetter{
		Topic: r.Topic, Partition: r.Partition, Stage: "sink",
		Reject:  formats.Rejectf(schemas.DeadRefused, "table %s: %s", r.Table, r.Reason),
		Message: formats.Message{Offset: -1, Value: bytes.Trim(text, "[]\n ")},
	}
	for i, field := range r.Row.Schema().Fields() {
		switch column := r.Row.Column(i).(type) {
		case *array.Dictionary:
			if field.Name == schemas.NameAsset {
				letter.Message.Key = []byte(column.Dictionary().(*array.String).Value(column.GetValueIndex(0)))
			}
		case *array.Int64:
			if field.Name == "k_offset" || field.Name == schemas.NameKLast {
				letter.Message.Offset = column.Value(0)
			}
		case *array.Timestamp:
			if field.Name == schemas.NameTSIngest {
				letter.Message.Time = int64(column.Value(0))
			}
		}
	}
	return letter, nil
}
