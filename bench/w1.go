package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/tailrace/tailrace/connectors/embedded"
	"github.com/tailrace/tailrace/connectors/kafka"
	"github.com/tailrace/tailrace/pipeline"
)

// leastDelivery is what exactly_once promises to keep of the throughput of at_least_once.
const leastDelivery = 0.9

// w1Limit bounds one run of the program.
const w1Limit = 10 * time.Minute

type w1Config struct {
	records int64
	rounds  int
	kafka   string
	scored  bool
	dir     string
	log     io.Writer
}

// w1Result is the JSON object of the benchmark.
type w1Result struct {
	Benchmark string     `json:"benchmark"`
	Go        string     `json:"go"`
	CPUs      int        `json:"cpus"`
	Kafka     string     `json:"kafka"`
	Steps     string     `json:"steps"`
	Records   int64      `json:"records"`
	Limits    limits     `json:"limits"`
	Rounds    []w1Round  `json:"rounds"`
	Exactly   w1Delivery `json:"exactly_once"`
	AtLeast   w1Delivery `json:"at_least_once"`
	// Ratio is the median over the rounds of the one throughput by the other.
	Ratio      float64 `json:"ratio"`
	LeastRatio float64 `json:"least_ratio"`
	// CPURatio is the same of the CPU times, which other programs on the machine disturb less.
	CPURatio float64 `json:"cpu_ratio"`
	// CheckpointMS is what a checkpoint takes longer with exactly_once: the difference of the median times by the number
	// of checkpoints. It is to be seen beside limits.fsync_ms.
	CheckpointMS float64  `json:"checkpoint_overhead_ms"`
	Faults       []string `json:"faults"`
}

// w1Round is both deliveries, one after the other.
type w1Round struct {
	Exactly w1Run   `json:"exactly_once"`
	AtLeast w1Run   `json:"at_least_once"`
	Ratio   float64 `json:"ratio"`
}

// w1Run is a process from its start to its end, seen from outside.
type w1Run struct {
	Seconds     float64 `json:"seconds"`
	CPUSeconds  float64 `json:"cpu_seconds"`
	PeakRSS     int64   `json:"peak_rss_bytes"`
	Checkpoints int64   `json:"checkpoints"`
	// Others is the share of all processors that programs used which have nothing to do with the run. From a few percent
	// on the time says little.
	Others float64 `json:"others_share"`
}

// w1Delivery are the medians of one delivery.
type w1Delivery struct {
	RecordsPerSecond float64 `json:"records_per_second"`
	CPUPerMillion    float64 `json:"cpu_seconds_per_million"`
	PeakRSS          int64   `json:"peak_rss_bytes"`
	Others           float64 `json:"others_share"`
}

func w1Command(ctx context.Context, flags *flag.FlagSet, args []string, log io.Writer) (any, []string, error) {
	var c w1Config
	flags.Int64Var(&c.records, "records", 5_000_000, "messages in the topic")
	flags.IntVar(&c.rounds, "rounds", 5, "rounds of both deliveries, one after the other")
	flags.StringVar(&c.kafka, "kafka", embeddedKafka, "the broker: apache or embedded")
	flags.BoolVar(&c.scored, "scored", false, "with the demo's steps and model, not stored alone")
	flags.StringVar(&c.dir, "dir", "", "folder for data and logs, which is kept; a temporary one if empty")
	var err error
	if c.log, err = parse(flags, args, log); err != nil {
		return nil, nil, err
	}
	switch {
	case c.records < 1000 || c.records > 9_000_000:
		err = fmt.Errorf("--records: want 1000 to 9000000, got %d", c.records)
	case c.rounds < 1 || c.rounds > 100:
		err = fmt.Errorf("--rounds: want 1 to 100, got %d", c.rounds)
	case c.kafka != apacheKafka && c.kafka != embeddedKafka:
		err = fmt.Errorf("--kafka: want apache or embedded, got %q", c.kafka)
	}
	if err != nil {
		return nil, nil, err
	}
	result, err := w1(ctx, c)
	if err != nil {
		return nil, nil, err
	}
	return result, result.Faults, nil
}

// w1File is the pipeline of a run: 1,000 keys stored as they come. A pipeline has at least one step, so there is one
// that has no use for any of them.
func w1File(c w1Config) pipelineFile {
	f := pipelineFile{
		Topic: "bench.w1", UntilEnd: true, Memory: 256 << 20, Interval: time.Second,
		Steps:     `  - align: {grid: 1s, channels: {unused: ""}}`,
		Watermark: "{step: 1s, out_of_order: 1s, idle_timeout: 24h}",
	}
	if c.scored {
		f.Steps, f.Watermark = "", chaosTimes().yaml()
	}
	return f
}

