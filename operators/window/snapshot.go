package window

import (
	"cmp"
	"fmt"
	"math"
	"strings"

	"github.com/tailrace/tailrace/pipeline/state"
	"github.com/tailrace/tailrace/schemas"
)

// stateVersion is the format of the state that Snapshot writes.
const stateVersion = 1

// shapeOf writes down what windows and their state depend on.
func shapeOf(c *Config, layout schemas.Layout) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s grid=%v", c.Kind, layout.Grid)
	switch c.Kind {
	case Tumbling, Hopping:
		fmt.Fprintf(&b, " size=%v hop=%v", c.Size, cmp.Or(c.Hop, c.Size))
	case Session:
		fmt.Fprintf(&b, " gap=%v max_duration=%v", c.Gap, c.MaxDuration)
	case Count:
		every, _ := c.everyRows()
		fmt.Fprintf(&b, " rows=%d every=%d", c.Rows, every)
	case Trigger:
		fmt.Fprintf(&b, " start=%q stop=%q pre=%v post=%v min_duration=%v max_duration=%v",
			c.Start, c.Stop, c.Pre, c.Post, c.MinDuration, c.MaxDuration)
	case Calendar:
		fmt.Fprintf(&b, " every=%s shifts=%q zone=%s", c.Every, c.Shifts, c.Zone)
	}
	b.WriteString(" channels=")
	for i, channel := range layout.Channels {
		fmt.Fprintf(&b, "%.*s%q", min(i, 1), ",", channel.Tag)
	}
	return b.String()
}

// Snapshot writes the state by asset, and what all share.
func (o *Operator) Snapshot(w *state.Writer, full bool) error {
	w.Version(stateVersion)
	var e state.Encoder
	e.Text(o.shape)
	e.Int(o.watermark)
	e.Int(o.settled)
	e.Bool(o.lateness > 0)
	e.Uint(uint64(len(o.assets)))
	w.Common(e.Bytes)
	if full {
		for id := range o.assets {
			o.save(w, &e, int32(id))
		}
	} else {
		for _, id := range o.unsaved {
			o.save(w, &e, id)
		}
	}
	for _, id := range o.unsaved {
		o.assets[id].unsaved = false
	}
	o.unsaved = o.unsaved[:0]
	return nil
}

func (o *Operator) save(w *state.Writer, e *state.Encoder, id int32) {
	e.Reset()
	e.Uint(uint64(id))
	o.assets[id].encode(e, o.channels)
	w.Put(o.names.Text(id), e.Bytes)
}

func (a *asset) encode(e *state.Encoder, channels int) {
	e.Int(a.firstEver)
	e.Int(a.lastEver)
	e.Int(a.settled)
	a.live.encode(e)
	a.base.encode(e)
	e.Uint(uint64(len(a.given)))
	for _, r := range a.given {
		encodeBounds(e, &r.bounds)
		e.Uint(uint64(r.revision))
		e.Bool(r.withdrawn)
	}
	held := a.rows[a.head:]
	e.Uint(uint64(len(held)))
	last := int64(0)
	for i := range held {
		r := &held[i]
		e.Int(r.ts - last)
		e.Int(r.arrived - r.ts) // may wrap, and wraps back
		e.Int(r.first)
		e.Int(r.last - r.first)
		e.Uint(uint64(math.Float32bits(r.coverage)))
		e.Uint(uint64(r.flags))
		last = r.ts
	}
	for _, v := range a.cells[a.head*channels:] {
		e.Float(v)
	}
}

func (t *track) encode(e *state.Encoder) {
	e.Uint(uint64(t.phase))
	e.Int(t.start)
	e.Int(t.last)
	e.Int(t.rows)
	e.Uint(uint64(len(t.pending)))
	for i := range t.pending {
		encodeBounds(e, &t.pending[i])
	}
}

func encodeBounds(e *state.Encoder, b *bounds) {
	e.Int(b.start)
	e.Int(b.end - b.start)
	e.Int(b.due - b.end)
	e.Uint(uint64(b.cut))
}

