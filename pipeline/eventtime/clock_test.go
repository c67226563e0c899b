package eventtime

import (
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/apache/arrow/go/v15/arrow/memory"
	"github.com/tailrace/tailrace/schemas"
)

// Scenario: One device, the rows that the engine's watermark was first tested with: equal times, steps and a late
// row.
// Guarantees: The cuts are those: a step closes with the first row of a later one, less 1 ns, and batches are cut
// there.
func TestOneDeviceByHand(t *testing.T) {
	got := run(t, defaults(), []in{
		sent("a", "x", 0), sent("a", "y", 0), sent("a", "x", 0.5), sent("a", "x", 1), sent("a", "y", 0.9),
		sent("a", "x", 3.2),
	}, nil, nil, nil)
	wantLane(t, got, Live, "0 =-1 1 2 3 =999999999 4 5 =2999999999")
	wantEdits(t, got, fmt.Sprint("4 false ", uint32(schemas.FlagLate)))
	if want := [4]int{1, 0, 0, 0}; got.counts != want {
		t.Errorf("want counts %v, got %v", want, got.counts)
	}
}

// Scenario: Two devices a second apart; the slow one falls silent while the fast one goes on.
// Guarantees: The watermark is that of the slow one, until it has been silent for idle_timeout by arrival; when it
// speaks again it is late by what the others have gone on, and they wait for it again.
func TestSlowDevice(t *testing.T) {
	rows := []in{sent("slow", "x", 0), sent("fast", "x", 1), sent("slow", "x", 1), sent("fast", "x", 2)}
	for i := range 16 {
		rows = append(rows, sent("fast", "x", 2+2*float64(1+i))) // to 34; the slow one is idle from 31.1 on
	}
	rows = append(rows,
		came("slow", 33.2, 34.2), // late, but little
		came("slow", 34.2, 35.2),
		sent("fast", "x", 36), // waits for it
		came("slow", 35.2, 36.2))
	wantLane(t, run(t, defaults(), rows, nil, nil, nil), Live,
		"0 =-1 1 2 =999999999 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 "+
			"=31999999999 19 =33999999999 20 21 22 23 =34999999999")
}

// Scenario: A device whose clock is an hour ahead from its first row, beside one that is right.
// Guarantees: The watermark is the right device's alone; the wrong rows are flagged and stored, and the finding names
// the device.
func TestHourAhead(t *testing.T) {
	var rows []in
	for i := range 4 {
		s := float64(i)
		rows = append(rows, sent("right", "x", s), came("wrong", s+3600, s+0.2))
	}
	got := run(t, defaults(), rows, nil, nil, nil)
	wantLane(t, got, Live, "0 =-1 1 2 =999999999 3 4 =1999999999 5 6 =2999999999 7")
	suspect := uint32(schemas.FlagClockSuspect)
	wantEdits(t, got, fmt.Sprint("1 false ", suspect), fmt.Sprint("3 false ", suspect), fmt.Sprint("5 false ", suspect),
		fmt.Sprint("7 false ", suspect))
	want := []Finding{{Device: "wrong", Kind: ClockAhead, Since: at(0.2), By: time.Hour - 200*time.Millisecond, Rows: 4}}
	if !reflect.DeepEqual(got.findings, want) {
		t.Errorf("want findings %v, got %v", want, got.findings)
	}
}

