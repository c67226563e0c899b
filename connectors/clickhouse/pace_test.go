package clickhouse

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"
)

// Scenario: 35 inserts are wanted at once where ten a second may be sent, five of which make no part and give their token
// back; then one after a pause of an hour, and one when the program is told to stop.
// Guarantees: the first second's worth passes at once and the rest at the rate; a pause saves up one second's worth and no
// more; the end of the context ends the wait.
func TestPacer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPacer(10)
		start := time.Now()
		var held time.Duration
		for i := range 35 {
			waited, err := p.take(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			held += waited
			if i < 5 {
				p.giveBack()
			}
			if i == 14 && held != 0 {
				t.Errorf("the first 15, of which 5 were given back: want no wait, got %s", held)
			}
		}
		if took := time.Since(start); took != 2*time.Second || held != took {
			t.Errorf("35 inserts: want 2s, all of it counted, got %s and %s", took, held)
		}
		time.Sleep(time.Hour)
		for range 10 {
			if waited, err := p.take(t.Context()); waited != 0 || err != nil {
				t.Errorf("after a pause: want no wait, got %s (%v)", waited, err)
			}
		}
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(10*time.Millisecond, cancel)
		if _, err := p.take(ctx); !errors.Is(err, context.Canceled) {
			t.Errorf("want the context's error, got %v", err)
		}
	})
}

// Scenario: attempt after attempt fails.
// Guarantees: the waits double from the least to the longest, each at least half of its size and never more than it.
func TestBackoff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := backoff{min: 200 * time.Millisecond, max: time.Second}
		for i, size := range []time.Duration{200, 400, 800, 1000, 1000} {
			start := time.Now()
			if err := b.wait(t.Context()); err != nil {
				t.Fatal(err)
			}
			if took, size := time.Since(start), size*time.Millisecond; took < size/2 || took > size {
				t.Errorf("wait %d: want %s to %s, got %s", i, size/2, size, took)
			}
		}
	})
}
