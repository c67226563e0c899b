package align

import "math"

// timing says which samples count in which row. A cell holds the value at the row's time, or its mean since the row before.
type timing struct {
	grid, gap int64 // ns
	mean      bool
}

// first returns the first row that a sample counts in: at or after it, or, for a mean, the first after it.
func (t *timing) first(ts int64) int64 {
	if t.mean {
		return floor(ts, t.grid) + t.grid
	}
	return ceil(ts, t.grid)
}

// until returns the time before which samples count in the row at g or in one before it.
func (t *timing) until(g int64) int64 {
	if t.mean {
		return g
	}
	return g + 1
}

// last returns the last row that a value can be seen in which holds from ts until a newer sample at next.
func (t *timing) last(ts, next int64) int64 {
	end := min(next, ts+t.gap) - 1
	if t.mean {
		return floor(end, t.grid) + t.grid
	}
	return max(floor(end, t.grid), t.first(ts)) // the sample counts there also if its value is seen nowhere
}

// reach is how long after its sample a value can be seen in a row.
func (t *timing) reach() int64 {
	if t.mean {
		return t.gap + t.grid
	}
	return t.gap
}

// alive tells whether a sample that counts by the row at g is seen in it.
func (t *timing) alive(ts, g int64) bool { return ts > g-t.reach() }

// cell returns a channel's value in the row at g, NaN if it has none: held is its newest sample before the row's new ones.
func (t *timing) cell(held point, news []sample, g int64) float64 {
	if t.mean {
		return mean(held, news, g-t.grid, g, t.gap)
	}
	if n := len(news); n > 0 {
		held = news[n-1].point
	}
	if !t.alive(held.ts, g) {
		return math.NaN()
	}
	return held.value
}

// mean returns the mean of the held value over [from, to), each value weighted by how long it holds there: from its
// sample to the next one, at most gap. Time that no value covers has no weight; if none does, the mean is NaN. held is the
// newest sample before from; news are those in [from, to) by time.
func mean(held point, news []sample, from, to, gap int64) float64 {
	m := math.NaN()
	covered := 0.0
	for k := -1; k < len(news); k++ {
		s, end := held, to
		if k >= 0 {
			s = news[k].point
		}
		if k+1 < len(news) {
			end = news[k+1].ts
		}
		start, end := max(s.ts, from), min(end, s.ts+gap)
		if end <= start {
			continue
		}
		held := float64(end - start)
		if covered == 0 {
			m, covered = s.value, held
			continue
		}
		covered += held
		if d := s.value - m; !math.IsInf(d, 0) {
			m += d * (held / covered) // so that the mean of a constant is the constant, to the last bit
		} else {
			m = m*(1-held/covered) + s.value*(held/covered)
		}
	}
	return m
}

// floor returns the last multiple of grid at or before t. Division rounds towards zero, which is up before 1970.
func floor(t, grid int64) int64 {
	if q := t / grid * grid; q <= t {
		return q
	}
	return t/grid*grid - grid
}

// ceil returns the first multiple of grid at or after t.
func ceil(t, grid int64) int64 {
	if q := t / grid * grid; q >= t {
		return q
	}
	return t/grid*grid + grid
}

// minus returns a - b for b >= 0, the earliest time if that is none.
func minus(a, b int64) int64 {
	if d := a - b; d <= a {
		return d
	}
	return math.MinInt64
}
