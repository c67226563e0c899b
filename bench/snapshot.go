package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"math"
	"os"
	"runtime"
	"time"

	"github.com/apache/arrow/go/v15/arrow"
	"github.com/apache/arrow/go/v15/arrow/memory"
	"github.com/tailrace/tailrace/operators/align"
	"github.com/tailrace/tailrace/operators/detect"
	"github.com/tailrace/tailrace/operators/model"
	"github.com/tailrace/tailrace/operators/normalize"
	"github.com/tailrace/tailrace/operators/reference"
	"github.com/tailrace/tailrace/operators/score"
	"github.com/tailrace/tailrace/operators/window"
	"github.com/tailrace/tailrace/pipeline"
	"github.com/tailrace/tailrace/pipeline/state"
	"github.com/tailrace/tailrace/schemas"
)

// snapshotResult is the JSON object of the benchmark.
type snapshotResult struct {
	Benchmark string         `json:"benchmark"`
	Go        string         `json:"go"`
	CPUs      int            `json:"cpus"`
	Channels  int            `json:"channels"` // of each asset
	Lateness  string         `json:"allowed_lateness"`
	Sizes     []snapshotSize `json:"sizes"`
	Faults    []string       `json:"faults"`
}

// snapshotSize is the state of so many assets of one partition.
type snapshotSize struct {
	Assets    int      `json:"assets"`
	Full      snapshot `json:"full"`
	AllNew    snapshot `json:"all_changed"` // since the snapshot before
	Few       snapshot `json:"one_percent_changed"`
	RestoreMS float64  `json:"restore_ms"` // of the full one
}

// snapshot is one of a chain of operators: what the task waits for, then what the checkpoint does beside it.
type snapshot struct {
	TakeMS   float64 `json:"take_ms"`
	EncodeMS float64 `json:"encode_ms"` // into a blob, with its hash
	Bytes    int     `json:"bytes"`     // of the blob
}

func snapshotCommand(ctx context.Context, flags *flag.FlagSet, args []string, log io.Writer) (any, []string, error) {
	most := flags.Int("most", 100_000, "the largest number of assets; from 100 on by tens")
	lateness := flags.Duration("lateness", 0, "watermark.allowed_lateness: what is kept to correct results with")
	log, err := parse(flags, args, log)
	if err != nil {
		return nil, nil, err
	}
	switch {
	case *most < 100 || *most > 1_000_000:
		return nil, nil, fmt.Errorf("--most: want 100 to 1000000, got %d", *most)
	case *lateness < 0:
		return nil, nil, fmt.Errorf("--lateness: want 0s or more, got %v", *lateness)
	}
	r := &snapshotResult{
		Benchmark: "snapshot", Go: runtime.Version(), CPUs: runtime.NumCPU(), Lateness: lateness.String(), Faults: []string{},
	}
	for assets := 100; assets <= *most; assets *= 10 {
		size, channels, err := measureSnapshot(ctx, assets, *lateness)
		if err != nil {
			return nil, nil, fmt.Errorf("%d assets: %w", assets, err)
		}
		fmt.Fprintf(log, "%7d assets: full %.1f ms and %d bytes; 1 %% changed %.1f ms and %d bytes\n", assets,
			size.Full.TakeMS+size.Full.EncodeMS, size.Full.Bytes, size.Few.TakeMS+size.Few.EncodeMS, size.Few.Bytes)
		r.Channels = channels
		r.Sizes = append(r.Sizes, size)
		if size.Few.Bytes >= size.Full.Bytes {
			r.Faults = append(r.Faults, fmt.Sprintf("%d assets: want less for 1 %% of them than for all, got %d and %d bytes",
				assets, size.Few.Bytes, size.Full.Bytes))
		}
	}
	return r, r.Faults, nil
}

