package eventtime

import (
	"fmt"
	"math"
	"reflect"
	"testing"
	"time"

	"github.com/tailrace/tailrace/schemas"
	"pgregory.net/rapid"
)

// stream draws rows with disorder, jumps, duplicates, silences, hostile times and two ways to name devices.
func stream(t *rapid.T) (Config, []in, []tick) {
	c := Config{
		OutOfOrder:      time.Duration(rapid.SampledFrom([]int64{0, 1, 2 * second}).Draw(t, "out_of_order")),
		Step:            time.Duration(rapid.SampledFrom([]int64{second, 7*second + 3}).Draw(t, "step")),
		AllowedLateness: time.Duration(rapid.SampledFrom([]int64{0, 10 * second}).Draw(t, "allowed_lateness")),
		IdleTimeout:     time.Duration(rapid.SampledFrom([]int64{10 * second, 40 * second}).Draw(t, "idle_timeout")),
		MaxSkew:         time.Duration(rapid.SampledFrom([]int64{5 * second, 20 * second}).Draw(t, "max_skew")),
		LateAfter:       30 * time.Second,
		MinTime:         -1000 * second,
		GatherRows:      rapid.IntRange(1, 5).Draw(t, "gather_rows"),
		MaxDevices:      rapid.IntRange(1, 5).Draw(t, "max_devices"),
	}
	now := noon * int64(rapid.IntRange(0, 1).Draw(t, "epoch")) // times before 1970 as well
	var rows []in
	var ticks []tick
	for n := rapid.IntRange(1, 60).Draw(t, "rows"); len(rows) < n; {
		now += rapid.SampledFrom([]int64{0, 1, second / 2, second, 15 * second}).Draw(t, "later")
		r := in{
			asset: rapid.SampledFrom([]string{"a", "b", "c"}).Draw(t, "asset"),
			tag:   rapid.SampledFrom([]string{"x", "y"}).Draw(t, "tag"),
			src:   rapid.SampledFrom([]string{"", "", "a", "edge"}).Draw(t, "src"), arrived: now,
		}
		switch rapid.IntRange(0, 12).Draw(t, "kind") {
		case 0:
			r.ts = rapid.SampledFrom([]int64{math.MinInt64, math.MaxInt64, now + 3600*second, -2000 * second}).Draw(t, "hostile")
		case 1:
			r.ts = now - rapid.Int64Range(31, 500).Draw(t, "history")*second
		case 2:
			r.ts, r.flags = now-rapid.Int64Range(0, 50).Draw(t, "flagged")*second, schemas.FlagHistorical
		case 3:
			r.ts, r.flags = now, schemas.FlagStale
		case 4:
			r.arrived = rapid.SampledFrom([]int64{math.MinInt64, math.MaxInt64 - 1, 0, now - 20*second}).Draw(t, "arrival")
			r.ts = now
			if r.arrived == math.MaxInt64-1 && len(rows) < n/2 {
				r.arrived = now // else all that follows has a task's clock that stands
			}
		case 5:
			if len(rows) > 0 {
				r = rows[rapid.IntRange(0, len(rows)-1).Draw(t, "again")]
				r.arrived = now
			}
		case 6:
			r.ts = now - rapid.Int64Range(0, 30).Draw(t, "late")*second
		default:
			r.ts = now - rapid.Int64Range(0, 3*second).Draw(t, "delay")
		}
		rows = append(rows, r)
		if rapid.IntRange(0, 9).Draw(t, "tick") == 0 {
			ticks = append(ticks, tick{row: len(rows), now: now + rapid.Int64Range(-5, 60).Draw(t, "barrier")*second,
				caughtUp: rapid.Bool().Draw(t, "caught up")})
		}
	}
	return c, rows, ticks
}

// reference is the package comment word for word: it looks at all devices and all earlier rows for every row.
type reference struct {
	c     Config
	now   int64
	known map[string]bool
	lanes [2]refLane
	out   judged
}

type refLane struct {
	devices   map[string]*refDevice
	any       bool
	watermark int64
	newest    int64
	newestAt  int64
	last      int64
	closed    bool
	gathers   bool
	gathered  int
	began     int64
	rows      map[string]bool // asset, tag and time
}

type refDevice struct {
	newest, arrived int64
	active          bool
}

