package cli

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"math"
	"os"
	"path"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
	"github.com/spf13/cobra"
	"github.com/tailrace/tailrace/connectors/file"
	"github.com/tailrace/tailrace/connectors/kafka"
	"github.com/tailrace/tailrace/deploy"
	"github.com/tailrace/tailrace/pipeline"
	"github.com/tailrace/tailrace/pipeline/cli/replay"
	"github.com/tailrace/tailrace/schemas"
	"golang.org/x/sync/errgroup"
)

// What the demo's data are: the test runs of Tennessee Eastman, a sample of 52 tags every three minutes for 960 samples,
// in which the fault begins after sample 160.
const (
	demoPeriod      = 3 * time.Minute
	demoSamples     = 960
	demoFaultSample = 160
	demoTags        = 52
	demoTopic       = "plant.telemetry"
	demoPartitions  = 4
)

// demoRuns are the runs that the full-speed phase replays, one asset each; the paced phase takes the first pacedRuns.
var demoRuns = []string{
	"d00_te", "d01_te", "d02_te", "d04_te", "d05_te", "d06_te", "d07_te", "d08_te", "d03_te", "d09_te", "d10_te", "d11_te",
}

const pacedRuns = 8 // 8 * 960 * 52 values at 20,000/s take 20 s

// The two phases name their assets apart, so that each can be told in the tables.
const (
	fullPrefix  = "demo.tep.full."
	pacedPrefix = "demo.tep.paced."
)

type demoOptions struct {
	servers serverOptions
	rate    float64
	keep    bool
}

func (e *env) demoCommand() *cobra.Command {
	var o demoOptions
	c := &cobra.Command{
		Use:   "demo",
		Short: "Run a plant, a broker, the pipeline and ClickHouse in this process, and show what comes out",
		Args:  cobra.NoArgs,
		RunE:  func(cmd *cobra.Command, _ []string) error { return e.demo(cmd.Context(), o) },
	}
	c.Flags().BoolVar(&o.keep, "keep", false, "leave the servers up, and the data, until Ctrl+C")
	c.Flags().Float64Var(&o.rate, "rate", 20_000, "records per second of the paced phase")
	c.Flags().StringVar(&o.servers.data, "data", "", "folder of the servers' data; default a temporary one")
	c.Flags().StringVar(&o.servers.kafka, "kafka", "127.0.0.1:0", "address of the broker; port 0 takes a free one")
	c.Flags().StringVar(&o.servers.http, "http", "127.0.0.1:0", "address of ClickHouse's HTTP interface")
	c.Flags().StringVar(&o.servers.native, "native", "127.0.0.1:0", "address of ClickHouse's native interface")
	return c
}

// demo is one run of the command.
type demo struct {
	*env
	options demoOptions
	servers *servers
	file    string // the pipeline file
	brokers []string

	produced int64
	full     phaseResult
	paced    phaseResult

	mu           sync.Mutex
	eventLatency *hdrhistogram.Histogram // ms, of the paced phase's openings
}

// phaseResult is what one phase measured.
type phaseResult struct {
	messages int64
	took     time.Duration
	p50, p99 time.Duration // from sending a message, which is its time in Kafka, to the acknowledged insert of its row
	scorers  []pipeline.ScorerInfo
}

