package pipeline

import (
	"context"
	"time"

	"github.com/apache/arrow/go/v15/arrow"
)

// lane is where a chain's outputs go.
type lane struct {
	*task
	open bool // events leave the task
	hold bool // events wait for their checkpoint
}

// rows implements chainOutput: what the last step gives goes to the table predictions.
func (l lane) rows(_ context.Context, batch arrow.Record) error {
	if !l.muted {
		l.status.scored(l.part.ID(), batch)
	}
	l.keep(Predictions, batch)
	return nil
}

// events implements chainOutput. An event is published at once, unless it is to wait for its row in the table.
func (l lane) events(ctx context.Context, batch arrow.Record) error {
	switch {
	case l.muted:
		batch.Release()
		return nil
	case !l.open:
		l.count("events.historical", batch.NumRows())
		batch.Release()
		return nil
	}
	l.metrics.events(batch.NumRows())
	var err error
	if !l.hold {
		err = l.publish.PublishEvents(ctx, batch)
	}
	l.keep(EventsTable, batch)
	return err
}

// late implements chainOutput: rows that came too late for any result leave by their topic.
func (l lane) late(ctx context.Context, batch arrow.Record) error {
	if l.muted || batch.NumRows() == 0 {
		batch.Release()
		return nil
	}
	l.count("late.published", batch.NumRows())
	l.pending.late = append(l.pending.late, batch)
	return l.publish.PublishLate(ctx, batch)
}

// rekeyed implements chainOutput: rows for the topic keyed by asset.
func (l lane) rekeyed(ctx context.Context, batch arrow.Record) error {
	defer batch.Release()
	if l.muted || batch.NumRows() == 0 {
		return nil
	}
	l.count("rekeyed.published", batch.NumRows())
	l.pending.rekeyed = true
	return l.publish.PublishRekeyed(ctx, l.part.TopicID(), batch)
}

// months counts the months that rows fall into: the store has a partition, hence an INSERT, for each.
type months struct {
	seen        map[int]struct{}
	first, last int64 // ns of the month looked at last, both inclusive
}

func (m *months) reset() { m.seen, m.first, m.last = nil, 0, -1 }

// add returns how many months are new.
func (m *months) add(times []arrow.Timestamp) int {
	added := 0
	for _, ts := range times {
		if m.seen != nil && int64(ts) >= m.first && int64(ts) <= m.last {
			continue
		}
		at := time.Unix(0, int64(ts)).UTC()
		begin := time.Date(at.Year(), at.Month(), 1, 0, 0, 0, 0, time.UTC)
		m.first, m.last = begin.UnixNano(), begin.AddDate(0, 1, 0).UnixNano()-1
		if m.seen == nil {
			m.seen = map[int]struct{}{}
		}
		key := at.Year()*12 + int(at.Month())
		if _, ok := m.seen[key]; !ok {
			m.seen[key] = struct{}{}
			added++
		}
	}
	return added
}