// Scenario: A device that was right goes an hour ahead, and is put right a minute later; another beside it reports
// each second.
// Guarantees: The other's watermark waits idle_timeout and then goes on each second. With the device's clock right
// again for idle_timeout the finding is gone.
func TestGoesAheadAndBack(t *testing.T) {
	var rows []in
	for i := range 120 {
		s := float64(i)
		wrong := came("wrong", s, s+0.2)
		if i >= 10 && i < 70 {
			wrong.ts = at(s + 3600)
		}
		rows = append(rows, sent("right", "x", s), wrong)
	}
	during := run(t, defaults(), rows[:2*65], nil, nil, nil)
	if len(during.findings) != 1 || during.findings[0].Device != "wrong" || during.findings[0].Rows != 55 {
		t.Errorf("want the device wrong with 55 rows, got %v", during.findings)
	}
	after := run(t, defaults(), rows, nil, nil, nil)
	if len(after.findings) != 0 {
		t.Errorf("want no finding, got %v", after.findings)
	}
	moved := map[int]string{} // by the row before
	for i, step := range after.lanes[Live] {
		if step[0] == '=' {
			moved[len(moved)] = after.lanes[Live][i-1] + step
		}
	}
	// The device's clock moved last at 9 s, arrived at 9.2 s, so that it is idle when row 80 arrives at 40.1 s.
	for n, want := range map[int]string{
		9: "19=8999999999", 10: "80=39999999999", 11: "82=40999999999", 40: "140=69999999999",
	} {
		if moved[n] != want {
			t.Errorf("move %d: want %s, got %s", n, want, moved[n])
		}
	}
	if after.counts != [4]int{0, 60, 0, 0} {
		t.Errorf("want 60 suspect rows and none late, got %v", after.counts)
	}
}

// Scenario: A device's clock jumps back by ten minutes, and that of another by two hours, beside one that is right.
// Guarantees: The first one's rows are late, the second one's are history; the right one waits for neither longer
// than idle_timeout, also when the first one's time is past where it jumped; the findings name both.
func TestJumpsBack(t *testing.T) {
	var rows []in
	for i := range 1500 {
		s := float64(i)
		little, far := 0.0, 0.0
		if i >= 10 {
			little, far = 600, 7200
		}
		rows = append(rows, sent("right", "x", s),
			came("little", s-little, s+0.2),
			came("far", s-far, s+0.3))
	}
	got := run(t, defaults(), rows, nil, nil, nil)
	// little's rows from 10 s on are late or, those before 0 s, at or before its own earlier ones.
	if want := [4]int{1490, 0, 1490, 0}; got.counts[0]+got.counts[3] != want[0] || got.counts[2] != want[2] {
		t.Errorf("want 1490 late or dropped and 1490 historical, got %v", got.counts)
	}
	live := strings.Join(got.lanes[Live], " ")
	for _, want := range []string{
		"=8999999999 30",                                 // all three were right
		"123 =40999999999 124 126 =41999999999",          // from 40 s on nobody waits
		"4497 =1498999999999 4498", "2100 =699999999999", // nor when little's clock moves again, from 609 s on
	} {
		if !strings.Contains(live, want) {
			t.Errorf("want %q in the live lane, got %s", want, live)
		}
	}
	want := []Finding{ // against the watermark, which is at 1498.999999999 s when their last rows come
		{Device: "far", Kind: ClockBack, Since: at(10.3), By: 7200*time.Second - 1, Rows: 1490},
		{Device: "little", Kind: ClockBack, Since: at(10.2), By: 600*time.Second - 1, Rows: 1490},
	}
	if !reflect.DeepEqual(got.findings, want) {
		t.Errorf("want findings %v, got %v", want, got.findings)
	}
}

