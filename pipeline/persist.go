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

// The waits between attempts at the state store and, when the sink has given up, at the sink: after an outage the pipeline
// is back within seconds.
const (
	patienceMin = 100 * time.Millisecond
	patienceMax = 5 * time.Second
)

// patiently tries f until it works, ctx ends, or it says what no retry mends. failed is told of each failure, from 1.
func patiently(ctx context.Context, failed func(n int, err error), f func(context.Context) error) error {
	wait := patienceMin
	for n := 1; ; n++ {
		err := f(ctx)
		switch {
		case err == nil, errors.Is(err, state.ErrNotFound), errors.Is(err, state.ErrCorrupt), errors.Is(err, ErrConfig):
			return err
		case errors.Is(err, state.ErrRelease):
			return fmt.Errorf("%w: %w", ErrConfig, err)
		case ctx.Err() != nil:
			return fmt.Errorf("%w: %w", context.Cause(ctx), err)
		}
		failed(n, err)
		timer := time.NewTimer(wait/2 + rand.N(wait/2))
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return fmt.Errorf("%w: %w", context.Cause(ctx), err)
		}
		wait = min(2*wait, patienceMax)
	}
}

// persist has f use the state store, patiently. The log has one line when it fails and one when it works again.
func (e *Engine) persist(ctx context.Context, trouble string, f func(context.Context) error) error {
	troubled := false
	err := patiently(ctx, func(n int, err error) {
		e.metrics.storeFault()
		if troubled = true; n == 1 {
			e.env.Log.Warn(trouble+", trying again", "error", err)
		}
	}, f)
	if err == nil && troubled {
		e.env.Log.Info("the state store works again")
	}
	return err
}

// write has the sink store a checkpoint. A sink retries what may pass by itself; what else it says, such as that too many rows
// are refused, is about the data or the server, and ends no process: the partitions wait, and a person is told.
func (e *Engine) write(ctx context.Context, cp *Checkpoint) (written Written, err error) {
	troubled := false
	err = patiently(ctx, func(n int, err error) {
		cp.Resent = true // part of it may be stored
		e.metrics.sinkFault()
		if troubled = true; n == 1 {
			e.env.Log.Error("a checkpoint can't be stored, its partitions wait, trying again", "checkpoint", cp.Seq, "error", err)
		}
	}, func(ctx context.Context) (err error) {
		written, err = e.sink.Write(ctx, cp)
		return err
	})
	if err == nil && troubled {
		e.env.Log.Info("checkpoints are stored again")
	}
	return written, err
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
