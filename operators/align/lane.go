package align

import (
	"cmp"
	"math"
	"slices"
)

// sample is one usable value.
type sample struct {
	ts      int64 // event time, ns
	value   float64
	arrived int64 // ns
	offset  int64
}

// asset is the state of one asset.
type asset struct {
	lanes   []lane // by channel
	next    int64  // the grid time of its next row; none if it has nothing to say
	newest  int64  // time of its newest sample
	arrived int64  // newest arrival among the samples that have counted in a row
}

// lane is one channel of one asset.
type lane struct {
	ts       int64 // time of the held value; -none before the first
	value    float64
	open     []sample // open[head:] are the samples after the last row, by time unless unsorted
	head     int
	unsorted bool // open[head:] may be out of order or have two samples of one time
}

// wideRow is what a row has beside its cells.
type wideRow struct {
	coverage            float32
	arrived             int64
	first, last         int64 // offsets; -1 if no sample is new
	samples, duplicates int   // open samples that counted, and that did not
}

func newAsset(channels int) asset {
	a := asset{lanes: make([]lane, channels), next: none, newest: -none, arrived: math.MinInt64}
	for i := range a.lanes {
		a.lanes[i].ts = -none
	}
	return a
}

// row takes the samples up to g, writes the held values to cells (NaN where there is none) and moves next on. It is
// called for g == next only, so that at least one cell is held.
func (a *asset) row(g, grid, gap int64, cells []float64) wideRow {
	r := wideRow{first: -1, last: -1}
	held, newest, waiting := 0, int64(-none), int64(none)
	for i := range a.lanes {
		l := &a.lanes[i]
		if l.unsorted {
			r.duplicates += l.settle()
		}
		for l.head < len(l.open) && l.open[l.head].ts <= g {
			s := &l.open[l.head]
			l.ts, l.value = s.ts, s.value
			a.arrived = max(a.arrived, s.arrived)
			if r.first < 0 || s.offset < r.first {
				r.first = s.offset
			}
			r.last = max(r.last, s.offset)
			r.samples++
			l.head++
		}
		cells[i] = math.NaN()
		if l.ts > g-gap {
			cells[i] = l.value
			held++
			newest = max(newest, l.ts)
		}
		if l.head < len(l.open) {
			waiting = min(waiting, l.open[l.head].ts)
		} else {
			l.open, l.head = l.open[:0], 0
		}
	}
	r.coverage = float32(float64(held) / float64(len(a.lanes)))
	r.arrived = a.arrived
	switch {
	case newest > g+grid-gap:
		a.next = g + grid
	case waiting < none:
		a.next = ceil(waiting, grid)
	default:
		a.next = none
	}
	return r
}

// endAt takes the next row back if it lies beyond the row of the newest sample.
func (a *asset) endAt(grid int64) {
	if a.next != none && a.next > ceil(a.newest, grid) {
		a.next = none
	}
}

// add files a sample. Sorting waits until a row needs it: sources are nearly in order, and a hostile order then costs
// no more than one sort.
func (l *lane) add(s sample) {
	if l.head > len(l.open)/2 {
		l.open, l.head = l.open[:copy(l.open, l.open[l.head:])], 0
	}
	if n := len(l.open); n > l.head && s.ts <= l.open[n-1].ts {
		l.unsorted = true
	}
	l.open = append(l.open, s)
}

// settle sorts the open samples and removes those that came after another of the same time. It returns how many.
func (l *lane) settle() int {
	waiting := l.open[l.head:]
	slices.SortStableFunc(waiting, func(a, b sample) int { return cmp.Compare(a.ts, b.ts) })
	kept := slices.CompactFunc(waiting, func(a, b sample) bool { return a.ts == b.ts })
	l.open, l.unsorted = l.open[:l.head+len(kept)], false
	return len(waiting) - len(kept)
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
