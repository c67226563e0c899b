package clickhouse

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/apache/arrow/go/v15/arrow"
	"golang.org/x/sync/errgroup"

	"github.com/tailrace/tailrace/pipeline"
)

// wholeCheckpoint has rows of every table: n of telemetry in two months, three predictions, two events.
func wholeCheckpoint(t *testing.T, seq uint64, n int) *pipeline.Checkpoint {
	t.Helper()
	mem := allocator(t)
	return &pipeline.Checkpoint{Run: testRun, Seq: seq, BlockRows: 100, Parts: map[pipeline.Table][]pipeline.Part{
		pipeline.Telemetry:   {telemetryPart(t, mem, 0, n, october), telemetryPart(t, mem, 1, n, october.AddDate(0, 1, 0))},
		pipeline.Predictions: {{Topic: "telemetry", Batches: []arrow.Record{predictions(t, mem)}}},
		pipeline.EventsTable: {{Topic: "telemetry", Batches: []arrow.Record{events(t, mem, anomaly("e", october, false), anomaly("e", october, true))}}},
	}}
}

// wantRows counts the rows and the distinct lineages of every table.
func wantRows(t *testing.T, c Config, want map[pipeline.Table]uint64) {
	t.Helper()
	conn := query(t, c)
	for _, table := range tables() {
		rows := number(t, conn, "SELECT count() FROM "+string(table.name()))
		if rows != want[table.name()] {
			t.Errorf("%s: want %d rows, got %d", table.name(), want[table.name()], rows)
		}
	}
	if n := number(t, conn, "SELECT uniqExact(k_topic, k_part, k_offset, k_idx) FROM telemetry"); n != want[pipeline.Telemetry] {
		t.Errorf("telemetry: want %d distinct rows, got %d", want[pipeline.Telemetry], n)
	}
}

