package main

import (
	"bytes"
	"io"
	"math"
	"strings"
	"testing"
)

// Scenario: losses of two sides that agree and fall, and ones that break one gate each.
// Guarantees: no wrong result is measured, and not a number is wrong.
func TestTrainingGates(t *testing.T) {
	good := trained{Name: "a", LossFirst: 1, LossChecked: 0.1, LossLast: 0.01}
	for _, c := range []struct {
		change func(*trained)
		want   string
	}{
		{func(*trained) {}, ""},
		{func(r *trained) { r.LossLast = 1e-6 }, ""}, // the sides do not do the same number of steps
		{func(r *trained) { r.LossChecked = 0.1005 }, ""},
		{func(r *trained) { r.LossChecked = 0.11 }, "the loss of step 100"},
		{func(r *trained) { r.LossFirst = 1.001 }, "the first loss"},
		{func(r *trained) { r.LossLast = 0.1 }, "does not fall"},
		{func(r *trained) { r.LossLast = math.NaN() }, "does not fall"},
		{func(r *trained) { r.LossFirst = math.NaN() }, "does not fall"},
	} {
		changed := good
		c.change(&changed)
		for _, got := range []string{strings.Join(wrong(changed, good), "\n"), strings.Join(wrong(good, changed), "\n")} {
			if (got == "") != (c.want == "") || !strings.Contains(got, c.want) {
				t.Errorf("%+v: got %q, want %q", changed, got, c.want)
			}
		}
	}
}

// Scenario: rounds of odd and even number.
// Guarantees: the median is the middle one, or the mean of the two in the middle.
func TestMedianSpeed(t *testing.T) {
	at := func(speeds ...float64) (rounds []trained) {
		for _, s := range speeds {
			rounds = append(rounds, trained{StepsPerSecond: s})
		}
		return rounds
	}
	if got := medianSpeed(at(9, 1, 2)); got != 2 {
		t.Errorf("got %g, want 2", got)
	}
	if got := medianSpeed(at(9, 1, 2, 4)); got != 3 {
		t.Errorf("got %g, want 3", got)
	}
}

// Scenario: command lines that ask for nothing that there is.
// Guarantees: each gets an error with what was wanted, and nothing stands on the standard output.
func TestBadCommandLines(t *testing.T) {
	for _, c := range []struct{ line, want string }{
		{"", "want the name"},
		{"trainin", "training"},
		{"training more", "more"},
		{"training --seconds 0", "--seconds"},
		{"training --seconds NaN", "--seconds"},
		{"training --rounds 0", "--rounds"},
		{"training --nothing", "nothing"},
		{"chaos --scenario flood", "--scenario"},
		{"chaos --kills 3", "--kills"},
		{"chaos --kafka none", "--kafka"},
		{"chaos --memory much", "memory"},
		{"chaos --assets 1", "--assets"},
		{"w1 --records 1", "--records"},
		{"w1 --rounds 0", "--rounds"},
		{"snapshot --most 1", "--most"},
		{"generate --assets 0", "--assets"},
	} {
		var out bytes.Buffer
		err := run(t.Context(), strings.Fields(c.line), &out, io.Discard)
		if err == nil || !strings.Contains(err.Error(), c.want) || out.Len() > 0 {
			t.Errorf("%q: got %v and %q, want an error with %q", c.line, err, &out, c.want)
		}
	}
}