// Scenario: A device that reports by exception is silent for half an hour beside one that reports each second.
// Guarantees: The watermark waits idle_timeout once, then follows the other; the finding names the silent device and
// since when; its next row is in time, and the watermark waits for it again.
func TestSilentForHalfAnHour(t *testing.T) {
	rows := []in{sent("quiet", "x", 0)}
	for i := range 1800 {
		rows = append(rows, sent("busy", "x", float64(i)))
	}
	silent := run(t, defaults(), rows, nil, nil, nil)
	live := strings.Join(silent.lanes[Live], " ")
	if !strings.HasPrefix(live, "0 =-1 1 2 ") || !strings.Contains(live, " 31 32 =30999999999 33 =31999999999 34 =") ||
		!strings.HasSuffix(live, "1800 =1798999999999") {
		t.Errorf("want a wait up to row 32 and then a move a second, got %s", live)
	}
	want := []Finding{{Device: "quiet", Kind: Idle, Since: at(0.1), By: 1799 * time.Second}}
	if !reflect.DeepEqual(silent.findings, want) {
		t.Errorf("want findings %v, got %v", want, silent.findings)
	}
	rows = append(rows, sent("quiet", "x", 1799.5), sent("busy", "x", 1801), sent("busy", "x", 1802))
	again := run(t, defaults(), rows, nil, nil, nil)
	tail := strings.Join(again.lanes[Live][len(again.lanes[Live])-4:], " ")
	if tail != "=1798999999999 1801 1802 1803" || again.counts[0] != 0 {
		t.Errorf("want no late row and a wait for the device, got %v, %v", tail, again.counts)
	}
}

// Scenario: A device that was cut off for 150 days sends them after its first live rows, unflagged, up to the
// present.
// Guarantees: All of them are history, the last hour as well, and none is late; from the 10,000th row on the lane's
// watermark goes along; when the device has been idle there it goes a step past the last row.
func TestBurstOf150Days(t *testing.T) {
	const n = 20_000
	rows := []in{sent("gateway", "x", 0), sent("other", "x", 0)}
	period := 150 * 24 * 3600.0 / n
	for i := range n {
		rows = append(rows, came("gateway", -1-period*float64(n-1-i), 0.2+0.001*float64(i)))
	}
	for i := range 60 {
		rows = append(rows, sent("other", "x", 3+float64(i)))
	}
	c := defaults()
	c.GatherRows = n / 2
	got := run(t, c, rows, nil, nil, nil)
	if want := [4]int{0, 0, n, 0}; got.counts != want {
		t.Errorf("want counts %v, got %v", want, got.counts)
	}
	h := got.lanes[History]
	if len(h) != n+n/2+2 || h[n/2] != fmt.Sprint("=", -(1+int64(period)*(n/2))*second-1) ||
		h[len(h)-2] != "=-1000000001" || h[len(h)-1] != "=-1" {
		t.Errorf("want %d rows and a move after each, then one past the last, got %d and %v", n, len(h), h[max(0, len(h)-4):])
	}
}

// Scenario: Three devices were cut off together and send eight hours each, one after the other within half a minute.
// Guarantees: None of their rows is late: the lane's watermark waits for those that begin later.
func TestBurstsAfterOutage(t *testing.T) {
	rows := []in{sent("a", "x", 0), sent("b", "x", 0), sent("c", "x", 0)}
	for n, asset := range []string{"a", "b", "c"} {
		for i := range 480 {
			rows = append(rows, came(asset, -32000+60*float64(i), 1+10*float64(n)+0.01*float64(i)))
		}
	}
	rows = append(rows, sent("a", "x", 40), sent("a", "x", 60))
	got := run(t, defaults(), rows, nil, nil, nil)
	if want := [4]int{0, 0, 3 * 480, 0}; got.counts != want {
		t.Errorf("want counts %v, got %v", want, got.counts)
	}
	// a begins at 1 s. At 40 s it is idle again, and so is b: the last of c arrived at 25.79 s.
	wantLane(t, got, History,
		strings.Join(got.lanes[History][:3*480], " ")+fmt.Sprint(" =", at(-3260)-noon-1, " =", at(-3259)-noon-1))
}

