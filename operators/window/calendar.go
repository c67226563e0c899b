package window

import (
	"fmt"
	"math"
	"time"
	_ "time/tzdata" // zones work on machines without the data of the system

	"github.com/tailrace/tailrace/pipeline"
)

// The lengths of calendar windows.
const (
	everyHour  = "hour"
	everyShift = "shift"
	everyDay   = "day"
	everyWeek  = "week"
	everyMonth = "month"
)

// calendar are windows between the moments at which a clock on the wall of a zone shows the start of a day, a shift, a
// week or a month, or a full hour after the start of the day. Days are 23 to 25 hours long where clocks are changed.
type calendar struct {
	every  string
	zone   *time.Location
	shifts []time.Duration // starts of the shifts after 0 h, rising
	grid   int64
	rows   int64   // of the longest window
	seen   *window // the last window looked for: rows come in order
}

type window struct{ start, end int64 }

// date is a day by a zone's calendar.
type date struct {
	year  int
	month time.Month
	day   int
}

func dateOf(t time.Time) date {
	y, m, d := t.Date()
	return date{y, m, d}
}

func (d date) add(months, days int) date {
	return dateOf(time.Date(d.year, d.month+time.Month(months), d.day+days, 0, 0, 0, 0, time.UTC))
}

func newCalendar(c *Config, grid int64) (calendar, error) {
	zone, err := time.LoadLocation(c.Zone)
	if err != nil {
		return calendar{}, fmt.Errorf("zone: want a name of the IANA time zones such as Europe/Berlin, got %q", c.Zone)
	}
	k := calendar{every: string(c.Every), zone: zone, grid: grid, seen: &window{start: math.MaxInt64, end: math.MinInt64}}
	if k.every == everyShift {
		shifts, bad := parseShifts(c.Shifts)
		if bad != nil {
			return calendar{}, bad
		}
		k.shifts = shifts
	}
	k.rows = k.longest() / grid
	return k, nil
}

// parseShifts reads times of day, 15:04, that rise.
func parseShifts(texts []string) ([]time.Duration, *pipeline.Fault) {
	bad := func(path, format string, args ...any) ([]time.Duration, *pipeline.Fault) {
		f := pipeline.Faultf(path, format, args...)
		return nil, &f
	}
	if len(texts) == 0 {
		return bad("shifts", `want the starts of the shifts, such as ["06:00", "14:00", "22:00"], got none`)
	}
	var shifts []time.Duration
	for i, text := range texts {
		t, err := time.Parse("15:04", text)
		if err != nil {
			return bad(fmt.Sprintf("shifts[%d]", i), "want a time of day such as 06:00, got %q", text)
		}
		start := time.Duration(t.Hour())*time.Hour + time.Duration(t.Minute())*time.Minute
		if i > 0 && start <= shifts[i-1] {
			return bad(fmt.Sprintf("shifts[%d]", i), "want a time after %s, got %s", texts[i-1], text)
		}
		shifts = append(shifts, start)
	}
	return shifts, nil
}

// offset is how far the zone's clock is ahead of UTC at t.
func (k calendar) offset(t time.Time) time.Duration {
	_, seconds := t.In(k.zone).Zone()
	return time.Duration(seconds) * time.Second
}

// at is the first moment at which the zone's clock shows tod after 0 h of d, or later. A time that the clocks jump over
// is the moment they do; of a time that comes twice it is the first. Clocks are changed at most once in the day before
// it.
//
// time.ZoneBounds would give the changes, but its end of a leap year after 2037 is a day early and then stands still.
func (k calendar) at(d date, tod time.Duration) int64 {
	wall := time.Date(d.year, d.month, d.day, 0, 0, 0, 0, time.UTC).Add(tod)
	before := k.offset(wall.Add(-16 * time.Hour)) // zones lie within 15 hours of UTC: the moment comes later
	moment := wall.Add(-before)
	after := k.offset(moment)
	if after == before {
		return moment.UnixNano()
	}
	changed := wall.Add(-after)
	if k.offset(changed) == after {
		return changed.UnixNano()
	}
	low, high := changed.Unix(), moment.Unix() // the clocks are changed in (low, high]
	for high-low > 1 {
		if middle := low + (high-low)/2; k.offset(time.Unix(middle, 0)) == after {
			high = middle
		} else {
			low = middle
		}
	}
	return time.Unix(high, 0).UnixNano()
}

