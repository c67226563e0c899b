package pipeline

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/tailrace/tailrace/pipeline/state"
)

// place is where a task goes on.
type place struct {
	task   *task
	offset int64
	meta   state.Meta
	blob   string // the state there; "" for none
	anchor bool   // the place is to be committed before anything is read
	replay int64  // read again from here to offset first, without output; -1 for no
}

// begin settles what an earlier owner of the partitions left open, finds where each task goes on and gives it its state.
func (g *generation) begin(ctx context.Context) error {
	e := g.engine
	if err := g.checkWidth(ctx); err != nil {
		return err
	}
	var places []*place
	read := map[string]*state.Blob{}
	for _, t := range g.tasks {
		p, err := g.place(ctx, t, read)
		if err != nil {
			return fmt.Errorf("topic %q, partition %d: %w", t.part.Topic(), t.part.ID(), err)
		}
		places = append(places, p)
	}
	if err := g.finishPlans(ctx, places, read); err != nil {
		return err
	}
	anchors := map[int32]Commit{}
	for _, p := range places {
		if err := g.resume(ctx, p, read); err != nil {
			return fmt.Errorf("topic %q, partition %d: %w", p.task.part.Topic(), p.task.part.ID(), err)
		}
		if p.anchor {
			meta := state.Meta{Run: g.run, Blob: p.blob, TopicID: p.task.part.TopicID(), Width: g.group.Width()}
			anchors[p.task.part.ID()] = Commit{Offset: p.offset, Metadata: meta.String()}
		}
	}
	if len(anchors) == 0 {
		return nil
	}
	if err := e.timed(ctx, "anchor", func(ctx context.Context) error { return g.group.Commit(ctx, anchors) }); err != nil {
		return fmt.Errorf("%w: %w", errNotCommitted, err)
	}
	return nil
}

// checkWidth finds out whether the topic has gained partitions since the group's commits. The settled work is committed by
// then: growth ends a generation as any change does.
func (g *generation) checkWidth(ctx context.Context) error {
	e, width, before := g.engine, g.group.Width(), 0
	if len(g.tasks) == 0 {
		return nil
	}
	commits, err := g.group.Committed(ctx)
	if err != nil {
		return fmt.Errorf("%w: %w", errNotRead, err)
	}
	for _, c := range commits {
		if meta, err := state.ParseMeta(c.Metadata); err == nil {
			before = max(before, meta.Width)
		}
	}
	topic := g.tasks[0].part.Topic()
	switch {
	case before == 0 || before >= width:
		return nil
	case e.plan.State.OnGrowth == OnGrowthStop && !e.plan.Adopt:
		return fmt.Errorf("%w: topic %q has %d partitions, and had %d: assets that are now sent to others begin anew there: start with "+
			"--adopt to go on once, or set state.on_growth: continue", ErrConfig, topic, width, before)
	}
	e.env.Log.Warn("the topic has gained partitions: assets that are now sent to others begin anew there",
		"topic", topic, "partitions", width, "before", before)
	return nil
}

// place reads what the group has stored for a partition.
func (g *generation) place(ctx context.Context, t *task, read map[string]*state.Blob) (*place, error) {
	adopt := g.engine.plan.Adopt
	first, end := t.part.Bounds()
	commit, ok := t.part.Committed()
	if !ok {
		return g.uncommitted(ctx, t, read)
	}
	p := &place{task: t, offset: commit.Offset, replay: -1}
	meta, err := state.ParseMeta(commit.Metadata)
	switch {
	case err != nil && adopt:
		g.engine.env.Log.Warn("adopted: going on from an offset that another program has committed, with empty state",
			"partition", t.part.ID(), "offset", commit.Offset)
		p.anchor = true
		return p, nil
	case err != nil:
		return nil, fmt.Errorf("%w: the group's offset %d has %w: if it is where this pipeline is to go on, with empty state, "+
			"start it with --adopt", ErrConfig, commit.Offset, err)
	case meta.TopicID != "" && t.part.TopicID() != "" && meta.TopicID != t.part.TopicID():
		return g.madeAnew(t, fmt.Sprintf("its id is %s, and the group's offset %d is of the topic with id %s",
			t.part.TopicID(), commit.Offset, meta.TopicID))
	case commit.Offset > end:
		return g.madeAnew(t, fmt.Sprintf("it ends at offset %d, below the group's offset %d", end, commit.Offset))
	}
	p.meta, p.blob = meta, meta.Blob
	if commit.Offset < first && !meta.Open {
		return g.expired(p, first)
	}
	if meta.Blob == "" {
		return p, nil
	}
	_, err = g.engine.load(ctx, meta.Blob, read)
	switch {
	case err == nil:
		return p, nil
	case !errors.Is(err, state.ErrNotFound) && !errors.Is(err, state.ErrCorrupt):
		return nil, err
	case meta.Open:
		return nil, fmt.Errorf("%w: a checkpoint was being sent, and its %w: it can't be told which of its rows are stored: "+
			"bring the blob back, or settle run %x, checkpoint %d by hand and reset the group's offsets", ErrConfig, err, meta.Run, meta.Seq)
	}
	return g.missing(ctx, t, commit.Offset, err.Error(), read)
}

