package window

import "math"

// session are windows that end when no row came for gap.
type session struct{ gap, longest, grid int64 }

func (s session) layout() (rows, hop int64) { return s.longest / s.grid, s.longest / s.grid }

// closing returns the time from which on a row is no more of the open session, and whether that is by force.
func (s session) closing(t *track) (at int64, forced bool) {
	if natural := t.last + s.gap; natural <= t.start+s.longest {
		return natural, false
	}
	return t.start + s.longest, true
}

// bounds is the open session. It is due when every row that could go on with it was seen.
func (s session) bounds(t *track) bounds {
	at, forced := s.closing(t)
	b := bounds{start: t.start, end: t.last + s.grid, due: at - s.grid}
	if forced {
		b.cut = cutMax
	}
	return b
}

func (s session) run(t *track, a *asset, from, to int64, out []bounds) []bounds {
	for i := a.after(from); i < len(a.rows) && a.rows[i].ts <= to; i++ {
		ts := a.rows[i].ts
		if t.phase == open {
			if at, _ := s.closing(t); ts >= at {
				out = append(out, s.bounds(t))
				t.phase = idle
			}
		}
		if t.phase == idle {
			t.phase, t.start = open, ts
		}
		t.last = ts
	}
	if t.phase == open {
		if b := s.bounds(t); b.due <= to {
			out = append(out, b)
			t.phase = idle
		}
	}
	return out
}

func (s session) next(t *track, a *asset, from int64) int64 {
	at := a.nextRow(from)
	if t.phase == open {
		at = min(at, s.bounds(t).due)
	}
	return at
}

func (s session) need(t *track, _ *asset, at int64) int64 {
	if t.phase == open {
		return t.start
	}
	return plus(at, 1)
}

func (s session) end(t *track, a *asset, from int64, out []bounds) []bounds {
	out = s.run(t, a, from, a.lastEver, out)
	if t.phase == open {
		b := s.bounds(t)
		b.cut = cutEnd
		out = append(out, b)
	}
	return out
}

// count are windows of the last size rows of an asset, one every so many.
type count struct{ size, every, grid int64 }

func (c count) layout() (rows, hop int64) { return c.size, c.every }

// upTo is the window of the size rows before index end, of which only total were ever seen.
func (c count) upTo(a *asset, end int, size, total int64) bounds {
	last := a.rows[end-1].ts
	b := bounds{start: a.rows[max(a.head, end-int(min(size, total)))].ts, end: last + c.grid, due: last}
	if total < size {
		b.cut = cutStart
	}
	return b
}

func (c count) run(t *track, a *asset, from, to int64, out []bounds) []bounds {
	for i := a.after(from); i < len(a.rows) && a.rows[i].ts <= to; i++ {
		if t.rows++; t.rows%c.every == 0 {
			out = append(out, c.upTo(a, i+1, c.size, t.rows))
		}
	}
	return out
}

func (c count) next(_ *track, a *asset, from int64) int64 { return a.nextRow(from) }

// need: the window that ends with the next row has size - 1 rows before it.
func (c count) need(_ *track, a *asset, at int64) int64 {
	i := a.after(at) - int(c.size-1)
	if i <= a.head {
		return math.MinInt64
	}
	if i == len(a.rows) {
		return plus(at, 1)
	}
	return a.rows[i].ts
}

func (c count) end(t *track, a *asset, from int64, out []bounds) []bounds {
	out = c.run(t, a, from, none-1, out)
	missing := c.every - t.rows%c.every
	if missing == c.every || a.head == len(a.rows) {
		return out
	}
	b := c.upTo(a, len(a.rows), c.size-missing, t.rows)
	if b.cut == whole {
		b.cut = cutEnd
	}
	return append(out, b)
}
