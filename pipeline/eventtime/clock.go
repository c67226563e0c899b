package eventtime

import (
	"math"
	"time"

	"github.com/apache/arrow/go/v15/arrow"
	"github.com/apache/arrow/go/v15/arrow/array"
	"github.com/apache/arrow/go/v15/arrow/memory"
	"github.com/tailrace/tailrace/schemas"
)

// Config says how event time advances. See the section watermark of a pipeline file.
type Config struct {
	OutOfOrder      time.Duration
	Step            time.Duration // at least 1ns
	AllowedLateness time.Duration
	IdleTimeout     time.Duration
	MaxSkew         time.Duration
	MinTime         int64 // ns UTC
	LateAfter       time.Duration
	MaxDevices      int
	// MaxRecent is how many times of one asset's tag are remembered to know duplicates; past it the oldest are
	// forgotten. 0 is 100000: a tag at 1 kHz over 100 s, in 800 kB.
	MaxRecent int
	// GatherRows is how many rows of history wait at most for other devices to begin as well. 0 is 100000, a twentieth
	// of what align holds.
	GatherRows int
	// MaxFindings is how many findings are given at once, those of wrong clocks first. 0 is 200: more than a person reads.
	MaxFindings int
}

// Lane is one of two flows of rows with a watermark each.
type Lane uint8

// The lanes.
const (
	Live Lane = iota
	History
	lanes
)

// Edit says what differs from the batch as decoded.
type Edit struct {
	Row   int
	Drop  bool   // the row is a duplicate
	Flags uint32 // all flags of the row
}

// Span is rows that go down one lane together, and what its watermark does after them.
type Span struct {
	From, To  int // rows [From, To), maybe none
	Lane      Lane
	Moved     bool  // the lane's watermark moves, to:
	Watermark int64 // ns UTC
}

// Verdict is what a clock says of a batch. It is good until the clock's next call.
type Verdict struct {
	Edits []Edit // by Row
	// Spans come in order of rows, with every row that is not dropped in one of them.
	Spans []Span
	// Late, Suspect and Historical count rows by the flag they have, Duplicates those that are dropped. A duplicate
	// counts as nothing else.
	Late, Suspect, Historical, Duplicates int
}

// farthest bounds all times, in ns from 1970, and longest all durations, so that sums of them can't overflow: the
// years 1823 to 2116, and 36 years.
const (
	farthest = 1 << 62
	longest  = 1 << 60
)

// unset is a device's clock before its first row: before all times that are not suspect.
const unset = -farthest - 1

// none is a watermark before its lane's first row.
const none = math.MinInt64

const (
	flagHistorical = uint32(schemas.FlagHistorical)
	flagLate       = uint32(schemas.FlagLate)
	flagSuspect    = uint32(schemas.FlagClockSuspect)
)

// Clock is the event-time clock of one partition. It is for one goroutine.
type Clock struct {
	minTime, maxSkew, idle, lateAfter int64 // ns
	gatherRows, maxFindings           int

	now     int64 // the task's clock
	present int64 // nothing arrives later
	due     int64 // when the next device may be idle, or earlier: past it the clock looks
	lanes   [lanes]lane
	names   names
	faults  map[int32]*fault // by device
	faulty  roster           // the devices that have one
	touched []int32          // devices that have changed since the last snapshot, some twice
	nobody  track            // of devices without a clock
	verdict Verdict
	cuts    cutter
}

// New returns a clock that has seen nothing.
func New(c Config, mem memory.Allocator) *Clock {
	limit := func(d time.Duration) int64 { return min(max(int64(d), 0), longest) }
	k := &Clock{
		minTime: max(c.MinTime, -farthest), maxSkew: limit(c.MaxSkew), idle: limit(c.IdleTimeout),
		lateAfter: limit(c.LateAfter), gatherRows: c.GatherRows, maxFindings: c.MaxFindings,
		now: -farthest, present: farthest, due: farthest, names: newNames(mem, c.MaxDevices),
		faults: map[int32]*fault{}, nobody: newTrack(),
	}
	if c.MaxRecent <= 0 {
		c.MaxRecent = 100_000
	}
	if k.maxFindings <= 0 {
		k.maxFindings = 200
	}
	if k.gatherRows <= 0 {
		k.gatherRows = 100_000
	}
	for i := range k.lanes {
		k.lanes[i] = newLane(max(limit(c.Step), 1), limit(c.OutOfOrder), limit(c.AllowedLateness), c.MaxRecent)
	}
	return k
}

// Present says what time it is on this machine, ns UTC: what has arrived later than that counts as arrived then.
// Kafka's records may have their producer's time, and a gateway whose clock is ahead stamps them as wrongly as its
// rows. Without it every arrival is believed.
func (c *Clock) Present(now int64) { c.present = min(now, farthest) }

