package eventtime

import (
	"errors"
	"fmt"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/apache/arrow/go/v15/arrow/memory"
	"github.com/tailrace/tailrace/pipeline/state"
	"github.com/tailrace/tailrace/schemas"
)

// Scenario: The same (asset, tag, time) again: at once, late but within what may be corrected, behind that, from
// another gateway, in the lane of history, and with a suspect time.
// Guarantees: Within the horizon the first wins and the others are dropped; others stay.
func TestDuplicates(t *testing.T) {
	c := defaults()
	c.AllowedLateness = 5 * time.Second
	by := func(src string, r in) in { r.src = src; return r }
	sent := func(asset, tag string, seconds float64) in { return by("gateway", sent(asset, tag, seconds)) }
	past := in{asset: "a", tag: "x", src: "gateway", ts: at(10 - 7200), arrived: at(10.3)}
	far := in{asset: "a", tag: "x", src: "gateway", ts: at(7200), arrived: at(10.4)}
	got := run(t, c, []in{
		0: sent("a", "x", 0), 1: sent("a", "x", 0), 2: sent("a", "y", 0), 3: sent("b", "x", 0), 4: sent("a", "x", 4),
		5: sent("a", "x", 10), 6: by("second gateway", sent("a", "x", 10)),
		7: sent("a", "x", 0), // not looked at: the horizon is 9.999... - 5 s; late
		8: sent("a", "x", 8), // late, and remembered
		9: sent("a", "x", 8), 10: sent("a", "x", 4),
		11: past, 12: past, 13: far, 14: far,
	}, nil, nil, nil)
	var dropped []string
	for _, e := range got.edits {
		if strings.Contains(e, "true") {
			dropped = append(dropped, strings.Fields(e)[0])
		}
	}
	if want := "1 6 9 12"; strings.Join(dropped, " ") != want {
		t.Errorf("want rows %s dropped, got %v", want, dropped)
	}
	if want := [4]int{3, 2, 1, 4}; got.counts != want {
		t.Errorf("want counts %v, got %v", want, got.counts)
	}
}

// Scenario: A tag that keeps sending late rows within the horizon while the watermark stands, past max_recent.
// Guarantees: The oldest quarter is forgotten, and only its duplicates pass.
func TestMaxRecent(t *testing.T) {
	c := defaults()
	c.Step, c.MaxRecent = time.Hour, 8
	var rows []in
	for i := range 9 {
		rows = append(rows, sent("a", "x", float64(i)))
	}
	for i := range 9 {
		rows = append(rows, came("a", float64(8-i), 9))
	}
	got := run(t, c, rows, nil, nil, nil)
	if got.counts[3] != 7 {
		t.Errorf("want the 7 newest to be known, got %v", got.counts)
	}
}

// Scenario: More devices than max_devices.
// Guarantees: The further ones are judged by the watermark of the others and do not move it.
func TestMaxDevices(t *testing.T) {
	c := defaults()
	c.MaxDevices = 1
	got := run(t, c, []in{sent("a", "x", 0), sent("b", "x", -5), sent("b", "x", 2), sent("a", "x", 1),
		{asset: "c", tag: "x", ts: at(-7200), arrived: at(1)}}, nil, nil, nil)
	wantLane(t, got, Live, "0 =-1 1 2 3 =999999999")
	wantLane(t, got, History, "4")
	if len(got.findings) != 0 {
		t.Errorf("want no finding, got %v", got.findings)
	}
}

// Scenario: 300 devices of which 150 are ahead and 150 fall silent; then all speak rightly.
// Guarantees: Findings are bounded, with the wrong clocks before the silent devices, and end.
func TestManyFindings(t *testing.T) {
	c := defaults()
	c.MaxDevices, c.MaxFindings = 1000, 200
	var rows []in
	for i := range 150 {
		rows = append(rows, came(fmt.Sprint("ahead", i), 3600, 1), sent(fmt.Sprint("silent", i), "x", 1))
	}
	rows = append(rows, sent("last", "x", 100))
	kinds := map[string]int{}
	for _, f := range run(t, c, rows, nil, nil, nil).findings {
		kinds[f.Kind]++
	}
	if kinds[ClockAhead] != 150 || kinds[Idle] != 50 {
		t.Errorf("want 150 clocks ahead and 50 of the idle devices, got %v", kinds)
	}
	for i := range 150 {
		rows = append(rows, sent(fmt.Sprint("ahead", i), "x", 101), sent(fmt.Sprint("silent", i), "x", 101))
	}
	if left := run(t, c, rows, nil, nil, nil).findings; len(left) != 0 {
		t.Errorf("want no finding, got %v", left)
	}
}