func (l *refLane) raise(out *judged, lane Lane, w int64) {
	if w > l.watermark {
		l.watermark = w
		out.lanes[lane] = append(out.lanes[lane], fmt.Sprint("=", w-noon))
	}
}

// down is the newest multiple of step at or before t.
func down(t, step int64) int64 { return t - ((t%step)+step)%step }

func (f *reference) minimum(lane Lane) {
	l := &f.lanes[lane]
	if l.gathers {
		return
	}
	slowest, any := int64(0), false
	for _, d := range l.devices {
		if d.active && (!any || d.newest < slowest) {
			slowest, any = d.newest, true
		}
	}
	if any {
		l.raise(&f.out, lane, down(slowest-int64(f.c.OutOfOrder), int64(f.c.Step))-1)
	}
}

func (f *reference) time(now int64) {
	f.now = max(f.now, now)
	for lane := range lanes {
		l := &f.lanes[lane]
		left, active := false, 0
		for _, d := range l.devices {
			if d.active && f.now-d.arrived > int64(f.c.IdleTimeout) {
				d.active, left = false, true
			}
			if d.active {
				active++
			}
		}
		if left {
			f.minimum(lane)
		}
		if l.gathers && f.now-l.began > int64(f.c.IdleTimeout) {
			l.gathers = false
			f.minimum(lane)
		}
		if lane == History && l.any && !l.closed && active == 0 && f.now-l.last > int64(f.c.IdleTimeout) {
			l.closed = true
			l.raise(&f.out, lane, down(l.newest+int64(f.c.Step), int64(f.c.Step))-1)
		}
	}
}

func (f *reference) row(i int, r in) {
	name := "asset " + r.asset
	if r.src != "" {
		name = "src " + r.src
	}
	if !f.known[name] && len(f.known) < f.c.MaxDevices {
		f.known[name] = true
	}
	f.now = max(f.now, min(r.arrived, farthest))
	arrived := f.now
	live, flags := &f.lanes[Live], r.flags
	lane := Live
	device := live.devices[name]
	suspect := r.ts < f.c.MinTime || r.ts > arrived+int64(f.c.MaxSkew)
	lateAfter := int64(f.c.LateAfter)
	switch history := f.lanes[History].devices[name]; {
	case r.flags&schemas.FlagHistorical != 0:
		lane = History
	case suspect:
	case device != nil && r.ts < device.newest-lateAfter, live.watermark != none && r.ts < live.watermark-lateAfter:
		lane = History
	case r.ts <= live.watermark && history != nil && history.active &&
		r.ts-history.newest <= lateAfter && history.newest-r.ts <= lateAfter:
		lane = History
	}
	l := &f.lanes[lane]
	key := fmt.Sprint(r.asset, "/", r.tag, "/", r.ts)
	horizon := int64(none)
	if l.watermark != none {
		horizon = l.watermark - int64(f.c.OutOfOrder) - int64(f.c.AllowedLateness)
	}
	if !suspect && l.rows[key] && r.ts > horizon {
		f.out.counts[3]++
		f.out.edits = append(f.out.edits, fmt.Sprintf("%d true %d", i, r.flags))
	} else {
		if suspect {
			flags |= schemas.FlagClockSuspect
		} else if r.ts <= l.watermark {
			flags |= schemas.FlagLate
		}
		if lane == History {
			flags |= schemas.FlagHistorical
		}
		for n, flag := range []schemas.Flag{schemas.FlagLate, schemas.FlagClockSuspect, schemas.FlagHistorical} {
			if flags&flag != 0 {
				f.out.counts[n]++
			}
		}
		if flags != r.flags {
			f.out.edits = append(f.out.edits, fmt.Sprintf("%d false %d", i, flags))
		}
		f.out.lanes[lane] = append(f.out.lanes[lane], fmt.Sprint(i))
	}
	if !suspect {
		l.rows[key] = true
		if lane == History {
			if !l.any || l.closed {
				l.gathers, l.began, l.gathered = true, arrived, 0
			}
			l.gathered++
			l.gathers = l.gathers && l.gathered < f.c.GatherRows
		}
		d := l.devices[name]
		if d == nil && f.known[name] {
			d = &refDevice{newest: math.MinInt64, arrived: math.MinInt64}
			l.devices[name] = d
		}
		if d != nil && r.ts > d.newest {
			d.newest, d.arrived = r.ts, arrived
			d.active = d.active || lane == History || l.watermark == none || r.ts > l.watermark-int64(f.c.MaxSkew)
			f.minimum(lane)
		}
		if !l.any || r.ts > l.newest {
			l.newest, l.newestAt = r.ts, arrived
		}
		l.any, l.closed, l.last = true, false, arrived
		if lane == History {
			f.minimum(lane)
		}
	}
	f.time(arrived)
}

