package cli

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"sync/atomic"
	"time"

	"github.com/apache/arrow/go/v15/arrow"
	"github.com/spf13/cobra"
	"github.com/tailrace/tailrace/connectors/blob"
	"github.com/tailrace/tailrace/connectors/clickhouse"
	"github.com/tailrace/tailrace/connectors/kafka"
	"github.com/tailrace/tailrace/pipeline"
)

// onceOptions are the flags of run that read a range again.
type onceOptions struct {
	once     bool
	from, to string
	into     string
	publish  bool
}

// Where the rows of a re-run go.
const (
	intoSide = "side"
	intoSame = "same"
)

// sideSuffix ends the name of the database of re-runs.
const sideSuffix = "_rerun"

func (o *onceOptions) define(c *cobra.Command) {
	c.Flags().BoolVar(&o.once, "once", false, "read the range of --from and --to again, beside the group, compare what is decided, and end")
	c.Flags().StringVar(&o.from, "from", "", "with --once: first time, by Kafka's clock, or so long ago: 2026-01-05T00:00:00Z, 24h; all that is there by default")
	c.Flags().StringVar(&o.to, "to", "", "with --once: the time before which the range ends; the end by default")
	c.Flags().StringVar(&o.into, "into", intoSide, "with --once: side for tables in a database of their own, named with "+sideSuffix+" at its end; same for the pipeline's own")
	c.Flags().BoolVar(&o.publish, "publish", false, "with --once: send events, late rows and dead letters to their topics too")
}

func (o *onceOptions) span(now time.Time) (kafka.Span, error) {
	var span kafka.Span
	if o.into != intoSide && o.into != intoSame {
		return span, usage(fmt.Errorf("--into: want side or same, got %q", o.into))
	}
	var err error
	if span.From, err = moment("--from", o.from, now); err != nil {
		return span, err
	}
	if span.To, err = moment("--to", o.to, now); err != nil {
		return span, err
	}
	if !span.To.IsZero() && !span.To.After(span.From) {
		return span, usage(fmt.Errorf("--to: want a time after --from (%s), got %s", at(span.From), at(span.To)))
	}
	return span, nil
}

// check reports flags that say nothing without --once.
func (o *onceOptions) check(c *cobra.Command) error {
	for _, flag := range []string{"from", "to", "into", "publish"} {
		if !o.once && c.Flags().Changed(flag) {
			return usage(fmt.Errorf("--%s: want it with --once, which reads a range again", flag))
		}
	}
	return nil
}

// rerun is the JSON of run --once.
type rerun struct {
	Pipeline    string      `json:"pipeline"`
	ID          string      `json:"rerun"` // what the ledger calls it
	Database    string      `json:"database"`
	Topic       string      `json:"topic"`
	Ranges      []rangeJSON `json:"ranges"`
	Telemetry   int64       `json:"telemetry_rows"`
	Predictions int64       `json:"predictions"`
	Events      int64       `json:"events"` // rows
	LateRows    int64       `json:"late_rows"`
	DeadLetters int64       `json:"dead_letters"`
	Diff        *decisions  `json:"diff"` // null if the pipeline's own tables are not there
}

type rangeJSON struct {
	Partition int32 `json:"partition"`
	From      int64 `json:"from"`
	To        int64 `json:"to"`
}

// runOnce reads a range again under an id of its own: the pipeline's group, state and ledger know nothing of it.
func (e *env) runOnce(ctx context.Context, path string, o onceOptions) error {
	f, err := e.load(path)
	if err != nil {
		return err
	}
	span, err := o.span(time.Now())
	if err != nil {
		return err
	}
	source, err := kafkaSource(f, path)
	if err != nil {
		return err
	}
	sink, ok := f.Sink.Config.(*clickhouse.Config)
	if !ok {
		return fmt.Errorf("%w: %s: want sinks.clickhouse, got %s", errStart, path, f.Sink.Kind)
	}
	plan, err := e.plan(f, path)
	if err != nil {
		return err
	}
	into := *sink
	if o.into == intoSide {
		into.Database += sideSuffix
	}
	if plan.ID, err = rerunID(f.ID); err != nil {
		return err
	}
	var out heldBack
	if o.publish {
		out.to = plan.Publisher
	}
	var bounded *kafka.Bounded
	plan.Publisher = out.new
	plan.Source = func(set pipeline.Settings, decoder pipeline.NewDecoder) (_ pipeline.Source, err error) {
		bounded, err = kafka.NewBounded(*source, set, decoder, span)
		return bounded, err
	}
	if plan.Sink, err = e.Components.Sinks[f.Sink.Kind].New(&into); err != nil {
		return fmt.Errorf("%w: %s: %w", pipeline.ErrConfig, f.Sink.Kind, err)
	}
	if plan.Store, err = blob.Open("mem://"); err != nil {
		return err
	}
	if err := e.fetchRuntime(ctx, f); err != nil {
		return stopped(ctx, err)
	}
	var engine *pipeline.Engine
	err = e.traced(ctx, func(lent pipeline.Env) error {
		engine = pipeline.New(plan, lent)
		e.log.Info("running a range again", "pipeline", f.ID, "rerun", plan.ID, "database", into.Database)
		return engine.Run(ctx)
	})
	if err != nil {
		return err
	}
	if ctx.Err() != nil {
		return fmt.Errorf("stopped before the range was read: what the re-run %s has stored in %s is not whole", plan.ID, into.Database)
	}
	m := engine.Metrics()
	r := rerun{
		Pipeline: f.ID, ID: plan.ID, Database: into.Database, Topic: source.Topic, Ranges: rangesOf(bounded),
		Telemetry: m.Stored(pipeline.Telemetry), Predictions: m.Stored(pipeline.Predictions), Events: m.Stored(pipeline.EventsTable),
		LateRows: out.late.Load(), DeadLetters: out.dead.Load(),
	}
	c := comparison{
		own: sink.Database, other: into.Database, pipeline: f.ID, rerun: plan.ID, topic: source.Topic, ranges: r.Ranges,
	}
	if r.Diff, err = c.run(ctx, into.In(filepath.Dir(path))); err != nil {
		return err
	}
	if e.json {
		return e.print(r)
	}
	e.printRerun(&r)
	return nil
}