// Scenario: Snapshots that are not of this clock: another version, damaged values, foreign keys.
// Guarantees: An error that says which key, and wraps state.ErrCorrupt if it is damage.
func TestRestoreErrors(t *testing.T) {
	whole := func(change func(w *state.Writer)) *state.Reader {
		b := schemas.NewTelemetryBuilder(memory.NewGoAllocator(), "telemetry", 0)
		defer b.Release()
		batch := record(b, []in{sent("a", "x", 0), {asset: "b", tag: "y", src: "s", ts: at(0), arrived: at(0)}})
		defer batch.Release()
		c := New(defaults(), memory.NewGoAllocator())
		defer c.Release()
		c.Judge(batch)
		w := state.NewWriter()
		if err := c.Snapshot(w, true); err != nil {
			t.Fatal(err)
		}
		change(w)
		return state.NewReader(w)
	}
	for name, test := range map[string]struct {
		change  func(w *state.Writer)
		want    string
		corrupt bool
	}{
		"as it was":     {func(*state.Writer) {}, "", false},
		"version":       {func(w *state.Writer) { w.Version(99) }, "want format version 1 of event time, got 99", false},
		"no clock":      {func(w *state.Writer) { w.Common(nil) }, `clock and lanes`, true},
		"short device":  {func(w *state.Writer) { w.Put("aa", []byte{2}) }, `key "aa"`, true},
		"foreign key":   {func(w *state.Writer) { w.Put("zz", []byte{2}) }, `key "zz"`, true},
		"foreign lane":  {func(w *state.Writer) { w.Put("d7a", []byte{2}) }, `key "d7a"`, true},
		"unknown tag":   {func(w *state.Writer) { w.Put("d0a", []byte{9, 1, 2}) }, `key "d0a"`, true},
		"short times":   {func(w *state.Writer) { w.Put("d0a", []byte{0, 9, 2}) }, `key "d0a"`, true},
		"src of no one": {func(w *state.Writer) { w.Put("s", []byte{2}) }, `key "s"`, true},
		"tag twice":     {func(w *state.Writer) { w.Put("t1", []byte("x")) }, `key "t1"`, true},
	} {
		c := New(defaults(), memory.NewGoAllocator())
		err := c.Restore(whole(test.change))
		c.Release()
		if test.want == "" && err == nil {
			continue
		}
		if err == nil || !strings.Contains(err.Error(), test.want) || errors.Is(err, state.ErrCorrupt) != test.corrupt {
			t.Errorf("%s: want %q, got %v", name, test.want, err)
		}
	}
}

// Scenario: A device that stays far behind in time while another goes through 10,000 steps, and tags that come once.
// Guarantees: What is kept is bounded by what is open: buckets that were left and tags behind the horizon are
// forgotten.
func TestBoundedMemory(t *testing.T) {
	mem := memory.NewGoAllocator()
	b := schemas.NewTelemetryBuilder(mem, "telemetry", 0)
	defer b.Release()
	c := New(defaults(), mem)
	defer c.Release()
	judge := func(rows []in) {
		batch := record(b, rows)
		defer batch.Release()
		c.Judge(batch)
	}
	var rows []in
	for i := range 10_000 { // all within a second of arrival, so that the slow one is not idle
		rows = append(rows, came("fast", float64(i), 10_000))
	}
	judge([]in{{asset: "slow", tag: "x", ts: at(0), arrived: at(10_000)}})
	judge(rows)
	if n := len(c.lanes[Live].buckets.slots); n > 200 {
		t.Errorf("want at most 200 buckets, got %d", n)
	}
	rows = nil
	for i := range 10_000 {
		rows = append(rows, sent("fast", fmt.Sprint("once", i), 20_000+float64(i)))
	}
	judge(rows)
	if n := len(c.lanes[Live].seen.pairs); n > 200 {
		t.Errorf("want at most 200 tags, got %d", n)
	}
	if c.Watermark(Live) == math.MinInt64 || c.Watermark(History) != math.MinInt64 {
		t.Errorf("want a watermark in the live lane alone, got %d, %d", c.Watermark(Live), c.Watermark(History))
	}
}
