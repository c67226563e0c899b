package align

import (
	"cmp"
	"math"
	"slices"
	"sort"
)

// point is a value at a time.
type point struct {
	ts    int64 // event time, ns
	value float64
}

// sample is one usable value.
type sample struct {
	point
	arrived int64 // ns
	offset  int64
}

// asset is the state of one asset.
type asset struct {
	lanes     []lane           // by channel
	next      int64            // the grid time of its next row; none if it has nothing to say
	newest    int64            // time of its newest sample
	arrived   int64            // newest arrival among the samples that have counted in a row
	revisions map[int64]uint32 // of the rows that were corrected and may be again
	changed   bool             // since the last snapshot
}

// lane is one channel of one asset.
type lane struct {
	held point // the newest that has counted; at -none before the first
	// samples[old:head] have counted and are kept for corrections; samples[head:] wait for their row.
	samples   []sample
	old, head int
	unsorted  bool // samples[head:] may be out of order or have two samples of one time
}

// wideRow is what a row has beside its cells.
type wideRow struct {
	coverage            float32
	arrived             int64
	first, last         int64 // offsets; -1 if no sample is new
	revision            uint32
	samples, duplicates int // waiting samples that counted, and that did not
}

func newAsset(channels int) asset {
	a := asset{lanes: make([]lane, channels), next: none, newest: -none, arrived: math.MinInt64}
	for i := range a.lanes {
		a.lanes[i].held.ts = -none
	}
	return a
}

// row takes the samples up to the row at g, writes the values to cells (NaN where there is none) and moves next on. It is
// called for g == next only, so that at least one cell has a value. Samples that count are kept if keep.
func (a *asset) row(t *timing, g int64, keep bool, cells []float64) wideRow {
	r := wideRow{first: -1, last: -1, arrived: a.arrived}
	newest, waiting := int64(-none), int64(none)
	until := t.until(g)
	for i := range a.lanes {
		l := &a.lanes[i]
		if l.unsorted {
			r.duplicates += l.settle()
		}
		start := l.head
		for l.head < len(l.samples) && l.samples[l.head].ts < until {
			l.head++
		}
		news := l.samples[start:l.head]
		r.count(news)
		cells[i] = t.cell(l.held, news, g)
		if n := len(news); n > 0 {
			l.held = news[n-1].point
		}
		newest = max(newest, l.held.ts)
		if l.head < len(l.samples) {
			waiting = min(waiting, l.samples[l.head].ts)
		}
		if !keep {
			l.old = l.head
		}
		if l.old == len(l.samples) {
			l.samples, l.old, l.head = l.samples[:0], 0, 0
		}
	}
	r.coverage, a.arrived = share(cells), r.arrived
	switch {
	case t.alive(newest, g+t.grid):
		a.next = g + t.grid
	case waiting < none:
		a.next = t.first(waiting)
	default:
		a.next = none
	}
	return r
}

// again gives a row that is out once more, from the samples that were kept.
func (a *asset) again(t *timing, g int64, cells []float64) wideRow {
	r := wideRow{first: -1, last: -1, arrived: a.arrived, revision: a.revisions[g]}
	for i := range a.lanes {
		l := &a.lanes[i]
		from, to := l.before(t.until(g-t.grid)), l.before(t.until(g))
		held := point{ts: -none}
		if from > l.old {
			held = l.samples[from-1].point
		}
		news := l.samples[from:to]
		r.count(news)
		cells[i] = t.cell(held, news, g)
	}
	r.coverage = share(cells)
	return r
}

// count takes the samples that are new in a row.
func (r *wideRow) count(news []sample) {
	for i := range news {
		s := &news[i]
		r.arrived = max(r.arrived, s.arrived)
		if r.first < 0 || s.offset < r.first {
			r.first = s.offset
		}
		r.last = max(r.last, s.offset)
	}
	r.samples += len(news)
}

// share returns the share of cells that have a value.
func share(cells []float64) float32 {
	n := 0
	for _, v := range cells {
		if !math.IsNaN(v) {
			n++
		}
	}
	return float32(float64(n) / float64(len(cells)))
}

// endAt takes the next row back if it lies beyond the row of the newest sample.
func (a *asset) endAt(t *timing) {
	if a.next != none && a.next > t.first(a.newest) {
		a.next = none
	}
}

// out tells whether the asset had a row at g, from the samples that were kept.
func (a *asset) out(t *timing, g int64) bool {
	until := t.until(g)
	for i := range a.lanes {
		l := &a.lanes[i]
		if at := l.before(until); at > l.old && t.alive(l.samples[at-1].ts, g) {
			return true
		}
	}
	return false
}

// before returns how many of the samples that have counted lie before a time, with those no longer needed.
func (l *lane) before(until int64) int {
	kept := l.samples[l.old:l.head]
	return l.old + sort.Search(len(kept), func(i int) bool { return kept[i].ts >= until })
}

// add files a sample that waits. Sorting waits until a row needs it: sources are nearly in order, and a hostile order
// then costs no more than one sort.
func (l *lane) add(s sample) {
	l.compact()
	if n := len(l.samples); n > l.head && s.ts <= l.samples[n-1].ts {
		l.unsorted = true
	}
	l.samples = append(l.samples, s)
}

// compact gives room back when most of it is taken by samples that are no longer needed.
func (l *lane) compact() {
	if l.old > len(l.samples)/2 {
		n := copy(l.samples, l.samples[l.old:])
		l.samples, l.head, l.old = l.samples[:n], l.head-l.old, 0
	}
}

// settle sorts the waiting samples and removes those that came after another of the same time. It returns how many.
func (l *lane) settle() int {
	waiting := l.samples[l.head:]
	slices.SortStableFunc(waiting, func(a, b sample) int { return cmp.Compare(a.ts, b.ts) })
	kept := slices.CompactFunc(waiting, func(a, b sample) bool { return a.ts == b.ts })
	l.samples, l.unsorted = l.samples[:l.head+len(kept)], false
	return len(waiting) - len(kept)
}

// merge puts late samples, by time and at times of their own, among those that have counted.
func (l *lane) merge(late []sample) {
	l.compact()
	l.samples = append(l.samples, late...)
	n := len(l.samples) - len(late)
	copy(l.samples[l.head+len(late):], l.samples[l.head:n]) // those that wait move up
	at := l.head + len(late)
	for i, k := l.head-1, len(late)-1; k >= 0; {
		at--
		if i >= l.old && l.samples[i].ts > late[k].ts {
			l.samples[at] = l.samples[i]
			i--
		} else {
			l.samples[at] = late[k]
			k--
		}
	}
	l.head += len(late)
	if newest := l.samples[l.head-1]; newest.ts > l.held.ts {
		l.held = newest.point
	}
}

// trim forgets the samples at and before limit that have counted. It returns how many.
func (l *lane) trim(limit int64) int {
	old := l.old
	for l.old < l.head && l.samples[l.old].ts <= limit {
		l.old++
	}
	n := l.old - old
	if l.old == len(l.samples) {
		l.samples, l.old, l.head = l.samples[:0], 0, 0
	}
	return n
}