func (f *reference) tick(k tick) {
	if !k.caughtUp {
		return
	}
	f.time(k.now)
	l := &f.lanes[Live]
	for _, d := range l.devices {
		if d.active {
			return
		}
	}
	if l.any {
		runs := l.newest + max(f.now-l.newestAt, 0)
		l.raise(&f.out, Live, down(min(runs, f.now)-int64(f.c.IdleTimeout), int64(f.c.Step))-1)
	}
}

func expect(c Config, rows []in, ticks []tick) judged {
	f := &reference{c: c, now: -farthest, known: map[string]bool{}}
	for i := range f.lanes {
		f.lanes[i] = refLane{devices: map[string]*refDevice{}, watermark: none, last: -farthest, rows: map[string]bool{}}
	}
	for i := range len(rows) + 1 {
		for _, k := range ticks {
			if k.row == i {
				f.tick(k)
			}
		}
		if i < len(rows) {
			f.row(i, rows[i])
		}
	}
	return f.out
}

func sameRun(t *rapid.T, want, got judged, findings bool) {
	if !reflect.DeepEqual(want.lanes, got.lanes) {
		t.Fatalf("lanes: want\n%v\ngot\n%v", want.lanes, got.lanes)
	}
	if !reflect.DeepEqual(want.edits, got.edits) || want.counts != got.counts {
		t.Fatalf("want edits %v, counts %v, got %v, %v", want.edits, want.counts, got.edits, got.counts)
	}
	if findings && !reflect.DeepEqual(want.findings, got.findings) {
		t.Fatalf("findings: want %v, got %v", want.findings, got.findings)
	}
}

// Scenario: Random rows, barriers and limits, against a model that looks at everything for every row.
// Guarantees: Lanes, moves, edits and counts are those that the package comment gives.
func TestReference(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		c, rows, ticks := stream(rt)
		sameRun(rt, expect(c, rows, ticks), run(t, c, rows, ticks, nil, nil), false)
	})
}

// Scenario: The same rows in other batches, and with restarts at random barriers, from chains of incremental
// snapshots.
// Guarantees: Nothing differs: rows, moves, edits, counts and findings.
func TestCutsAndRestores(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		c, rows, ticks := stream(rt)
		whole := run(t, c, rows, ticks, nil, nil)
		positions := rapid.SliceOfN(rapid.IntRange(0, len(rows)), 0, 8)
		sameRun(rt, whole, run(t, c, rows, ticks, positions.Draw(rt, "cuts"), nil), true)
		sameRun(rt, whole, run(t, c, rows, ticks, nil, positions.Draw(rt, "restores")), true)
	})
}

// Scenario: One device whose rows are in any order, with all times believed, over steps and disorders.
// Guarantees: After each row the watermark is the newest time less out_of_order, cut down to a step, less 1 ns.
func TestOneDevice(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		c := defaults()
		c.OutOfOrder = time.Duration(rapid.Int64Range(0, 5*second).Draw(rt, "out_of_order"))
		c.Step = time.Duration(rapid.Int64Range(1, 10*second).Draw(rt, "step"))
		c.MinTime = math.MinInt64
		var rows []in
		var want []string
		newest, watermark := int64(math.MinInt64), int64(math.MinInt64)
		for i := range rapid.IntRange(1, 50).Draw(rt, "rows") {
			r := in{asset: "a", tag: fmt.Sprint("t", i), ts: rapid.Int64Range(-60*second, 60*second).Draw(rt, "ts")}
			r.arrived = r.ts
			rows = append(rows, r)
			want = append(want, fmt.Sprint(i))
			newest = max(newest, r.ts)
			if w := down(newest-int64(c.OutOfOrder), int64(c.Step)) - 1; w > watermark {
				watermark = w
				want = append(want, fmt.Sprint("=", w-noon))
			}
		}
		if got := run(t, c, rows, nil, nil, nil); !reflect.DeepEqual(got.lanes[Live], want) {
			rt.Fatalf("want %v, got %v", want, got.lanes[Live])
		}
	})
}
