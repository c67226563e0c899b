package pipeline

import (
	"context"
	"errors"
	"fmt"
	"log/slog"

	"github.com/apache/arrow/go/v15/arrow"
	"github.com/apache/arrow/go/v15/arrow/memory"
	"github.com/tailrace/tailrace/pipeline/failpoint"
	"github.com/tailrace/tailrace/pipeline/state"
	"github.com/tailrace/tailrace/schemas"
	"go.opentelemetry.io/otel/trace"
)

var telemetrySchema = schemas.Telemetry()

// Plan is a pipeline file as the engine takes it: everything is validated, nothing is opened.
type Plan struct {
	ID         string // fixed for life: event ids and insert tokens are made from it
	Dir        string // the file's folder
	Source     NewSource
	Decoder    NewDecoder
	Steps      []Step
	Sink       NewSink
	Publisher  NewPublisher
	Scorers    map[string]ScorerFactory
	Store      state.Store
	Watermark  WatermarkConfig
	Checkpoint CheckpointConfig
	State      StateConfig
	Limits     LimitsConfig
	// Adopt lets the pipeline go on where it would stop: from a commit that another program made, with empty state, or at
	// the beginning of a topic that was made anew.
	Adopt bool
}

// Env is what the program lends the engine.
type Env struct {
	Log    *slog.Logger
	Alloc  memory.Allocator
	Tracer trace.TracerProvider // takes spans; nil for none
	Local  string               // Settings.Local
	Fail   *failpoint.Points    // nil for none
}

// Engine runs one pipeline.
type Engine struct {
	plan      Plan
	env       Env
	scorers   *Scorers
	sink      Sink
	publisher Publisher
	metrics   *Metrics
	status    *statusBoard
	tracer    trace.Tracer
}

// New returns an engine that has opened nothing yet.
func New(plan Plan, env Env) *Engine {
	status := newStatusBoard()
	return &Engine{
		plan: plan, env: env, scorers: NewScorers(plan.Scorers), metrics: newMetrics(status.isReady), status: status,
		tracer: tracerOf(env.Tracer),
	}
}

func (e *Engine) settings() Settings {
	return Settings{
		Pipeline: e.plan.ID, Dir: e.plan.Dir, Local: e.env.Local, Alloc: e.env.Alloc, Log: e.env.Log, Lateness: e.plan.Watermark.AllowedLateness,
		Reached: e.env.Fail.Reach, Drops: engineDrops{e.metrics, e.status}, Scorers: e.scorers,
	}
}

// engineDrops counts dropped rows in the metrics and, by asset, in the status.
type engineDrops struct {
	*Metrics
	*statusBoard
}

// nothing takes what a chain that is only checked would give.
type nothing struct{}

func (nothing) rows(_ context.Context, b arrow.Record) error    { b.Release(); return nil }
func (nothing) events(_ context.Context, b arrow.Record) error  { b.Release(); return nil }
func (nothing) late(_ context.Context, b arrow.Record) error    { b.Release(); return nil }
func (nothing) rekeyed(_ context.Context, b arrow.Record) error { b.Release(); return nil }

// Check builds and binds the steps without a source or sink, and returns the schema that each step gives. Its errors are
// StepErrors, joined. Models are loaded and verified. An engine that was checked may still Run.
func (e *Engine) Check() ([]*arrow.Schema, error) {
	given, _, err := e.bind()
	return given, errors.Join(err, e.scorers.Close())
}

func (e *Engine) bind() (given []*arrow.Schema, rekeys bool, err error) {
	c, err := newChain(e.plan.Steps, e.settings(), telemetrySchema, nothing{})
	if err != nil {
		return nil, false, err
	}
	return c.schemas, c.rekeys(), c.close()
}

// stores tells whether a table is written.
func (e *Engine) stores(t Table) bool {
	s, ok := e.sink.(Selective)
	return !ok || s.Stores(t)
}

// Scorers says what runs, or ran, the models.
func (e *Engine) Scorers() []ScorerInfo { return e.scorers.infos() }

// Metrics are the engine's counters.
func (e *Engine) Metrics() *Metrics { return e.metrics }

// Run opens the sinks, joins the group and processes until ctx ends or, with a bounded source, the bound is reached. It
// returns nil when all that was read is stored and committed. What no retry mends wraps ErrConfig.
func (e *Engine) Run(ctx context.Context) (err error) {
	defer func() { err = errors.Join(err, e.scorers.Close()) }()
	_, rekeys, err := e.bind()
	if err != nil {
		return fmt.Errorf("%w: %w", ErrConfig, err)
	}
	settings := e.settings()
	settings.Rekeyed = rekeys
	e.status.setRekeys(rekeys)
	settings.Step = "sink"
	if e.sink, err = e.plan.Sink(settings); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, e.sink.Close()) }()
	settings.Step = "publisher"
	if e.publisher, err = e.plan.Publisher(settings); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, e.publisher.Close()) }()
	settings.Step = "source"
	source, err := e.plan.Source(settings, e.plan.Decoder)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, source.Close()) }()

	e.metrics.watch("sink", e.sink)
	e.metrics.watch("publisher", e.publisher)
	e.metrics.watch("source", source)
	if troubled, ok := source.(Troubled); ok {
		e.status.watch(troubled)
	}
	e.status.stage(stageStore)
	if err := e.plan.Store.Open(ctx); err != nil {
		return ended(ctx, fmt.Errorf("%w: state.store: %w", ErrConfig, err))
	}
	defer func() { err = errors.Join(err, e.plan.Store.Close()) }()
	e.status.stage(stageSink)
	if err := e.sink.Open(ctx); err != nil {
		return ended(ctx, err)
	}
	e.status.stage(stagePublisher)
	if err := e.publisher.Open(ctx); err != nil {
		return ended(ctx, err)
	}
	return e.generations(ctx, source)
}

// generations works under one assignment of partitions after the other.
func (e *Engine) generations(ctx context.Context, source Source) error {
	for {
		e.status.stage(stageJoining)
		group, err := source.Next(ctx)
		if err != nil {
			return ended(ctx, err)
		}
		e.status.stage(stageRunning)
		finished, err := e.run(ctx, group)
		err = errors.Join(ignoreCommit(err, e.env.Log), group.Close())
		if finished || err != nil || ctx.Err() != nil {
			e.status.stage(stageStopping)
			return err
		}
	}
}

// ended turns the error of something that ctx ended into nil: being told to stop is no fault.
func ended(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return nil
	}
	return err
}

// ignoreCommit logs a commit that failed, or offsets that could not be read, and lets the member rejoin: what is to be done is
// read from the group again.
func ignoreCommit(err error, log *slog.Logger) error {
	if (errors.Is(err, errNotCommitted) || errors.Is(err, errNotRead)) && !errors.Is(err, ErrConfig) {
		log.Warn("rejoining the group", "error", err)
		return nil
	}
	return err
}
