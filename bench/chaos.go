package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
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

// chaosResult is the JSON object of the benchmark.
type chaosResult struct {
	Benchmark string           `json:"benchmark"`
	Scenario  string           `json:"scenario"`
	Seed      uint64           `json:"seed"`
	Kafka     string           `json:"kafka"`
	Delivery  string           `json:"delivery"`
	Seconds   float64          `json:"seconds"` // of load
	Sent      map[string]int64 `json:"sent"`    // messages by kind
	Produced  int64            `json:"produced"`
	comparison
	NumbersMissing int64 `json:"numbers_missing"` // rows that the generator sent and the disturbed run has not
	DeadLetters    int64 `json:"dead_letters"`    // of the undisturbed run

	KillsByProcess       map[string]int `json:"kills_by_process"`
	KillsByStep          map[string]int `json:"kills_by_step"`
	Recoveries           int            `json:"recoveries"`
	RecoveriesDisturbed  int            `json:"recoveries_disturbed"`
	RecoveryMS           spread         `json:"recovery_ms"`
	BrokerRecoveryMS     spread         `json:"broker_recovery_ms"`
	ClickHouseRecoveryMS spread         `json:"clickhouse_recovery_ms"`
	RestartMS            spread         `json:"restart_ms"`

	MemoryBudget int64    `json:"memory_budget_bytes"`
	PeakHeld     int64    `json:"peak_held_bytes"`
	PeakRSS      int64    `json:"peak_rss_bytes"`
	Faults       []string `json:"faults"`
}

