package eventtime

import (
	"cmp"
	"slices"
	"time"
)

// The kinds of Finding.
const (
	ClockAhead    = "clock_ahead"     // times ahead of arrival by more than max_skew
	ClockBack     = "clock_back"      // unflagged times behind the device's newest or the watermark by more than max_skew
	BeforeMinTime = "before_min_time" // times before min_time
	Idle          = "idle"            // the device's clock has not moved for idle_timeout
)

// Finding is something about a device that a person may want to know.
type Finding struct {
	Device string
	Kind   string
	Since  int64         // arrival of the first such row; if idle, of the row that last moved the clock. ns UTC
	By     time.Duration // of the last such row; if idle, how long
	Rows   int64         // such rows; if idle, 0
}

// fault is what is wrong with a device's clock.
type fault struct {
	kind        string
	since, last int64 // arrivals
	by          int64
	rows        int64
}

// found notes a row with a wrong time. t is its device's live clock.
func (c *Clock) found(r *row, t *track, kind string, by int64) {
	if r.device < 0 {
		return
	}
	f := c.faults[r.device]
	if f == nil || f.kind != kind {
		f = &fault{kind: kind, since: c.now}
		c.faults[r.device] = f
		c.faulty.add(r.device)
	}
	f.last, f.by = c.now, by
	f.rows++
	t.fault = true
	c.touch(r.device, t)
}

// recover ends a finding with a right row, if it is idle_timeout since the last wrong one: a device one of whose tags
// has a wrong time sends both.
func (c *Clock) recover(r *row, t *track) {
	if f := c.faults[r.device]; c.now-f.last > c.idle {
		delete(c.faults, r.device)
		c.faulty.remove(r.device)
		t.fault = false
		c.touch(r.device, t)
	}
}

// touch notes that a device has changed since the last snapshot.
func (c *Clock) touch(device int32, t *track) {
	if !t.touched {
		t.touched = true
		c.touched = append(c.touched, device)
	}
}

// Findings tells what is found about the live clocks of devices, by name: at most MaxFindings of them. It costs as
// much as there is to find, whatever the number of devices.
func (c *Clock) Findings() []Finding {
	var list []Finding
	for _, device := range c.faulty.list[:min(len(c.faulty.list), c.maxFindings)] {
		f := c.faults[device]
		list = append(list, Finding{
			Device: c.names.text(device), Kind: f.kind, Since: f.since, By: time.Duration(f.by), Rows: f.rows,
		})
	}
	live := &c.lanes[Live]
	for _, device := range live.away.list {
		if len(list) == c.maxFindings {
			break
		}
		t := &live.tracks[device]
		if silent := c.now - t.arrived; !t.fault && silent > c.idle {
			list = append(list, Finding{
				Device: c.names.text(device), Kind: Idle, Since: t.arrived, By: time.Duration(silent),
			})
		}
	}
	slices.SortFunc(list, func(a, b Finding) int { // a src and an asset may have the same name
		return cmp.Or(cmp.Compare(a.Device, b.Device), cmp.Compare(a.Kind, b.Kind),
			cmp.Compare(a.Since, b.Since), cmp.Compare(a.By, b.By), cmp.Compare(a.Rows, b.Rows))
	})
	return list
}