// uncommitted finds the place of a partition without an offset: one that is new, or one whose offset is gone.
func (g *generation) uncommitted(ctx context.Context, t *task, read map[string]*state.Blob) (*place, error) {
	lines, err := g.ledger(ctx, t.part.Topic())
	if err != nil {
		return nil, err
	}
	at := slices.IndexFunc(lines, func(l LedgerEntry) bool { return l.Partition == t.part.ID() })
	if at < 0 {
		return &place{task: t, offset: t.part.Start(), anchor: true, replay: -1}, nil
	}
	line := lines[at]
	if line.TopicID != "" && t.part.TopicID() != "" && line.TopicID != t.part.TopicID() {
		return g.madeAnew(t, fmt.Sprintf("its id is %s, and the ledger knows it up to offset %d with id %s", t.part.TopicID(), line.To, line.TopicID))
	}
	if _, end := t.part.Bounds(); line.To > end {
		return g.madeAnew(t, fmt.Sprintf("it ends at offset %d, and the ledger knows it up to offset %d", end, line.To))
	}
	return g.missing(ctx, t, line.To, fmt.Sprintf("the group has no offset, though the ledger has run %x, checkpoint %d", line.Run, line.Seq), read)
}

// ledger asks the sink once for a topic's newest lines.
func (g *generation) ledger(ctx context.Context, topic string) ([]LedgerEntry, error) {
	if g.lines == nil {
		lines, err := g.engine.sink.Ledger(ctx, g.engine.plan.ID, topic)
		if err != nil {
			return nil, fmt.Errorf("ledger: %w", err)
		}
		g.lines = append([]LedgerEntry{}, lines...)
	}
	return g.lines, nil
}

// madeAnew is the place in a topic that is not the one that was read before.
func (g *generation) madeAnew(t *task, why string) (*place, error) {
	if !g.engine.plan.Adopt {
		return nil, fmt.Errorf("%w: the topic was made anew: %s: start with --adopt to read it from its beginning", ErrConfig, why)
	}
	first, _ := t.part.Bounds()
	g.engine.env.Log.Warn("adopted: reading a topic that was made anew from its beginning", "partition", t.part.ID(), "why", why)
	return &place{task: t, offset: first, anchor: true, replay: -1}, nil
}

// expired is the place of a partition whose next messages retention has deleted.
func (g *generation) expired(p *place, first int64) (*place, error) {
	lost := first - p.offset
	if !g.engine.plan.Adopt {
		return nil, fmt.Errorf("%w: offsets %d to %d are gone: retention deleted them before they were read: start with --adopt "+
			"to go on at offset %d", ErrConfig, p.offset, first-1, first)
	}
	g.engine.env.Log.Warn("adopted: going on behind offsets that retention deleted before they were read",
		"partition", p.task.part.ID(), "from", p.offset, "to", first-1)
	p.task.expired = lost
	return p, nil
}

