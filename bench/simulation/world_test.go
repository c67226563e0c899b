package simulation

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/apache/arrow/go/v15/arrow/memory"
	"github.com/tailrace/tailrace/connectors/kafka"
	"github.com/tailrace/tailrace/operators/align"
	"github.com/tailrace/tailrace/operators/detect"
	"github.com/tailrace/tailrace/operators/window"
	"github.com/tailrace/tailrace/pipeline"
	"github.com/tailrace/tailrace/schemas/formats"
	"github.com/tailrace/tailrace/schemas/formats/jsontelemetry"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// The names of a world.
const (
	topic      = "plant"
	pipelineID = "sim"
)

// journal is what happened, in order, with the virtual time.
type journal struct {
	start time.Time
	mu    sync.Mutex
	text  strings.Builder
}

func (j *journal) add(who, format string, args ...any) {
	at := time.Since(j.start)
	j.mu.Lock()
	defer j.mu.Unlock()
	fmt.Fprintf(&j.text, "%10.3fs %-10s %s\n", at.Seconds(), who, fmt.Sprintf(format, args...))
}

func (j *journal) String() string {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.text.String()
}

// logger writes a process's log into the journal.
func (j *journal) logger(who string) *slog.Logger {
	drop := func(_ []string, a slog.Attr) slog.Attr {
		if a.Key == slog.TimeKey {
			return slog.Attr{}
		}
		return a
	}
	return slog.New(slog.NewTextHandler(journalWriter{j, who}, &slog.HandlerOptions{ReplaceAttr: drop}))
}

type journalWriter struct {
	journal *journal
	who     string
}

func (w journalWriter) Write(text []byte) (int, error) {
	w.journal.add(w.who, "%s", strings.TrimSpace(string(text)))
	return len(text), nil
}

// world is a cluster of brokers, a network, ClickHouse, a state store, and the processes of one pipeline.
type world struct {
	t          *testing.T
	mem        *memory.CheckedAllocator
	journal    *journal
	network    *network
	cluster    *kfake.Cluster
	clickhouse *clickhouse
	bucket     *bucket
	blockRows  int
	delivery   string // of checkpoints
	group      string
	prefix     string // of the topics out
	change     func(*pipeline.Plan)
	decoder    pipeline.NewDecoder
	batchRows  int // of a decoder's batch
	steps      []pipeline.Step

	mu        sync.Mutex
	processes map[string]*process
	faults    []error // of processes that nobody killed
}

// newWorld starts brokers. It is called in a bubble.
func newWorld(t *testing.T, seed uint64, partitions int) *world {
	mem := memory.NewCheckedAllocator(memory.NewGoAllocator())
	w := &world{
		t: t, mem: mem, journal: &journal{start: time.Now()}, network: newNetwork(seed), bucket: newBucket(seed),
		blockRows: 1000, delivery: pipeline.ExactlyOnce, group: "tailrace." + pipelineID, processes: map[string]*process{},
		decoder: newDecoder, batchRows: kafka.DefaultSourceConfig().BatchRows,
	}
	w.network.watch(func(host string, key kmsg.Key, arrived bool) {
		w.mu.Lock()
		p := w.processes[host]
		w.mu.Unlock()
		if p != nil && key == kmsg.OffsetCommit {
			_ = p.spring("commit", map[bool]string{false: "before", true: "after"}[arrived]) // the link breaks with the process
		}
	})
	w.clickhouse = newClickhouse(w.journal, seed)
	var err error
	w.cluster, err = kfake.NewCluster(
		kfake.NumBrokers(2), kfake.Ports(9092, 9093), kfake.ListenFn(w.network.virtual.Listen),
		kfake.SeedTopics(int32(partitions), topic),
	)
	if err != nil {
		t.Fatal(err)
	}
	return w
}

// partitions are those of the topic.
func (w *world) partitions() int { return len(w.cluster.PartitionInfos(topic)) }

// close ends what the world runs.
func (w *world) close() {
	w.cluster.Close()
	w.network.running.Wait()
	w.clickhouse.running.Wait()
}