// w1Load is W1's data: rows of 250 assets with 4 tags, or of the plant.
func w1Load(c w1Config, tags []Tag) GeneratorConfig {
	if c.scored {
		return plantGenerator(1, 24, tags)
	}
	g := GeneratorConfig{
		Seed: 1, Assets: 250, Start: time.Date(2026, 1, 5, 0, 0, 0, 0, time.UTC), Step: time.Second,
		InTime: 0.02, TooLate: 0.001, OutOfOrder: time.Second, MaxDelay: 3 * time.Second, Duplicate: 0.001, Malformed: 0.0001,
	}
	for i := range 4 {
		g.Tags = append(g.Tags, Tag{Name: fmt.Sprintf("tag%d", i+1), Mean: float64(20 * (i + 1)), Deviation: 1})
	}
	return g
}

// w1 measures both deliveries in turn on one preloaded topic.
func w1(ctx context.Context, c w1Config) (_ *w1Result, err error) {
	dir, remove, err := workDir(c.dir, "w1")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, remove()) }()
	file := w1File(c)
	r, err := newRig(ctx, dir, c.kafka, 4, 0, c.log, file)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, r.close()) }()

	result := &w1Result{
		Benchmark: "w1", Go: runtime.Version(), CPUs: runtime.NumCPU(), Kafka: c.kafka, Steps: "stored",
		LeastRatio: leastDelivery, Faults: []string{},
	}
	if c.scored {
		result.Steps = "scored"
	}
	r.say("measuring what the machine can do")
	if result.Limits, err = measureLimits(dir); err != nil {
		return nil, err
	}
	r.say("filling the topic with %d messages", c.records)
	g, err := w1Fill(ctx, r, c)
	if err != nil {
		return nil, err
	}
	if result.Records, err = kafka.CountMessages(ctx, r.brokers, r.topic); err != nil {
		return nil, err
	}
	rows := g.Rows()
	for round := range c.rounds {
		var now w1Round
		deliveries := []string{pipeline.ExactlyOnce, pipeline.AtLeastOnce}
		if round%2 == 1 { // neither is always the first
			slices.Reverse(deliveries)
		}
		for _, delivery := range deliveries {
			file.ID = fmt.Sprintf("w1-%d-%s", round, strings.ReplaceAll(delivery, "_", "-"))
			run, err := w1Measure(ctx, r, file, delivery, rows)
			if err != nil {
				return nil, err
			}
			if delivery == pipeline.ExactlyOnce {
				now.Exactly = run
			} else {
				now.AtLeast = run
			}
		}
		now.Ratio = now.AtLeast.Seconds / now.Exactly.Seconds
		r.say("round %d: exactly once %.2f s, at least once %.2f s, ratio %.3f; other programs used %.0f %% and %.0f %%",
			round+1,
			now.Exactly.Seconds, now.AtLeast.Seconds, now.Ratio, 100*now.Exactly.Others, 100*now.AtLeast.Others)
		result.Rounds = append(result.Rounds, now)
	}
	result.summarize()
	return result, nil
}

func w1Fill(ctx context.Context, r *rig, c w1Config) (*Generator, error) {
	var tags []Tag
	if c.scored {
		var err error
		if tags, _, err = copyModels(filepath.Join(r.dir, "load")); err != nil {
			return nil, err
		}
	}
	config := w1Load(c, tags)
	if faults := config.Validate(); len(faults) > 0 {
		return nil, fmt.Errorf("generator: %w", faults[0])
	}
	l := &load{generator: NewGenerator(config), topic: r.topic, brokers: r.brokers, limit: c.records, log: r.slog()}
	return l.generator, l.run(ctx, nil)
}