const (
	// recoveryLimit is what the median recovery is promised to stay under, with a session time-out of 6 s.
	recoveryLimit = 12 * time.Second
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

// chaos runs a group of processes under load while something happens to them, and compares what they stored with what an
// undisturbed process makes of the same topic.
func chaos(ctx context.Context, c chaosConfig) (_ *chaosResult, err error) {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Minute+time.Duration(c.kills)*time.Minute)
	defer cancel()
	dir := c.dir
	if dir == "" {
		if dir, err = os.MkdirTemp("", "tailrace-chaos-"); err != nil {
			return nil, err
		}
		defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	} else if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	if dir, err = filepath.Abs(dir); err != nil {
		return nil, err
	}
	file := pipelineFile{
		ID: "chaos", Topic: "bench.telemetry", Group: "chaos", Database: "chaos", Delivery: c.delivery, Memory: int64(c.memory),
		Interval: time.Second, Watermark: chaosTimes().yaml(),
	}
	r, err := newRig(ctx, dir, c.kafka, c.partitions, c.processes, c.log, file)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, r.close()) }()

	t := &chaosRun{chaosConfig: c, rig: r, random: rand.New(rand.NewPCG(c.seed, 1)), recoveries: newRecoveries(c.partitions),
		positions: positions{brokers: r.brokers, group: file.Group, topic: file.Topic}}
	t.result = chaosResult{
		Benchmark: "chaos", Scenario: c.scenario, Seed: c.seed, Kafka: c.kafka, Delivery: c.delivery, MemoryBudget: int64(c.memory),
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

// conduct starts the group and does what the scenario says.
func (t *chaosRun) conduct(ctx context.Context) error {
	for _, m := range t.members {
		if err := t.launch(m, ""); err != nil {
			return err
		}
	}
	t.recoveries.interrupted("start", time.Now())
	if err := t.calm(ctx); err != nil {
		return err
	}
	if !t.recoveries.calm() {
		return fmt.Errorf("the group committed nothing on some partition within %v of its start; see the logs in %s", calmLimit, t.rig.dir)
	}
	switch t.scenario {
	case scenarioRolling:
		return t.rolling(ctx)
	case scenarioAway:
		return t.withoutClickHouse(ctx, func() { t.clickhouse.Kill() }, func() error { return t.clickhouse.Start(ctx) })
	case scenarioHung:
		hung := t.clickhouse.child
		return t.withoutClickHouse(ctx, func() {
			if err := hung.signal(syscall.SIGSTOP); err != nil {
				t.fault("%v", err)
			}
		}, func() error { return hung.signal(syscall.SIGCONT) })
	}
	return t.kill(ctx)
}

// kill plays the deck.
func (t *chaosRun) kill(ctx context.Context) error {
	deck := newDeck(t.kills, t.random)
	for i, a := range deck {
		t.say("%d/%d: %s %s %s", i+1, len(deck), a.process, a.step, a.then)
		var err error
		switch {
		case a.process == ofBroker:
			err = t.killServer(ctx, ofBroker, t.broker)
		case a.process == ofClickHouse:
			err = t.killServer(ctx, ofClickHouse, t.clickhouse)
		case a.step == "":
			err = t.killMember(t.member())
		default:
			err = t.killAtStep(ctx, t.member(), a)
		}
		if err != nil {
			return err
		}
		// One kill in five comes while the group still recovers from the one before.
		if t.random.IntN(5) > 0 {
			if err := t.calm(ctx); err != nil {
				return err
			}
		}
		if err := t.pause(ctx, time.Duration(t.random.Int64N(int64(2500*time.Millisecond)))); err != nil {
			return err
		}
	}
	return t.calm(ctx)
}

func (t *chaosRun) member() *member { return t.members[t.random.IntN(len(t.members))] }

// killed counts.
func (t *chaosRun) killed(process, step string, at time.Time) {
	t.result.KillsByProcess[process]++
	if process == ofRun {
		if step == "" {
			step = randomKill
		}
		t.result.KillsByStep[step]++
	}
	t.recoveries.interrupted(process, at)
}

// killServer kills a server and starts it again at once.
func (t *chaosRun) killServer(ctx context.Context, kind string, s server) error {
	s.Kill()
	t.killed(kind, "", time.Now())
	return s.Start(ctx)
}

// killMember kills a process at whatever it does, and starts it again at once.
func (t *chaosRun) killMember(m *member) error {
	if m.child.ended() {
		return t.revive()
	}
	m.child.kill()
	t.killed(ofRun, "", m.child.end)
	return t.launch(m, "")
}

// killAtStep starts a process again, now with a fail point, and waits until that has ended it. For a step of the recovery
// the others leave first, so that it is this process that finds its own plan.
func (t *chaosRun) killAtStep(ctx context.Context, m *member, a action) error {
	t.stopMembers([]*member{m})
	if err := t.launch(m, a.failpoint()); err != nil {
		return err
	}
	if a.then == "" {
		if err := t.awaitStep(ctx, m, a.step); err != nil {
			return err
		}
		return t.launch(m, "")
	}
	t.stopMembers(t.others(m))
	if err := t.awaitStep(ctx, m, a.step); err != nil {
		return err
	}
	if err := t.launch(m, a.then); err != nil {
		return err
	}
	if err := t.awaitStep(ctx, m, a.then); err != nil {
		return err
	}
	for _, m := range t.members {
		if err := t.launch(m, ""); err != nil {
			return err
		}
	}
	return nil
}

func (t *chaosRun) others(m *member) []*member {
	return slices.DeleteFunc(slices.Clone(t.members), func(o *member) bool { return o == m })
}

// awaitStep waits for the end of a process that has a fail point. One that does not reach it is killed, and found out by
// what is missing in kills_by_step.
func (t *chaosRun) awaitStep(ctx context.Context, m *member, step string) error {
	timer := time.NewTimer(stepLimit)
	defer timer.Stop()
	select {
	case <-m.child.done:
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		t.say("%s did not reach %s within %v and is killed", m.name, step, stepLimit)
		step = ""
		m.child.kill()
	}
	if !m.child.killed() {
		t.fault("%s: want an end by SIGKILL at %s, got %v", m.name, step, m.child.cmd.ProcessState)
	}
	t.killed(ofRun, step, m.child.end)
	return nil
}

// revive starts processes again that have ended by themselves, which is a fault of theirs.
func (t *chaosRun) revive() error {
	for _, m := range t.members {
		if m.child.ended() {
			t.fault("%s ended by itself: %v", m.name, m.child.cmd.ProcessState)
			if t.revived++; t.revived > revivals || m.child.cmd.ProcessState.ExitCode() == exitStart {
				return fmt.Errorf("%s ended by itself, the %d. of the group: %v; see %s", m.name, t.revived, m.child.cmd.ProcessState, m.child.log)
			}
			t.recoveries.interrupted("fault", m.child.end)
			if err := t.launch(m, ""); err != nil {
				return err
			}
		}
	}
	return nil
}

// calm waits until all partitions have committed since the last interruption.
func (t *chaosRun) calm(ctx context.Context) error {
	deadline := time.Now().Add(calmLimit)
	for time.Now().Before(deadline) && !t.recoveries.calm() {
		if err := t.pause(ctx, 50*time.Millisecond); err != nil {
			return err
		}
	}
	return nil
}

// pause lets time pass, and starts again what ends meanwhile.
func (t *chaosRun) pause(ctx context.Context, d time.Duration) error {
	const slice = 200 * time.Millisecond
	for end := time.Now().Add(d); ; {
		if err := t.revive(); err != nil {
			return err
		}
		left := time.Until(end)
		if left <= 0 {
			return ctx.Err()
		}
		timer := time.NewTimer(min(left, slice))
		select {
		case <-ctx.Done():
			timer.Stop()
			return ctx.Err()
		case <-timer.C:
		}
	}
}

// rolling stops and starts one process after the other, as a new release is brought out.
func (t *chaosRun) rolling(ctx context.Context) error {
	for range restarts {
		for _, m := range t.members {
			t.say("restarting %s", m.name)
			at := time.Now()
			t.stopMembers([]*member{m})
			if code := m.child.cmd.ProcessState.ExitCode(); code != 0 {
				t.fault("%s: want exit code 0 after SIGTERM, got %v", m.name, m.child.cmd.ProcessState)
			}
			t.recoveries.interrupted(ofRestart, at)
			if err := t.launch(m, ""); err != nil {
				return err
			}
			if err := t.calm(ctx); err != nil {
				return err
			}
		}
	}
	return nil
}

// withoutClickHouse takes ClickHouse away for a time, under load.
func (t *chaosRun) withoutClickHouse(ctx context.Context, take func(), give func() error) error {
	t.say("ClickHouse is away for %v", t.away)
	t.result.KillsByProcess[ofClickHouse]++
	take()
	if err := t.pause(ctx, t.away); err != nil {
		return err
	}
	t.say("ClickHouse comes back")
	t.recoveries.interrupted(ofClickHouse, time.Now())
	if err := give(); err != nil {
		return err
	}
	return t.calm(ctx)
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
	r.BrokerRecoveryMS, r.ClickHouseRecoveryMS = spreadOf(t.recoveries.of(ofBroker)), spreadOf(t.recoveries.of(ofClickHouse))
	r.RestartMS = spreadOf(t.recoveries.of(ofRestart))
	r.PeakHeld, r.PeakRSS = t.peak.held, t.peak.rss
	r.Faults = append(append(r.Faults, t.faults...), r.gates()...)
	if t.scenario == scenarioKills {
		r.Faults = append(r.Faults, r.killGates(t.kills)...)
	}
	return nil
}

// gates are the sentences of what is not as it must be, whatever the scenario.
func (r *chaosResult) gates() []string {
	faults := r.comparison.gates()
	if r.NumbersMissing != 0 {
		faults = append(faults, fmt.Sprintf("want every row that was sent, got %d fewer", r.NumbersMissing))
	}
	if doubles := r.Counters["rows.duplicate"]; r.Rows+r.DeadLetters+doubles != r.Produced {
		faults = append(faults, fmt.Sprintf("want rows, dead letters and doubles to be what the topic holds, %d, got %d, %d and %d",
			r.Produced, r.Rows, r.DeadLetters, doubles))
	}
	if r.PeakHeld == 0 || r.PeakHeld > r.MemoryBudget {
		faults = append(faults, fmt.Sprintf("want some bytes held and at most the budget of %d, got %d", r.MemoryBudget, r.PeakHeld))
	}
	if r.Recoveries > 0 && r.RecoveryMS.P50 > float64(recoveryLimit.Milliseconds()) {
		faults = append(faults, fmt.Sprintf("want a median recovery of %v or less, got %v ms", recoveryLimit, r.RecoveryMS.P50))
	}
	return faults
}

// killGates are the sentences of kills that did not happen.
func (r *chaosResult) killGates(kills int) []string {
	var faults []string
	total := 0
	for _, n := range r.KillsByProcess {
		total += n
	}
	if total < kills {
		faults = append(faults, fmt.Sprintf("want %d kills, got %d", kills, total))
	}
	if kills < fullDeck {
		return faults
	}
	for _, process := range []string{ofRun, ofBroker, ofClickHouse} {
		if r.KillsByProcess[process] == 0 {
			faults = append(faults, "want a kill of "+process+", got none")
		}
	}
	for _, step := range append(checkpointSteps(), recoverySteps()...) {
		if r.KillsByStep[step] == 0 {
			faults = append(faults, fmt.Sprintf("want a kill at %s, got none (hit: %v)", step, slices.Sorted(maps.Keys(r.KillsByStep))))
		}
	}
	if r.Recoveries == 0 {
		faults = append(faults, "want a recovery that was measured, got none")
	}
	return faults
}
