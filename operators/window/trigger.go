package window

import "math"

// trigger are windows from a row that starts them to one that stops them, with what came just before and after.
type trigger struct {
	pre, post, shortest, longest, grid int64
}

func (g trigger) layout() (rows, hop int64) {
	rows = (g.pre + g.longest + g.post) / g.grid
	return rows, rows
}

// bounds is the window that started at t.start and was over at stop, which was known at a row or a watermark of known.
func (g trigger) bounds(t *track, a *asset, stop, known int64, forced bool) bounds {
	b := bounds{start: t.start - g.pre, end: stop + g.post, due: max(known, stop+g.post-g.grid)}
	switch {
	case b.start < a.firstEver || t.start == a.firstEver:
		b.cut = cutStart // of a start at the first row nobody saw what was before
	case forced:
		b.cut = cutMax
	}
	return b
}

// close ends the open window.
func (g trigger) close(t *track, a *asset, stop int64, forced bool) {
	if stop-t.start < g.shortest {
		t.short += int(t.rows)
	} else {
		t.pending = append(t.pending, g.bounds(t, a, stop, stop, forced))
	}
	t.phase = idle
	if forced {
		t.phase = spent
	}
}

func (g trigger) run(t *track, a *asset, from, to int64, out []bounds) []bounds {
	for i := a.after(from); i < len(a.rows) && a.rows[i].ts <= to; i++ {
		ts, starts, stops := a.rows[i].ts, a.rows[i].flags&flagStart != 0, a.rows[i].flags&flagStop != 0
		if longest := t.start + g.longest; t.phase == open && (ts > longest || ts == longest && !stops) {
			g.close(t, a, longest, true)
		}
		if t.phase == open && stops {
			g.close(t, a, ts, false)
		}
		if t.phase == spent && (stops || !starts) {
			t.phase = idle
		}
		if t.phase == idle && starts {
			t.phase, t.start, t.rows = open, ts, 0
		}
		t.rows++
	}
	if longest := t.start + g.longest; t.phase == open && longest <= to {
		g.close(t, a, longest, true)
	}
	n := 0
	for n < len(t.pending) && t.pending[n].due <= to {
		n++
	}
	out = append(out, t.pending[:n]...)
	if t.pending = t.pending[n:]; len(t.pending) == 0 {
		t.pending = nil
	}
	return out
}

func (g trigger) next(t *track, a *asset, from int64) int64 {
	at := a.nextRow(from)
	if t.phase == open {
		at = min(at, t.start+g.longest)
	}
	if len(t.pending) > 0 {
		at = min(at, t.pending[0].due)
	}
	return at
}

// need: a window that starts with the next row begins with the rows of its pre roll.
func (g trigger) need(t *track, _ *asset, at int64) int64 {
	before := plus(at, g.grid-g.pre)
	if t.phase == open {
		before = min(before, t.start-g.pre)
	}
	if len(t.pending) > 0 {
		before = min(before, t.pending[0].start)
	}
	return before
}

func (g trigger) end(t *track, a *asset, from int64, out []bounds) []bounds {
	n := len(out)
	out = g.run(t, a, from, a.lastEver, out)
	out = append(out, t.pending...)
	if t.phase == open {
		b := g.bounds(t, a, a.lastEver+g.grid-g.post, math.MinInt64, false)
		out = append(out, b)
	}
	for i := n; i < len(out); i++ {
		if b := &out[i]; b.cut == whole && (a.lastEver < b.end-g.grid || t.phase == open && i == len(out)-1) {
			b.cut = cutEnd
		}
	}
	return out
}
