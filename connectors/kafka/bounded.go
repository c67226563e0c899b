package kafka

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/tailrace/tailrace/pipeline"
)

// Span is what a [Bounded] source reads.
type Span struct {
	// Partitions are the partitions to read and the offsets [from, to) of each. If it is nil, all are read, by time.
	Partitions map[int32][2]int64
	// From and To are times of the records: each partition is read from its first message at or after From up to its
	// first at or after To. A zero From is the first message that is there, a zero To the end as reading begins.
	From, To time.Time
}

// Bounded reads a range of a topic that was decided beforehand, without a group: nobody else's partitions move, and no
// offsets are stored. Commits are kept in memory, so that a generation after a fault goes on where the one before was.
type Bounded struct {
	reader
	span    Span
	places  map[int32]place // nil until they are known
	ends    map[int32]int64
	topic   topicID
	commits commitBook
	current *boundedGeneration
	trouble outage
}

var _ pipeline.Source = (*Bounded)(nil)

// NewBounded returns a source that has not connected yet. Of c the group, start and until do not count.
func NewBounded(c SourceConfig, set pipeline.Settings, decoder pipeline.NewDecoder, span Span) (*Bounded, error) {
	if !span.To.IsZero() && span.To.Before(span.From) {
		return nil, fmt.Errorf("%w: kafka: want a range of times, got %s to %s",
			pipeline.ErrConfig, span.From.Format(time.RFC3339Nano), span.To.Format(time.RFC3339Nano))
	}
	for id, offsets := range span.Partitions {
		if offsets[0] < 0 || offsets[1] < offsets[0] {
			return nil, fmt.Errorf("%w: kafka: partition %d: want a range of offsets, got %d to %d",
				pipeline.ErrConfig, id, offsets[0], offsets[1])
		}
	}
	c.Group = ""
	b := &Bounded{
		span: span, commits: commitBook{stored: map[int32]pipeline.Commit{}},
		trouble: outage{log: set.Log, what: "kafka offsets", args: []any{"topic", c.Topic}},
	}
	b.open(c, set, decoder)
	return b, nil
}

// Next gives all partitions of the range. The range is resolved once; offsets that are not there any more, or not yet,
// give an error that wraps pipeline.ErrConfig.
func (b *Bounded) Next(ctx context.Context) (pipeline.Generation, error) {
	if b.current != nil {
		b.current.end()
	}
	t, err := b.cluster.await(ctx, b.config.Topic, b.settings.Log)
	if err != nil {
		return nil, fmt.Errorf("kafka: %w", err)
	}
	if err := b.cluster.final(b.cluster.lacks(t, opRead, b.config.Topic)); errors.Is(err, pipeline.ErrConfig) {
		return nil, fmt.Errorf("kafka: %w", err)
	}
	var pause backoff
	for b.places == nil {
		err := b.resolve(ctx, t)
		if err == nil {
			b.trouble.works()
			break
		}
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		err = b.cluster.final(b.cluster.grant(err, "Read", b.config.Topic, ""))
		if errors.Is(err, pipeline.ErrConfig) {
			return nil, fmt.Errorf("kafka: topic %q: %w", b.config.Topic, err)
		}
		b.trouble.failed(err)
		closeClient(b.client)
		if err := pause.wait(ctx); err != nil {
			return nil, err
		}
	}
	g := &boundedGeneration{source: b, revoked: make(chan struct{})}
	stored := b.commits.all()
	for _, id := range slices.Sorted(maps.Keys(b.places)) {
		at := b.places[id]
		if at.commit, at.committed = stored[id]; at.committed {
			at.start = at.commit.Offset
		}
		p, err := b.partition(id, at, func() int64 { return b.ends[id] }, &b.Stats)
		if err != nil {
			return nil, errors.Join(err, g.Close())
		}
		g.partitions = append(g.partitions, p)
	}
	b.current = g
	return g, nil
}

