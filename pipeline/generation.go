package pipeline

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tailrace/tailrace/pipeline/eventtime"
)

// generation runs the tasks of one assignment of partitions and takes their barriers: all tasks of a process share one.
// While a checkpoint is stored the tasks go on; the next barrier waits until it is settled.
type generation struct {
	engine *Engine
	group  Generation
	run    [16]byte
	seq    uint64
	tasks  []*task
	budget *budget
	live   map[*task]<-chan struct{} // closed when the task has returned
	blobs  blobs
	lines  []LedgerEntry // newest of each partition; nil: not asked for

	rows    atomic.Int64  // that wait for a barrier
	inserts atomic.Int64  // that wait for a barrier
	urgent  chan struct{} // asks for a barrier now
}

// errNotCommitted ends a generation whose commit failed: the partitions may be someone else's, or it is not known what
// the group has stored. What is to be done is read from the group again.
var errNotCommitted = errors.New("offsets not committed")

// errNotRead ends a generation in which the group does not say what it has stored: it is asked again in the next.
var errNotRead = errors.New("offsets not read")

// errStalled ends a generation in which a task has been at one delivery for too long. If it does not give up either, it ends
// the engine: Go can't take a goroutine back, and a new process can do without.
var errStalled = errors.New("a task makes no progress")

// run processes until ctx ends, the assignment is revoked, or, with finished, every partition has reached its bound.
func (e *Engine) run(ctx context.Context, group Generation) (finished bool, err error) {
	g := &generation{engine: e, group: group, live: map[*task]<-chan struct{}{}, urgent: make(chan struct{}, 1)}
	if _, err := rand.Read(g.run[:]); err != nil {
		return false, fmt.Errorf("run id: %w", err)
	}
	g.budget = newBudget(int64(e.plan.Limits.Memory), g.urge)
	e.metrics.watchBudget(g.budget)

	stop, cancelStop := context.WithCancelCause(ctx)
	hard, cancelHard := context.WithCancelCause(context.WithoutCancel(ctx))
	var guards sync.WaitGroup
	defer func() {
		cancelStop(nil)
		cancelHard(nil)
		guards.Wait()
	}()
	guards.Go(func() {
		select {
		case <-group.Revoked():
			cancelStop(nil)
		case <-stop.Done():
		}
		select {
		case <-time.After(e.plan.Limits.Drain):
			cancelHard(errDrained)
		case <-hard.Done():
		}
	})
	for _, p := range group.Partitions() {
		t, err := g.newTask(p)
		if err != nil {
			g.closeTasks()
			return false, errors.Join(err, p.Close())
		}
		g.tasks = append(g.tasks, t)
	}
	if err := g.begin(stop); err != nil {
		g.closeTasks()
		return false, g.unlessEnded(stop, err)
	}

	var working sync.WaitGroup
	failures := make(chan error, len(g.tasks))
	for _, t := range g.tasks {
		done := make(chan struct{})
		g.live[t] = done
		working.Go(func() {
			defer close(done)
			if err := t.run(stop, hard); err != nil {
				failures <- err
				cancelStop(err)
			}
		})
	}
	guards.Go(func() { g.watch(hard, cancelStop, cancelHard) })
	err = g.barriers(stop, hard)
	finished = err == nil && stop.Err() == nil
	cancelStop(err)
	cancelHard(nil) // every task has answered its last barrier, or what it holds can't be stored
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		working.Wait()
		g.closeTasks()
	}()
	if stalled := context.Cause(hard); errors.Is(stalled, errStalled) {
		select {
		case <-ended:
			e.env.Log.Warn("leaving the partitions for another try", "error", stalled)
			return false, nil
		case <-time.After(e.plan.Limits.Drain):
			return false, stalled // its goroutine, and what it holds, go with the process
		}
	}
	<-ended
	close(failures)
	for failure := range failures {
		if !errors.Is(failure, context.Canceled) {
			err = errors.Join(failure, err)
		}
	}
	return finished, g.unlessRevoked(ctx, err)
}

// errDrained says that the time to drain was over.
var errDrained = errors.New("limits.drain is over")

// unlessEnded drops an error that being told to stop explains.
func (g *generation) unlessEnded(stop context.Context, err error) error {
	if stop.Err() != nil && errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}

// unlessRevoked drops the error of a checkpoint that a rebalance cut short: its plan is open, and whoever has the partitions
// next finishes it.
func (g *generation) unlessRevoked(ctx context.Context, err error) error {
	if err == nil || ctx.Err() != nil {
		return err
	}
	select {
	case <-g.group.Revoked():
	default:
		return err
	}
	if errors.Is(err, context.Canceled) || errors.Is(err, errDrained) {
		g.engine.env.Log.Warn("a checkpoint was not settled before the partitions went: their next owner settles it", "error", err)
		return nil
	}
	return err
}

