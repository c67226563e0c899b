package main

import (
	"math"
	"testing"
	"time"
)

// Scenario: three kills of a group with two partitions, by hand. After the first one partition commits 2 s later, the
// other after 3 s. The second is followed by a third before it is over.
// Guarantees: a recovery lasts until every partition has committed; one that was disturbed is left out; offsets that
// were asked for before a kill, or that lack a partition, say nothing.
func TestRecoveries(t *testing.T) {
	r := newRecoveries(2)
	begin := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	at := func(seconds float64) time.Time {
		return begin.Add(time.Duration(math.Round(10*seconds)) * 100 * time.Millisecond)
	}
	saw := func(asked float64, committed map[int32]int64) { r.saw(at(asked), at(asked+0.1), committed) }

	r.interrupted(ofRun, at(1))
	saw(0.9, map[int32]int64{0: 10, 1: 20}) // on its way when the process was killed
	saw(1.5, map[int32]int64{0: 11, 1: 20})
	saw(2.5, map[int32]int64{})
	saw(3, map[int32]int64{0: 15, 1: 20})
	if r.calm() {
		t.Fatal("one partition has not committed yet")
	}
	saw(4, map[int32]int64{0: 16, 1: 21})
	if got := r.of(ofRun); !r.calm() || len(got) != 1 || got[0] != 3100*time.Millisecond {
		t.Errorf("want 3.1 s, got %v", got)
	}
	r.interrupted(ofRun, at(5))
	saw(5.1, map[int32]int64{0: 16, 1: 21})
	r.interrupted(ofBroker, at(6))
	saw(6.1, map[int32]int64{0: 16, 1: 21})
	saw(8, map[int32]int64{0: 17, 1: 22})
	if got := r.of(ofBroker); len(got) != 1 || got[0] != 2100*time.Millisecond {
		t.Errorf("want 2.1 s, got %v", got)
	}
	if len(r.of(ofRun)) != 1 || r.leftOut() != 1 {
		t.Errorf("want the second kill left out, got %v and %d", r.of(ofRun), r.leftOut())
	}
}

// Scenario: no, one, and four times.
// Guarantees: the median is the nearest rank, in milliseconds.
func TestSpread(t *testing.T) {
	ms := func(all ...float64) (list []time.Duration) {
		for _, one := range all {
			list = append(list, time.Duration(one*float64(time.Millisecond)))
		}
		return list
	}
	for _, c := range []struct {
		took []time.Duration
		want spread
	}{
		{nil, spread{}}, {ms(7), spread{7, 7}}, {ms(40, 10, 30.26, 20), spread{20, 40}}, {ms(3, 1, 2.26), spread{2.3, 3}},
	} {
		if got := spreadOf(c.took); got != c.want {
			t.Errorf("%v: want %v, got %v", c.took, c.want, got)
		}
	}
}