// Watermark is where a lane's watermark stands, ns UTC; math.MinInt64 before the lane's first row.
func (c *Clock) Watermark(l Lane) int64 { return c.lanes[l].watermark }

// Release gives back what the clock holds of Arrow's memory.
func (c *Clock) Release() { c.names.release() }

// row is one row as it is judged.
type row struct {
	index  int
	ts     int64
	flags  uint32
	device int32
}

// Judge looks at the rows of a batch of telemetry.v1, in order. It borrows the batch.
func (c *Clock) Judge(batch arrow.Record) Verdict {
	v := &c.verdict
	*v = Verdict{Edits: v.Edits[:0], Spans: v.Spans[:0]}
	c.cuts.start(v.Spans)
	var (
		times    = batch.Column(schemas.ColTS).(*array.Timestamp).TimestampValues()
		arrivals = batch.Column(schemas.ColTSIngest).(*array.Timestamp).TimestampValues()
		flags    = batch.Column(schemas.ColFlags).(*array.Uint32).Uint32Values()
		behind   = min(c.lateAfter, c.maxSkew)
		live     = &c.lanes[Live]
		n        = &c.names
	)
	n.start(batch)
	for i := range times {
		c.now = max(c.now, min(int64(arrivals[i]), c.present))
		r := row{index: i, ts: int64(times[i]), flags: flags[i]}
		if n.assetAt[i] != n.lastAsset || n.srcAt[i] != n.lastSrc {
			n.look(n.assetAt[i], n.srcAt[i])
		}
		r.device = n.device
		lane, l, t := Live, live, c.track(Live, r.device)
		// Most rows have nothing about them: in time, by a clock that is believed.
		if r.flags != 0 || t.fault || r.ts <= l.watermark ||
			r.ts < max(c.minTime, t.newest-behind) || r.ts > c.now+c.maxSkew {
			var suspect bool
			if lane, suspect = c.classify(&r, t); suspect {
				c.mark(&r, lane, flagSuspect)
				c.cuts.add(i, lane)
				c.expireDue()
				continue
			}
			l, t = &c.lanes[lane], c.track(lane, r.device)
		}
		if l.seen.repeats(n.asset, n.tag(i), r.ts, l.horizon()) {
			v.Duplicates++
			v.Edits = append(v.Edits, Edit{Row: i, Drop: true, Flags: r.flags})
		} else {
			if lane == History || r.flags != 0 || r.ts <= l.watermark {
				var late uint32
				if r.ts <= l.watermark {
					late = flagLate
				}
				c.mark(&r, lane, late)
			}
			c.cuts.add(i, lane)
		}
		if lane == History {
			c.gather(l)
		}
		if r.ts > t.newest {
			c.progress(&r, lane, t)
		}
		if r.ts > l.newest {
			l.newest, l.newestArrived = r.ts, c.now
		}
		if lane == History {
			c.move(History) // also if enough rows have gathered with one that moves no clock
		}
		c.expireDue()
	}
	v.Spans = c.cuts.end()
	return *v
}

// track returns the clock of a device in a lane.
func (c *Clock) track(lane Lane, device int32) *track {
	if device < 0 {
		return &c.nobody
	}
	l := &c.lanes[lane]
	if int(device) >= len(l.tracks) {
		l.grow(int(device) + 1)
	}
	return &l.tracks[device]
}

// classify tells a row's lane and whether its time is not to be believed, and notes what is wrong with its device. t
// is the device's live clock.
func (c *Clock) classify(r *row, t *track) (lane Lane, suspect bool) {
	flagged := r.flags&flagHistorical != 0
	if flagged {
		lane = History
	}
	switch {
	case r.ts < c.minTime:
		c.found(r, t, BeforeMinTime, c.minTime-max(r.ts, -farthest))
		return lane, true
	case r.ts > c.now+c.maxSkew:
		c.found(r, t, ClockAhead, min(r.ts, farthest+longest)-c.now)
		return lane, true
	case r.flags&flagSuspect != 0: // the decoder's limits are tighter
		return lane, true
	case flagged:
		return lane, false
	}
	w := c.lanes[Live].watermark
	if newest := max(t.newest, w); r.ts < newest-c.maxSkew {
		c.found(r, t, ClockBack, newest-r.ts)
	} else if t.fault {
		c.recover(r, t)
	}
	if r.ts < t.newest-c.lateAfter || w != none && r.ts < w-c.lateAfter {
		return History, false
	}
	if r.ts <= w && r.device >= 0 && int(r.device) < len(c.lanes[History].tracks) {
		// Where a burst that began further back meets the present, its last rows stay with the others.
		h := &c.lanes[History].tracks[r.device]
		if h.active && max(r.ts-h.newest, h.newest-r.ts) <= c.lateAfter {
			return History, false
		}
	}
	return Live, false
}

