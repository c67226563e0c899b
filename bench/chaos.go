package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/tailrace/tailrace/connectors/kafka"
	"github.com/tailrace/tailrace/pipeline"
	"github.com/tailrace/tailrace/schemas"
)

// The scenarios.
const (
	scenarioKills   = "kills"
	scenarioRolling = "rolling"
	scenarioAway    = "clickhouse-away"
	scenarioHung    = "clickhouse-hung"
)

func scenarios() []string {
	return []string{scenarioKills, scenarioRolling, scenarioAway, scenarioHung}
}

// chaosConfig is the command line.
type chaosConfig struct {
	scenario   string
	kills      int
	seed       uint64
	kafka      string
	seconds    float64 // the least time of load
	rate       float64
	processes  int
	partitions int
	assets     int
	away       time.Duration  // how long ClickHouse is away or hung
	memory     pipeline.Bytes // limits.memory
	delivery   string
	dir        string // kept; "" for a temporary one
	log        io.Writer
}

const (
	// calmLimit bounds the wait between two kills: a recovery that takes longer is disturbed.
	calmLimit = 45 * time.Second
	// stepLimit bounds the wait for a fail point. Each is reached with every checkpoint.
	stepLimit = 40 * time.Second
	// catchUpLimit bounds the wait for the rest after the load has ended.
	catchUpLimit = 5 * time.Minute
	// randomKill is the key of kills at no particular step.
	randomKill = "random"
	// revivals is how many processes may end by themselves before the run is given up. The first one is a fault already.
	revivals = 10
	// exitStart is the program's exit code when it could not start.
	exitStart = 2
	// restarts is how often a rolling restart goes round.
	restarts = 3
)

// chaos runs a group of processes under load while something happens to them, and compares what they stored with what
// an undisturbed process makes of the same topic.
func chaos(ctx context.Context, c chaosConfig) (_ *chaosResult, err error) {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Minute+time.Duration(c.kills)*time.Minute)
	defer cancel()
	dir, remove, err := workDir(c.dir, "chaos")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, remove()) }()
	file := pipelineFile{
		ID: "chaos", Topic: "bench.telemetry", Group: "chaos", Database: "chaos", Delivery: c.delivery,
		Memory:   int64(c.memory),
		Interval: time.Second, Watermark: chaosTimes().yaml(),
	}
	r, err := newRig(ctx, dir, c.kafka, c.partitions, c.processes, c.log, file)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, r.close()) }()

	t := &chaosRun{chaosConfig: c, rig: r, random: rand.New(rand.NewPCG(c.seed, 1)),
		recoveries: newRecoveries(c.partitions),
		positions:  positions{brokers: r.brokers, group: file.Group, topic: file.Topic}}
	t.result = chaosResult{
		Benchmark: "chaos", Scenario: c.scenario, Seed: c.seed, Kafka: c.kafka, Delivery: c.delivery,
		MemoryBudget:   int64(c.memory),
		KillsByProcess: map[string]int{}, KillsByStep: map[string]int{}, Faults: []string{},
	}
	if err := t.disturb(ctx); err != nil {
		return nil, err
	}
	file.ID, file.Group, file.Database = "undisturbed", "undisturbed", "undisturbed"
	if err := t.undisturbed(ctx, file); err != nil {
		return nil, err
	}
	if err := t.judge(ctx); err != nil {
		return nil, err
	}
	return &t.result, nil
}

// chaosRun is one run. Its fields are the conductor's goroutine's.
type chaosRun struct {
	chaosConfig
	*rig
	random     *rand.Rand
	recoveries *recoveries
	positions  positions
	numbers    int64 // distinct ones that were sent
	revived    int   // processes that had ended by themselves
	result     chaosResult
}