// measureSnapshot has so many assets send every channel at some grid times, and takes snapshots in between.
func measureSnapshot(
	ctx context.Context, assets int, lateness time.Duration,
) (size snapshotSize, channels int, err error) {
	size.Assets = assets
	dir, err := os.MkdirTemp("", "tailrace-snapshot-")
	if err != nil {
		return size, 0, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	scorers := pipeline.NewScorers(map[string]pipeline.ScorerFactory{reference.Backend: reference.New})
	defer scorers.Close()
	settings := pipeline.Settings{
		Pipeline: "bench", Dir: dir, Lateness: lateness, Alloc: memory.DefaultAllocator, Log: slog.New(slog.DiscardHandler),
		Scorers: scorers,
	}
	tags, signals, err := copyModels(dir)
	if err != nil {
		return size, 0, err
	}
	c, err := newSteps(signals, settings, assets)
	if err != nil {
		return size, 0, err
	}
	defer func() { err = errors.Join(err, c.close()) }()
	feed := newFeed(tags)
	defer feed.builder.Release()
	// Three grid times: the first windows are closed and scored, the last are open.
	for range 3 {
		if err := feed.send(ctx, c, assets); err != nil {
			return size, 0, err
		}
	}
	full, err := c.snapshot(true, &size.Full)
	if err != nil {
		return size, 0, err
	}
	if err := feed.send(ctx, c, assets); err != nil {
		return size, 0, err
	}
	if _, err := c.snapshot(false, &size.AllNew); err != nil {
		return size, 0, err
	}
	if err := feed.sendSome(ctx, c, max(1, assets/100)); err != nil {
		return size, 0, err
	}
	if _, err := c.snapshot(false, &size.Few); err != nil {
		return size, 0, err
	}
	size.RestoreMS, err = restore(signals, settings, assets, full)
	return size, len(tags), err
}

// restore makes a chain anew and gives it the state.
func restore(
	channels []model.Channel, settings pipeline.Settings, assets int, full []state.Step,
) (ms float64, err error) {
	c, err := newSteps(channels, settings, assets)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, c.close()) }()
	begin := time.Now()
	for i, op := range c.ops {
		if err := op.Restore(state.NewReader(full[i].State)); err != nil {
			return 0, fmt.Errorf("restore %s: %w", c.names[i], err)
		}
	}
	return milliseconds(time.Since(begin)), nil
}

// steps are operators that call each other, as in a task.
type steps struct {
	names []string
	ops   []pipeline.Operator
}

// newSteps makes the plant's, with room for all assets in one partition.
func newSteps(channels []model.Channel, settings pipeline.Settings, assets int) (_ *steps, err error) {
	c := &steps{}
	defer func() {
		if err != nil {
			err = errors.Join(err, c.close())
		}
	}()
	grid := align.Component()
	config := grid.NewConfig().(*align.Config)
	config.Grid, config.MaxGap, config.MaxAssets, config.MaxOpenSamples = plantGrid, plantGrid, assets, math.MaxInt32
	for _, channel := range channels {
		config.Channels = append(config.Channels, schemas.Channel{Tag: channel.Tag, Unit: channel.Unit})
	}
	windows := window.Component()
	windowConfig := windows.NewConfig().(*window.Config)
	windowConfig.Size, windowConfig.MaxAssets, windowConfig.MaxState = plantGrid, assets, 16<<30
	scaled := normalize.Component()
	scaledConfig := scaled.NewConfig().(*normalize.Config)
	scaledConfig.Model = plantModel
	scores := score.Component()
	scoreConfig := scores.NewConfig().(*score.Config)
	scoreConfig.Model, scoreConfig.Backend = plantModel, reference.Backend
	events := detect.Component()
	eventConfig := events.NewConfig().(*detect.Config)
	quantile := 0.99
	eventConfig.Threshold.Quantile, eventConfig.OnDelay, eventConfig.OffDelay = &quantile, 2*plantGrid, 5*plantGrid
	eventConfig.MaxAssets = assets

	schema := schemas.Telemetry()
	for _, s := range []struct {
		name      string
		component pipeline.Component[pipeline.NewOperator]
		config    any
	}{
		{"align", grid, config}, {"window", windows, windowConfig}, {"normalize", scaled, scaledConfig},
		{"score", scores, scoreConfig}, {"detect", events, eventConfig},
	} {
		settings.Step = s.name
		newOperator, err := s.component.New(s.config)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", s.name, err)
		}
		op, err := newOperator(settings)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", s.name, err)
		}
		c.names, c.ops = append(c.names, s.name), append(c.ops, op)
		if schema, err = op.Bind(schema); err != nil {
			return nil, fmt.Errorf("%s: %w", s.name, err)
		}
	}
	return c, nil
}

