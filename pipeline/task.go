package pipeline

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync/atomic"
	"time"

	"github.com/apache/arrow/go/v15/arrow"
	"github.com/apache/arrow/go/v15/arrow/array"
	"github.com/apache/arrow/go/v15/arrow/memory"
	"github.com/tailrace/tailrace/pipeline/eventtime"
	"github.com/tailrace/tailrace/pipeline/state"
	"github.com/tailrace/tailrace/schemas"
	"go.opentelemetry.io/otel/trace"
)

// task is one partition's run of the chain: one goroutine that processes, and one that reads ahead for it.
type task struct {
	part    Partition
	flow    *flow
	alloc   memory.Allocator
	publish Publisher
	budget  *budget
	metrics *Metrics
	status  *statusBoard
	tracer  trace.Tracer
	stores  func(Table) bool
	waiting func(rows, inserts int) // told how many more rows and INSERTs wait for a barrier
	urge    func()                  // asks for a barrier now

	barriers chan barrier
	pending  harvest
	hash     rowHash
	months   months
	caughtUp bool         // the partition's end was reached by the last delivery
	muted    bool         // nothing that is made leaves the task: state is rebuilt
	busy     atomic.Int64 // since when it works on a delivery, ns; 0 if it does not

	base  string   // the blob with the newest snapshot; "" if there is none of this generation
	chain int      // blobs from the last full snapshot to base
	held  []string // those blobs
	// expired are the offsets that were deleted before they were read, and that the task goes on behind.
	expired int64
	decoder []byte // the decoder's state at pending.next; nil if it keeps none
}

// barrier asks a task for what it has.
type barrier struct {
	now       int64 // ns UTC, the same for all tasks
	fullEvery int
	reply     chan<- harvest
}

// harvest is what a task hands over at a barrier: all it read and made since the one before. The receiver owns the
// batches.
type harvest struct {
	task     *task
	from     int64 // offset that the harvest before ended at
	next     int64 // offset to commit once all of it is stored
	tables   map[Table][]arrow.Record
	late     []arrow.Record
	rekeyed  bool // the rows of raw are for the topic keyed by asset as well
	rows     int64
	inserts  int
	decoded  int64 // rows, before any was dropped
	raw      state.Raw
	decoder  []byte           // its state at next
	counters map[string]int64 // of the ledger
	steps    []state.Step     // the state at the barrier; nil if nothing has changed, or if the input has ended
	base     string           // what steps build on
	granted  int64            // bytes of the budget that it holds
	spans    []trace.Link     // of the batches
	finished bool             // the partition's bound was reached and the chain finished
	err      error            // the barrier failed
}

// changed tells whether there is anything to store or commit.
func (h *harvest) changed() bool { return h.next != h.from || h.rows > 0 || len(h.late) > 0 }

func (h *harvest) release() {
	for _, batches := range h.tables {
		releaseAll(batches)
	}
	releaseAll(h.late)
	h.tables, h.late = nil, nil
}

// reading is a delivery with the part of the budget that it holds.
type reading struct {
	Delivery
	granted int64
	err     error // io.EOF at the bound
}

// run processes until stop ends or the bound is reached, answering barriers all the while; then it answers one last
// barrier, the final one, and returns. When hard ends, it gives up.
func (t *task) run(stop, hard context.Context) error {
	reads := make(chan reading)
	readCtx, cancel := context.WithCancel(stop)
	readerDone := make(chan struct{})
	go func() {
		defer close(readerDone)
		t.read(readCtx, reads)
	}()
	defer func() {
		cancel()
		for {
			select {
			case r := <-reads:
				t.discard(r)
				continue
			case <-readerDone:
			}
			break
		}
		t.discardPending()
	}()

	for {
		select {
		case <-stop.Done():
			return t.answerLast(hard)
		case b := <-t.barriers:
			if err := t.hand(hard, b); err != nil {
				return err
			}
		case r := <-reads:
			if errors.Is(r.err, io.EOF) {
				if err := t.flow.finish(hard); err != nil {
					return err
				}
				t.pending.finished = true
				t.urge()
				return t.answerLast(hard)
			}
			if r.err != nil {
				return fmt.Errorf("%s partition %d: %w", t.part.Topic(), t.part.ID(), r.err)
			}
			if err := t.take(hard, r); err != nil {
				return fmt.Errorf("%s partition %d, offsets %d to %d: %w", t.part.Topic(), t.part.ID(), r.First, r.Next-1, err)
			}
		}
	}
}

// read reads one delivery ahead of the task. It holds a delivery back until the budget has room for it.
func (t *task) read(ctx context.Context, reads chan<- reading) {
	for {
		d, err := t.part.Read(ctx)
		if ctx.Err() != nil {
			d.Release()
			return
		}
		r := reading{Delivery: d, err: err}
		if err == nil {
			if r.granted, err = t.budget.acquire(ctx, d.Bytes); err != nil {
				d.Release()
				return
			}
		}
		select {
		case reads <- r:
		case <-ctx.Done():
			t.discard(r)
			return
		}
		if r.err != nil {
			return
		}
	}
}

func (t *task) discard(r reading) {
	r.Release()
	if r.granted > 0 {
		t.budget.release(r.granted)
	}
}

func (t *task) discardPending() {
	t.pending.release()
	if t.pending.granted > 0 {
		t.budget.release(t.pending.granted)
	}
	t.pending = harvest{}
}

// answerLast waits for the final barrier and hands over what is left.
func (t *task) answerLast(hard context.Context) error {
	select {
	case b := <-t.barriers:
		return t.hand(hard, b)
	case <-hard.Done():
		return hard.Err()
	}
}

