package pipeline

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/apache/arrow/go/v15/arrow"
	"github.com/apache/arrow/go/v15/arrow/array"
	"github.com/apache/arrow/go/v15/arrow/memory"
	"github.com/tailrace/tailrace/schemas"
	"go.opentelemetry.io/otel/trace"
)

// task is one partition's run of the chain: one goroutine that processes, and one that reads ahead for it.
type task struct {
	part    Partition
	flow    flow
	alloc   memory.Allocator
	publish Publisher
	budget  *budget
	metrics *Metrics
	status  *statusBoard
	tracer  trace.Tracer
	waiting func(rows int64) // told how many more rows wait for a barrier
	urge    func()           // asks for a barrier now

	barriers chan chan<- harvest
	pending  harvest
}

// harvest is what a task hands over at a barrier: all it read and made since the one before. The receiver owns the
// batches.
type harvest struct {
	partition int32
	topic     string
	next      int64 // offset to commit once all of it is stored
	moved     bool  // next differs from the harvest before
	tables    map[Table][]arrow.Record
	rows      int64
	granted   int64        // bytes of the budget that it holds
	spans     []trace.Link // of the batches
	finished  bool         // the partition's bound was reached and the chain finished
}

func (h *harvest) release() {
	for _, batches := range h.tables {
		for _, b := range batches {
			b.Release()
		}
	}
	h.tables = nil
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
	t.pending = t.newHarvest(t.part.Start())
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
		case reply := <-t.barriers:
			t.hand(reply)
		case r := <-reads:
			if errors.Is(r.err, io.EOF) {
				if err := t.flow.chain.finish(hard); err != nil {
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
	case reply := <-t.barriers:
		t.hand(reply)
		return nil
	case <-hard.Done():
		return hard.Err()
	}
}

func (t *task) newHarvest(next int64) harvest {
	return harvest{partition: t.part.ID(), topic: t.part.Topic(), next: next, tables: map[Table][]arrow.Record{}}
}

// hand answers a barrier.
func (t *task) hand(reply chan<- harvest) {
	h := t.pending
	t.pending = t.newHarvest(h.next)
	t.waiting(-h.rows)
	reply <- h
}

// take processes one delivery.
func (t *task) take(ctx context.Context, r reading) error {
	t.pending.granted += r.granted
	defer r.Release()
	ctx, span := t.startBatch(ctx, &r.Delivery)
	err := t.work(ctx, &r.Delivery)
	steps := t.flow.chain.takeSpent()
	t.endBatch(span, steps, err)
	t.metrics.steps(steps)
	if err != nil {
		return err
	}
	t.pending.moved = t.pending.moved || r.Next != t.pending.next
	t.pending.next = r.Next
	t.metrics.read(t.part.ID(), r.Delivery, t.flow.clock.value)
	return nil
}

// work publishes what was refused and processes the rows.
func (t *task) work(ctx context.Context, d *Delivery) error {
	if len(d.Dead) > 0 {
		if err := t.publish.PublishDead(ctx, d.Dead); err != nil {
			return err
		}
		t.metrics.dead(d.Dead)
		t.status.dead(t.part.ID(), len(d.Dead))
	}
	if d.Batch == nil || d.Batch.NumRows() == 0 {
		return nil
	}
	return t.process(ctx, d.Batch)
}

// process runs a batch through the chain and keeps it for the table telemetry.
func (t *task) process(ctx context.Context, batch arrow.Record) error {
	late, err := t.flow.process(ctx, batch)
	if err != nil {
		return err
	}
	stored := batch
	if len(late) > 0 {
		stored = t.flagLate(batch, late)
		t.metrics.late(len(late))
	} else {
		stored.Retain()
	}
	t.keep(Telemetry, stored)
	t.status.read(t.part.ID(), batch)
	return nil
}

// flagLate returns batch with FlagLate set in the given rows.
func (t *task) flagLate(batch arrow.Record, rows []int) arrow.Record {
	marked := slices.Clone(batch.Column(schemas.ColFlags).(*array.Uint32).Uint32Values())
	for _, i := range rows {
		marked[i] |= uint32(schemas.FlagLate)
	}
	b := array.NewUint32Builder(t.alloc)
	defer b.Release()
	b.AppendValues(marked, nil)
	flags := b.NewArray()
	defer flags.Release()
	cols := slices.Clone(batch.Columns())
	cols[schemas.ColFlags] = flags
	return array.NewRecord(batch.Schema(), cols, batch.NumRows())
}

// keep holds a batch for the next barrier. It takes the caller's reference.
func (t *task) keep(table Table, batch arrow.Record) {
	if batch.NumRows() == 0 {
		batch.Release()
		return
	}
	t.pending.tables[table] = append(t.pending.tables[table], batch)
	t.pending.rows += batch.NumRows()
	t.waiting(batch.NumRows())
}

// rows implements chainOutput: what the last step gives goes to the table predictions.
func (t *task) rows(_ context.Context, batch arrow.Record) error {
	t.status.scored(t.part.ID(), batch)
	t.keep(Predictions, batch)
	return nil
}

// events implements chainOutput. An event is published at once: an operator need not wait for the table.
func (t *task) events(ctx context.Context, batch arrow.Record) error {
	t.metrics.events(batch.NumRows())
	err := t.publish.PublishEvents(ctx, batch)
	t.keep(EventsTable, batch)
	return err
}
