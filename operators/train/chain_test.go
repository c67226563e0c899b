package train_test

import (
	"context"
	"io"
	"testing"
	"time"

	"github.com/apache/arrow/go/v15/arrow"

	"github.com/tailrace/tailrace/operators/align"
	"github.com/tailrace/tailrace/operators/model"
	"github.com/tailrace/tailrace/operators/train"
	"github.com/tailrace/tailrace/operators/window"
	"github.com/tailrace/tailrace/pipeline"
	"github.com/tailrace/tailrace/pipeline/pipelinetest"
	"github.com/tailrace/tailrace/schemas"
)

// step makes a step of the chain from a component and an edit of its default Config.
func step[C any](t testing.TB, name string, c pipeline.Component[pipeline.NewOperator], edit func(*C)) pipeline.Step {
	t.Helper()
	config := c.NewConfig().(*C)
	edit(config)
	build, err := c.New(config)
	if err != nil {
		t.Fatal(err)
	}
	return pipeline.Step{Name: name, New: build}
}

// Scenario: the training run as telemetry, one value a row, through align and window as the demo's pipeline file sets
// them, into the fit: the way of the command train.
// Guarantees: the carried bundle comes out byte for byte, so nothing is lost or moved on the way, and what is trained is
// what is served.
func TestTelemetryThroughTheChainGivesTheCarriedBundle(t *testing.T) {
	mem := pipelinetest.NewAllocator(t)
	rows, sum := readRun(t, sub(t, demoData), "d00.dat.gz")
	channels := tepLayout().Channels
	var trainer *train.Trainer
	offline, err := pipeline.NewOffline([]pipeline.Step{
		step(t, "align", align.Component(), func(c *align.Config) {
			c.Grid, c.MaxGap, c.Channels = tepGrid, 3*tepGrid, channels
		}),
		step(t, "window", window.Component(), func(c *window.Config) { c.Kind, c.Size = window.Tumbling, tepGrid }),
	}, pipeline.Settings{Pipeline: "tep", Alloc: mem}, pipeline.WatermarkConfig{Step: tepGrid}, func(rec arrow.Record) error {
		return trainer.Add(rec)
	})
	if err != nil {
		t.Fatal(err)
	}
	defer offline.Close()
	layout, err := schemas.LayoutOf(offline.Schema())
	if err != nil {
		t.Fatal(err)
	}
	if trainer, err = train.New(tepConfig(), layout); err != nil {
		t.Fatal(err)
	}
	builder := schemas.NewTelemetryBuilder(mem, "plant.telemetry", 0)
	defer builder.Release()
	next := 0
	err = offline.Run(context.Background(), func(context.Context) (arrow.Record, error) {
		if next == len(rows) {
			return nil, io.EOF
		}
		for ; next < len(rows) && builder.Len() < 5000; next++ {
			at := tepStart.Add(time.Duration(next) * tepGrid).UnixNano()
			for i, v := range rows[next] {
				builder.Append(&schemas.Row{
					TS: at, Asset: []byte("d00"), Tag: []byte(channels[i].Tag), VType: schemas.TypeFloat, Value: v, HasValue: true,
					Quality: schemas.Good,
				}, int64(next), at)
			}
		}
		return builder.NewRecord(), nil
	})
	if err != nil {
		t.Fatal(err)
	}
	b, err := trainer.Fit(context.Background(), []model.TrainedFile{{Name: "d00.dat.gz", SHA256: sum}})
	if err != nil {
		t.Fatal(err)
	}
	same(t, encode(t, carried(t)), encode(t, b))
}
