package pipeline

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/apache/arrow/go/v15/arrow"
	"github.com/tailrace/tailrace/pipeline/state"
	"go.opentelemetry.io/otel/trace"
)

// The protocol, for each checkpoint (run, seq):
//
//	blob    what the tasks made and where they stand, immutable, in the state store
//	plan    the group's commit of the offsets before, naming the blob: Kafka refuses a member that is no longer one
//	send    the blocks, one INSERT each
//	flush   events, late rows and dead letters up to the barrier are acknowledged
//	ledger  the table checkpoints says what went where
//	commit  the new offsets: the checkpoint is settled
//
// Whoever finds a plan sends the blob's blocks again, looking for each first, and settles it. Before the plan nothing was
// sent, and the rows are computed again from the state before. No operator ever runs twice over rows that were sent.
// At least once leaves out the plan and the outbox.

// settlement is a checkpoint on its way.
type settlement struct {
	cp    Checkpoint
	blob  *state.Blob
	name  string // of the blob
	tasks []*task
	links []trace.Link
	rows  int64
	// events are for their topic, whether the table takes them or not.
	events []Part
	// refused are the rows that the store did not take.
	refused map[refusedKey]int64
}

type refusedKey struct {
	table     Table
	partition int32
}

// store makes one checkpoint durable.
func (g *generation) store(ctx context.Context, harvests []harvest) error {
	defer g.release(harvests)
	changed := slices.DeleteFunc(slices.Clone(harvests), func(h harvest) bool { return !h.changed() })
	if len(changed) == 0 {
		return nil // no change, no checkpoint
	}
	e := g.engine
	started := time.Now()
	g.seq++
	s, err := g.settlement(changed)
	if err != nil {
		return fmt.Errorf("checkpoint %d: %w", g.seq, err)
	}
	e.status.storing("being written", started)
	defer e.status.storing("", time.Time{})
	ctx, span := e.tracer.Start(ctx, "checkpoint", trace.WithLinks(s.links...))
	err = g.settle(ctx, s)
	endSpan(span, err)
	if err != nil {
		return fmt.Errorf("checkpoint %d: %w", s.cp.Seq, err)
	}
	e.metrics.checkpoint(time.Since(started))
	g.blobs.forget(ctx, g)
	return nil
}

// settlement puts together what harvests have.
func (g *generation) settlement(harvests []harvest) (*settlement, error) {
	e := g.engine
	s := &settlement{
		cp:   Checkpoint{Run: g.run, Seq: g.seq, BlockRows: e.sink.BlockRows(), Parts: map[Table][]Part{}},
		blob: &state.Blob{Pipeline: e.plan.ID, Run: g.run, Seq: g.seq, Time: time.Now().UnixNano(), BlockRows: e.sink.BlockRows()},
	}
	for i := range harvests {
		h := &harvests[i]
		p := h.task.part
		s.tasks = append(s.tasks, h.task)
		s.links = append(s.links, h.spans[:min(len(h.spans), maxLinks-len(s.links))]...)
		s.blob.Parts = append(s.blob.Parts, state.Part{
			Topic: p.Topic(), TopicID: p.TopicID(), Partition: p.ID(), From: h.from, To: h.next, Raw: h.raw, Decoder: h.decoder,
			Counters: h.counters, Base: h.base, Steps: h.steps,
		})
		for _, table := range tableOrder {
			if batches := h.tables[table]; len(batches) > 0 {
				s.add(e, table, Part{Topic: p.Topic(), Partition: p.ID(), Batches: batches})
			}
		}
		if e.plan.Checkpoint.Delivery == AtLeastOnce {
			continue
		}
		if err := s.derived(e, h); err != nil {
			return nil, fmt.Errorf("outbox of partition %d: %w", p.ID(), err)
		}
	}
	return s, nil
}

// tableOrder is the order in which tables are looked at.
var tableOrder = []Table{Telemetry, Predictions, EventsTable}

// derived puts the rows that a task made into the outbox.
func (s *settlement) derived(e *Engine, h *harvest) error {
	add := func(table Table, batches []arrow.Record) error {
		if len(batches) == 0 {
			return nil
		}
		stream, err := encodeRows(e.env.Alloc, batches)
		if err != nil {
			return fmt.Errorf("%s: %w", table, err)
		}
		s.blob.Outbox = append(s.blob.Outbox, state.Rows{
			Table: string(table), Topic: h.task.part.Topic(), Partition: h.task.part.ID(), Stream: stream,
		})
		return nil
	}
	if h.rekeyed {
		s.blob.Outbox = append(s.blob.Outbox, state.Rows{
			Table: string(rekeyedRows), Topic: h.task.part.Topic(), Partition: h.task.part.ID(),
		})
	}
	return errors.Join(add(Predictions, h.tables[Predictions]), add(EventsTable, h.tables[EventsTable]), add(lateRows, h.late))
}