// Restore takes the state of windows of the same shape. The lateness may be another.
func (o *Operator) Restore(r *state.Reader) error {
	if r.Version() == 0 {
		return nil
	}
	if r.Version() != stateVersion {
		return fmt.Errorf("window: state: want version %d, got %d", stateVersion, r.Version())
	}
	d := state.NewDecoder(r.Common())
	shape := d.Text()
	o.watermark, o.settled = d.Int(), d.Int()
	hadLateness, n := d.Bool(), d.Uint()
	if err := d.Err(); err != nil {
		return fmt.Errorf("window: state: %w", err)
	}
	if shape != o.shape {
		return fmt.Errorf("window: state: want that of %s, got that of %s", o.shape, shape)
	}
	if o.settled > o.watermark {
		return fmt.Errorf("window: state: %w: want rows settled up to the watermark %d at most, got %d", state.ErrCorrupt, o.watermark, o.settled)
	}
	if n != uint64(r.Len()) {
		return fmt.Errorf("window: state: %w: want %d assets, got %d", state.ErrCorrupt, n, r.Len())
	}
	for i, s := range r.InOrder() {
		var a asset
		a.decode(s.Rest, o.channels)
		if err := s.Rest.Err(); err != nil {
			return fmt.Errorf("window: state of asset %q: %w", s.Key, err)
		}
		if err := o.sane(&a); err != nil {
			return fmt.Errorf("window: state of asset %q: %w: %w", s.Key, state.ErrCorrupt, err)
		}
		if s.Place != uint64(i) {
			return fmt.Errorf("window: state of asset %q: %w: want the place %d, got %d", s.Key, state.ErrCorrupt, i, s.Place)
		}
		o.names.ID([]byte(s.Key))
		o.grow(a)
		o.resume(int32(i), hadLateness)
	}
	if o.lateness == 0 {
		o.settled = o.watermark
	}
	return nil
}

// resume takes a restored asset up.
func (o *Operator) resume(id int32, hadLateness bool) {
	a := &o.assets[id]
	o.state += o.rowBytes()*int64(len(a.rows)) + resultBytes*int64(len(a.given))
	for i := range a.rows {
		a.corrected = a.corrected || a.rows[i].flags&flagChanged != 0
	}
	o.wake.set(id, o.kind.next(&a.live, a, o.watermark))
	switch {
	case a.corrected:
		o.corrected = append(o.corrected, id)
	case o.lateness == 0:
		o.keepNothing(a)
	case !hadLateness:
		a.base, a.settled = a.live.clone(), o.watermark
		fallthrough
	default:
		o.keep.set(id, o.release(a))
	}
}

func (a *asset) decode(d *state.Decoder, channels int) {
	a.firstEver, a.lastEver, a.settled = d.Int(), d.Int(), d.Int()
	a.live.decode(d)
	a.base.decode(d)
	if n := d.Len(6); n > 0 {
		a.given = make([]result, n)
	}
	for i := range a.given {
		a.given[i] = result{bounds: decodeBounds(d), revision: uint32(d.Uint()), withdrawn: d.Bool()}
	}
	a.rows = make([]row, d.Len(6+8*channels))
	last := int64(0)
	for i := range a.rows {
		r := &a.rows[i]
		r.ts = last + d.Int()
		r.arrived = r.ts + d.Int()
		r.first = d.Int()
		r.last = r.first + d.Int()
		r.coverage = math.Float32frombits(uint32(d.Uint()))
		r.flags = uint8(d.Uint())
		last = r.ts
	}
	a.cells = make([]float64, len(a.rows)*channels)
	for i := range a.cells {
		a.cells[i] = d.Float()
	}
}

func (t *track) decode(d *state.Decoder) {
	t.phase, t.start, t.last, t.rows = phase(d.Uint()), d.Int(), d.Int(), d.Int()
	if n := d.Len(4); n > 0 {
		t.pending = make([]bounds, n)
	}
	for i := range t.pending {
		t.pending[i] = decodeBounds(d)
	}
}

func decodeBounds(d *state.Decoder) bounds {
	b := bounds{start: d.Int()}
	b.end = b.start + d.Int()
	b.due = b.end + d.Int()
	b.cut = cut(d.Uint())
	return b
}

// sane says what of a restored asset no run of this program can have left.
func (o *Operator) sane(a *asset) error {
	for i := range a.rows {
		ts := a.rows[i].ts
		switch {
		case ts < -farthest || ts > farthest || ts%o.grid != 0:
			return fmt.Errorf("want rows on the grid, got one at %d", ts)
		case i > 0 && ts <= a.rows[i-1].ts:
			return fmt.Errorf("want rows in order of time, got one at %d after one at %d", ts, a.rows[i-1].ts)
		}
	}
	for _, t := range []*track{&a.live, &a.base} {
		started := t.start != math.MinInt64
		if t.phase > spent || t.phase != idle && !started || t.rows < 0 || started && (t.start < -farthest-int64(maxSize) || t.start > farthest) {
			return fmt.Errorf("want a window that can be, got phase %d, start %d, %d rows", t.phase, t.start, t.rows)
		}
		if _, ok := o.kind.(session); ok && t.phase == open && (t.last < t.start || t.last > farthest) {
			return fmt.Errorf("want a session that can be, got one from %d to %d", t.start, t.last)
		}
		for i := range t.pending {
			if err := t.pending[i].sane(); err != nil {
				return err
			}
		}
	}
	for i := range a.given {
		if err := a.given[i].sane(); err != nil {
			return err
		}
	}
	return nil
}

func (b *bounds) sane() error {
	if b.end <= b.start || b.start < -farthest-int64(maxSize) || b.end > farthest+int64(3*maxSize) || int(b.cut) >= len(cuts) {
		return fmt.Errorf("want the bounds of a window, got %d to %d, cut %d", b.start, b.end, b.cut)
	}
	return nil
}
