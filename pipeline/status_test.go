package pipeline

import (
	"context"
	"slices"
	"testing"
	"time"

	"github.com/apache/arrow/go/v15/arrow"
	"github.com/tailrace/tailrace/schemas"
)

// Scenario: assets in each of the states that keep one from being scored.
// Guarantees: the status says why in a sentence, and says nothing of an asset that is scored.
func TestWhy(t *testing.T) {
	now := time.Date(2026, 1, 5, 12, 0, 0, 0, time.UTC)
	score := float32(0.5)
	for _, c := range []struct {
		name string
		a    AssetStatus
		want string
	}{
		{"scored", AssetStatus{Rows: 9, LastSeen: now, LastWindow: now, LastScore: &score}, ""},
		{"scored, with some values dropped", AssetStatus{Rows: 9, LastSeen: now, LastWindow: now, LastScore: &score, Dropped: map[string]int64{"late": 2}}, ""},
		{"new", AssetStatus{Rows: 9, LastSeen: now}, "no window has closed yet"},
		{"no model for it", AssetStatus{Rows: 9, LastSeen: now, Dropped: map[string]int64{"unknown_tag": 9}},
			"none of its values can be used; 9 values unknown_tag"},
		{"late and bad", AssetStatus{Rows: 9, LastSeen: now, Dropped: map[string]int64{"late": 5, "bad_quality": 4}},
			"none of its values can be used; 4 values bad_quality; 5 values late"},
		{"low coverage", AssetStatus{Rows: 9, LastSeen: now, LastWindow: now, Reason: schemas.ReasonInsufficientData},
			"low coverage: too few channels held a value in the last window"},
		{"model fault", AssetStatus{Rows: 9, LastSeen: now, LastWindow: now, Reason: schemas.ReasonModelFault}, "the model gave no finite score"},
		{"silent", AssetStatus{Rows: 9, LastSeen: now.Add(-5 * time.Minute), LastWindow: now, LastScore: &score}, "no data for 5m0s"},
	} {
		if got := why(&c.a, now); got != c.want {
			t.Errorf("%s: got %q, want %q", c.name, got, c.want)
		}
	}
}

// Scenario: a run with dead letters whose step drops two rows of its asset.
// Guarantees: the status has both, the metrics have the dropped rows, the step's rows and its time, and the stages.
func TestStatusAndMetricsOfARun(t *testing.T) {
	w := newWorld(t)
	w.bounded = true
	w.partitions = map[int32][]delivery{3: {{ts: ramp(1, 50), dead: 2}}}
	e := w.engine(func(p *Plan) {
		p.Steps = []Step{{Name: "pick", New: func(s Settings) (Operator, error) { return &picky{pass{world: w, settings: s}}, nil }}}
	})
	if err := e.Run(t.Context()); err != nil {
		t.Fatal(err)
	}
	s := e.Status()
	if len(s.Assets) != 1 || s.Assets[0].Asset != "a" || s.Assets[0].Rows != 50 || s.Assets[0].Dropped["late"] < 2 || s.Dead[3] != 2 {
		t.Errorf("status %+v", s)
	}
	families, err := e.metrics.Registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	values := map[string]float64{}
	var stages []string
	for _, f := range families {
		for _, m := range f.Metric {
			switch {
			case m.Counter != nil:
				values[f.GetName()] += m.Counter.GetValue()
			case m.Histogram != nil && f.GetName() == "tailrace_stage_seconds":
				stages = append(stages, m.Label[0].GetValue())
			}
		}
	}
	if values["tailrace_step_rows_total"] != 50 || values["tailrace_step_seconds_total"] <= 0 || values["tailrace_dropped_rows_total"] < 2 {
		t.Errorf("metrics %v", values)
	}
	if want := []string{"anchor", "blob", "commit", "decode", "flush", "insert", "ledger", "plan"}; !slices.Equal(stages, want) {
		t.Errorf("stages %v, want %v", stages, want)
	}
}

// picky passes rows on and drops, as it says, two of every batch.
type picky struct{ pass }

func (p *picky) Process(ctx context.Context, in arrow.Record, out Emitter) error {
	p.settings.Drop("late", 2)
	p.settings.DropAsset("a", "late", 2)
	return p.pass.Process(ctx, in, out)
}

// Scenario: a step that emits to a second one, which takes a while.
// Guarantees: each step is charged its own time and not the time of the step it emits to.
func TestStepTimes(t *testing.T) {
	w := newWorld(t)
	slow := 20 * time.Millisecond
	out := nothing{}
	c, err := newChain([]Step{
		{Name: "quick", New: func(s Settings) (Operator, error) { return &pass{world: w, settings: s}, nil }},
		{Name: "slow", New: func(s Settings) (Operator, error) { return &sleepy{pass{world: w, settings: s}, slow}, nil }},
	}, Settings{}, telemetrySchema, out)
	if err != nil {
		t.Fatal(err)
	}
	b := schemas.NewTelemetryBuilder(w.mem, "plant", 0)
	defer b.Release()
	b.Append(&schemas.Row{Asset: []byte("a"), Tag: []byte("t")}, 0, 0)
	rec := b.NewRecord()
	defer rec.Release()
	if err := c.process(t.Context(), rec); err != nil {
		t.Fatal(err)
	}
	took := map[string]time.Duration{}
	for _, s := range c.takeSpent() {
		took[s.step] = s.took
	}
	if took["slow"] < slow || took["quick"] >= took["slow"] {
		t.Errorf("times %v: want the slow step charged with %v, and the quick one with less", took, slow)
	}
}

type sleepy struct {
	pass
	d time.Duration
}

func (s *sleepy) Process(ctx context.Context, in arrow.Record, out Emitter) error {
	time.Sleep(s.d)
	return s.pass.Process(ctx, in, out)
}
