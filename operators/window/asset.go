package window

import (
	"math"
	"slices"
	"sort"

	"github.com/tailrace/tailrace/schemas"
)

// rowOverhead is what a held row costs beside its samples, in bytes.
const rowOverhead = 40

// row is what a held row has beside its samples.
type row struct {
	ts, arrived int64 // ns
	first, last int64 // offsets; -1 if no sample was new
	coverage    float32
}

// asset holds the rows of one asset's open windows.
type asset struct {
	// rows[head:] are held, by time; cells has their samples, channel by channel, NaN where there is none.
	rows      []row
	cells     []float64
	head      int
	next      int64 // start of its next window that has a row; none if there is none
	done      int64 // start of the last window given; math.MinInt64 before it
	firstEver int64 // time of its first row ever; none before it
	lastEver  int64 // time of its last row ever
}

// add makes room for a row and returns its cells, or false if the time is taken.
func (a *asset) add(r row, channels int) ([]float64, bool) {
	at := len(a.rows)
	if at > a.head && r.ts <= a.rows[at-1].ts {
		at = a.search(r.ts)
		if a.rows[at].ts == r.ts {
			return nil, false
		}
	}
	a.rows = slices.Insert(a.rows, at, r)
	from, size := at*channels, len(a.cells)
	a.cells = slices.Grow(a.cells, channels)[:size+channels]
	copy(a.cells[from+channels:], a.cells[from:size])
	if a.firstEver == none {
		a.firstEver, a.lastEver = r.ts, r.ts
	}
	a.firstEver, a.lastEver = min(a.firstEver, r.ts), max(a.lastEver, r.ts)
	return a.cells[from : from+channels], true
}

// search returns the index of the first held row at or after t.
func (a *asset) search(t int64) int {
	return a.head + sort.Search(len(a.rows)-a.head, func(i int) bool { return a.rows[a.head+i].ts >= t })
}

// forget drops the rows before a time and returns how many. Memory is moved only when half of it is dropped, so that a
// long backlog costs no more than a short one, row by row.
func (a *asset) forget(before int64, channels int) int {
	n := a.search(before) - a.head
	if a.head += n; a.head > len(a.rows)/2 {
		a.rows = a.rows[:copy(a.rows, a.rows[a.head:])]
		a.cells = a.cells[:copy(a.cells, a.cells[a.head*channels:])]
		a.head = 0
	}
	return n
}

// cut says why the window at start is not whole, "" if it is.
func (a *asset) cut(start int64, s span, ending bool) string {
	switch {
	case start < a.firstEver:
		return schemas.ReasonCutStart
	case ending && a.lastEver < start+s.size-s.grid:
		return schemas.ReasonCutEnd
	}
	return ""
}

// span is the shape of windows, in ns.
type span struct{ size, hop, grid int64 }

// firstWindow returns the start of the first window after the last given one that has a row of a, none if no row is
// left. Since hop is at most size, there is one around every row.
func (s span) firstWindow(a *asset) int64 {
	if a.head == len(a.rows) {
		return none
	}
	// The windows around a row at t start in (t - size, t].
	start := floor(a.rows[a.head].ts-s.size, s.hop) + s.hop
	if a.done != math.MinInt64 {
		start = max(start, a.done+s.hop)
	}
	return start
}

// floor returns the last multiple of step at or before t. Division rounds towards zero, which is up before 1970.
func floor(t, step int64) int64 {
	if q := t / step * step; q <= t {
		return q
	}
	return t/step*step - step
}
