package cli

import (
	"context"

	"fmt"
	"os"
	"time"

	"github.com/tailrace/tailrace/pipeline"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
)

// tracingFlush bounds how long the last spans may take at a stop, so that Ctrl+C ends within 5 s whatever hangs.
const tracingFlush = 500 * time.Millisecond

// traced runs f with an Env whose spans go to the collector that OpenTelemetry's own variables name
// (OTEL_EXPORTER_OTLP_ENDPOINT, OTEL_EXPORTER_OTLP_TRACES_ENDPOINT and their kin, OTLP over HTTP). Without one there are no
// spans, and they cost nothing.
func (e *env) traced(ctx context.Context, f func(pipeline.Env) error) (err error) {
	lent, err := e.lend()
	if err != nil {
		return err
	}
	if os.Getenv("OTEL_EXPORTER_OTLP_ENDPOINT") == "" && os.Getenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT") == "" {
		return f(lent)
	}
	exporter, err := otlptracehttp.New(ctx)
	if err != nil {
		return fmt.Errorf("%w: tracing: %w", errStart, err)
	}
	described, err := resource.New(ctx, resource.WithTelemetrySDK(), resource.WithHost(), resource.WithAttributes(
		attribute.String("service.name", "tailrace"), attribute.String("service.version", e.Version)), resource.WithFromEnv())
	if err != nil {
		return fmt.Errorf("%w: tracing: %w", errStart, err)
	}
	provider := sdktrace.NewTracerProvider(sdktrace.WithBatcher(exporter), sdktrace.WithResource(described))
	defer func() {
		flush, cancel := context.WithTimeout(context.WithoutCancel(ctx), tracingFlush)
		defer cancel()
		if lost := provider.Shutdown(flush); lost != nil {
			e.log.Warn("tracing: the last spans are lost", "error", lost)
		}
	}()
	lent.Tracer = provider
	return f(lent)
}
