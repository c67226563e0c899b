package cli

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/tailrace/tailrace/pipeline"
)

// count compares the ledger's hours with the table telemetry.
func (r *reconciled) count(ctx context.Context, hours []hour) error {
	byTopic := map[string][]stretch{}
	for i := range hours {
		h := &hours[i]
		byTopic[h.TopicID] = append(byTopic[h.TopicID], stretch{h.Partition, h.From, h.To})
	}
	for i := range r.Partitions {
		if p := &r.Partitions[i]; p.topicID == r.newest && p.Settled >= 0 && p.Settled < p.End {
			byTopic[r.newest] = append(byTopic[r.newest], stretch{p.Partition, p.Settled, p.End})
		}
	}
	topics, err := r.books.topics(ctx)
	if err != nil {
		return err
	}
	if len(topics) > 1 {
		r.note("the topic was made anew: the ledger knows it under %d ids", len(topics))
	}
	age, err := r.ageOf(ctx, pipeline.Telemetry, "ts_ingest")
	if err != nil {
		return err
	}
	found := map[string]stretchSums{}
	for id, stretches := range byTopic {
		where, args := r.books.ofTopic(id, id == r.newest, len(topics) == 1)
		counts, err := r.books.telemetry(ctx, disjoint(stretches, passOffsets), where, args)
		if err != nil {
			return err
		}
		found[id] = newStretchSums(counts)
	}
	for i := range hours {
		h := &hours[i]
		r.judge(h, age, found[h.TopicID].over(stretch{h.Partition, h.From, h.To}))
	}
	for i := range r.Partitions {
		if p := &r.Partitions[i]; p.topicID == r.newest && p.Settled >= 0 {
			p.InFlight = found[p.topicID].over(stretch{p.Partition, p.Settled, p.End}).Rows
		}
	}
	return nil
}

// judge does the sum of an hour.
func (r *reconciled) judge(h *hour, age *age, c counted) {
	s := sums{
		Messages: h.Messages, Stored: c.Offsets, Holes: h.Offsets - h.Messages, Late: h.Counters["rows.late"], Rows: c.Rows,
		Doubled: c.Rows - c.Places, Missing: max(0, int64(h.Rows[string(pipeline.Telemetry)])-c.Places), Reasons: h.Counters,
	}
	if h.Overlap > 0 { // what was read twice was stored twice
		s.Missing = max(0, int64(h.Rows[string(pipeline.Telemetry)])-c.Rows)
	}
	dropped := int64(0)
	for reason, n := range h.Counters {
		switch {
		case strings.HasPrefix(reason, "dead."):
			s.DeadLetters += n
		case unstored(reason):
			dropped += n
		}
	}
	// Drops are counted in rows. Where a message is one row they are messages; where it has several, a message is only gone
	// if all of its rows are, so that drops are a bound.
	left := s.Messages - s.DeadLetters - s.Stored
	left -= min(max(left, 0), h.Overlap)
	several := int64(h.Rows[string(pipeline.Telemetry)])+dropped > s.Messages-s.DeadLetters
	if s.Dropped = dropped; several {
		s.Dropped = min(max(left, 0), dropped)
	}
	old := age.of(h)
	if left -= s.Dropped; left > 0 {
		s.Expired = min(left, old)
	}
	if s.Missing = max(0, s.Missing-old); several && old > 0 {
		s.Missing = 0 // of how many rows the old messages were can't be told any more
	}
	s.Unaccounted = left - s.Expired
	where := fmt.Sprintf("partition %d, hour %s, offsets %d to %d", h.Partition, h.Hour.Format("2006-01-02T15"), h.From, h.To-1)
	switch {
	case s.Unaccounted > 0:
		r.fault("%s: %d messages are neither stored nor counted", where, s.Unaccounted)
	case s.Unaccounted < 0:
		r.fault("%s: %d messages more are stored than were read", where, -s.Unaccounted)
	}
	if s.Missing > 0 {
		r.fault("%s: %d rows that were stored are not there", where, s.Missing)
	}
	if s.Doubled > 0 {
		r.fault("%s: %d rows are doubled", where, s.Doubled)
	}
	if gap := h.Gap - h.Counters["offsets.expired"]; gap > 0 {
		r.fault("%s: %d offsets before them are in no checkpoint", where, gap)
	}
	if h.Counters["offsets.expired"] > 0 {
		r.note("%s: retention had deleted %d offsets before they were read", where, h.Counters["offsets.expired"])
	}
	if h.Overlap > 0 {
		r.fault("%s: %d offsets are in more than one checkpoint", where, h.Overlap)
	}
	r.Total.add(&s)
	r.Hours = append(r.Hours, hourJSON{h.Hour, h.Partition, h.TopicID, h.From, h.To, s})
}