// resolve finds the offsets of the range.
func (b *Bounded) resolve(ctx context.Context, t topic) error {
	id, err := b.cluster.identity(ctx, b.config.Topic)
	if err != nil {
		return err
	}
	ids := t.partitions()
	first, end, err := b.offsets(ctx, ids)
	if err != nil {
		return err
	}
	from, to := maps.Clone(first), maps.Clone(end)
	if b.span.Partitions != nil {
		clear(from)
		clear(to)
		for id, offsets := range b.span.Partitions {
			if _, ok := first[id]; !ok {
				return fmt.Errorf("%w: want partitions 0 to %d, got %d", pipeline.ErrConfig, len(ids)-1, id)
			}
			if offsets[0] < offsets[1] && (offsets[0] < first[id] || offsets[1] > end[id]) {
				return fmt.Errorf("%w: partition %d: want offsets of %d to %d, which are there, got %d to %d",
					pipeline.ErrConfig, id, first[id], end[id], offsets[0], offsets[1])
			}
			from[id], to[id] = offsets[0], offsets[1]
		}
	} else {
		if !b.span.From.IsZero() {
			if from, err = offsetsAt(ctx, b.client, b.config.Topic, ids, b.span.From); err != nil {
				return err
			}
		}
		if !b.span.To.IsZero() {
			if to, err = offsetsAt(ctx, b.client, b.config.Topic, ids, b.span.To); err != nil {
				return err
			}
		}
	}
	places := map[int32]place{}
	for p := range from {
		to[p] = max(to[p], from[p]) // times need not grow with offsets
		places[p] = place{id: id, start: from[p], first: first[p], end: end[p]}
	}
	b.places, b.ends, b.topic = places, to, id
	return nil
}

// Range gives the offsets [from, to) that each partition is read over. It is nil before Next has returned.
func (b *Bounded) Range() map[int32][2]int64 {
	if b.places == nil {
		return nil
	}
	list := map[int32][2]int64{}
	for id, at := range b.places {
		list[id] = [2]int64{at.start, b.ends[id]}
	}
	return list
}

// Close ends the generation, which must be closed.
func (b *Bounded) Close() error {
	if b.current != nil {
		b.current.end()
	}
	closeClient(b.client)
	return nil
}

// commitBook keeps commits in memory.
type commitBook struct {
	mu     sync.Mutex
	stored map[int32]pipeline.Commit
}

func (c *commitBook) add(commits map[int32]pipeline.Commit) {
	c.mu.Lock()
	defer c.mu.Unlock()
	maps.Copy(c.stored, commits)
}

func (c *commitBook) all() map[int32]pipeline.Commit {
	c.mu.Lock()
	defer c.mu.Unlock()
	return maps.Clone(c.stored)
}

// boundedGeneration is all of the range. Nobody takes it away before the source goes on.
type boundedGeneration struct {
	source     *Bounded
	partitions []*partition
	revoked    chan struct{}
	once       sync.Once
}

var _ pipeline.Generation = (*boundedGeneration)(nil)

func (g *boundedGeneration) end() { g.once.Do(func() { close(g.revoked) }) }

func (g *boundedGeneration) Revoked() <-chan struct{} { return g.revoked }

func (g *boundedGeneration) Partitions() []pipeline.Partition { return listed(g.partitions) }

// Width counts the partitions of the range: a re-run knows no others.
func (g *boundedGeneration) Width() int { return len(g.partitions) }

func (g *boundedGeneration) Commit(_ context.Context, commits map[int32]pipeline.Commit) error {
	select {
	case <-g.revoked:
		return fmt.Errorf("kafka: topic %q: commit: %w", g.source.config.Topic, pipeline.ErrFenced)
	default:
	}
	g.source.commits.add(commits)
	return nil
}

func (g *boundedGeneration) Committed(context.Context) (map[int32]pipeline.Commit, error) {
	return g.source.commits.all(), nil
}

func (g *boundedGeneration) Range(_ context.Context, s pipeline.Stretch) (pipeline.Partition, error) {
	p, err := g.source.reread(s, g.source.topic)
	if err != nil {
		return nil, err
	}
	return p, nil
}

func (g *boundedGeneration) Close() error { return closeAll(g.partitions) }
