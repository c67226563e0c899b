package main

import (
	"context"
	"fmt"
	"slices"
	"syscall"
	"time"
)

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
		return fmt.Errorf("the group committed nothing on some partition within %v of its start; see the logs in %s",
			calmLimit, t.rig.dir)
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

// killAtStep starts a process again, now with a fail point, and waits until that has ended it. For a step of the
// recovery the others leave first, so that it is this process that finds its own plan.
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

// awaitStep waits for the end of a process that has a fail point. One that does not reach it is killed, and found out
// by what is missing in kills_by_step.
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
				return fmt.Errorf("%s ended by itself, the %d. of the group: %v; see %s", m.name, t.revived,
					m.child.cmd.ProcessState, m.child.log)
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
