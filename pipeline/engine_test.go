package pipeline

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tailrace/tailrace/pipeline/state"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// ramp is n times from start, one nanosecond apart.
func ramp(start int64, n int) []int64 {
	ts := make([]int64, n)
	for i := range ts {
		ts[i] = start + int64(i)
	}
	return ts
}

// Scenario: a bounded source with three partitions, one empty, and dead letters among the rows.
// Guarantees: every row is stored once, every dead letter published, the chain is finished per partition, all offsets are
// committed, and each commit follows the write and the flush of its own checkpoint.
func TestBoundedRunStoresAllThenCommits(t *testing.T) {
	w := newWorld(t)
	w.bounded = true
	w.partitions = map[int32][]delivery{
		0: {{ts: ramp(1, 500)}, {ts: ramp(501, 700), dead: 3}},
		1: {{ts: ramp(1, 10)}},
		2: nil,
	}
	if err := w.engine(nil).Run(t.Context()); err != nil {
		t.Fatal(err)
	}
	if n, m := len(w.stored(Telemetry)), len(w.stored(Predictions)); n != 1210 || m != 1210 || len(w.letters) != 3 {
		t.Errorf("stored %d telemetry, %d predictions, %d dead: want 1210, 1210, 3", n, m, len(w.letters))
	}
	if at := w.committed(); at[0] != 1203 || at[1] != 10 || at[2] != 0 {
		t.Errorf("committed %v, want 0:1203 1:10 2:0", at)
	}
	if w.finished != 3 {
		t.Errorf("finished %d chains, want 3", w.finished)
	}
	// By hand: the start is committed first, then blob, plan, blocks, flush, ledger and the new offsets.
	steps := strings.Join(slices.Compact(slices.DeleteFunc(slices.Clone(w.journal), func(s string) bool { return s == "letter" })), " ")
	if want := regexp.MustCompile(`^commit( blob commit write flush record commit)+$`); !want.MatchString(steps) {
		t.Errorf("the steps of the protocol, in order: want %s, got %s", want, steps)
	}
}

// Scenario: the run is told to stop while the source waits at its end.
// Guarantees: Run returns nil, and all that was read is stored and committed; nothing is finished.
func TestStopStoresWhatWasRead(t *testing.T) {
	w := newWorld(t)
	w.partitions = map[int32][]delivery{0: {{ts: ramp(1, 100)}}}
	e := w.engine(func(p *Plan) { p.Checkpoint.Interval = time.Hour })
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- e.Run(ctx) }()
	waitFor(t, func() bool { return len(e.Status().Assets) == 1 })
	cancel()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if n, at := len(w.stored(Telemetry)), w.committed(); n != 100 || at[0] != 100 || w.finished != 0 {
		t.Errorf("stored %d, committed %v, finished %d: want 100, 0:100, 0", n, at, w.finished)
	}
}

// Scenario: the sink takes nothing, with a memory limit of two deliveries out of fifty.
// Guarantees: reading pauses near the limit instead of going on; a stop gives up after the drain time, commits nothing,
// and says how many rows were not stored.
func TestFullBudgetPausesReading(t *testing.T) {
	w := newWorld(t)
	w.sinkGate = make(chan struct{})
	var all []delivery
	for i := range 50 {
		all = append(all, delivery{ts: ramp(int64(i)*5000+1, 5000)})
	}
	w.partitions = map[int32][]delivery{0: all}
	e := w.engine(func(p *Plan) { p.Limits.Drain = 50 * time.Millisecond })
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- e.Run(ctx) }()
	waitFor(t, func() bool { return e.metrics.ofBudget(func(b *budget) int64 { return b.waited.Load() }) > 0 })
	waitFor(t, func() bool {
		w.mu.Lock()
		defer w.mu.Unlock()
		meta, err := state.ParseMeta(w.commits[0].Metadata)
		return err == nil && meta.Open
	})
	w.mu.Lock()
	reads := w.reads
	w.mu.Unlock()
	cancel()
	err := <-done
	if err == nil || !errors.Is(err, errDrained) {
		t.Errorf("error %v: want one that says that rows were not stored", err)
	}
	if reads > 4 { // two within the limit, one read ahead that waits, one on its way
		t.Errorf("%d reads with a limit of two", reads)
	}
	if at := w.committed(); at[0] != 0 {
		t.Errorf("committed %v with nothing stored", at)
	}
	if meta, err := state.ParseMeta(w.commits[0].Metadata); err != nil || !meta.Open {
		t.Errorf("want a plan left open for the next start, got %q", w.commits[0].Metadata)
	}
}