// Scenario: A gateway whose clock is an hour ahead, which stamps the Kafka records as well, beside a right one; the
// clock is told the present.
// Guarantees: Its rows have not arrived in the future: they are suspect, and the right one's watermark is its own.
func TestProducerTimeAhead(t *testing.T) {
	mem := memory.NewGoAllocator()
	b := schemas.NewTelemetryBuilder(mem, "telemetry", 0)
	defer b.Release()
	c := New(defaults(), mem)
	defer c.Release()
	var moves []int64
	suspect := 0
	for i := range 10 {
		c.Present(at(float64(i) + 0.5))
		batch := record(b, []in{sent("right", "x", float64(i)), sent("wrong", "x", 3600+float64(i))})
		v := c.Judge(batch)
		for _, s := range v.Spans {
			if s.Moved {
				moves = append(moves, (s.Watermark+1-noon)/second)
			}
		}
		suspect += v.Suspect
		batch.Release()
	}
	if want := []int64{0, 1, 2, 3, 4, 5, 6, 7, 8, 9}; !reflect.DeepEqual(moves, want) || suspect != 10 {
		t.Errorf("want moves %v and 10 suspect rows, got %v, %d", want, moves, suspect)
	}
}

// Scenario: A burst that its source flagged, from a device that has no live row, with times ahead of the live ones.
// Guarantees: It is history whatever its times, and leaves the live watermark where it is.
func TestFlaggedBurst(t *testing.T) {
	old := func(seconds float64) in {
		return in{asset: "b", tag: "x", ts: at(seconds), arrived: at(0.2), flags: schemas.FlagHistorical}
	}
	c := defaults()
	c.GatherRows = 2
	got := run(t, c, []in{sent("a", "x", 0), old(-5), old(-3), old(60), old(-4), sent("a", "x", 1)}, nil, nil, nil)
	wantLane(t, got, Live, "0 =-1 5 =999999999")
	wantLane(t, got, History, "1 2 =-3000000001 3 =59999999999 4")
	wantEdits(t, got, fmt.Sprint("4 false ", uint32(schemas.FlagHistorical|schemas.FlagLate)))
}

// Scenario: A topic read from its beginning, with a device that comes much later and times of decades ago.
// Guarantees: Nothing is historical or suspect; the device joins, and what comes after waits for it.
func TestReplayAndLateDevice(t *testing.T) {
	start := -20 * 365 * 24 * 3600.0
	var rows []in
	for i := range 100 {
		rows = append(rows, sent("a", "x", start+float64(i)))
		if i >= 90 {
			rows = append(rows, came("b", start+float64(i)-0.5, start+float64(i)+0.2))
		}
	}
	got := run(t, defaults(), rows, nil, nil, nil)
	if want := [4]int{1, 0, 0, 0}; got.counts != want { // b's first row: it is half a second behind a's watermark
		t.Errorf("want counts %v, got %v", want, got.counts)
	}
	base := int64(start) * second
	tail, want := strings.Join(got.lanes[Live][len(got.lanes[Live])-3:], " "), fmt.Sprint("108 109 =", base+98*second-1)
	if tail != want {
		t.Errorf("want %s, got %s", want, tail)
	}
}

// Scenario: Barriers at the end of the partition and behind it, after the last row, with event time near arrival, and
// three years off.
// Guarantees: Behind the end time stands. At the end the watermark first stands at the newest row, idle_timeout after
// it arrived, and goes on with the clock; near arrival it is barrier time less idle_timeout.
func TestAllIdle(t *testing.T) {
	years := int64(3*365*24*3600) * second
	for _, off := range []int64{0, years} {
		rows := []in{
			{asset: "a", tag: "x", ts: noon - off, arrived: noon},
			{asset: "b", tag: "x", ts: noon + second - off, arrived: noon + second},
		}
		got := run(t, defaults(), rows, []tick{
			{2, at(300), false}, {2, at(29), true}, {2, at(30.5), true}, {2, at(31), true}, {2, at(31.5), true},
			{2, at(100), true}, {2, at(90), true},
		}, nil, nil)
		// At 30.5 s a is idle and b leads; at 31.5 s b is idle too.
		wantLane(t, got, Live, fmt.Sprint("0 =", -off-1, " 1 =", second-off-1, " =", 70*second-off-1))
	}
}