func (t *task) newHarvest(next int64) harvest {
	return harvest{
		task: t, from: next, next: next, tables: map[Table][]arrow.Record{}, counters: map[string]int64{},
		raw: state.Raw{Decoder: t.decoder},
	}
}

// hand answers a barrier: the idle clock runs, and what the operators keep is written down.
func (t *task) hand(ctx context.Context, b barrier) error {
	err := t.flow.tick(ctx, b.now, t.caughtUp)
	if err == nil && t.pending.changed() && !t.pending.finished {
		err = t.snapshot(b.fullEvery)
	}
	h := t.pending
	h.raw.Hash, h.decoder = t.hash.take(), t.decoder
	h.err = err
	t.pending = t.newHarvest(h.next)
	t.months.reset()
	t.waiting(-int(h.rows), -h.inserts)
	b.reply <- h
	return err
}

// snapshot writes the state of the steps: all of it, or what has changed since the blob that the last one went into.
func (t *task) snapshot(fullEvery int) error {
	full := t.base == "" || t.chain >= fullEvery
	steps, err := t.flow.snapshot(full)
	if err != nil {
		return err
	}
	t.pending.steps = steps
	t.chain++
	if full {
		t.chain = 1
	} else {
		t.pending.base = t.base
	}
	return nil
}

// take processes one delivery.
func (t *task) take(ctx context.Context, r reading) error {
	now := time.Now().UnixNano()
	t.busy.Store(now)
	defer t.busy.Store(0)
	t.flow.clock.Present(now)
	t.pending.granted += r.granted
	defer r.Release()
	ctx, span := t.startBatch(ctx, &r.Delivery)
	err := t.work(ctx, &r.Delivery)
	steps := t.flow.takeSpent()
	t.endBatch(span, steps, err)
	t.metrics.steps(steps)
	if err != nil {
		return err
	}
	t.pending.raw.Messages += int64(r.Messages)
	t.pending.next = r.Next
	if r.Decoder != nil {
		t.decoder = r.Decoder
	}
	t.caughtUp = r.CaughtUp
	t.metrics.read(t.part.ID(), r.Delivery, t.flow.clock.Watermark(eventtime.Live))
	return nil
}

// work publishes what was refused and processes the rows.
func (t *task) work(ctx context.Context, d *Delivery) error {
	if len(d.Dead) > 0 && !t.muted {
		if err := t.publish.PublishDead(ctx, d.Dead); err != nil {
			return err
		}
		for i := range d.Dead {
			t.count("dead."+d.Dead[i].Reject.Code, 1)
			if reject := d.Dead[i].Reject; reject.Code == schemas.DeadCardinality {
				// Another decoder, that has seen less, would take it.
				t.pending.raw.Refused = append(t.pending.raw.Refused, state.Refusal{Offset: d.Dead[i].Message.Offset, Reason: reject.Reason})
			}
		}
		t.metrics.dead(d.Dead)
		t.status.dead(t.part.ID(), len(d.Dead))
	}
	for reason, n := range d.Dropped {
		t.count("rows."+reason, int64(n))
		if !t.muted {
			t.metrics.Drop("format", reason, n)
		}
	}
	if d.Batch == nil || d.Batch.NumRows() == 0 {
		return nil
	}
	return t.process(ctx, d.Batch)
}

// process runs a batch through the chain and keeps it for the table telemetry.
func (t *task) process(ctx context.Context, batch arrow.Record) error {
	stored, v, err := t.flow.process(ctx, t.alloc, batch, t.pending.decoded)
	if err != nil {
		return err
	}
	t.pending.decoded += batch.NumRows()
	t.pending.raw.Edits = append(t.pending.raw.Edits, v.edits...)
	t.count("rows.late", int64(v.Late))
	t.count("rows.clock_suspect", int64(v.Suspect))
	t.count("rows.historical", int64(v.Historical))
	t.count("rows.duplicate", int64(v.Duplicates))
	if t.muted {
		releaseAll(stored)
		return nil
	}
	t.metrics.judged(v.Verdict)
	for _, rows := range stored {
		t.hash.add(rows)
		t.pending.raw.Rows += rows.NumRows()
		t.keep(Telemetry, rows)
	}
	t.status.read(t.part.ID(), batch)
	t.status.found(t.part.ID(), t.flow.clock.Findings())
	return nil
}

// count adds to a counter of the ledger.
func (t *task) count(reason string, n int64) {
	if n > 0 && !t.muted {
		t.pending.counters[reason] += n
	}
}

// Drop implements Drops: what a step takes no further is counted for the ledger as well.
func (t *task) Drop(step, reason string, rows int) {
	if t.muted {
		return
	}
	t.count("step."+step+"."+reason, int64(rows))
	t.metrics.Drop(step, reason, rows)
}

// DropAsset implements AssetDrops.
func (t *task) DropAsset(partition int32, asset, reason string, rows int) {
	if !t.muted {
		t.status.DropAsset(partition, asset, reason, rows)
	}
}

// keep holds a batch for the next barrier. It takes the caller's reference.
func (t *task) keep(table Table, batch arrow.Record) {
	if batch.NumRows() == 0 || t.muted {
		batch.Release()
		return
	}
	if !t.stores(table) {
		t.count(leftOut+string(table), batch.NumRows())
		if table != EventsTable { // of which the topic's messages are made again
			batch.Release()
			return
		}
	}
	t.pending.tables[table] = append(t.pending.tables[table], batch)
	t.pending.rows += batch.NumRows()
	inserts := 0
	if table == Telemetry {
		inserts = t.months.add(batch.Column(schemas.ColTS).(*array.Timestamp).TimestampValues())
	}
	t.pending.inserts += inserts
	t.waiting(int(batch.NumRows()), inserts)
}
