package window

import "math"

// session are windows that end when no row came for gap.
type session struct{ gap, longest, grid int64 }

func (s session) layout() (rows, hop int64) { return s.longest / s.grid, s.longest / s.grid }

// over is the first time that is too late for a row to go on with the open session.
func (s session) over(t *track) int64 { return t.last + s.gap }

// bounds is the open session.
func (s session) bounds(t *track, due int64, c cut) bounds {
	return bounds{start: t.start, end: t.last + s.grid, due: due, cut: c}
}

func (s session) run(t *track, a *asset, from, to int64, out []bounds) []bounds {
	for i := a.after(from); i < len(a.rows) && a.rows[i].ts <= to; i++ {
		ts := a.rows[i].ts
		switch {
		case t.phase == open && ts >= s.over(t):
			out = append(out, s.bounds(t, s.over(t)-s.grid, whole))
			t.phase = idle
		case t.phase == open && ts >= t.start+s.longest:
			out = append(out, s.bounds(t, ts, cutMax))
			t.phase = idle
		}
		if t.phase == idle {
			t.phase, t.start = open, ts
		}
		t.last = ts
	}
	if due := s.over(t) - s.grid; t.phase == open && due <= to {
		out = append(out, s.bounds(t, due, whole))
		t.phase = idle
	}
	return out
}

func (s session) next(t *track, a *asset, from int64) int64 {
	at := a.nextRow(from)
	if t.phase == open {
		at = min(at, s.over(t)-s.grid)
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
		out = append(out, s.bounds(t, s.over(t)-s.grid, cutEnd))
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
