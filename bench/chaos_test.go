package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// good is a run that is as it must be.
func good() chaosResult {
	r := chaosResult{
		Benchmark: "chaos", Scenario: scenarioKills, Produced: 105, DeadLetters: 3, MemoryBudget: 1000, PeakHeld: 900,
		Recoveries: 5,
		RecoveryMS: spread{P50: 3000, Max: 20_000}, KillsByProcess: map[string]int{ofRun: 16, ofBroker: 2, ofClickHouse: 2},
		KillsByStep: map[string]int{randomKill: 2}, Faults: []string{},
	}
	r.comparison = comparison{
		Rows: 100, Windows: 10, Revised: 2, Events: 4, Counters: map[string]int64{"rows.duplicate": 2},
	}
	for _, step := range append(checkpointSteps(), recoverySteps()...) {
		r.KillsByStep[step] = 1
	}
	return r
}

// Scenario: a result that is as it must be, and ones that break one gate each.
// Guarantees: no gate is silent, and none fails a good run.
func TestChaosGates(t *testing.T) {
	for _, c := range []struct {
		change func(*chaosResult)
		want   string
	}{
		{func(*chaosResult) {}, ""},
		{func(r *chaosResult) { r.TelemetryLost = 1 }, "telemetry lost"},
		{func(r *chaosResult) { r.TelemetryDoubled = 1 }, "telemetry doubled"},
		{func(r *chaosResult) { r.WindowsMissing = 1 }, "windows missing"},
		{func(r *chaosResult) { r.WindowsDiffer = 1 }, "windows that differ"},
		{func(r *chaosResult) { r.PredictionsDoubled = 1 }, "predictions doubled"},
		{func(r *chaosResult) { r.EventsMissing = 1 }, "events missing"},
		{func(r *chaosResult) { r.LedgerMissing = 1 }, "ledger"},
		{func(r *chaosResult) { r.Events = 0 }, "proves nothing"},
		{func(r *chaosResult) { r.NumbersMissing = 1 }, "every row that was sent"},
		{func(r *chaosResult) { r.DeadLetters = 2 }, "dead letters"},
		{func(r *chaosResult) { r.PeakHeld = 1001 }, "budget"},
		{func(r *chaosResult) { r.PeakHeld = 0 }, "budget"},
		{func(r *chaosResult) { r.RecoveryMS.P50 = 12_001 }, "median recovery"},
		{func(r *chaosResult) { r.KillsByProcess[ofRun] = 15 }, "want 20 kills"},
		{func(r *chaosResult) { r.KillsByProcess[ofRun], r.KillsByProcess[ofBroker] = 18, 0 }, "kill of broker"},
		{func(r *chaosResult) { delete(r.KillsByStep, "recover-plan") }, "recover-plan"},
		{func(r *chaosResult) { r.Recoveries = 0 }, "recovery that was measured"},
	} {
		r := good()
		c.change(&r)
		got := strings.Join(append(r.gates(), r.killGates(20)...), "\n")
		if (got == "") != (c.want == "") || !strings.Contains(got, c.want) {
			t.Errorf("want a fault with %q, got %q", c.want, got)
		}
	}
}

// Scenario: a result as JSON.
// Guarantees: the keys that others read are there, in one object without nesting but recovery_ms and the counts.
func TestChaosJSON(t *testing.T) {
	r := good()
	text, err := json.Marshal(&r)
	if err != nil {
		t.Fatal(err)
	}
	var got map[string]any
	if err := json.Unmarshal(text, &got); err != nil {
		t.Fatal(err)
	}
	for _, key := range []string{
		"produced", "telemetry_lost", "telemetry_doubled", "windows_missing", "windows_differ", "predictions_doubled",
		"events_missing",
		"recoveries", "peak_held_bytes", "memory_budget_bytes",
	} {
		if _, ok := got[key].(float64); !ok {
			t.Errorf("%s: want a number, got %v", key, got[key])
		}
	}
	for key, inner := range map[string]string{
		"recovery_ms": "p50", "broker_recovery_ms": "max", "clickhouse_recovery_ms": "max", "kills_by_process": "run",
		"kills_by_step": "plan",
	} {
		m, _ := got[key].(map[string]any)
		if _, ok := m[inner].(float64); !ok {
			t.Errorf("%s.%s: want a number, got %v", key, inner, got[key])
		}
	}
}

// Scenario: a child that ends when asked, one that is deaf, and one that is not there.
// Guarantees: the first is stopped, the second killed and named, the third is an error; what they say is in the log.
func TestChildren(t *testing.T) {
	dir := t.TempDir()
	start := func(script string) *child {
		c, err := startChild("child", filepath.Join(dir, "log"), []string{"WORD=hello"}, "/bin/sh", "-c", script)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(c.kill)
		return c
	}
	said := func() bool {
		text, err := os.ReadFile(filepath.Join(dir, "log"))
		return err == nil && strings.Contains(string(text), "hello")
	}
	willing := start(`echo $WORD; exec sleep 60`)
	if err := within(t.Context(), 10*time.Second, "the word", func() (bool, error) { return said(), nil }); err != nil {
		t.Fatal(err)
	}
	if rss, err := peakRSS(willing.cmd.Process.Pid); err != nil || rss <= 0 {
		t.Errorf("peak memory: got %d, %v", rss, err)
	}
	if err := willing.stop(10 * time.Second); err != nil || !willing.ended() || willing.killed() {
		t.Errorf("want an end at SIGTERM, got %v, %v", err, willing.cmd.ProcessState)
	}
	deaf := start(`trap "" TERM; while :; do sleep 0.05; done`)
	if err := within(t.Context(), 10*time.Second, "the trap", func() (bool, error) {
		status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", deaf.cmd.Process.Pid))
		return strings.Contains(string(status), "SigIgn:\t0000000000004000"), err
	}); err != nil {
		t.Fatal(err)
	}
	if err := deaf.stop(50 * time.Millisecond); err == nil || !deaf.killed() {
		t.Errorf("want a kill and an error that says so, got %v, %v", err, deaf.cmd.ProcessState)
	}
	if _, err := startChild("nobody", filepath.Join(dir, "log"), nil, "/nowhere"); err == nil {
		t.Error("want an error, got none")
	}
}

// Scenario: something that never comes, with an error each time it is asked for.
// Guarantees: the wait ends, and says what it waited for and the last error.
func TestWaitsEnd(t *testing.T) {
	err := within(t.Context(), time.Millisecond, "godot", func() (bool, error) { return false, os.ErrNotExist })
	if err == nil || !strings.Contains(err.Error(), "godot") || !strings.Contains(err.Error(), os.ErrNotExist.Error()) {
		t.Errorf("got %v", err)
	}
}

// Scenario: the CPU time of this process, as the kernel gives it in two ways, and that of the machine.
// Guarantees: both ways agree but for their grain, and a part is not more than the whole.
func TestCPUTimes(t *testing.T) {
	var before, after syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &before); err != nil {
		t.Fatal(err)
	}
	ours, err := cpuOf(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	all, err := busy()
	if err != nil {
		t.Fatal(err)
	}
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &after); err != nil {
		t.Fatal(err)
	}
	// Each of user and system time may be a tick short.
	low := time.Duration(before.Utime.Nano()+before.Stime.Nano()) - 2*userTick
	high := time.Duration(after.Utime.Nano() + after.Stime.Nano())
	if ours < low || ours > high || ours > all {
		t.Errorf("want %v to %v of at most %v, got %v", low, high, all, ours)
	}
}