// forgetTokens makes the server forget every token, as a hundred thousand other inserts would.
func forgetTokens(t *testing.T, c Config) {
	t.Helper()
	conn := query(t, c)
	for _, table := range tables() {
		for _, window := range []int{0, windowMin} {
			sql := fmt.Sprintf("ALTER TABLE %s MODIFY SETTING %s = %d", table.name(), plainWindow, window)
			if err := conn.Exec(t.Context(), sql); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// Scenario: a checkpoint of all tables is stored whole, or up to one of its tables, and then the server forgets every token;
// another process has the checkpoint from the plan and resends it, twice.
// Guarantees: what is there is found and stays once, what is not is stored, and the second time nothing is sent.
func TestResendAfterTokensAreForgotten(t *testing.T) {
	for name, stored := range map[string][]pipeline.Table{
		"nothing stored": nil,
		"telemetry":      {pipeline.Telemetry},
		"two tables":     {pipeline.Telemetry, pipeline.Predictions},
		"all":            {pipeline.Telemetry, pipeline.Predictions, pipeline.EventsTable},
	} {
		t.Run(name, func(t *testing.T) {
			c := serve(t)
			first := openSink(t, c)
			checkpoint := wholeCheckpoint(t, 3, 150)
			partial := *checkpoint
			partial.Parts = map[pipeline.Table][]pipeline.Part{}
			for _, table := range stored {
				partial.Parts[table] = checkpoint.Parts[table]
			}
			if err := write(t.Context(), first, &partial); err != nil {
				t.Fatal(err)
			}
			forgetTokens(t, c)
			checkpoint.Resent = true
			for range 2 {
				second := newSink(t, c)
				if err := write(t.Context(), second, checkpoint); err != nil {
					t.Fatal(err)
				}
				forgetTokens(t, c)
			}
			wantRows(t, c, map[pipeline.Table]uint64{pipeline.Telemetry: 300, pipeline.Predictions: 3, pipeline.EventsTable: 2})
		})
	}
}

// Scenario: the server knows the plain token of every block, or the plain one and one more, and has the rows of none, as
// after kills between a token and its part; four processes resend the checkpoint at once.
// Guarantees: every row is there once.
func TestFourProcessesResend(t *testing.T) {
	for name, lost := range map[string]int{"plain token known": 1, "two tokens known": 2, "nothing known": 0} {
		t.Run(name, func(t *testing.T) {
			c := serve(t)
			openSink(t, c)
			conn := query(t, c)
			checkpoint := wholeCheckpoint(t, 3, 60)
			checkpoint.Resent = true
			for range lost {
				if err := write(t.Context(), newSink(t, c), checkpoint); err != nil {
					t.Fatal(err)
				}
				for _, table := range tables() {
					if err := conn.Exec(t.Context(), "DELETE FROM "+string(table.name())+" WHERE 1"); err != nil {
						t.Fatal(err)
					}
				}
			}
			var all errgroup.Group
			for range 4 {
				s := newSink(t, c)
				all.Go(func() error { return write(t.Context(), s, checkpoint) })
			}
			if err := all.Wait(); err != nil {
				t.Fatal(err)
			}
			wantRows(t, c, map[pipeline.Table]uint64{pipeline.Telemetry: 120, pipeline.Predictions: 3, pipeline.EventsTable: 2})
		})
	}
}

// Scenario: rows that arrived longer ago than the table keeps rows are written, and resent; some of a block are younger.
// Guarantees: a block that TTL took whole is not missed; of the other the young rows are there once.
func TestResendOfExpiredRows(t *testing.T) {
	mem := allocator(t)
	c := serve(t)
	s := newSink(t, c) // keeps the TTL
	if err := s.Open(t.Context()); err != nil {
		t.Fatal(err)
	}
	now := time.Now().UTC()
	old := telemetryPart(t, mem, 0, 20, now.AddDate(0, 0, -120))
	mixed := []pipeline.Part{telemetryPart(t, mem, 1, 20, now.AddDate(0, 0, -89)), telemetryPart(t, mem, 2, 20, now.AddDate(0, 0, -91))}
	conn := query(t, c)
	for seq, parts := range [][]pipeline.Part{{old}, mixed} {
		checkpoint := &pipeline.Checkpoint{Run: testRun, Seq: uint64(seq), Parts: map[pipeline.Table][]pipeline.Part{pipeline.Telemetry: parts}}
		for _, resent := range []bool{false, true, true} {
			checkpoint.Resent = resent
			if err := write(t.Context(), s, checkpoint); err != nil {
				t.Fatal(err)
			}
			if err := conn.Exec(t.Context(), "OPTIMIZE TABLE telemetry FINAL"); err != nil { // TTL counts at a merge
				t.Fatal(err)
			}
		}
	}
	if got := lines(t, c, "k_part, count()", "telemetry GROUP BY k_part ORDER BY k_part"); !slices.Equal(got, []string{"1|20"}) {
		t.Errorf("partition and rows: want the young rows alone, got %v", got)
	}
	if n := s.Counters()["blocks_expired"]; n < 2 {
		t.Errorf("expired blocks: want one a resend, got %d", n)
	}
}

// Scenario: a server takes an INSERT and then says nothing, without closing the connection.
// Guarantees: after insert_timeout the block is looked for over another connection; every row is there once, and the
// failure counts as a time-out.
func TestServerHangs(t *testing.T) {
	mem := allocator(t)
	c := serve(t)
	openSink(t, c)
	via, cut := through(t, c)
	via.InsertTimeout = 500 * time.Millisecond
	s := newSink(t, via)
	cut.holds.Store(1)
	if err := write(t.Context(), s, telemetryCheckpoint(t, mem, 1, 500)); err != nil {
		t.Fatal(err)
	}
	if n := number(t, query(t, c), "SELECT count() FROM telemetry"); n != 500 {
		t.Errorf("rows: want 500, got %d", n)
	}
	if n := s.Counters()[failuresBy(faultTimeout)]; n != 1 {
		t.Errorf("time-outs: want 1, got %d (%s)", n, s.Stats().LastError)
	}
}