// undisturbed is another world over the same brokers, in which nothing happens but one run.
func (w *world) undisturbed() *world {
	o := &world{
		t: w.t, mem: w.mem, journal: w.journal, network: w.network, cluster: w.cluster, clickhouse: newClickhouse(w.journal, 0),
		bucket: newBucket(0), blockRows: 1 << 20, group: "undisturbed", prefix: "undisturbed.", change: w.change, steps: w.steps,
		processes: map[string]*process{}, decoder: w.decoder, batchRows: w.batchRows,
	}
	return o
}

// process is one engine. Once it is killed, nothing that it still asks for is done.
type process struct {
	world  *world
	name   string
	until  string
	killed chan struct{}
	once   sync.Once
	stop   context.CancelFunc
	done   chan struct{}
	err    error

	mu   sync.Mutex
	trap trap
}

// trap is what happens to a process when it is at a step of the protocol. The zero trap is none.
type trap struct {
	when   string        // before or after
	step   string        // blob, commit, insert and the table, ledger
	skip   int           // how often it passes first
	cutOff time.Duration // it is cut off for so long; 0: it is killed
	sprung bool
}

// spring does what the process's trap says if this is the step it is for.
func (p *process) spring(step, when string) error {
	p.mu.Lock()
	t := &p.trap
	if t.sprung || t.when != when || t.step != step {
		p.mu.Unlock()
		return nil
	}
	t.skip--
	t.sprung = t.skip < 0
	sprung, cutOff := t.sprung, t.cutOff
	p.mu.Unlock()
	switch {
	case !sprung:
		return nil
	case cutOff > 0:
		p.world.journal.add(p.name, "is cut off %s %s for %v", when, step, cutOff)
		p.world.network.hang(p.name)
		time.AfterFunc(cutOff, func() { p.world.network.release(p.name) })
		return nil
	}
	p.world.journal.add(p.name, "is killed %s %s", when, step)
	p.kill()
	return errKilled
}

// trapped does something of a step that a trap may be for.
func (p *process) trapped(step string, do func() error) error {
	if err := p.spring(step, "before"); err != nil {
		return err
	}
	if err := do(); err != nil {
		return err
	}
	return p.spring(step, "after")
}

var errKilled = errors.New("killed")

func (p *process) alive(ctx context.Context) error {
	select {
	case <-p.killed:
		return errKilled
	default:
		return context.Cause(ctx)
	}
}

// start runs a process until it is stopped or killed, or, with until end, the topic's end.
func (w *world) start(name, until string) *process {
	ctx, stop := context.WithCancel(w.t.Context())
	p := &process{world: w, name: name, until: until, killed: make(chan struct{}), stop: stop, done: make(chan struct{})}
	w.mu.Lock()
	w.processes[name] = p
	w.mu.Unlock()
	w.journal.add(name, "starts")
	engine := pipeline.New(p.plan(), pipeline.Env{Log: w.journal.logger(name), Alloc: w.mem})
	go func() {
		defer close(p.done)
		defer stop()
		p.err = engine.Run(ctx)
		select {
		case <-p.killed:
			return
		default:
		}
		w.journal.add(name, "ends: %v", p.err)
		// One that is told to stop may say what it has left to the next.
		if ctx.Err() == nil && (p.err != nil || until == "") {
			w.mu.Lock()
			w.faults = append(w.faults, errors.Join(fmt.Errorf("%s has ended though nobody told it to", name), p.err))
			w.mu.Unlock()
		}
	}()
	return p
}

// kill ends a process as kill -9 does.
func (p *process) kill() {
	p.once.Do(func() { close(p.killed) })
	p.world.network.kill(p.name)
	p.stop()
}

