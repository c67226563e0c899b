package cli

import (
	"bytes"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"

	"github.com/tailrace/tailrace/pipeline"
)

// Scenario: a collector named by OpenTelemetry's own variable; then none.
// Guarantees: spans arrive at it by the time traced returns; without one there is no provider at all.
func TestTraced(t *testing.T) {
	var posts, bytesIn atomic.Int64
	collector := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		var body bytes.Buffer
		if _, err := body.ReadFrom(r.Body); err == nil && r.URL.Path == "/v1/traces" {
			posts.Add(1)
			bytesIn.Add(int64(body.Len()))
		}
	}))
	defer collector.Close()
	e := &env{App: App{Version: "test"}, log: slog.New(slog.DiscardHandler)}
	t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.URL)
	err := e.traced(t.Context(), func(lent pipeline.Env) error {
		_, span := lent.Tracer.Tracer("test").Start(t.Context(), "batch")
		span.End()
		return nil
	})
	if err != nil || posts.Load() == 0 || bytesIn.Load() == 0 {
		t.Errorf("%d posts of %d bytes, %v: want the span", posts.Load(), bytesIn.Load(), err)
	}
	t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "")
	err = e.traced(t.Context(), func(lent pipeline.Env) error {
		if lent.Tracer != nil {
			t.Error("a provider without a collector")
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}
