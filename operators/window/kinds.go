package window

import (
	"math"
	"slices"

	"github.com/tailrace/tailrace/schemas"
)

// cut is why a window is not whole; cuts has the texts.
type cut uint8

const (
	whole cut = iota
	cutStart
	cutEnd
	cutMax
	cutWithdrawn
)

// cuts are the dictionary of the column cut.
var cuts = [...]string{
	whole: "", cutStart: schemas.ReasonCutStart, cutEnd: schemas.ReasonCutEnd, cutMax: schemas.ReasonMaxDuration,
	cutWithdrawn: schemas.ReasonWithdrawn,
}

// bounds is a window that was found: the rows in [start, end).
type bounds struct {
	start, end int64
	due        int64 // the watermark at which it is given
	cut        cut
}

// track is how far a kind has come with an asset's rows. Each kind uses what it needs.
type track struct {
	phase   phase
	start   int64    // of the last window found, for windows of a calendar or a fixed size; of the open one for the others
	last    int64    // session: time of the newest row in it
	rows    int64    // count: rows so far; trigger: rows since start
	pending []bounds // trigger: windows found that wait for the end of their post roll
	short   int      // trigger: rows of windows shorter than min_duration, since who counts them has asked
}

type phase uint8

const (
	idle  phase = iota // no window is open
	open               // one is
	spent              // trigger: the last was closed by force, and neither stop nor the end of start was seen since
)

func newTrack() track { return track{start: math.MinInt64} }

func (t *track) clone() track {
	c := *t
	c.pending = slices.Clone(t.pending)
	return c
}

// kind finds windows in an asset's rows. It depends on nothing but the rows and the track, so that going over the same
// rows again from an earlier track gives what one pass in order would have given.
type kind interface {
	// layout gives T, the most rows of a window, and how many rows lie between the starts of two at most.
	layout() (rows, hop int64)
	// run goes over the rows in (from, to] and appends the windows due in it, by the time they are due.
	run(t *track, a *asset, from, to int64, out []bounds) []bounds
	// next is the earliest time up to which run has anything to do, none if there is nothing.
	next(t *track, a *asset, from int64) int64
	// need is the time before which rows are of no more use to t, which has come up to at.
	need(t *track, a *asset, at int64) int64
	// end appends what is open after the last row, with the reason.
	end(t *track, a *asset, from int64, out []bounds) []bounds
}

// spans are windows that lie fixed in time, whatever the rows: those of a size and those of a calendar.
type spans interface {
	// around is the start of the first window that holds t.
	around(t int64) int64
	// after is the start of the window after the one at start.
	after(start int64) int64
	// end is the end of the window at start.
	end(start int64) int64
	layout() (rows, hop int64)
}

// fixed are the windows of one size. Since hop is at most size, there is one around every row.
type fixed struct{ size, hop, grid int64 }

// around: the windows around t start in (t - size, t].
func (f fixed) around(t int64) int64      { return floor(t-f.size, f.hop) + f.hop }
func (f fixed) after(start int64) int64   { return start + f.hop }
func (f fixed) end(start int64) int64     { return start + f.size }
func (f fixed) layout() (rows, hop int64) { return f.size / f.grid, f.hop / f.grid }

// placed is the kind of all spans.
type placed struct {
	spans
	grid int64
}

// first returns the start of the first window after the last found that has a row, none if no row is left.
func (p placed) first(t *track, a *asset) int64 {
	if t.start == math.MinInt64 {
		if a.head == len(a.rows) {
			return none
		}
		return p.around(a.rows[a.head].ts)
	}
	from := p.after(t.start)
	at := a.search(from)
	if at == len(a.rows) {
		return none
	}
	return max(from, p.around(a.rows[at].ts))
}

// due is the last grid time of the window at start.
func (p placed) due(start int64) int64 { return floor(p.spans.end(start)-1, p.grid) }

func (p placed) run(t *track, a *asset, _, to int64, out []bounds) []bounds {
	for {
		start := p.first(t, a)
		if start == none || p.due(start) > to {
			return out
		}
		t.start = start
		b := bounds{start: start, end: p.spans.end(start), due: p.due(start)}
		if start < a.firstEver {
			b.cut = cutStart
		}
		out = append(out, b)
	}
}

func (p placed) next(t *track, a *asset, _ int64) int64 {
	start := p.first(t, a)
	if start == none {
		return none
	}
	return p.due(start)
}

func (p placed) need(t *track, _ *asset, _ int64) int64 {
	if t.start == math.MinInt64 {
		return math.MinInt64
	}
	return p.after(t.start)
}

func (p placed) end(t *track, a *asset, from int64, out []bounds) []bounds {
	n := len(out)
	out = p.run(t, a, from, none-1, out)
	for i := n; i < len(out); i++ {
		if b := &out[i]; b.cut == whole && a.lastEver < b.due {
			b.cut = cutEnd
		}
	}
	return out
}