// w1Measure runs the program over the whole topic, checks that all rows are there once, and drops them.
func w1Measure(ctx context.Context, r *rig, file pipelineFile, delivery string, rows int64) (run w1Run, err error) {
	file.Delivery, file.Group, file.Database = delivery, file.ID, strings.ReplaceAll(file.ID, "-", "_")
	m, err := r.newMember(file.ID, file)
	if err != nil {
		return run, err
	}
	busyBefore, oursBefore, err := r.cpuTimes()
	if err != nil {
		return run, err
	}
	begin := time.Now()
	if err := r.launch(m, ""); err != nil {
		return run, err
	}
	err = within(ctx, w1Limit, "the end of "+m.name, func() (bool, error) {
		// Not getrusage: its maximum counts what this process held when it forked.
		rss, err := peakRSS(m.child.cmd.Process.Pid)
		run.PeakRSS = max(run.PeakRSS, rss)
		return m.child.ended(), err
	})
	if err != nil {
		m.child.kill()
		return run, err
	}
	if code := m.child.cmd.ProcessState.ExitCode(); code != 0 {
		return run, fmt.Errorf("%s ended with %d, see %s", m.name, code, m.child.log)
	}
	run.Seconds, run.CPUSeconds = m.child.end.Sub(begin).Seconds(), m.child.cpu().Seconds()
	busyAfter, oursAfter, err := r.cpuTimes()
	if err != nil {
		return run, err
	}
	others := (busyAfter - busyBefore) - (oursAfter - oursBefore) - m.child.cpu()
	run.Others = max(0, others.Seconds()/time.Since(begin).Seconds()/float64(runtime.NumCPU()))
	q := r.clickhouse.queries()
	var stored struct{ Rows, Places, Checkpoints int64 }
	count := "SELECT count() AS Rows, uniqExact(k_part, k_offset, k_idx) AS Places FROM %s.telemetry"
	if err := q.row(ctx, fmt.Sprintf(count, file.Database), &stored); err != nil {
		return run, err
	}
	if stored.Rows != rows || stored.Places != rows {
		return run, fmt.Errorf("%s: want %d rows, got %d with %d places: a time of wrong results says nothing",
			m.name, rows, stored.Rows, stored.Places)
	}
	count = "SELECT uniqExact(run, seq) AS Checkpoints FROM %s.checkpoints"
	if err := q.row(ctx, fmt.Sprintf(count, file.Database), &stored); err != nil {
		return run, err
	}
	run.Checkpoints = stored.Checkpoints
	return run, r.drop(ctx, file.Database)
}

// cpuTimes are those of the whole machine, and of the servers and this process.
func (r *rig) cpuTimes() (all, ours time.Duration, err error) {
	if all, err = busy(); err != nil {
		return 0, 0, err
	}
	for _, pid := range []int{r.broker.Pid(), r.clickhouse.Pid(), os.Getpid()} {
		one, err := cpuOf(pid)
		if err != nil {
			return 0, 0, err
		}
		ours += one
	}
	return all, ours, nil
}

// drop removes a database, so that the next run finds the server as this one did.
func (r *rig) drop(ctx context.Context, database string) error {
	password, err := os.ReadFile(r.clickhouse.passwordFile)
	if err != nil {
		return err
	}
	q := r.clickhouse.queries()
	q.user, q.password = embedded.WriterUser, strings.TrimSpace(string(password))
	_, err = q.do(ctx, "DROP DATABASE "+database+" SYNC")
	return err
}

// summarize takes the medians and judges them.
func (r *w1Result) summarize() {
	ratios := make([]float64, 0, len(r.Rounds))
	exactly, atLeast := make([]w1Run, 0, len(r.Rounds)), make([]w1Run, 0, len(r.Rounds))
	for _, round := range r.Rounds {
		ratios, exactly, atLeast = append(ratios, round.Ratio), append(exactly, round.Exactly), append(atLeast, round.AtLeast)
	}
	r.Ratio = median(ratios)
	r.CPURatio = medianOf(r.Rounds, func(round w1Round) float64 {
		return round.AtLeast.CPUSeconds / round.Exactly.CPUSeconds
	})
	r.Exactly, r.AtLeast = medians(exactly, r.Records), medians(atLeast, r.Records)
	seconds := func(run w1Run) float64 { return run.Seconds }
	if n := medianOf(exactly, func(run w1Run) float64 { return float64(run.Checkpoints) }); n > 0 {
		r.CheckpointMS = 1000 * (medianOf(exactly, seconds) - medianOf(atLeast, seconds)) / n
	}
	if !(r.Ratio >= r.LeastRatio) {
		r.Faults = append(r.Faults, fmt.Sprintf("want at least %.2f of the throughput of at_least_once, got %.3f",
			r.LeastRatio, r.Ratio))
	}
}

func medians(runs []w1Run, records int64) w1Delivery {
	million := float64(records) / 1e6
	return w1Delivery{
		RecordsPerSecond: medianOf(runs, func(run w1Run) float64 { return float64(records) / run.Seconds }),
		CPUPerMillion:    medianOf(runs, func(run w1Run) float64 { return run.CPUSeconds / million }),
		Others:           medianOf(runs, func(run w1Run) float64 { return run.Others }),
		PeakRSS:          int64(medianOf(runs, func(run w1Run) float64 { return float64(run.PeakRSS) })),
	}
}

func medianOf[T any](all []T, value func(T) float64) float64 {
	values := make([]float64, 0, len(all))
	for _, one := range all {
		values = append(values, value(one))
	}
	return median(values)
}

// median is the middle one, or the mean of the two in the middle.
func median(values []float64) float64 {
	sorted := slices.Sorted(slices.Values(values))
	n := len(sorted)
	if n == 0 {
		return 0
	}
	return (sorted[(n-1)/2] + sorted[n/2]) / 2
}
