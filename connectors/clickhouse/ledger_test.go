package clickhouse

import (
	"reflect"
	"slices"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/tailrace/tailrace/pipeline"
)

// settledLine is a line of the ledger of checkpoint seq.
func settledLine(seq uint64, partition int32, at time.Time) pipeline.LedgerEntry {
	return pipeline.LedgerEntry{
		Pipeline: "test", Run: testRun, Seq: seq, Topic: "telemetry", TopicID: "8f2c", Partition: partition,
		From: int64(seq) * 100, To: int64(seq+1) * 100, Messages: 98, Settled: at, Blob: "blobs/0a1b",
		Rows:     map[pipeline.Table]int64{pipeline.Telemetry: 300, pipeline.Predictions: 3},
		Counters: map[string]int64{"dead_invalid_json": 2, "late": 5},
	}
}

// Scenario: three checkpoints of two partitions are written down, one of them twice, one with hostile names, one of another
// topic and one of another pipeline.
// Guarantees: each line is there once; the newest of each partition of the topic and pipeline reads back as it was written.
func TestLedger(t *testing.T) {
	c := serve(t)
	s := openSink(t, c)
	at := time.Date(2026, 11, 2, 3, 4, 5, 678_000_000, time.UTC)
	if lines, err := s.Ledger(t.Context(), "test", "telemetry"); err != nil || len(lines) != 0 {
		t.Errorf("empty ledger: got %v (%v)", lines, err)
	}
	other, foreign := settledLine(4, 0, at.Add(time.Hour)), settledLine(5, 0, at.Add(time.Hour))
	other.Topic, foreign.Pipeline = "other", "'; DROP TABLE checkpoints; --"
	other.Counters, other.Rows = nil, nil
	for _, lines := range [][]pipeline.LedgerEntry{
		{settledLine(1, 0, at), settledLine(1, 7, at)},
		{settledLine(2, 0, at.Add(time.Second))},
		{settledLine(2, 0, at.Add(time.Second))},
		{settledLine(3, 7, at.Add(2*time.Second))},
		{other}, {foreign}, nil,
	} {
		if err := s.Record(t.Context(), lines); err != nil {
			t.Fatal(err)
		}
	}
	if n := number(t, query(t, c), "SELECT count() FROM checkpoints"); n != 6 {
		t.Errorf("lines: want 6, got %d", n)
	}
	for _, test := range []struct {
		pipeline, topic string
		want            []pipeline.LedgerEntry
	}{
		{"test", "telemetry", []pipeline.LedgerEntry{settledLine(2, 0, at.Add(time.Second)), settledLine(3, 7, at.Add(2*time.Second))}},
		{foreign.Pipeline, "telemetry", []pipeline.LedgerEntry{foreign}},
		{"nobody", "telemetry", nil},
	} {
		got, err := s.Ledger(t.Context(), test.pipeline, test.topic)
		if err != nil || !reflect.DeepEqual(got, test.want) {
			t.Errorf("%s, %s:\nwant %+v\ngot  %+v (%v)", test.pipeline, test.topic, test.want, got, err)
		}
	}
	mixed := []pipeline.LedgerEntry{settledLine(8, 0, at), settledLine(9, 0, at)}
	wantError(t, s.Record(t.Context(), mixed), "want lines of one checkpoint, got 8", "and 9")
}

// Scenario: lines come without a time.
// Guarantees: the server's clock gives it, between two readings of it.
func TestLedgerByServerClock(t *testing.T) {
	c := serve(t)
	s := openSink(t, c)
	conn := query(t, c)
	clock := func() (at time.Time) {
		if err := conn.QueryRow(t.Context(), "SELECT now64(3, 'UTC')").Scan(&at); err != nil {
			t.Fatal(err)
		}
		return at
	}
	before := clock()
	if err := s.Record(t.Context(), []pipeline.LedgerEntry{settledLine(1, 0, time.Time{}), settledLine(1, 1, before)}); err != nil {
		t.Fatal(err)
	}
	after := clock()
	lines, err := s.Ledger(t.Context(), "test", "telemetry")
	if err != nil || len(lines) != 2 {
		t.Fatalf("want 2 lines, got %v (%v)", lines, err)
	}
	for _, l := range lines {
		if l.Settled.Before(before) || l.Settled.After(after) {
			t.Errorf("settled: want %s to %s, got %s", before, after, l.Settled)
		}
	}
}

// Scenario: a checkpoint's partitions went to several processes, which write it down at once, each for its own and with some
// in common; before that the server took the token and lost the line, or nothing.
// Guarantees: every line is there once.
func TestLedgerOfSeveralProcesses(t *testing.T) {
	for name, lost := range map[string]bool{"fresh": false, "token without line": true} {
		t.Run(name, func(t *testing.T) {
			c := serve(t)
			s := openSink(t, c)
			if lost {
				if err := s.Record(t.Context(), []pipeline.LedgerEntry{settledLine(1, 2, october)}); err != nil {
					t.Fatal(err)
				}
				if err := query(t, c).Exec(t.Context(), "DELETE FROM checkpoints WHERE 1"); err != nil {
					t.Fatal(err)
				}
			}
			var all errgroup.Group
			for _, partitions := range [][]int32{{0, 1}, {1, 2}, {2}, {0, 1, 2, 3}} {
				var lines []pipeline.LedgerEntry
				for _, p := range partitions {
					lines = append(lines, settledLine(1, p, october))
				}
				one := newSink(t, c)
				all.Go(func() error { return one.Record(t.Context(), lines) })
			}
			if err := all.Wait(); err != nil {
				t.Fatal(err)
			}
			got := lines(t, c, "partition, count()", "checkpoints GROUP BY partition ORDER BY partition")
			if want := []string{"0|1", "1|1", "2|1", "3|1"}; !slices.Equal(got, want) {
				t.Errorf("partition and lines: want %v, got %v", want, got)
			}
		})
	}
}