// settle takes a checkpoint through the protocol.
func (g *generation) settle(ctx context.Context, s *settlement) error {
	e := g.engine
	name, data := s.blob.Encode()
	s.name = name
	err := e.timed(ctx, "blob", func(ctx context.Context) error {
		return e.persist(ctx, "the state store does not take blobs", func(ctx context.Context) error {
			return e.plan.Store.Put(ctx, name, data)
		})
	})
	if err != nil {
		return fmt.Errorf("blob not stored: %w", err)
	}
	e.metrics.blob(len(data))
	e.env.Fail.Reach("blob")
	if e.plan.Checkpoint.Delivery == ExactlyOnce {
		if err := g.commit(ctx, "plan", s, true); err != nil {
			return err
		}
	}
	var late func(context.Context) error // what goes to topics when the rows are stored
	if e.plan.Checkpoint.Emit == EmitAfterCheckpoint {
		late = func(ctx context.Context) error {
			return s.publishEvents(ctx, e.publisher, func(int32) bool { return true })
		}
	}
	if err := g.send(ctx, s, "", late); err != nil {
		return err
	}
	for _, t := range s.tasks {
		if part := s.blob.Part(t.part.Topic(), t.part.ID()); part.Base == "" {
			t.held = nil
		}
		t.base, t.held = name, append(t.held, name)
	}
	g.blobs.written = append(g.blobs.written, name)
	return nil
}

// send writes the rows, has publish send what goes to topics only now, if it is not nil, waits until all topics have what they
// were sent, and settles. prefix is before the names of the steps of a recovery.
func (g *generation) send(ctx context.Context, s *settlement, prefix string, publish func(context.Context) error) error {
	e := g.engine
	var written Written
	if s.rows > 0 {
		err := e.timed(ctx, "insert", func(ctx context.Context) (err error) {
			written, err = e.write(ctx, &s.cp)
			return err
		})
		if err != nil {
			return fmt.Errorf("%d rows not stored: %w", s.rows, err)
		}
	}
	e.env.Fail.Reach(prefix + "sent")
	e.metrics.stored(&s.cp, time.Now())
	e.status.stored(&s.cp)
	if err := e.refuse(ctx, s, written.Refused); err != nil {
		return fmt.Errorf("refused rows not published: %w", err)
	}
	err := e.timed(ctx, "flush", func(ctx context.Context) error {
		if publish != nil {
			if err := publish(ctx); err != nil {
				return err
			}
		}
		return e.publisher.Flush(ctx)
	})
	if err != nil {
		return fmt.Errorf("events, late rows and dead letters not acknowledged: %w", err)
	}
	e.env.Fail.Reach(prefix + "flushed")
	if err := e.timed(ctx, "ledger", func(ctx context.Context) error { return e.sink.Record(ctx, s.lines(e.plan.ID)) }); err != nil {
		return fmt.Errorf("ledger not written: %w", err)
	}
	e.env.Fail.Reach(prefix + "ledger")
	return g.commit(ctx, prefix+"commit", s, false)
}

// publishEvents sends the events of a checkpoint, of the partitions that are owned.
func (s *settlement) publishEvents(ctx context.Context, to Publisher, owned func(partition int32) bool) error {
	for _, part := range s.events {
		if !owned(part.Partition) {
			continue
		}
		for _, batch := range part.Batches {
			if err := to.PublishEvents(ctx, batch); err != nil {
				return err
			}
		}
	}
	return nil
}

// commit stores the offsets before the checkpoint with its plan, or those after it.
func (g *generation) commit(ctx context.Context, step string, s *settlement, open bool) error {
	commits := map[int32]Commit{}
	for _, t := range s.tasks {
		part := s.blob.Part(t.part.Topic(), t.part.ID())
		meta := state.Meta{Run: s.cp.Run, Seq: s.cp.Seq, Blob: s.name, Open: open, TopicID: part.TopicID, Width: g.group.Width()}
		offset := part.To
		if open {
			offset = part.From
		}
		commits[part.Partition] = Commit{Offset: offset, Metadata: meta.String()}
	}
	err := g.engine.timed(ctx, step, func(ctx context.Context) error { return g.group.Commit(ctx, commits) })
	if err != nil {
		return fmt.Errorf("%w: %w", errNotCommitted, err)
	}
	g.engine.env.Fail.Reach(step)
	return nil
}