// first is the date, and the index in shifts, of a window near the one that holds t.
func (k calendar) first(t int64) (d date, shift int) {
	d = dateOf(time.Unix(0, t).In(k.zone))
	switch k.every {
	case everyWeek:
		monday := (int(time.Date(d.year, d.month, d.day, 0, 0, 0, 0, time.UTC).Weekday()) + 6) % 7
		d = d.add(0, -monday)
	case everyMonth:
		d.day = 1
	}
	return d, 0
}

// step goes to the window n after the one at d and shift.
func (k calendar) step(d date, shift, n int) (date, int) {
	switch k.every {
	case everyShift:
		shift += n
		days := int(math.Floor(float64(shift) / float64(len(k.shifts))))
		return d.add(0, days), shift - days*len(k.shifts)
	case everyWeek:
		return d.add(0, 7*n), 0
	case everyMonth:
		return d.add(n, 0), 0
	}
	return d.add(0, n), 0
}

func (k calendar) moment(d date, shift int) int64 {
	if k.every == everyShift {
		return k.at(d, k.shifts[shift])
	}
	return k.at(d, 0)
}

// find is the window that holds t. What a clock shows may go back, so windows are told by their moments.
func (k calendar) find(t int64) window {
	if k.seen.start <= t && t < k.seen.end {
		return *k.seen
	}
	d, shift := k.first(t)
	w := window{start: k.moment(d, shift)}
	for w.start > t {
		d, shift = k.step(d, shift, -1)
		w.start = k.moment(d, shift)
	}
	for {
		d, shift = k.step(d, shift, 1)
		if w.end = k.moment(d, shift); w.end > t {
			break
		}
		w.start = w.end
	}
	if k.every == everyHour {
		hour := int64(time.Hour)
		w.start += (t - w.start) / hour * hour
		w.end = min(w.end, w.start+hour)
	}
	*k.seen = w
	return w
}

func (k calendar) around(t int64) int64    { return k.find(t).start }
func (k calendar) after(start int64) int64 { return k.find(start).end }
func (k calendar) end(start int64) int64   { return k.find(start).end }

// The years that the longest window is looked for in. What zones will do after lastYear is what they do then. Windows
// of other years are cut to the rows that there is room for.
const (
	firstYear = 1970
	lastYear  = 2050
)

// longest looks at the windows around every change of the zone's clocks: an ordinary month has 31 days, but one in
// autumn an hour more.
func (k calendar) longest() int64 {
	longest := int64(0)
	look := func(from, to time.Time) {
		for t := from.UnixNano(); t <= to.UnixNano(); {
			w := k.find(t)
			longest = max(longest, ceil(w.end, k.grid)-ceil(w.start, k.grid))
			t = w.end
		}
	}
	first := time.Date(firstYear, 1, 1, 0, 0, 0, 0, time.UTC)
	look(first, first.Add(31*24*time.Hour)) // a month of 31 days, every weekday
	const day, week = 24 * time.Hour, 7 * 24 * time.Hour
	last := time.Date(lastYear, 1, 1, 0, 0, 0, 0, time.UTC)
	for t := first; t.Before(last); t = t.Add(week) {
		if k.offset(t) == k.offset(t.Add(week)) {
			continue
		}
		for d := t; d.Before(t.Add(week)); d = d.Add(day) {
			if k.offset(d) != k.offset(d.Add(day)) {
				look(d, d.Add(day))
			}
		}
	}
	return longest
}

func (k calendar) layout() (rows, hop int64) { return k.rows, k.rows }