// idMax is how long the id of a pipeline may be.
const idMax = 64

// rerunID is an id of its own for a re-run, by which the ledger keeps its lines apart.
func rerunID(id string) (string, error) {
	var random [4]byte
	if _, err := rand.Read(random[:]); err != nil {
		return "", err
	}
	suffix := "-rerun-" + hex.EncodeToString(random[:])
	return id[:min(len(id), idMax-len(suffix))] + suffix, nil
}

func rangesOf(b *kafka.Bounded) []rangeJSON {
	list := []rangeJSON{}
	if b == nil {
		return list
	}
	ranges := b.Range()
	for _, id := range slices.Sorted(maps.Keys(ranges)) {
		list = append(list, rangeJSON{id, ranges[id][0], ranges[id][1]})
	}
	return list
}

// heldBack counts what goes to topics, and passes it on only if there is someone to pass it to: whoever answers alarms has had these
// already.
type heldBack struct {
	to         pipeline.NewPublisher // nil: nobody
	late, dead atomic.Int64
}

func (h *heldBack) new(set pipeline.Settings) (pipeline.Publisher, error) {
	if h.to == nil {
		return counting{nobody{}, h}, nil
	}
	to, err := h.to(set)
	if err != nil {
		return nil, err
	}
	return counting{to, h}, nil
}

// counting is a publisher whose late rows and dead letters are counted.
type counting struct {
	pipeline.Publisher
	counts *heldBack
}

func (c counting) PublishLate(ctx context.Context, batch arrow.Record) error {
	c.counts.late.Add(batch.NumRows())
	return c.Publisher.PublishLate(ctx, batch)
}

func (c counting) PublishDead(ctx context.Context, letters []pipeline.DeadLetter) error {
	c.counts.dead.Add(int64(len(letters)))
	return c.Publisher.PublishDead(ctx, letters)
}

// nobody is a publisher to no topic.
type nobody struct{}

func (nobody) Open(context.Context) error                                 { return nil }
func (nobody) PublishEvents(context.Context, arrow.Record) error          { return nil }
func (nobody) PublishLate(context.Context, arrow.Record) error            { return nil }
func (nobody) PublishRekeyed(context.Context, string, arrow.Record) error { return nil }
func (nobody) PublishDead(context.Context, []pipeline.DeadLetter) error   { return nil }
func (nobody) Flush(context.Context) error                                { return nil }
func (nobody) Close() error                                               { return nil }

func (e *env) printRerun(r *rerun) {
	var messages int64
	for _, part := range r.Ranges {
		fmt.Fprintf(e.Out, "partition %d: offsets %d to %d\n", part.Partition, part.From, part.To)
		messages += part.To - part.From
	}
	fmt.Fprintf(e.Out, "re-run %s of %d offsets, into %s: %d rows of telemetry, %d predictions, %d event rows, %d late rows, %d dead letters\n",
		r.ID, messages, r.Database, r.Telemetry, r.Predictions, r.Events, r.LateRows, r.DeadLetters)
	d := r.Diff
	if d == nil {
		fmt.Fprintln(e.Out, "there is nothing to compare with: the pipeline has no tables of its own")
		return
	}
	w := &d.Windows
	fmt.Fprintf(e.Out, "windows: %d in both, %d only before, %d only now, %d over an edge of the range and not compared\n",
		w.Both, w.OnlyBefore, w.OnlyNow, w.Edge)
	fmt.Fprintf(e.Out, "  %d are anomalies in one and not in the other, %d have a score in one only, %d are of another model\n",
		w.Flips, w.ScoreInOne, w.OtherModel)
	if w.LargestScoreDiff != nil {
		fmt.Fprintf(e.Out, "  largest difference of scores: %g\n", *w.LargestScoreDiff)
	}
	for _, c := range w.Changes {
		fmt.Fprintf(e.Out, "  %q, window to %s: anomaly %t, now %t; score %s, now %s\n", c.Asset, c.WindowEnd.Format(time.RFC3339Nano),
			c.Before, c.Now, scoreText(c.ScoreBefore), scoreText(c.ScoreNow))
	}
	fmt.Fprintf(e.Out, "events: %d in both, %d only before, %d only now\n", d.Events.Both, d.Events.OnlyBefore, d.Events.OnlyNow)
	for _, x := range d.Events.Listed {
		fmt.Fprintf(e.Out, "  only %s: %q, detector %q, from %s\n", x.In, x.Asset, x.Detector, x.Onset.Format(time.RFC3339Nano))
	}
}

func scoreText(score *float32) string {
	if score == nil {
		return "none"
	}
	return fmt.Sprintf("%g", *score)
}
