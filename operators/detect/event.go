package detect

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"math"
	"time"

	"github.com/tailrace/tailrace/schemas"
)

// class is what detect's events are: the process did it.
const class = "process"

// kind says that the score is in the model's own units.
const kind = "model"

// evidence is what an event rests on so far, from its first window over the threshold.
type evidence struct {
	peak     float64
	smoothed float64 // at the peak
	peakAt   int64   // end of the peak's window
	causes   []cause // at the peak
	first    int64   // offsets; -1 if no window has any
	last     int64
}

// cause is one channel's part in a score.
type cause struct {
	channel            int32
	share              float32
	observed, expected float64 // in the channel's unit
}

func (e *evidence) reset() {
	*e = evidence{peak: math.Inf(-1), causes: e.causes[:0], first: -1, last: -1}
}

// add takes the window at row i of b.
func (e *evidence) add(o *Operator, b *batch, i int, score, smoothed float64) {
	if f := b.first[i]; f >= 0 && (e.first < 0 || f < e.first) {
		e.first = f
	}
	e.last = max(e.last, b.last[i])
	if score <= e.peak {
		return
	}
	e.peak, e.smoothed, e.peakAt = score, smoothed, int64(b.end[i])
	e.causes = o.causes(e.causes[:0], b, i)
}

// causes appends the channels with the largest shares in row i's score, largest first.
func (o *Operator) causes(list []cause, b *batch, i int) []cause {
	for _, channel := range o.top(b, i) {
		mean, std := o.model.Mean[channel], o.model.Std[channel]
		c := cause{channel: channel, share: b.contrib.row(i)[channel]}
		c.observed = b.observed(i, int(channel), len(o.layout.Channels), mean)
		c.expected = mean
		if b.expectedOf.IsValid(i) {
			// A model may expect what no float64 holds; JSON has no infinity.
			if v := float64(b.expected.row(i)[channel])*std + mean; !math.IsNaN(v) && !math.IsInf(v, 0) {
				c.expected = v
			}
		}
		list = append(list, c)
	}
	return list
}

// top returns the channels with the largest shares in row i's score, largest first, of equal ones the first. The slice is
// good until the next call.
func (o *Operator) top(b *batch, i int) []int32 {
	o.ranked = o.ranked[:0]
	if b.contribOf.IsNull(i) {
		return nil
	}
	o.ranked = rank(o.ranked, b.contrib.row(i), o.config.Contributions)
	return o.ranked
}

// rank appends to list the positions of the k largest of shares, largest first, of equal ones the first; what is not
// finite is left out.
func rank(list []int32, shares []float32, k int) []int32 {
	for c, share := range shares {
		if f := float64(share); math.IsNaN(f) || math.IsInf(f, 0) {
			continue
		}
		at := len(list)
		for at > 0 && shares[list[at-1]] < share {
			at--
		}
		if at >= k {
			continue
		}
		if len(list) < k {
			list = append(list, 0)
		}
		copy(list[at+1:], list[at:])
		list[at] = int32(c)
	}
	return list
}

// event makes the message that row i of b opens or closes an event with.
func (o *Operator) event(b *batch, i int, a *asset, name string, c change) schemas.Event {
	s, e := &a.state, &a.evidence
	event := schemas.Event{
		Schema: schemas.EventSchema, EventID: eventID(o.settings.Pipeline, name, o.config.Name, s.onset),
		Status: schemas.StatusFiring, Pipeline: o.settings.Pipeline, Detector: o.config.Name, Asset: name,
		Signal: o.config.Name, Class: class,
		OnsetTS: utc(s.onset), EventTS: utc(int64(b.end[i])), DetectedTS: utc(int64(b.arrived[i])), PeakTS: utc(e.peakAt),
		Score:         schemas.EventScore{Value: e.peak, Smoothed: e.smoothed, Threshold: o.rule.enter, Kind: kind},
		Model:         schemas.EventModel{Name: o.model.Name, Version: o.model.Version, SHA256: o.model.SHA256},
		Contributions: make([]schemas.Contribution, len(e.causes)),
		Window: schemas.EventWindow{
			Start: utc(int64(b.start[i])), End: utc(int64(b.end[i])), N: int(b.n[i]), Coverage: float64(b.coverage[i]),
		},
		Backfill: o.settings.Backfill,
		Lineage: schemas.EventLineage{
			Topic: o.settings.Topic, Partition: o.settings.Partition, OffsetFirst: e.first, OffsetLast: e.last,
		},
	}
	for k, c := range e.causes {
		channel := o.layout.Channels[c.channel]
		event.Contributions[k] = schemas.Contribution{
			Tag: channel.Tag, Share: float64(c.share), Observed: c.observed, Expected: c.expected, Unit: channel.Unit,
		}
	}
	if c == closed {
		cleared := utc(s.cleared)
		event.EventSeq, event.Status, event.ClearedTS = 1, schemas.StatusResolved, &cleared
	}
	return event
}

func utc(ns int64) time.Time { return time.Unix(0, ns).UTC() }

// eventID is the same whenever the same event is found again: the first 16 bytes of SHA-256 over the length and bytes of
// each text and the start in ns, as lowercase hex. The lengths keep ("a", "bc") and ("ab", "c") apart.
func eventID(pipeline, asset, detector string, start int64) string {
	var text []byte
	for _, part := range []string{pipeline, asset, detector} {
		text = binary.BigEndian.AppendUint64(text, uint64(len(part)))
		text = append(text, part...)
	}
	sum := sha256.Sum256(binary.BigEndian.AppendUint64(text, uint64(start)))
	return hex.EncodeToString(sum[:16])
}
