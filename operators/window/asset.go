package window

import (
	"math"
	"slices"
	"sort"
)

// rowOverhead is what a held row costs beside its samples, in bytes.
const rowOverhead = 40

// What the flags of a row say.
const (
	flagStart   = 1 << iota // the trigger's start is true of it
	flagStop                // the trigger's stop is true of it
	flagChanged             // it came, or came again, behind the watermark, and no window was given for it yet
)

// row is what a held row has beside its samples.
type row struct {
	ts, arrived int64 // ns
	first, last int64 // offsets; -1 if no sample was new
	coverage    float32
	flags       uint8
}

// asset holds the rows that the windows of one asset may still need.
type asset struct {
	// rows[head:] are held, by time; cells has their samples, channel by channel, NaN where there is none.
	rows      []row
	cells     []float64
	head      int
	firstEver int64 // time of its first row ever; none before it
	lastEver  int64 // time of its last row ever

	live track // what the rows up to the watermark gave
	// With a lateness, base is what the rows up to settled gave, which no late row changes: going on from it over the
	// rows held gives live again. Without one, settled and base stay what they were at first.
	base    track
	settled int64
	given   []result // the windows that are out and may change, by start and end

	corrected bool // a row has flagChanged
	unsaved   bool // it has changed since the last snapshot
}

func newAsset() asset {
	return asset{firstEver: none, lastEver: math.MinInt64, live: newTrack(), base: newTrack(), settled: math.MinInt64}
}

// put makes room for a row, or puts it in the place of the one of its time if it is newer, and returns its index.
func (a *asset) put(r row, newer bool, channels int) (at int, added, ok bool) {
	at = len(a.rows)
	if at > a.head && r.ts <= a.rows[at-1].ts {
		at = a.search(r.ts)
		if a.rows[at].ts == r.ts {
			if newer {
				a.rows[at] = r
			}
			return at, false, newer
		}
	}
	a.rows = slices.Insert(a.rows, at, r)
	from, size := at*channels, len(a.cells)
	a.cells = slices.Grow(a.cells, channels)[:size+channels]
	copy(a.cells[from+channels:], a.cells[from:size])
	a.firstEver, a.lastEver = min(a.firstEver, r.ts), max(a.lastEver, r.ts)
	return at, true, true
}

// holds tells whether there is a row of time t.
func (a *asset) holds(t int64) bool {
	at := a.search(t)
	return at < len(a.rows) && a.rows[at].ts == t
}

// search returns the index of the first held row at or after t.
func (a *asset) search(t int64) int {
	return a.head + sort.Search(len(a.rows)-a.head, func(i int) bool { return a.rows[a.head+i].ts >= t })
}

// after returns the index of the first held row after t.
func (a *asset) after(t int64) int {
	return a.head + sort.Search(len(a.rows)-a.head, func(i int) bool { return a.rows[a.head+i].ts > t })
}

// nextRow returns the time of the first held row after t, none if there is none.
func (a *asset) nextRow(t int64) int64 {
	if at := a.after(t); at < len(a.rows) {
		return a.rows[at].ts
	}
	return none
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

// floor returns the last multiple of step at or before t. Division rounds towards zero, which is up before 1970.
func floor(t, step int64) int64 {
	if q := t / step * step; q <= t {
		return q
	}
	return t/step*step - step
}

// ceil returns the first multiple of step at or after t.
func ceil(t, step int64) int64 {
	if q := floor(t, step); q != t {
		return q + step
	}
	return t
}

// plus adds a length to a time that may be the first or the last there is.
func plus(t, length int64) int64 {
	switch {
	case length > 0 && t > math.MaxInt64-length:
		return math.MaxInt64
	case length < 0 && t < math.MinInt64-length:
		return math.MinInt64
	}
	return t + length
}
