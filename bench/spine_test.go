package main

// The benchmarks of this file measure the program's parts against each other in one run, so that ratios hold on any
// machine:
//
//	go test ./bench -bench . -benchtime 3x

import (
	"context"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/apache/arrow/go/v15/arrow"
	"github.com/apache/arrow/go/v15/arrow/memory"
	"github.com/tailrace/tailrace/connectors/file"
	"github.com/tailrace/tailrace/deploy"
	"github.com/tailrace/tailrace/operators/align"
	"github.com/tailrace/tailrace/operators/detect"
	"github.com/tailrace/tailrace/operators/model"
	"github.com/tailrace/tailrace/operators/normalize"
	"github.com/tailrace/tailrace/operators/reference"
	"github.com/tailrace/tailrace/operators/score"
	"github.com/tailrace/tailrace/operators/window"
	"github.com/tailrace/tailrace/pipeline"
	"github.com/tailrace/tailrace/pipeline/cli/replay"
	"github.com/tailrace/tailrace/schemas"
	"github.com/tailrace/tailrace/schemas/formats"
	"github.com/tailrace/tailrace/schemas/formats/jsontelemetry"
)

// batchRows is about what a fetch brings.
const batchRows = 16384

// kept is a replay.Producer that keeps messages.
type kept struct{ messages []formats.Message }

func (k *kept) Send(_ context.Context, _ string, key, value []byte, at int64) error {
	k.messages = append(k.messages, formats.Message{
		Offset: int64(len(k.messages)), Time: at, Key: append([]byte(nil), key...), Value: append([]byte(nil), value...),
	})
	return nil
}

func (k *kept) Flush(context.Context) error { return nil }

// plant is four runs of the demo as JSON messages, merged in the order of time: 199,680 of them.
func plant(b *testing.B) []formats.Message {
	b.Helper()
	c := file.DefaultConfig()
	c.Format = file.FormatTEP
	for _, run := range []string{"d00_te", "d01_te", "d04_te", "d06_te"} {
		c.Files = append(c.Files, "demo/tep/"+run+".dat.gz")
	}
	reader, err := file.Open(deploy.Demo, c, memory.DefaultAllocator)
	if err != nil {
		b.Fatal(err)
	}
	defer reader.Close()
	var k kept
	if _, err := replay.Run(b.Context(), reader, &k, replay.Options{}); err != nil {
		b.Fatal(err)
	}
	return k.messages
}

// decode gives the messages as records, a batch at a time.
func decode(b *testing.B, messages []formats.Message) func(context.Context) (arrow.Record, error) {
	decoder, err := jsontelemetry.New(jsontelemetry.DefaultConfig())
	if err != nil {
		b.Fatal(err)
	}
	builder := schemas.NewTelemetryBuilder(memory.DefaultAllocator, "plant", 0)
	b.Cleanup(builder.Release)
	return func(context.Context) (arrow.Record, error) {
		for builder.Len() < batchRows && len(messages) > 0 {
			if err := decoder.Decode(&messages[0], builder); err != nil {
				return nil, err
			}
			messages = messages[1:]
		}
		if builder.Len() == 0 {
			return nil, io.EOF
		}
		return builder.NewRecord(), nil
	}
}

// perRow reports the time and the allocations of a row.
func perRow(b *testing.B, rows int) {
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*rows), "ns/row")
	b.ReportMetric(float64(rows)*float64(b.N)/b.Elapsed().Seconds(), "rows/s")
}

// BenchmarkDecode is JSON messages to telemetry.v1.
func BenchmarkDecode(b *testing.B) {
	messages := plant(b)
	b.ResetTimer()
	for range b.N {
		next := decode(b, messages)
		for {
			rec, err := next(b.Context())
			if err == io.EOF {
				break
			}
			if err != nil {
				b.Fatal(err)
			}
			rec.Release()
		}
	}
	perRow(b, len(messages))
}

const modelPath = "models/tep-pca/1.0.0"

// demoSteps are those of the demo's pipeline file, on the reference backend.
func demoSteps(b *testing.B, bundle string) []pipeline.Step {
	b.Helper()
	m, err := model.Load(bundle)
	if err != nil {
		b.Fatal(err)
	}
	var channels align.Channels
	for _, c := range m.Manifest.Channels {
		channels = append(channels, schemas.Channel{Tag: c.Tag, Unit: c.Unit})
	}
	quantile := 0.99
	return []pipeline.Step{
		step(b, "align", align.Component(), func(c *align.Config) { c.Grid, c.MaxGap, c.Channels = 3*time.Minute, 3*time.Minute, channels }),
		step(b, "window", window.Component(), func(c *window.Config) { c.Size = 3 * time.Minute }),
		step(b, "normalize", normalize.Component(), func(c *normalize.Config) { c.Model = modelPath }),
		step(b, "score", score.Component(), func(c *score.Config) { c.Model, c.Backend = modelPath, reference.Backend }),
		step(b, "detect", detect.Component(), func(c *detect.Config) {
			c.Threshold.Quantile, c.OnDelay, c.OffDelay = &quantile, 6*time.Minute, 15*time.Minute
		}),
	}
}

// step makes one step from a component's defaults and what set changes.
func step[C any](b *testing.B, name string, c pipeline.Component[pipeline.NewOperator], set func(*C)) pipeline.Step {
	b.Helper()
	config := c.NewConfig()
	set(config.(*C))
	made, err := c.New(config)
	if err != nil {
		b.Fatal(err)
	}
	return pipeline.Step{Name: name, New: made}
}

// BenchmarkFlow is JSON messages through decoding and all steps of the demo's pipeline file to predictions and events.
func BenchmarkFlow(b *testing.B) {
	messages := plant(b)
	dir := b.TempDir()
	models, err := fs.Sub(deploy.Demo, "demo")
	if err == nil {
		err = os.CopyFS(dir, models)
	}
	if err != nil {
		b.Fatal(err)
	}
	steps := demoSteps(b, filepath.Join(dir, modelPath))
	scorers := pipeline.NewScorers(map[string]pipeline.ScorerFactory{reference.Backend: reference.New})
	defer scorers.Close()
	settings := pipeline.Settings{
		Pipeline: "bench", Dir: dir, Alloc: memory.DefaultAllocator, Log: slog.New(slog.DiscardHandler), Scorers: scorers,
	}
	b.ResetTimer()
	for range b.N {
		var windows int64
		flow, err := pipeline.NewOffline(steps, settings, pipeline.WatermarkConfig{Step: 3 * time.Minute}, func(rec arrow.Record) error {
			windows += rec.NumRows()
			return nil
		})
		if err != nil {
			b.Fatal(err)
		}
		if err := flow.Run(b.Context(), decode(b, messages)); err != nil {
			b.Fatal(err)
		}
		if err := flow.Close(); err != nil {
			b.Fatal(err)
		}
		if windows != 4*960 {
			b.Fatalf("%d windows, want %d", windows, 4*960)
		}
	}
	perRow(b, len(messages))
}