func (p *process) plan() pipeline.Plan {
	w := p.world
	plan := pipeline.Plan{
		ID: pipelineID, Decoder: w.decoder, Steps: w.steps, Store: &store{w.bucket, p},
		Source: func(s pipeline.Settings, decoder pipeline.NewDecoder) (pipeline.Source, error) {
			source, err := kafka.NewSource(w.sourceConfig(p.until), s, decoder)
			if err == nil {
				source.Through(w.network.from(p.name))
			}
			return source, err
		},
		Sink: func(pipeline.Settings) (pipeline.Sink, error) { return &sink{w.clickhouse, p}, nil },
		Publisher: func(s pipeline.Settings) (pipeline.Publisher, error) {
			c := kafka.DefaultPublisherConfig()
			c.Brokers, c.Prefix, c.Partitions, c.RequestTimeout = w.cluster.ListenAddrs(), w.prefix, 1, 2*time.Second
			publisher, err := kafka.NewPublisher(c, s)
			if err == nil {
				publisher.Through(w.network.from(p.name))
			}
			return publisher, err
		},
		Watermark: pipeline.DefaultWatermark(), Checkpoint: pipeline.DefaultCheckpoint(),
		State: pipeline.DefaultState(), Limits: pipeline.DefaultLimits(),
	}
	plan.Watermark.OutOfOrder, plan.Watermark.AllowedLateness = time.Second, 5*time.Second
	plan.Watermark.IdleTimeout = 24 * time.Hour // longer than any run: the clock of barriers is another in each
	plan.State.FullEvery, plan.State.Keep, plan.State.OnGrowth = 4, 2, pipeline.OnGrowthContinue
	if w.change != nil {
		w.change(&plan)
	}
	return plan
}

func (w *world) sourceConfig(until string) kafka.SourceConfig {
	c := kafka.DefaultSourceConfig()
	c.Brokers, c.Topic, c.Group, c.Until = w.cluster.ListenAddrs(), topic, w.group, until
	c.SessionTimeout, c.HeartbeatInterval, c.RebalanceTimeout = 6*time.Second, time.Second, 8*time.Second
	c.RequestTimeout, c.FetchMaxWait, c.BatchRows = 2*time.Second, 250*time.Millisecond, w.batchRows
	return c
}

func newDecoder() (formats.Decoder, error) { return jsontelemetry.New(jsontelemetry.DefaultConfig()) }

// alignStep aligns two tags on a grid of a second.
func alignStep(t *testing.T) pipeline.Step {
	component := align.Component()
	config := component.NewConfig().(*align.Config)
	config.Grid, config.Channels = time.Second, align.Channels{{Tag: "x"}, {Tag: "y"}}
	if faults := config.Validate(); len(faults) > 0 {
		t.Fatal(faults)
	}
	operator, err := component.New(config)
	if err != nil {
		t.Fatal(err)
	}
	return pipeline.Step{Name: "align", New: operator, Fingerprint: "align"}
}

// windowStep cuts the grid into windows of five seconds, one every two.
func windowStep(t *testing.T) pipeline.Step {
	component := window.Component()
	config := component.NewConfig().(*window.Config)
	config.Kind, config.Size, config.Hop = window.Hopping, 5*time.Second, 2*time.Second
	if faults := config.Validate(); len(faults) > 0 {
		t.Fatal(faults)
	}
	operator, err := component.New(config)
	if err != nil {
		t.Fatal(err)
	}
	return pipeline.Step{Name: "window", New: operator, Fingerprint: "window"}
}

// detectStep opens events where gauge's score is over a bound, for one window in a few.
func detectStep(t *testing.T) pipeline.Step {
	component := detect.Component()
	config := component.NewConfig().(*detect.Config)
	bound := 1.0
	config.Threshold.Fixed, config.Smooth = &bound, 3*time.Second
	if faults := config.Validate(); len(faults) > 0 {
		t.Fatal(faults)
	}
	operator, err := component.New(config)
	if err != nil {
		t.Fatal(err)
	}
	return pipeline.Step{Name: "detect", New: operator, Fingerprint: "detect"}
}

// chains are the steps that a world can have.
func chains(t *testing.T) [][]pipeline.Step {
	scored := pipeline.Step{Name: "gauge", New: newGauge, Fingerprint: "gauge"}
	return [][]pipeline.Step{
		{alignStep(t), digestStep()},
		{alignStep(t), windowStep(t), digestStep()},
		{alignStep(t), windowStep(t), scored, detectStep(t)},
	}
}

func digestStep() pipeline.Step {
	return pipeline.Step{Name: "digest", New: newDigest, Fingerprint: "digest"}
}
