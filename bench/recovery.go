package main

import (
	"context"
	"math"
	"slices"
	"sync"
	"time"
)

// What is measured until every partition commits again.
const (
	ofRun        = "run"
	ofBroker     = "broker"
	ofClickHouse = "clickhouse"
	ofRestart    = "restart" // asked for, not a kill
)

// spread is a distribution in milliseconds.
type spread struct {
	P50 float64 `json:"p50"`
	Max float64 `json:"max"`
}

// spreadOf is the nearest-rank median and the maximum; zeros if there is nothing.
func spreadOf(took []time.Duration) spread {
	if len(took) == 0 {
		return spread{}
	}
	sorted := slices.Sorted(slices.Values(took))
	ms := func(d time.Duration) float64 { return math.Round(float64(d.Microseconds())/100) / 10 }
	return spread{P50: ms(sorted[(len(sorted)-1)/2]), Max: ms(sorted[len(sorted)-1])}
}

// recoveries measures how long it takes from an interruption until every partition of the topic has committed again.
// That is more than what the process that was killed had held, so a figure here is never too small.
type recoveries struct {
	partitions int // of the topic

	mu        sync.Mutex
	open      []*recovery
	took      map[string][]time.Duration
	disturbed int // by a further interruption before they were over: they measure two, and are left out
}

type recovery struct {
	of        string
	at        time.Time
	base      map[int32]int64 // committed when it was first asked after at
	disturbed bool
}

func newRecoveries(partitions int) *recoveries {
	return &recoveries{partitions: partitions, took: map[string][]time.Duration{}}
}

// interrupted says that something was ended at a time.
func (r *recoveries) interrupted(of string, at time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, o := range r.open {
		o.disturbed = true
	}
	r.open = append(r.open, &recovery{of: of, at: at})
}

// recoveryPoll is how often the offsets are asked for: it is the error of a measured time.
const recoveryPoll = 100 * time.Millisecond

// watch asks for the committed offsets until ctx ends.
func (r *recoveries) watch(ctx context.Context, p positions) {
	tick := time.NewTicker(recoveryPoll)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		asked := time.Now()
		if committed, err := p.committed(ctx); err == nil { // without a broker nothing is committed
			r.saw(asked, time.Now(), committed)
		}
	}
}

// saw takes offsets that were asked for at asked and known at known.
func (r *recoveries) saw(asked, known time.Time, committed map[int32]int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.open = slices.DeleteFunc(r.open, func(o *recovery) bool {
		if o.base == nil {
			if asked.After(o.at) {
				o.base = committed
			}
			return false
		}
		if len(committed) < r.partitions {
			return false
		}
		for partition, n := range committed {
			if n <= o.base[partition] {
				return false
			}
		}
		if o.disturbed {
			r.disturbed++
		} else {
			r.took[o.of] = append(r.took[o.of], known.Sub(o.at))
		}
		return true
	})
}

// calm tells whether all interruptions are over.
func (r *recoveries) calm() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.open) == 0
}

// of gives the times of one kind.
func (r *recoveries) of(kind string) []time.Duration {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.took[kind])
}

// leftOut gives how many were disturbed.
func (r *recoveries) leftOut() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.disturbed
}
