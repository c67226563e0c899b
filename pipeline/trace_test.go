package pipeline

import (
	"testing"

	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
)

// Scenario: a bounded run with a tracer provider that keeps spans.
// Guarantees: a span for each delivery with its offsets and the time of each step; a checkpoint with insert, flush and commit
// below it, linked to the batches that it stores.
func TestSpans(t *testing.T) {
	kept := tracetest.NewInMemoryExporter()
	provider := sdktrace.NewTracerProvider(sdktrace.WithSyncer(kept))
	w := newWorld(t)
	w.bounded = true
	w.partitions = map[int32][]delivery{0: {{ts: ramp(1, 10)}, {ts: ramp(11, 10)}}}
	e := w.engine(nil)
	e.tracer = tracerOf(provider)
	if err := e.Run(t.Context()); err != nil {
		t.Fatal(err)
	}
	byName := map[string][]tracetest.SpanStub{}
	for _, s := range kept.GetSpans() {
		byName[s.Name] = append(byName[s.Name], s)
	}
	batches := map[string]bool{}
	for _, s := range byName["batch"] {
		batches[s.SpanContext.SpanID().String()] = true
		has := map[string]bool{}
		for _, a := range s.Attributes {
			has[string(a.Key)] = true
		}
		for _, key := range []string{"tailrace.offset.first", "tailrace.offset.next", "tailrace.step.pass.seconds", "tailrace.step.pass.rows"} {
			if !has[key] {
				t.Errorf("batch without %s: %v", key, s.Attributes)
			}
		}
	}
	if len(batches) != 2 || len(byName["checkpoint"]) == 0 {
		t.Fatalf("%d batches, %d checkpoints: want 2, 1 or more", len(batches), len(byName["checkpoint"]))
	}
	checkpoints := map[string]bool{}
	for _, s := range byName["checkpoint"] {
		checkpoints[s.SpanContext.SpanID().String()] = true
		for _, l := range s.Links {
			delete(batches, l.SpanContext.SpanID().String())
		}
	}
	if len(batches) != 0 {
		t.Errorf("%d batches that no checkpoint links to", len(batches))
	}
	for _, stage := range []string{"insert", "flush", "commit"} {
		if len(byName[stage]) == 0 {
			t.Errorf("no span %s", stage)
		}
		for _, s := range byName[stage] {
			if !checkpoints[s.Parent.SpanID().String()] {
				t.Errorf("%s is not below a checkpoint", stage)
			}
		}
	}
}
