package pipeline

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/otel/trace"
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

	waiting atomic.Int64  // rows that wait for a barrier
	urgent  chan struct{} // asks for a barrier now
}

// errNotCommitted ends a generation whose commit failed: what was stored may be read again by the partition's next owner.
var errNotCommitted = errors.New("offsets not committed")

// run processes until ctx ends, the assignment is revoked, or, with finished, every partition has reached its bound.
func (e *Engine) run(ctx context.Context, group Generation) (finished bool, err error) {
	g := &generation{engine: e, group: group, live: map[*task]<-chan struct{}{}, urgent: make(chan struct{}, 1)}
	if _, err := rand.Read(g.run[:]); err != nil {
		return false, fmt.Errorf("run id: %w", err)
	}
	defer g.closeTasks()
	g.budget = newBudget(int64(e.plan.Limits.Memory), g.urge)
	e.metrics.watchBudget(g.budget)
	for _, p := range group.Partitions() {
		t, err := g.newTask(p)
		if err != nil {
			return false, errors.Join(err, p.Close())
		}
		g.tasks = append(g.tasks, t)
	}

	stop, cancelStop := context.WithCancelCause(ctx)
	defer cancelStop(nil)
	hard, cancelHard := context.WithCancel(context.WithoutCancel(ctx))
	defer cancelHard()
	var wait sync.WaitGroup
	wait.Go(func() {
		select {
		case <-group.Revoked():
			cancelStop(nil)
		case <-stop.Done():
		}
		select {
		case <-time.After(e.plan.Limits.Drain):
			cancelHard()
		case <-hard.Done():
		}
	})
	failures := make(chan error, len(g.tasks))
	for _, t := range g.tasks {
		done := make(chan struct{})
		g.live[t] = done
		wait.Go(func() {
			defer close(done)
			if err := t.run(stop, hard); err != nil {
				failures <- err
				cancelStop(err)
			}
		})
	}
	err = g.barriers(stop, hard)
	finished = err == nil && stop.Err() == nil
	cancelStop(err)
	cancelHard() // every task has answered its last barrier, or what it holds can't be stored
	wait.Wait()
	close(failures)
	for failure := range failures {
		if !errors.Is(failure, context.Canceled) {
			err = errors.Join(failure, err)
		}
	}
	return finished, err
}

func (g *generation) newTask(p Partition) (*task, error) {
	e := g.engine
	t := &task{
		part: p, alloc: e.env.Alloc, publish: e.publisher, budget: g.budget,
		metrics: e.metrics, status: e.status, tracer: e.tracer, urge: g.urge, barriers: make(chan chan<- harvest),
		waiting: func(rows int64) {
			if g.waiting.Add(rows) >= e.plan.Checkpoint.Rows {
				g.urge()
			}
		},
	}
	settings := e.settings()
	settings.Topic, settings.Partition = p.Topic(), p.ID()
	c, err := newChain(e.plan.Steps, settings, telemetrySchema, t)
	t.flow = flow{chain: c, clock: newWatermark(e.plan.Watermark)}
	return t, err
}

func (g *generation) closeTasks() {
	for _, t := range g.tasks {
		if err := t.flow.chain.close(); err != nil {
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
	for last := false; !last && len(g.live) > 0; {
		select {
		case <-stop.Done():
			last = true
		case <-g.urgent:
		case <-interval.C:
		}
		if err := g.store(hard, g.collect()); err != nil {
			return err
		}
	}
	return nil
}

// collect has every task hand over what it has. A task that has finished or failed hands over nothing more.
func (g *generation) collect() []harvest {
	replies := make(chan harvest, len(g.live))
	var harvests []harvest
	for t, done := range g.live {
		select {
		case t.barriers <- replies:
			h := <-replies
			if h.finished {
				delete(g.live, t)
			}
			harvests = append(harvests, h)
		case <-done:
			delete(g.live, t)
		}
	}
	return harvests
}

// store makes one checkpoint durable: rows into the sink, events and dead letters acknowledged, then the offsets. In
// this order a crash between two steps repeats rows and never loses one.
func (g *generation) store(ctx context.Context, harvests []harvest) error {
	e := g.engine
	cp := &Checkpoint{Run: g.run, Seq: g.seq + 1, Parts: map[Table][]Part{}}
	next := map[int32]int64{}
	var rows, granted int64
	var links []trace.Link
	for _, h := range harvests {
		links = append(links, h.spans[:min(len(h.spans), maxLinks-len(links))]...)
		for table, batches := range h.tables {
			cp.Parts[table] = append(cp.Parts[table], Part{Topic: h.topic, Partition: h.partition, Batches: batches})
		}
		if h.moved {
			next[h.partition] = h.next
		}
		rows += h.rows
		granted += h.granted
	}
	defer func() {
		for i := range harvests {
			harvests[i].release()
		}
		if granted > 0 {
			g.budget.release(granted)
		}
	}()
	if rows == 0 && len(next) == 0 {
		return nil // no change, no checkpoint
	}
	g.seq++
	started := time.Now()
	e.status.storing(started)
	defer e.status.storing(time.Time{})
	ctx, span := e.tracer.Start(ctx, "checkpoint", trace.WithLinks(links...))
	err := g.settle(ctx, cp, rows, next)
	endSpan(span, err)
	if err != nil {
		return fmt.Errorf("checkpoint %d: %w", cp.Seq, err)
	}
	e.metrics.checkpoint(time.Since(started))
	return nil
}

// settle writes the rows, waits for the events and dead letters, and commits.
func (g *generation) settle(ctx context.Context, cp *Checkpoint, rows int64, next map[int32]int64) error {
	e := g.engine
	started := time.Now()
	if rows > 0 {
		if err := e.stage(ctx, "insert", func(ctx context.Context) error { _, err := e.sink.Write(ctx, cp); return err }); err != nil {
			return fmt.Errorf("%d rows not stored: %w", rows, err)
		}
	}
	inserted := time.Now()
	e.metrics.stage("insert", inserted.Sub(started))
	e.metrics.stored(cp, inserted)
	e.status.stored(cp)
	if err := e.stage(ctx, "flush", e.publisher.Flush); err != nil {
		return fmt.Errorf("events and dead letters not acknowledged: %w", err)
	}
	flushed := time.Now()
	e.metrics.stage("flush", flushed.Sub(inserted))
	if len(next) == 0 {
		return nil
	}
	commits := map[int32]Commit{}
	for p, offset := range next {
		commits[p] = Commit{Offset: offset}
	}
	if err := e.stage(ctx, "commit", func(ctx context.Context) error { return g.group.Commit(ctx, commits) }); err != nil {
		return fmt.Errorf("%w: %w", errNotCommitted, err)
	}
	e.metrics.stage("commit", time.Since(flushed))
	return nil
}