// unstored tells whether a counter of the ledger is of decoded rows that are not in the table telemetry. What is late, has a suspect
// clock or is history is stored all the same, and what a step drops has been stored before.
func unstored(reason string) bool {
	switch reason {
	case "rows.late", "rows.clock_suspect", "rows.historical":
		return false
	case "refused." + string(pipeline.Telemetry), "left_out." + string(pipeline.Telemetry):
		return true
	}
	return strings.HasPrefix(reason, "rows.")
}

// age says which messages are so old that a table's TTL may have taken their rows.
type age struct {
	keeps time.Duration   // from arrival; 0: for ever, or it can't be told
	young map[int32]int64 // the first offset of a partition that is younger; absent if it can't be told
	topic string          // id of the topic that young is of
}

func (r *reconciled) ageOf(ctx context.Context, table pipeline.Table, arrived string) (*age, error) {
	a := &age{topic: r.newest}
	var err error
	if a.keeps, err = r.books.kept(ctx, table, arrived); err != nil || a.keeps == 0 {
		return a, err
	}
	if a.young, err = r.access.OffsetsAt(ctx, r.Topic, time.Now().Add(-a.keeps)); err != nil {
		return nil, err
	}
	// Where the first message that Kafka still has is young, nothing tells the age of those before it.
	for i := range r.Partitions {
		if p := &r.Partitions[i]; a.young[p.Partition] <= p.First {
			delete(a.young, p.Partition)
		}
	}
	return a, nil
}

// of is how many offsets of an hour are too old.
func (a *age) of(h *hour) int64 {
	switch {
	case a.keeps == 0:
		return 0
	case time.Since(h.Settled) > a.keeps: // it arrived before it was settled
		return h.To - h.From
	case h.TopicID == a.topic:
		return min(max(a.young[h.Partition]-h.From, 0), h.To-h.From)
	}
	return 0
}

// derived compares predictions and events.
func (r *reconciled) derived(ctx context.Context, hours []hour) error {
	for _, t := range []struct {
		table   pipeline.Table
		arrived string
		stored  func(*endOfPart) *int64
	}{
		{pipeline.Predictions, "ts_ingest", func(p *endOfPart) *int64 { return &p.Predictions }},
		{pipeline.EventsTable, "detected_ts", func(p *endOfPart) *int64 { return &p.Events }},
	} {
		found, err := r.books.derived(ctx, t.table)
		if err != nil {
			return err
		}
		age, err := r.ageOf(ctx, t.table, t.arrived)
		if err != nil {
			return err
		}
		want, old := map[int32]int64{}, map[int32]int64{}
		for i := range hours {
			h := &hours[i]
			want[h.Partition] += int64(h.Rows[string(t.table)])
			if age.of(h) > 0 {
				old[h.Partition] += int64(h.Rows[string(t.table)])
			}
		}
		for i := range r.Partitions {
			p := &r.Partitions[i]
			d := found[p.Partition]
			*t.stored(p) = d.Settled
			missing := want[p.Partition] - d.Settled
			if missing > 0 && missing <= old[p.Partition] {
				r.note("partition %d: %d rows of %s are older than its TTL", p.Partition, missing, t.table)
			} else if missing > 0 { // less: a line has come meanwhile
				r.fault("partition %d: the ledger has %d rows of %s, and the table %d", p.Partition, want[p.Partition], t.table, d.Settled)
			}
			if d.Doubled > 0 {
				r.fault("partition %d: %d rows of %s are doubled", p.Partition, d.Doubled, t.table)
			}
		}
	}
	return nil
}
