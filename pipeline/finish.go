package pipeline

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/apache/arrow/go/v15/arrow"
	"github.com/tailrace/tailrace/pipeline/state"
)

// finishPlans settles the checkpoints whose plans are open. Several owners may do so for one at once: all send the same
// blocks under the same tokens.
func (g *generation) finishPlans(ctx context.Context, places []*place, read map[string]*state.Blob) error {
	open := map[string][]*place{}
	for _, p := range places {
		if p.meta.Open {
			open[p.blob] = append(open[p.blob], p)
		}
	}
	for name, owned := range open {
		started := time.Now()
		blob, err := g.engine.load(ctx, name, read)
		if err != nil {
			return err
		}
		if err := g.finishPlan(ctx, name, blob, owned); err != nil {
			return fmt.Errorf("finishing run %x, checkpoint %d: %w", blob.Run, blob.Seq, err)
		}
		g.engine.env.Log.Info("settled a checkpoint that was left open", "run", fmt.Sprintf("%x", blob.Run), "checkpoint", blob.Seq,
			"took", time.Since(started).Round(time.Millisecond))
		for _, p := range owned {
			p.offset = blob.Part(p.task.part.Topic(), p.task.part.ID()).To
		}
	}
	return nil
}

func (g *generation) finishPlan(ctx context.Context, name string, blob *state.Blob, owned []*place) error {
	e := g.engine
	s := &settlement{
		cp:   Checkpoint{Run: blob.Run, Seq: blob.Seq, BlockRows: blob.BlockRows, Resent: true, Parts: map[Table][]Part{}},
		blob: blob, name: name,
	}
	for _, p := range owned {
		s.tasks = append(s.tasks, p.task)
	}
	// The plan again, under this generation: from here on its maker is refused.
	if err := g.commit(ctx, "recover-plan", s, true); err != nil {
		return err
	}
	made := outbox{
		late: map[int32][]arrow.Record{}, dead: map[int32][]DeadLetter{}, telemetry: map[int32][]arrow.Record{}, rekeyed: map[int32]string{},
	}
	defer made.release()
	for i := range blob.Parts {
		if err := g.readAgain(ctx, &blob.Parts[i], s, &made); err != nil {
			return err
		}
	}
	for _, r := range blob.Outbox {
		if Table(r.Table) == rekeyedRows {
			made.rekeyed[r.Partition] = blob.Part(r.Topic, r.Partition).TopicID
			continue
		}
		batches, err := decodeRows(e.env.Alloc, r.Stream)
		if err != nil {
			return fmt.Errorf("outbox, %s: %w: %w", r.Table, state.ErrCorrupt, err)
		}
		if Table(r.Table) == lateRows {
			made.late[r.Partition] = batches
			continue
		}
		made.derived = append(made.derived, batches...)
		s.add(e, Table(r.Table), Part{Topic: r.Topic, Partition: r.Partition, Batches: batches})
	}
	err := g.send(ctx, s, "recover-", func(ctx context.Context) error { return g.republish(ctx, s, &made, owned) })
	if err == nil {
		e.metrics.recovered()
	}
	return err
}

// outbox is what a checkpoint that is settled again has, by partition. It owns one reference to every batch.
type outbox struct {
	telemetry map[int32][]arrow.Record
	derived   []arrow.Record
	late      map[int32][]arrow.Record
	dead      map[int32][]DeadLetter
	rekeyed   map[int32]string // ids of the topics whose telemetry goes to the topic keyed by asset as well
}

func (o *outbox) release() {
	releaseAll(o.derived)
	for _, batches := range o.telemetry {
		releaseAll(batches)
	}
	for _, batches := range o.late {
		releaseAll(batches)
	}
}

// add adds a part, for what the sink stores of it and for what goes to a topic. It borrows the batches.
func (s *settlement) add(e *Engine, table Table, p Part) {
	if table == EventsTable {
		s.events = append(s.events, p)
	}
	if !e.stores(table) {
		return
	}
	s.cp.Parts[table] = append(s.cp.Parts[table], p)
	for _, b := range p.Batches {
		s.rows += b.NumRows()
	}
}

// readAgain decodes the messages of a part again, for the table telemetry and the topic of dead letters.
func (g *generation) readAgain(ctx context.Context, p *state.Part, s *settlement, made *outbox) error {
	if p.From == p.To {
		return nil
	}
	e := g.engine
	r, err := g.group.Range(ctx, Stretch{Partition: p.Partition, From: p.From, To: p.To, Decoder: p.Raw.Decoder, Refused: p.Raw.Refused})
	if err != nil {
		return err
	}
	var hash rowHash
	var stored []arrow.Record
	var decoded, rows int64
	edits := p.Raw.Edits
	err = eachDelivery(ctx, r, func(d *Delivery) error {
		made.dead[p.Partition] = append(made.dead[p.Partition], d.Dead...)
		if d.Batch == nil || d.Batch.NumRows() == 0 {
			return nil
		}
		n := 0
		for n < len(edits) && edits[n].Row < decoded+d.Batch.NumRows() {
			n++
		}
		flagged := edited(e.env.Alloc, d.Batch, decoded, edits[:n])
		defer flagged.Release()
		for _, piece := range kept(flagged, decoded, edits[:n]) {
			hash.add(piece)
			rows += piece.NumRows()
			stored = append(stored, piece)
		}
		edits = edits[n:]
		decoded += d.Batch.NumRows()
		return nil
	})
	made.telemetry[p.Partition] = stored
	s.add(e, Telemetry, Part{Topic: p.Topic, Partition: p.Partition, Batches: stored})
	if err := errors.Join(err, r.Close()); err != nil {
		return err
	}
	if sum := hash.take(); rows != p.Raw.Rows || sum != p.Raw.Hash {
		return fmt.Errorf("%w: %w", ErrConfig, hashMismatch(p, rows, sum))
	}
	return nil
}

// republish sends what the topics may not have acknowledged, of the partitions that are owned. Consumers tell events apart by
// their ids.
func (g *generation) republish(ctx context.Context, s *settlement, made *outbox, owned []*place) error {
	to := g.engine.publisher
	for _, p := range owned {
		id := p.task.part.ID()
		if letters := made.dead[id]; len(letters) > 0 {
			if err := to.PublishDead(ctx, letters); err != nil {
				return err
			}
		}
		for _, batch := range made.late[id] {
			if err := to.PublishLate(ctx, batch); err != nil {
				return err
			}
		}
		if topicID, ok := made.rekeyed[id]; ok {
			for _, batch := range made.telemetry[id] {
				if err := to.PublishRekeyed(ctx, topicID, batch); err != nil {
					return err
				}
			}
		}
	}
	return s.publishEvents(ctx, to, func(partition int32) bool {
		return slices.ContainsFunc(owned, func(p *place) bool { return p.task.part.ID() == partition })
	})
}