func (e *env) demo(ctx context.Context, o demoOptions) (err error) {
	d := &demo{env: e, options: o, eventLatency: hdrhistogram.New(1, 600_000, 3)}
	e.log = slog.New(slog.NewTextHandler(e.Err, &slog.HandlerOptions{Level: slog.LevelWarn})) // the demo tells its own story
	temporary := o.servers.data == ""
	if temporary {
		if d.options.servers.data, err = os.MkdirTemp("", "tailrace-demo-"); err != nil {
			return fmt.Errorf("%w: data folder: %w", errStart, err)
		}
		defer func() { err = errors.Join(err, os.RemoveAll(d.options.servers.data)) }()
	} else if left, err := os.ReadDir(o.servers.data); err == nil && len(left) > 0 {
		return fmt.Errorf("%w: data folder %s: want an empty one, since the summary counts whole tables", errStart, o.servers.data)
	}
	if d.servers, err = e.startServers(ctx, d.options.servers); err != nil {
		return stopped(ctx, err)
	}
	defer func() { err = errors.Join(err, d.servers.close()) }()
	d.brokers = d.servers.kafka.Addrs()
	e.describeServers(d.servers)
	if err := d.prepare(ctx); err != nil {
		return stopped(ctx, err)
	}
	f, err := d.load(d.file)
	if err == nil {
		err = d.fetchRuntime(ctx, f)
	}
	if err != nil {
		return stopped(ctx, err)
	}
	if err := d.phases(ctx); err != nil || ctx.Err() != nil {
		return stopped(ctx, err)
	}
	summary, err := d.summarize(ctx)
	if err != nil {
		return stopped(ctx, err)
	}
	if summary.Autoencoder, err = d.autoencoder(ctx); err != nil {
		return stopped(ctx, fmt.Errorf("autoencoder: %w", err))
	}
	if summary.Classifier, err = d.classifier(ctx); err != nil {
		return stopped(ctx, fmt.Errorf("classifier: %w", err))
	}
	if err := d.show(summary); err != nil {
		return err
	}
	if o.keep {
		e.progress("\nThe servers stay up; the pipeline file is %s. Ctrl+C ends them.", d.file)
		<-ctx.Done()
	}
	return nil
}

// stopped turns the error of something that ctx ended into nil.
func stopped(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return nil
	}
	return err
}

// prepare writes the pipeline file and the model bundle into the data folder, with the servers' addresses, and makes the
// topic. The file is then one that anybody could have written.
func (d *demo) prepare(ctx context.Context) error {
	dir := filepath.Join(d.options.servers.data, "pipeline")
	err := fs.WalkDir(deploy.Demo, "demo", func(name string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		content, err := deploy.Demo.ReadFile(name)
		if err != nil {
			return err
		}
		to := filepath.Join(dir, filepath.FromSlash(strings.TrimPrefix(name, "demo/")))
		if path.Base(name) == "tep.yaml" {
			content = d.addressed(content)
			d.file = to
		}
		if err := os.MkdirAll(filepath.Dir(to), 0o700); err != nil {
			return err
		}
		return os.WriteFile(to, content, 0o600)
	})
	if err != nil {
		return fmt.Errorf("%w: demo files: %w", errStart, err)
	}
	return kafka.CreateTopic(ctx, d.brokers, demoTopic, demoPartitions, nil)
}

// addressed puts the servers' real addresses into the pipeline file.
func (d *demo) addressed(file []byte) []byte {
	return []byte(strings.NewReplacer(
		"127.0.0.1:9092", d.brokers[0],
		"127.0.0.1:9000", d.servers.clickhouse.NativeAddr(),
		"password_file: writer.password", "password_file: "+d.servers.passwordFile,
		"127.0.0.1:9464", "127.0.0.1:0",
	).Replace(string(file)))
}

// phases runs the full-speed phase and the paced one. Each has an engine of its own, as two runs of the program would.
func (d *demo) phases(ctx context.Context) error {
	watching, stopWatching := context.WithCancel(ctx)
	var watcher errgroup.Group
	watcher.Go(func() error { return d.watch(watching) })
	err := d.bothPhases(ctx)
	stopWatching()
	return errors.Join(err, stopped(watching, watcher.Wait()))
}

func (d *demo) bothPhases(ctx context.Context) error {
	span := demoSamples * demoPeriod
	end := time.Now().UTC().Truncate(demoPeriod) // event times end before now
	start := end.Add(-2 * span)

	d.progress("\nFull speed: %d runs of %d samples of %d tags", len(demoRuns), demoSamples, demoTags)
	sent, err := d.replay(ctx, demoRuns, fullPrefix, start, 0)
	if err != nil || ctx.Err() != nil {
		return err
	}
	d.produced += sent
	if d.full, err = d.runPhase(ctx, sent, func(context.Context) error { return nil }); err != nil || ctx.Err() != nil {
		return err
	}

	d.progress("\nPaced: %d runs at %.0f records/s", pacedRuns, d.options.rate)
	d.paced, err = d.runPhase(ctx, 0, func(ctx context.Context) error {
		sent, err := d.replay(ctx, demoRuns[:pacedRuns], pacedPrefix, start.Add(span), d.options.rate)
		d.produced += sent
		return err
	})
	return err
}

