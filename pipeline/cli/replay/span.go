package replay

import (
	"context"
	"errors"
	"io"
	"time"
)

// Span is what a stream holds: how many values, from when to when.
type Span struct {
	Values      int64
	First, Last time.Time // zero if there are no values
}

// Measure reads a stream to its end.
func Measure(ctx context.Context, in Stream) (Span, error) {
	var s Span
	for {
		rec, err := in.Next(ctx)
		if errors.Is(err, io.EOF) {
			return s, nil
		}
		if err != nil {
			return s, err
		}
		c, err := columnsOf(rec)
		if err == nil {
			for row := range int(rec.NumRows()) {
				at := time.Unix(0, int64(c.ts.Value(row))).UTC()
				if s.Values == 0 || at.Before(s.First) {
					s.First = at
				}
				if s.Values == 0 || at.After(s.Last) {
					s.Last = at
				}
				s.Values++
			}
		}
		rec.Release()
		if err != nil {
			return s, err
		}
	}
}

// StartAt is the Shift that puts the first event time at t.
func (s Span) StartAt(t time.Time) time.Duration { return t.Sub(s.First) }

// EndAt is the Shift that puts the last event time at t.
func (s Span) EndAt(t time.Time) time.Duration { return t.Sub(s.Last) }
