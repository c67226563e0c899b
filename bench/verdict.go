package main

import (
	"fmt"
	"maps"
	"slices"
	"time"
)

// chaosResult is the JSON object of the benchmark.
type chaosResult struct {
	Benchmark string           `json:"benchmark"`
	Scenario  string           `json:"scenario"`
	Seed      uint64           `json:"seed"`
	Kafka     string           `json:"kafka"`
	Delivery  string           `json:"delivery"`
	Seconds   float64          `json:"seconds"` // of load
	Sent      map[string]int64 `json:"sent"`    // messages by kind
	Produced  int64            `json:"produced"`
	comparison
	NumbersMissing int64 `json:"numbers_missing"` // rows that the generator sent and the disturbed run has not
	DeadLetters    int64 `json:"dead_letters"`    // of the undisturbed run

	KillsByProcess       map[string]int `json:"kills_by_process"`
	KillsByStep          map[string]int `json:"kills_by_step"`
	Recoveries           int            `json:"recoveries"`
	RecoveriesDisturbed  int            `json:"recoveries_disturbed"`
	RecoveryMS           spread         `json:"recovery_ms"`
	BrokerRecoveryMS     spread         `json:"broker_recovery_ms"`
	ClickHouseRecoveryMS spread         `json:"clickhouse_recovery_ms"`
	RestartMS            spread         `json:"restart_ms"`

	MemoryBudget int64    `json:"memory_budget_bytes"`
	PeakHeld     int64    `json:"peak_held_bytes"`
	PeakRSS      int64    `json:"peak_rss_bytes"`
	Faults       []string `json:"faults"`
}

// recoveryLimit is what the median recovery is promised to stay under, with a session time-out of 6 s.
const recoveryLimit = 12 * time.Second

// gates are the sentences of what is not as it must be, whatever the scenario.
func (r *chaosResult) gates() []string {
	faults := r.comparison.gates()
	if r.NumbersMissing != 0 {
		faults = append(faults, fmt.Sprintf("want every row that was sent, got %d fewer", r.NumbersMissing))
	}
	if doubles := r.Counters["rows.duplicate"]; r.Rows+r.DeadLetters+doubles != r.Produced {
		faults = append(faults, fmt.Sprintf("want rows, dead letters and doubles to be what the topic holds, %d, got %d, %d "+
			"and %d",
			r.Produced, r.Rows, r.DeadLetters, doubles))
	}
	if r.PeakHeld == 0 || r.PeakHeld > r.MemoryBudget {
		faults = append(faults, fmt.Sprintf("want some bytes held and at most the budget of %d, got %d", r.MemoryBudget,
			r.PeakHeld))
	}
	if r.Recoveries > 0 && r.RecoveryMS.P50 > float64(recoveryLimit.Milliseconds()) {
		faults = append(faults, fmt.Sprintf("want a median recovery of %v or less, got %v ms", recoveryLimit,
			r.RecoveryMS.P50))
	}
	return faults
}

// killGates are the sentences of kills that did not happen.
func (r *chaosResult) killGates(kills int) []string {
	var faults []string
	total := 0
	for _, n := range r.KillsByProcess {
		total += n
	}
	if total < kills {
		faults = append(faults, fmt.Sprintf("want %d kills, got %d", kills, total))
	}
	if kills < fullDeck {
		return faults
	}
	for _, process := range []string{ofRun, ofBroker, ofClickHouse} {
		if r.KillsByProcess[process] == 0 {
			faults = append(faults, "want a kill of "+process+", got none")
		}
	}
	for _, step := range append(checkpointSteps(), recoverySteps()...) {
		if r.KillsByStep[step] == 0 {
			faults = append(faults, fmt.Sprintf("want a kill at %s, got none (hit: %v)", step,
				slices.Sorted(maps.Keys(r.KillsByStep))))
		}
	}
	if r.Recoveries == 0 {
		faults = append(faults, "want a recovery that was measured, got none")
	}
	return faults
}