// watch ends the generation if a task has been at one delivery for limits.stall.
func (g *generation) watch(hard context.Context, cancelStop, cancelHard context.CancelCauseFunc) {
	limit := g.engine.plan.Limits.Stall
	tick := time.NewTicker(limit / 4)
	defer tick.Stop()
	for {
		select {
		case <-hard.Done():
			return
		case now := <-tick.C:
			for _, t := range g.tasks {
				since := t.busy.Load()
				if since == 0 || now.UnixNano()-since < int64(limit) {
					continue
				}
				err := fmt.Errorf("%s partition %d: %w: at one delivery since %s, limits.stall is %v", t.part.Topic(), t.part.ID(),
					errStalled, time.Unix(0, since).UTC().Format(time.RFC3339), limit)
				cancelStop(err)
				cancelHard(err)
				return
			}
		}
	}
}

func (g *generation) newTask(p Partition) (*task, error) {
	e := g.engine
	t := &task{
		part: p, alloc: e.env.Alloc, publish: e.publisher, budget: g.budget,
		metrics: e.metrics, status: e.status, tracer: e.tracer, urge: g.urge, barriers: make(chan barrier),
		stores: e.stores,
		waiting: func(rows, inserts int) {
			// Both are counted, whatever the first says.
			full := g.rows.Add(int64(rows)) >= e.plan.Checkpoint.Rows
			if g.inserts.Add(int64(inserts)) >= int64(e.plan.Checkpoint.Inserts) || full {
				g.urge()
			}
		},
	}
	settings := e.settings()
	settings.Topic, settings.Partition, settings.Drops = p.Topic(), p.ID(), t
	flow, err := newFlow(e.plan.Watermark, e.env.Alloc, func(l eventtime.Lane) (*chain, error) {
		settings.Backfill = l == eventtime.History
		return newChain(e.plan.Steps, settings, telemetrySchema, lane{
			task: t, open: l == eventtime.Live || e.plan.Watermark.BackfillEvents,
			hold: e.plan.Checkpoint.Emit == EmitAfterCheckpoint,
		})
	})
	t.flow = flow
	return t, err
}

func (g *generation) closeTasks() {
	for _, t := range g.tasks {
		if err := t.flow.close(); err != nil {
			g.engine.env.Log.Error("closing a task", "partition", t.part.ID(), "error", err)
		}
		if err := t.part.Close(); err != nil {
			g.engine.env.Log.Error("closing a reader", "partition", t.part.ID(), "error", err)
		}
	}
}

// urge asks for a barrier without waiting for the interval.
func (g *generation) urge() {
	select {
	case g.urgent <- struct{}{}:
	default:
	}
}

// barriers takes one barrier after the other until stop ends or every task has finished. The last is taken after stop.
func (g *generation) barriers(stop, hard context.Context) error {
	interval := time.NewTicker(g.engine.plan.Checkpoint.Interval)
	defer interval.Stop()
	if len(g.tasks) == 0 { // more members than partitions: the next generation may have one for this
		<-stop.Done()
	}
	for last := false; !last && len(g.live) > 0; {
		select {
		case <-stop.Done():
			last = true
		case <-g.urgent:
		case <-interval.C:
		}
		harvests, err := g.collect(hard)
		if err == nil {
			err = g.store(hard, harvests)
		} else {
			g.release(harvests)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// collect has every task hand over what it has. A task that has finished or failed hands over nothing more. The harvests
// come in the order of partitions, on which the cut into blocks depends.
func (g *generation) collect(hard context.Context) ([]harvest, error) {
	replies := make(chan harvest, len(g.live))
	b := barrier{now: time.Now().UnixNano(), fullEvery: g.engine.plan.State.FullEvery, reply: replies}
	var harvests []harvest
	var failure error
	for t, done := range g.live {
		select {
		case t.barriers <- b:
			select {
			case h := <-replies:
				harvests = append(harvests, h)
				failure = errors.Join(failure, h.err)
				if h.finished {
					delete(g.live, t)
				}
			case <-hard.Done():
				return harvests, context.Cause(hard)
			}
		case <-done:
			delete(g.live, t)
		case <-hard.Done():
			return harvests, context.Cause(hard)
		}
	}
	slices.SortFunc(harvests, func(a, b harvest) int { return cmp.Compare(a.task.part.ID(), b.task.part.ID()) })
	g.engine.env.Fail.Reach("barrier")
	return harvests, failure
}

// release gives back what harvests hold.
func (g *generation) release(harvests []harvest) {
	var granted int64
	for i := range harvests {
		granted += harvests[i].granted
		harvests[i].release()
	}
	if granted > 0 {
		g.budget.release(granted)
	}
}