// replay sends runs to the topic, merged in time order; rate 0 is full speed.
func (d *demo) replay(ctx context.Context, runs []string, prefix string, start time.Time, rate float64) (int64, error) {
	c := file.DefaultConfig()
	c.Format, c.Asset, c.Start, c.Period = "tep", prefix+"{file}", start, demoPeriod
	for _, run := range runs {
		c.Files = append(c.Files, "demo/tep/"+run+".dat.gz")
	}
	result, err := d.send(ctx, deploy.Demo, c, replayTarget{
		access: kafka.Access{Brokers: d.brokers}, options: replay.Options{Topic: demoTopic, Rate: rate},
	})
	return result.Sent, err
}

// runPhase runs the pipeline until it has taken all that is in the topic once produce has returned.
func (d *demo) runPhase(ctx context.Context, preloaded int64, produce func(context.Context) error) (phaseResult, error) {
	var r phaseResult
	f, err := d.load(d.file)
	if err != nil {
		return r, err
	}
	f.State.Store = "file://" + filepath.ToSlash(filepath.Join(d.options.servers.data, "state"))
	plan, err := d.plan(f, d.file)
	if err != nil {
		return r, err
	}
	sources := make(chan *kafka.Source, 1)
	made := plan.Source
	plan.Source = func(s pipeline.Settings, decoder pipeline.NewDecoder) (pipeline.Source, error) {
		source, err := made(s, decoder)
		if k, ok := source.(*kafka.Source); ok {
			sources <- k
		}
		return source, err
	}
	engine := pipeline.New(plan, pipeline.Env{Log: d.log, Alloc: d.Alloc, Local: d.options.servers.data})
	before := time.Now()
	group, ctx2 := errgroup.WithContext(ctx)
	group.Go(func() error {
		return serveWhile(ctx2, engine, f.HTTP, engine.Run)
	})
	group.Go(func() error {
		var source *kafka.Source
		select {
		case source = <-sources:
		case <-ctx2.Done():
			return nil
		}
		if err := produce(ctx2); err != nil || ctx2.Err() != nil {
			return err
		}
		ends, err := kafka.EndOffsets(ctx2, d.brokers, demoTopic)
		if err != nil {
			return err
		}
		source.Until(ends)
		return nil
	})
	err = group.Wait()
	m := engine.Metrics()
	r = phaseResult{
		messages: m.Stored(pipeline.Telemetry), took: time.Since(before),
		p50: m.AppendToInsert(0.5), p99: m.AppendToInsert(0.99), scorers: engine.Scorers(),
	}
	if err == nil && ctx.Err() == nil && preloaded > 0 {
		d.progress("%d records in %.1f s: %.0f records/s", r.messages, r.took.Seconds(), float64(r.messages)/r.took.Seconds())
	}
	return r, err
}

// watch prints events as they come on the topic and times those of the paced phase.
func (d *demo) watch(ctx context.Context) error {
	return kafka.Tail(ctx, d.brokers, schemas.TopicEvents, func(value []byte) error {
		event, err := schemas.ParseEvent(value)
		if err != nil {
			return err
		}
		now := time.Now()
		paced := strings.HasPrefix(event.Asset, pacedPrefix)
		if event.Status == schemas.StatusFiring {
			if paced {
				d.mu.Lock()
				ms := max(1, now.Sub(event.DetectedTS).Milliseconds())
				err = d.eventLatency.RecordValue(min(ms, d.eventLatency.HighestTrackableValue()))
				d.mu.Unlock()
			}
			d.progress("event  %-24s %s", event.Asset, causes(event))
		}
		return err
	})
}

// causes names the channels that made an event.
func causes(event schemas.Event) string {
	var parts []string
	for _, c := range event.Contributions {
		parts = append(parts, fmt.Sprintf("%s %.4g %s (expected %.4g, share %.0f %%)", c.Tag, c.Observed, c.Unit, c.Expected, 100*c.Share))
	}
	return fmt.Sprintf("score %.3g, threshold %.3g: %s", event.Score.Value, event.Score.Threshold, strings.Join(parts, ", "))
}

// milliseconds of d, to a tenth.
func milliseconds(d time.Duration) float64 { return round(float64(d.Microseconds())/1000, 1) }

// round keeps so many digits behind the point.
func round(v float64, digits int) float64 {
	scale := math.Pow10(digits)
	return math.Round(v*scale) / scale
}