func (c *steps) close() error {
	var errs []error
	for _, op := range c.ops {
		errs = append(errs, op.Close())
	}
	return errors.Join(errs...)
}

// emitTo gives rows to a step, and drops what leaves the chain.
type emitTo struct {
	steps *steps
	step  int
}

// Emit takes the reference.
func (e emitTo) Emit(ctx context.Context, output pipeline.Output, batch arrow.Record) error {
	defer batch.Release()
	if output != pipeline.Rows || e.step == len(e.steps.ops) {
		return nil
	}
	return e.steps.ops[e.step].Process(ctx, batch, emitTo{e.steps, e.step + 1})
}

// advance tells every step the watermark, the first ones first.
func (c *steps) advance(ctx context.Context, watermark int64) error {
	for i, op := range c.ops {
		if err := op.Advance(ctx, watermark, emitTo{c, i + 1}); err != nil {
			return fmt.Errorf("%s: %w", c.names[i], err)
		}
	}
	return nil
}

// snapshot takes one of every step and makes a blob of it.
func (c *steps) snapshot(full bool, into *snapshot) ([]state.Step, error) {
	var taken []state.Step
	begin := time.Now()
	for i, op := range c.ops {
		w := state.NewWriter()
		if err := op.Snapshot(w, full); err != nil {
			return nil, fmt.Errorf("snapshot %s: %w", c.names[i], err)
		}
		taken = append(taken, state.Step{Name: c.names[i], Fingerprint: "bench", State: w})
	}
	into.TakeMS = milliseconds(time.Since(begin))
	begin = time.Now()
	blob := state.Blob{Pipeline: "bench", Parts: []state.Part{{Topic: "bench", Steps: taken}}}
	_, data := blob.Encode()
	into.EncodeMS, into.Bytes = milliseconds(time.Since(begin)), len(data)
	return taken, nil
}

func milliseconds(d time.Duration) float64 { return math.Round(float64(d.Microseconds())) / 1000 }

// feed makes telemetry as a decoder would.
type feed struct {
	builder *schemas.TelemetryBuilder
	tags    []Tag
	names   [][]byte
	at      int64 // ns UTC, of the next grid time
	offset  int64
}

// feedRows is about what a fetch brings.
const feedRows = 16384

func newFeed(tags []Tag) *feed {
	f := &feed{
		builder: schemas.NewTelemetryBuilder(memory.DefaultAllocator, "bench", 0), tags: tags,
		at: time.Date(2026, 1, 5, 0, 0, 0, 0, time.UTC).UnixNano(),
	}
	for _, t := range tags {
		f.names = append(f.names, []byte(t.Name))
	}
	return f
}

// send has the first assets send all channels at the next grid time, and closes the one before.
func (f *feed) send(ctx context.Context, c *steps, assets int) error {
	if err := f.sendSome(ctx, c, assets); err != nil {
		return err
	}
	f.at += int64(plantGrid)
	return c.advance(ctx, f.at-int64(plantGrid)-1)
}

// sendSome has the first assets send, and no time pass.
func (f *feed) sendSome(ctx context.Context, c *steps, assets int) error {
	for a := range assets {
		asset := fmt.Appendf(nil, "bench.site.line%02d.cell%06d", a%8, a)
		for t := range f.tags {
			f.builder.Append(&schemas.Row{
				TS: f.at, Asset: asset, Tag: f.names[t], VType: schemas.TypeFloat, Value: f.tags[t].Mean, HasValue: true,
				Quality: schemas.Good,
			}, f.offset, f.at)
			f.offset++
		}
		if f.builder.Len() >= feedRows || a == assets-1 {
			if err := (emitTo{steps: c}).Emit(ctx, pipeline.Rows, f.builder.NewRecord()); err != nil {
				return err
			}
		}
	}
	return nil
}
