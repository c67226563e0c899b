package pipeline

import (
	"context"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"
	"go.opentelemetry.io/otel/trace/noop"
)

// Spans: one for each delivery that a task works on ("batch"), with the time of each step as an attribute, and one for each
// checkpoint ("checkpoint") with the stages insert, flush and commit below it. A checkpoint links to the batches that it
// stores. Nothing is made per row.

// maxLinks bounds the batches that a checkpoint links to: OpenTelemetry's own default for a span.
const maxLinks = 128

// tracerOf is the engine's tracer, which does nothing if the program gave no provider.
func tracerOf(p trace.TracerProvider) trace.Tracer {
	if p == nil {
		p = noop.NewTracerProvider()
	}
	return p.Tracer("github.com/tailrace/tailrace/pipeline")
}

// startBatch begins the span of one delivery.
func (t *task) startBatch(ctx context.Context, d *Delivery) (context.Context, trace.Span) {
	ctx, span := t.tracer.Start(ctx, "batch")
	if span.IsRecording() {
		span.SetAttributes(
			attribute.String("messaging.system", "kafka"), attribute.String("messaging.destination.name", t.part.Topic()),
			attribute.Int("messaging.destination.partition.id", int(t.part.ID())), attribute.Int64("tailrace.offset.first", d.First),
			attribute.Int64("tailrace.offset.next", d.Next), attribute.Int("messaging.batch.message_count", d.Messages),
			attribute.Int("tailrace.dead_letters", len(d.Dead)), attribute.Float64("tailrace.decode_seconds", d.Decode.Seconds()),
		)
	}
	return ctx, span
}

// endBatch ends it, with what each step used, and keeps its context for the checkpoint to link to.
func (t *task) endBatch(span trace.Span, steps []stepTime, err error) {
	if span.IsRecording() {
		for _, s := range steps {
			span.SetAttributes(attribute.Float64("tailrace.step."+s.step+".seconds", s.took.Seconds()),
				attribute.Int64("tailrace.step."+s.step+".rows", s.rows))
		}
		if len(t.pending.spans) < maxLinks {
			t.pending.spans = append(t.pending.spans, trace.Link{SpanContext: span.SpanContext()})
		}
	}
	endSpan(span, err)
}

func endSpan(span trace.Span, err error) {
	if err != nil {
		span.RecordError(err)
		span.SetStatus(codes.Error, err.Error())
	}
	span.End()
}
