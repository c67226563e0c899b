package simulation

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/tailrace/tailrace/pipeline"
	"github.com/tailrace/tailrace/schemas"
)

// judge compares what a world has in the end with what an undisturbed one has.
func (w *world) judge(o *world) error {
	var found []error
	for _, table := range []pipeline.Table{pipeline.Telemetry, pipeline.Predictions, pipeline.EventsTable} {
		found = append(found, compare(string(table), o.clickhouse.rows(table), w.clickhouse.rows(table)))
	}
	// At least once: how often a message came does not count.
	for _, out := range []string{schemas.TopicEvents, schemas.TopicLate} {
		found = append(found, compare(out, o.sentOnce(out, valueOf), w.sentOnce(out, valueOf)))
	}
	letters := schemas.TopicDeadLetters
	found = append(found, compare(letters, o.sentOnce(letters, letterOf), w.sentOnce(letters, letterOf)))

	want, bad := o.ledger()
	found = append(found, bad)
	got, bad := w.ledger()
	found = append(found, bad)
	w.journal.add("judge", "the ledger's sums: %v", got)
	w.journal.add("judge", "%d blocks stopped by their token, %d faults of the bucket", w.clickhouse.dedups, w.bucket.faults)
	if !maps.Equal(want, got) {
		found = append(found, fmt.Errorf("the ledger's sums: want %v, got %v", want, got))
	}
	return errors.Join(found...)
}

// judgeRepeated is judge for a pipeline that may repeat rows: nothing is missing, and nothing is there that should not
// be.
func (w *world) judgeRepeated(o *world) error {
	var found []error
	for _, table := range []pipeline.Table{pipeline.Telemetry, pipeline.Predictions, pipeline.EventsTable} {
		want, got := slices.Compact(o.clickhouse.rows(table)), slices.Compact(w.clickhouse.rows(table))
		found = append(found, compare(string(table), want, got))
	}
	return errors.Join(found...)
}

// ledger checks that a ledger's lines follow each other from each partition's first message to its last, and that they
// say of each message where it went. It returns the sums of all that it counts.
func (w *world) ledger() (map[string]int64, error) {
	lines := slices.Clone(w.clickhouse.ledger)
	slices.SortStableFunc(lines, func(a, b pipeline.LedgerEntry) int {
		return cmp.Or(cmp.Compare(a.To, b.To), cmp.Compare(a.From, b.From))
	})
	sums := map[string]int64{}
	at := map[int32]int64{}
	var found []error
	for _, l := range lines {
		if l.From != at[l.Partition] {
			found = append(found, fmt.Errorf("ledger of partition %d: want a line from offset %d, got %d to %d (%x/%d)",
				l.Partition, at[l.Partition], l.From, l.To, l.Run[:2], l.Seq))
		}
		at[l.Partition] = l.To
		sums["messages"] += l.Messages
		for table, n := range l.Rows {
			sums["stored."+string(table)] += n
		}
		for reason, n := range l.Counters {
			sums[reason] += n
		}
	}
	for _, p := range w.cluster.PartitionInfos(topic) {
		if at[p.Partition] != p.HighWatermark {
			found = append(found, fmt.Errorf("ledger of partition %d: want it to end at offset %d, got %d",
				p.Partition, p.HighWatermark, at[p.Partition]))
		}
	}
	went := sums["stored.telemetry"] + sums["refused.telemetry"] + sums["rows.duplicate"]
	for reason, n := range sums {
		if strings.HasPrefix(reason, "dead.") {
			went += n
		}
	}
	if went != sums["messages"] {
		found = append(found, fmt.Errorf("ledger: want its sums to make %d messages, got %d: %v", sums["messages"], went, sums))
	}
	for _, table := range []pipeline.Table{pipeline.Telemetry, pipeline.Predictions, pipeline.EventsTable} {
		if n := int64(len(w.clickhouse.rows(table))); sums["stored."+string(table)] != n {
			found = append(found, fmt.Errorf("ledger: table %s has %d rows, and it says %d", table, n, sums["stored."+string(table)]))
		}
	}
	return sums, errors.Join(found...)
}

// compare tells how sorted texts differ.
func compare(what string, want, got []string) error {
	var missing, more []string
	for i, k := 0, 0; i < len(want) || k < len(got); {
		switch {
		case k == len(got) || i < len(want) && want[i] < got[k]:
			missing = append(missing, want[i])
			i++
		case i == len(want) || got[k] < want[i]:
			more = append(more, got[k])
			k++
		default:
			i, k = i+1, k+1
		}
	}
	if len(missing)+len(more) == 0 {
		return nil
	}
	show := func(rows []string) string {
		text := ""
		for _, r := range rows[:min(len(rows), 3)] {
			text += "\n\t" + r
		}
		return text
	}
	return fmt.Errorf("%s: of %d rows %d are missing:%s\nand %d are too many:%s",
		what, len(want), len(missing), show(missing), len(more), show(more))
}