// Scenario: the group rebalances in the middle, and the commit of the first generation fails.
// Guarantees: the engine rejoins and reads again what was not committed; in the end nothing is missing.
func TestRebalanceAndFailedCommit(t *testing.T) {
	w := newWorld(t)
	w.commitErr = errors.New("illegal generation")
	w.partitions = map[int32][]delivery{0: {{ts: ramp(1, 100)}, {ts: ramp(101, 100)}}}
	e := w.engine(nil)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- e.Run(ctx) }()
	waitFor(t, func() bool { return w.committed()[0] == 200 })
	cancel()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if n := len(w.stored(Telemetry)); w.generations < 2 || n != 200 {
		t.Errorf("%d generations, %d rows stored: want 2 or more, 200", w.generations, n)
	}
}

// Scenario: rows come with their order disturbed and with a clock that stands before min_time (negative here).
// Guarantees: the watermark stands one nanosecond before the multiple of the step that was reached, never goes back, is
// not moved by the suspect clock, and is the same however the rows are cut into deliveries. Late rows are flagged.
func TestWatermark(t *testing.T) {
	times := []int64{3, 12, 11, 9, 25, -5, 26, 19, 41}
	want := []int64{-1, 9, 19, 39} // by hand: step 10, no disorder allowed
	for cut := 1; cut <= len(times); cut++ {
		w := newWorld(t)
		w.bounded = true
		var all []delivery
		for from := 0; from < len(times); from += cut {
			all = append(all, delivery{ts: times[from:min(from+cut, len(times))]})
		}
		w.partitions = map[int32][]delivery{0: all}
		if err := w.engine(func(p *Plan) { p.Watermark.MinTime = time.Unix(0, 0) }).Run(t.Context()); err != nil {
			t.Fatal(err)
		}
		if got := w.watermarks[0]; fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("cut %d: watermarks %v, want %v", cut, got, want)
		}
		if w.lateStored != 2 { // 9 after 12, 19 after 26
			t.Errorf("cut %d: %d rows flagged late, want 2", cut, w.lateStored)
		}
	}
}

// Scenario: the sink gives a checkpoint up, once with a fault of the configuration, and for a while with something else.
// Guarantees: the first ends the run with that error and no progress; with the second the partitions wait, the log says so
// once, and in the end everything is stored.
func TestSinkGivesUp(t *testing.T) {
	w := newWorld(t)
	w.sinkErr = fmt.Errorf("%w: no such table", ErrConfig)
	w.partitions = map[int32][]delivery{0: {{ts: ramp(1, 10)}}}
	err := w.engine(nil).Run(t.Context())
	if at := w.committed(); !errors.Is(err, w.sinkErr) || at[0] != 0 {
		t.Errorf("error %v, committed %v: want the sink's error and no progress", err, at)
	}
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.bounded, w.partitions = true, map[int32][]delivery{0: {{ts: ramp(1, 10)}}}
		w.sinkErr = errors.New("refuses more than 1000 rows")
		time.AfterFunc(time.Minute, func() { w.mu.Lock(); defer w.mu.Unlock(); w.sinkErr = nil })
		if err := w.engine(nil).Run(t.Context()); err != nil || len(w.stored(Telemetry)) != 10 {
			t.Errorf("want 10 rows stored, got %d and %v", len(w.stored(Telemetry)), err)
		}
		if n := strings.Count(w.log.String(), "its partitions wait"); n != 1 {
			t.Errorf("want the trouble said once, got %d times", n)
		}
	})
}

func waitFor(t *testing.T, what func() bool) {
	t.Helper()
	deadline := time.After(10 * time.Second)
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for !what() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatal("waited 10 s in vain")
		}
	}
}
