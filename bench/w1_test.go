package main

import (
	"os"
	"strings"
	"testing"

	"github.com/tailrace/tailrace/operators/model"
)

// Scenario: three rounds by hand, in which exactly once takes 1.1, 1.0 and 2.0 times as long; then five where it
// takes 1.2 times.
// Guarantees: the ratio is the median round's, so that one disturbed round decides nothing; figures are the medians;
// the gate fails under 0.9.
func TestW1Summary(t *testing.T) {
	rounds := func(factors ...float64) *w1Result {
		r := &w1Result{Records: 2_000_000, LeastRatio: 0.9}
		for _, f := range factors {
			r.Rounds = append(r.Rounds, w1Round{
				Exactly: w1Run{Seconds: 10 * f, CPUSeconds: 4, PeakRSS: 300, Checkpoints: 10},
				AtLeast: w1Run{Seconds: 10, CPUSeconds: 3, PeakRSS: 200},
				Ratio:   1 / f,
			})
		}
		r.summarize()
		return r
	}
	r := rounds(1.1, 1, 2)
	if got := r.Ratio; got < 0.909 || got > 0.91 || len(r.Faults) > 0 {
		t.Errorf("want 1/1.1 and no fault, got %g and %v", got, r.Faults)
	}
	// 11 s and 10 s for two million rows, one second more over ten checkpoints.
	if r.AtLeast != (w1Delivery{RecordsPerSecond: 200_000, CPUPerMillion: 1.5, PeakRSS: 200}) ||
		r.Exactly.CPUPerMillion != 2 || r.CheckpointMS != 100 || r.CPURatio != 0.75 {
		t.Errorf("got %+v, %+v, %g ms", r.AtLeast, r.Exactly, r.CheckpointMS)
	}
	if r := rounds(1.2, 1.2, 1.2, 1.2, 1.2); len(r.Faults) != 1 || !strings.Contains(r.Faults[0], "at_least_once") {
		t.Errorf("want a fault, got %v", r.Faults)
	}
}

// Scenario: the loads of W1 and of the chaos runs.
// Guarantees: their configs are valid.
func TestLoadsAreValid(t *testing.T) {
	tags, _, err := copyModels(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []GeneratorConfig{
		w1Load(w1Config{}, nil), w1Load(w1Config{scored: true}, tags), plantGenerator(1, 24, tags),
	} {
		if faults := c.Validate(); len(faults) > 0 {
			t.Errorf("%v", faults)
		}
	}
}

// Scenario: the state of 100 assets of the demo's plant.
// Guarantees: every snapshot has bytes, one of a single changed asset far fewer than the full one, and the state can
// be taken over.
func TestSnapshotSizes(t *testing.T) {
	size, channels, err := measureSnapshot(t.Context(), 100, 0)
	if err != nil {
		t.Fatal(err)
	}
	if channels != 52 || size.Assets != 100 {
		t.Errorf("got %d channels of %d assets", channels, size.Assets)
	}
	// A channel of an asset needs at least its newest value, 8 bytes.
	if size.Full.Bytes < 100*52*8 || size.AllNew.Bytes < 100*52*8 || size.Few.Bytes == 0 ||
		size.Few.Bytes > size.Full.Bytes/10 {
		t.Errorf("got %+v", size)
	}
}

// Scenario: pipeline files of every benchmark, with every part set.
// Guarantees: a file says what was asked for.
func TestPipelineFile(t *testing.T) {
	f := pipelineFile{
		ID: "one", Topic: "t", Group: "g", Database: "d", Brokers: "127.0.0.1:1", ClickHouse: "127.0.0.1:2",
		PasswordFile: "/p",
		Store:        "file:///s", HTTP: "127.0.0.1:3", Delivery: "exactly_once", UntilEnd: true, Memory: 1 << 20,
		Steps: plantSteps([]model.Channel{{Tag: "x", Unit: "%"}}), Watermark: chaosTimes().yaml(),
	}
	path, err := f.write(t.TempDir(), "pipeline.yaml")
	if err != nil {
		t.Fatal(err)
	}
	read, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	text := string(read)
	for _, want := range []string{
		"until: end", "delivery: exactly_once", `x: "%"`, "memory: 1048576", "allowed_lateness: 15m0s", `store: "file:///s"`,
		"session_timeout: 6s",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("want %q in\n%s", want, text)
		}
	}
}