// lines are what the ledger says of the checkpoint.
func (s *settlement) lines(id string) []LedgerEntry {
	lines := make([]LedgerEntry, len(s.blob.Parts))
	for i := range s.blob.Parts {
		p := &s.blob.Parts[i]
		rows := map[Table]int64{}
		for table, parts := range s.cp.Parts {
			for _, part := range parts {
				if part.Topic != p.Topic || part.Partition != p.Partition {
					continue
				}
				for _, b := range part.Batches {
					rows[table] += b.NumRows()
				}
			}
		}
		counters := maps.Clone(p.Counters)
		for key, n := range s.refused {
			if key.partition == p.Partition {
				rows[key.table] -= n
				counters["refused."+string(key.table)] = n
			}
		}
		lines[i] = LedgerEntry{
			Pipeline: id, Run: s.cp.Run, Seq: s.cp.Seq, Topic: p.Topic, TopicID: p.TopicID, Partition: p.Partition,
			From: p.From, To: p.To, Messages: p.Raw.Messages, Blob: s.name, Rows: rows, Counters: counters,
		}
	}
	return lines
}

// timed runs f in a span of its own and notes how long it took.
func (e *Engine) timed(ctx context.Context, name string, f func(context.Context) error) error {
	started := time.Now()
	e.status.storing(name, time.Time{})
	ctx, span := e.tracer.Start(ctx, name)
	err := f(ctx)
	endSpan(span, err)
	if err == nil {
		e.metrics.stage(name, time.Since(started))
	}
	return err
}

// blobs remembers what this generation has written to the state store.
type blobs struct {
	written []string // the oldest first
	settled int
	swept   bool
}

// abandonedAfter is how old a blob must be before it is deleted though another run wrote it: far longer than any checkpoint
// is on its way.
const abandonedAfter = 24 * time.Hour

// sweepEvery is how many checkpoints there are between two looks at the blobs of other runs.
const sweepEvery = 10_000

// forget deletes the blobs of this generation that no state is put together from any more, but for the newest state.keep. It
// is no loss if that fails: the next sweep finds them.
func (b *blobs) forget(ctx context.Context, g *generation) {
	needed := map[string]bool{}
	for _, t := range g.tasks {
		for _, name := range t.held {
			needed[name] = true
		}
	}
	e := g.engine
	old := max(0, len(b.written)-e.plan.State.Keep)
	kept := b.written[:0:0]
	for i, name := range b.written {
		if i >= old || needed[name] {
			kept = append(kept, name)
		} else if err := e.plan.Store.Delete(ctx, name); err != nil {
			e.env.Log.Debug("a blob that is not needed any more was not deleted", "blob", name, "error", err)
		}
	}
	b.written = kept
	if b.settled++; !b.swept || b.settled%sweepEvery == 0 {
		b.swept = true
		if err := b.sweep(ctx, g); err != nil {
			e.env.Log.Debug("blobs of earlier runs were not looked at", "error", err)
		}
	}
}

// sweep deletes the blobs of runs that no commit of the group names. A run's blobs refer to no other run's.
func (b *blobs) sweep(ctx context.Context, g *generation) error {
	commits, err := g.group.Committed(ctx)
	if err != nil {
		return err
	}
	prefix := g.engine.plan.ID + "/"
	named := map[string]bool{fmt.Sprintf("%s%x/", prefix, g.run): true}
	for _, c := range commits {
		if meta, err := state.ParseMeta(c.Metadata); err == nil {
			named[runOf(meta.Blob)] = true
		}
	}
	store := g.engine.plan.Store
	list, err := store.List(ctx, prefix)
	if err != nil {
		return err
	}
	for _, info := range list {
		if !named[runOf(info.Name)] && time.Since(info.Modified) > abandonedAfter {
			if err := store.Delete(ctx, info.Name); err != nil {
				return err
			}
		}
	}
	return nil
}

// runOf is a blob's name up to its run.
func runOf(name string) string {
	for i := len(name) - 1; i >= 0; i-- {
		if name[i] == '/' {
			return name[:i+1]
		}
	}
	return ""
}