// missing finds another way to the state at an offset, as state.on_missing says.
func (g *generation) missing(ctx context.Context, t *task, target int64, why string, read map[string]*state.Blob) (*place, error) {
	e := g.engine
	policy := e.plan.State.OnMissing
	if policy == OnMissingStop {
		return nil, fmt.Errorf("%w: %s: state.on_missing says stop; resume looks for a stored state at offset %d, rebuild reads the "+
			"topic again without output up to there", ErrConfig, why, target)
	}
	blob, at, err := g.newestBlob(ctx, t, target, read)
	if err != nil {
		return nil, err
	}
	first, _ := t.part.Bounds()
	p := &place{task: t, offset: target, blob: blob, replay: -1}
	switch {
	case blob != "" && at == target:
		p.anchor = true
		e.env.Log.Warn("resumed from a stored state", "partition", t.part.ID(), "offset", target, "why", why, "blob", blob)
		return p, nil
	case policy == OnMissingResume:
		return nil, fmt.Errorf("%w: %s: state.on_missing says resume, and there is no state at offset %d (the newest is at %d): "+
			"rebuild reads the topic again without output up to there", ErrConfig, why, target, at)
	case blob == "":
		at = first
	}
	p.replay = max(at, first)
	e.env.Log.Warn("rebuilding state without output", "partition", t.part.ID(), "from", p.replay, "to", target, "why", why)
	return p, nil
}

// newestBlob finds the newest stored state of a partition at or before an offset.
func (g *generation) newestBlob(ctx context.Context, t *task, target int64, read map[string]*state.Blob) (name string, at int64, err error) {
	e := g.engine
	at = -1
	var list []state.Info
	err = e.persist(ctx, "the state store does not list blobs", func(ctx context.Context) (err error) {
		list, err = e.plan.Store.List(ctx, e.plan.ID+"/")
		return err
	})
	if err != nil {
		return "", -1, err
	}
	for _, info := range list {
		b, err := e.load(ctx, info.Name, read)
		if err != nil {
			e.env.Log.Warn("a blob can't be used", "blob", info.Name, "error", err)
			continue
		}
		part := b.Part(t.part.Topic(), t.part.ID())
		if part == nil || part.TopicID != t.part.TopicID() || part.To > target || part.To <= at {
			continue
		}
		err = e.persist(ctx, "the state store gives no blobs", func(ctx context.Context) error {
			_, err := state.Restore(ctx, e.plan.Store, info.Name, part.Topic, part.Partition, read)
			return err
		})
		if err == nil {
			name, at = info.Name, part.To
		}
	}
	return name, at, nil
}

// resume gives a task its state and its first offset.
func (g *generation) resume(ctx context.Context, p *place, read map[string]*state.Blob) error {
	e, t := g.engine, p.task
	if p.blob != "" {
		var restored *state.Restored
		err := e.persist(ctx, "the state store gives no blobs", func(ctx context.Context) (err error) {
			restored, err = state.Restore(ctx, e.plan.Store, p.blob, t.part.Topic(), t.part.ID(), read)
			return err
		})
		if err != nil {
			return fmt.Errorf("%w: %w", ErrConfig, err)
		}
		t.decoder = restored.Decoder
		lost, err := t.flow.restore(restored.Steps)
		if err != nil {
			return fmt.Errorf("%w: blob %s: %w", ErrConfig, p.blob, err)
		}
		for _, step := range lost {
			e.env.Log.Warn("a step starts empty: its config, or that of a step before it, has changed", "step", step,
				"partition", t.part.ID())
		}
		e.metrics.restored()
	}
	if p.replay >= 0 {
		if err := g.rebuild(ctx, p); err != nil {
			return fmt.Errorf("rebuilding state: %w", err)
		}
	}
	start := p.offset + t.expired
	if err := t.part.StartAt(start, t.decoder); err != nil {
		return fmt.Errorf("%w: the decoder's state: %w", ErrConfig, err)
	}
	t.pending = t.newHarvest(start)
	t.count("offsets.expired", t.expired)
	return nil
}

// rebuild runs a task over messages that were processed before, without output.
func (g *generation) rebuild(ctx context.Context, p *place) error {
	t := p.task
	r, err := g.group.Range(ctx, Stretch{Partition: t.part.ID(), From: p.replay, To: p.offset, Decoder: t.decoder})
	if err != nil {
		return err
	}
	t.muted = true
	defer func() { t.muted = false }()
	t.pending = t.newHarvest(p.replay)
	err = eachDelivery(ctx, r, func(d *Delivery) error {
		if d.Decoder != nil {
			t.decoder = d.Decoder
		}
		return t.work(ctx, d)
	})
	return errors.Join(err, r.Close())
}

// eachDelivery reads a bounded partition to its end. f borrows.
func eachDelivery(ctx context.Context, p Partition, f func(*Delivery) error) error {
	for {
		d, err := p.Read(ctx)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		err = f(&d)
		d.Release()
		if err != nil {
			return err
		}
	}
}