// mark counts a row and notes its flags if they are others than it came with.
func (c *Clock) mark(r *row, lane Lane, more uint32) {
	after := r.flags | more
	if lane == History {
		after |= flagHistorical
	}
	v := &c.verdict
	if after&flagLate != 0 {
		v.Late++
	}
	if after&flagSuspect != 0 {
		v.Suspect++
	}
	if after&flagHistorical != 0 {
		v.Historical++
	}
	if after != r.flags {
		v.Edits = append(v.Edits, Edit{Row: r.index, Flags: after})
	}
}

// progress moves the clock of a device, and the watermark if all have waited for it.
func (c *Clock) progress(r *row, lane Lane, t *track) {
	if r.device < 0 {
		return
	}
	l := &c.lanes[lane]
	t.newest, t.arrived = r.ts, c.now
	c.touch(r.device, t)
	switch {
	case t.active && r.ts < t.end:
		return
	case t.active:
		l.buckets.remove(t.slot)
		l.place(t)
	case lane == Live && l.watermark != none && r.ts <= l.watermark-c.maxSkew:
		l.away.add(r.device)
		return // a wrong clock, which the others don't wait for
	default:
		l.join(r.device)
		c.due = min(c.due, t.arrived+c.idle)
	}
	c.move(lane)
}

// move brings a lane's watermark up to its slowest device.
func (c *Clock) move(lane Lane) {
	l := &c.lanes[lane]
	if l.gathers {
		return
	}
	if bucket, ok := l.buckets.min(); ok {
		c.raise(lane, bucket*l.step-1)
	}
}

func (c *Clock) raise(lane Lane, watermark int64) {
	if l := &c.lanes[lane]; watermark > l.watermark {
		l.watermark = watermark
		c.cuts.move(lane, watermark)
	}
}

// gather counts a row of history. When a burst begins its watermark waits for other devices: after an outage of the
// network they all send, and those that begin a little later must not find their time gone.
func (c *Clock) gather(l *lane) {
	if !l.open {
		l.open, l.gathers, l.gathered, l.began = true, true, 0, c.now
	}
	l.lastArrived = c.now
	if l.gathered++; l.gathered >= c.gatherRows {
		l.gathers = false
	}
	c.due = min(c.due, c.now+c.idle)
}

// expireDue looks for idle devices if there may be one.
func (c *Clock) expireDue() {
	if c.now > c.due {
		c.expire()
	}
}

// expire takes devices that have become idle out of their lane's minimum, and ends what waits for the clock in
// history.
func (c *Clock) expire() {
	c.due = farthest
	for lane := range lanes {
		l := &c.lanes[lane]
		left := false
		for device, ok := l.idlest(c.now - c.idle); ok; device, ok = l.idlest(c.now - c.idle) {
			c.touch(device, l.leave(device))
			left = true
		}
		if left {
			c.move(lane)
		}
		if len(l.waiting) > 0 {
			c.due = min(c.due, l.waiting[0].arrived+c.idle)
		}
	}
	h := &c.lanes[History]
	if !h.open {
		return
	}
	if h.gathers && c.now-h.began > c.idle {
		h.gathers = false
		c.move(History)
	}
	if h.buckets.active == 0 && c.now-h.lastArrived > c.idle {
		h.open = false
		c.raise(History, floor(h.newest+h.step, h.step)*h.step-1)
		return
	}
	c.due = min(c.due, h.lastArrived+c.idle)
	if h.gathers {
		c.due = min(c.due, h.began+c.idle)
	}
}

// Tick is called at a barrier. If the task is at its partition's end, time goes on without rows: now is the barrier's
// time, ns UTC. The spans have no rows.
func (c *Clock) Tick(now int64, caughtUp bool) []Span {
	if !caughtUp {
		return nil
	}
	c.cuts.start(c.verdict.Spans[:0])
	c.now = max(c.now, min(now, farthest))
	c.expire()
	if l := &c.lanes[Live]; l.buckets.active == 0 && l.newest != unset {
		runs := min(l.newest+max(c.now-l.newestArrived, 0), c.now) - c.idle
		c.raise(Live, floor(runs, l.step)*l.step-1)
	}
	c.verdict.Spans = c.cuts.end()
	return c.verdict.Spans
}

// floor is the number of the step that t lies in. Division rounds towards zero, which is up for times before 1970.
func floor(t, step int64) int64 {
	n := t / step
	if n*step > t {
		n--
	}
	return n
}