// disturb is the load with what happens meanwhile, until all is committed.
func (t *chaosRun) disturb(ctx context.Context) (err error) {
	config := plantGenerator(t.seed, t.assets, t.tags)
	if faults := config.Validate(); len(faults) > 0 {
		return fmt.Errorf("generator: %s: %s", faults[0].Path, faults[0].Message)
	}
	l := &load{generator: NewGenerator(config), topic: t.topic, brokers: t.brokers, rate: t.rate, log: t.slog()}
	watched, stopWatching := context.WithCancel(ctx)
	stop := make(chan struct{})
	var background sync.WaitGroup
	defer background.Wait()
	defer stopWatching()
	background.Go(func() { t.peak.watch(watched) })
	background.Go(func() { t.recoveries.watch(watched, t.positions) })

	begin := time.Now()
	loaded := make(chan error, 1)
	loading, giveUp := context.WithCancel(ctx)
	defer giveUp()
	go func() { loaded <- l.run(loading, stop) }()
	err = t.conduct(ctx)
	if err == nil {
		err = t.pause(ctx, time.Duration(t.seconds*float64(time.Second))-time.Since(begin))
	}
	close(stop)
	if err != nil {
		giveUp()
		return errors.Join(err, ignoreCancel(<-loaded))
	}
	if err := <-loaded; err != nil {
		return fmt.Errorf("load: %w", err)
	}
	t.result.Seconds = time.Since(begin).Seconds()
	t.result.Sent = l.generator.Counts()
	t.numbers = l.generator.Rows()
	t.say("load ended after %.0f s and %d messages; waiting for the rest", t.result.Seconds, l.sent.Load())
	if err := t.catchUp(ctx); err != nil {
		return err
	}
	t.stopMembers(t.members)
	return nil
}

func ignoreCancel(err error) error {
	if errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}

// catchUp waits until all is committed, and starts again what ends meanwhile.
func (t *chaosRun) catchUp(ctx context.Context) error {
	done := make(chan error, 1)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() { done <- t.positions.caughtUp(ctx, catchUpLimit) }()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case err := <-done:
			return err
		case <-tick.C:
			if err := t.revive(); err != nil {
				cancel()
				return errors.Join(err, ignoreCancel(<-done))
			}
		}
	}
}

// undisturbed has one process read the whole topic under another id, into another database.
func (t *chaosRun) undisturbed(ctx context.Context, file pipelineFile) error {
	t.say("an undisturbed process reads the same topic")
	m, err := t.newMember("undisturbed", file)
	if err != nil {
		return err
	}
	t.members = []*member{m}
	if err := t.launch(m, ""); err != nil {
		return err
	}
	t.positions.group = file.Group
	if err := t.catchUp(ctx); err != nil {
		return err
	}
	t.stopMembers(t.members)
	return nil
}

// judge compares, and says what is not as it must be.
func (t *chaosRun) judge(ctx context.Context) (err error) {
	t.say("comparing")
	r, q := &t.result, t.clickhouse.queries()
	if r.Produced, err = kafka.CountMessages(ctx, t.brokers, t.topic); err != nil {
		return err
	}
	if r.DeadLetters, err = kafka.CountMessages(ctx, t.brokers, "undisturbed."+schemas.TopicDeadLetters); err != nil {
		return err
	}
	if r.comparison, err = compare(ctx, q, "chaos", "undisturbed"); err != nil {
		return err
	}
	var numbers struct{ N int64 }
	if err := q.row(ctx, numbersSQL("chaos"), &numbers); err != nil {
		return err
	}
	r.NumbersMissing = t.numbers - numbers.N
	run := t.recoveries.of(ofRun)
	r.Recoveries, r.RecoveriesDisturbed, r.RecoveryMS = len(run), t.recoveries.leftOut(), spreadOf(run)
	r.BrokerRecoveryMS, r.ClickHouseRecoveryMS = spreadOf(t.recoveries.of(ofBroker)),
		spreadOf(t.recoveries.of(ofClickHouse))
	r.RestartMS = spreadOf(t.recoveries.of(ofRestart))
	r.PeakHeld, r.PeakRSS = t.peak.held, t.peak.rss
	r.Faults = append(append(r.Faults, t.faults...), r.gates()...)
	if t.scenario == scenarioKills {
		r.Faults = append(r.Faults, r.killGates(t.kills)...)
	}
	return nil
}
