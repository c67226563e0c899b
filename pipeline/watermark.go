package pipeline

import "math"

// watermark is the event-time clock of one partition. It stands at the largest multiple of step that the newest row,
// less the allowed disorder, has reached, minus one nanosecond: rows with the newest row's own time may still come, since
// a gateway writes all tags of an instant one after the other.
type watermark struct {
	outOfOrder, step int64 // ns
	value            int64 // rows at or before it are late
}

func newWatermark(c WatermarkConfig) watermark {
	return watermark{outOfOrder: int64(c.OutOfOrder), step: int64(c.Step), value: math.MinInt64}
}

// after returns where the watermark stands once a row with event time ts has been seen.
func (w *watermark) after(ts int64) int64 {
	if ts < math.MinInt64+w.outOfOrder+w.step {
		return w.value
	}
	t := ts - w.outOfOrder
	floor := t / w.step * w.step
	if floor > t { // division rounds towards zero, which is up for times before 1970
		floor -= w.step
	}
	return max(w.value, floor-1)
}
