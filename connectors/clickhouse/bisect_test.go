package clickhouse

import (
	"bytes"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"

	"github.com/apache/arrow/go/v15/arrow"
	"github.com/apache/arrow/go/v15/arrow/array"
	"golang.org/x/sync/errgroup"
	"pgregory.net/rapid"

	"github.com/tailrace/tailrace/pipeline"
	"github.com/tailrace/tailrace/schemas"
)

// Scenario: a block of any size up to the largest is halved along random ways down to one row.
// Guarantees: halves are the rows of their parent, in order; no two nodes have one number; a node holds the numbers of its
// halves and of theirs, and no other; and the deepest number fits.
func TestNodes(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := node{root: uint32(rapid.IntRange(0, rootsMax-1).Draw(t, "root")), to: rapid.IntRange(1, insertRowsLimit).Draw(t, "rows")}
		whole := n
		seen := map[uint32]bool{n.number(): true}
		if n.number() != n.root {
			t.Fatalf("whole block: want number %d, got %d", n.root, n.number())
		}
		for n.rows() > 1 {
			first, second := n.halves()
			if first.from != n.from || first.to != second.from || second.to != n.to || first.rows() < 1 || second.rows() < first.rows() ||
				second.rows() > first.rows()+1 {
				t.Fatalf("%+v: got halves %+v and %+v", n, first, second)
			}
			for _, half := range []node{first, second} {
				number := half.number()
				if seen[number] || number%rootsMax != n.root {
					t.Fatalf("%+v: number %d is taken or not of root %d", half, number, n.root)
				}
				seen[number] = true
				if !n.holds(number) || !whole.holds(number) || half.holds(number) || half.holds(n.number()) {
					t.Fatalf("%+v and its half %+v: wrong about what they hold", n, half)
				}
			}
			if first.holds(second.number()) || second.holds(first.number()) || n.holds(first.number()^1) {
				t.Fatalf("%+v and %+v hold each other, or %+v holds another root's", first, second, n)
			}
			n = first
			if rapid.Bool().Draw(t, "second") {
				n = second
			}
		}
	})
}

// Scenario: the rows of a checkpoint come in random batches, and once more in others.
// Guarantees: the blocks have the same rows: only the rows and their order count.
func TestBlocksDoNotDependOnBatches(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		list := rapid.SliceOfN(rapid.Int64Range(october.UnixNano(), october.AddDate(0, 3, 0).UnixNano()), 0, 60).Draw(t, "times")
		rowsMax := rapid.IntRange(1, 20).Draw(t, "rowsMax")
		blocks := func(label string) (all [][]int64) {
			part := pipeline.Part{Topic: "in"}
			for rest := list; len(rest) > 0; {
				n := rapid.IntRange(1, len(rest)).Draw(t, label)
				part.Batches = append(part.Batches, times(t, rest[:n]))
				rest = rest[n:]
			}
			for _, c := range split([]pipeline.Part{part}, 0, rowsMax) {
				var block []int64
				for _, p := range c.pieces {
					block = append(block, values[int64](p.column(0), p.from, p.to)...)
				}
				all = append(all, block)
			}
			return all
		}
		if a, b := blocks("once"), blocks("again"); !slices.EqualFunc(a, b, slices.Equal) {
			t.Fatalf("want %v, got %v", a, b)
		}
	})
}

// refusedOffsets are the offsets of refused telemetry rows, after a check of what else is said of them.
func refusedOffsets(t *testing.T, list []pipeline.RefusedRow, reason string) []int64 {
	t.Helper()
	var offsets []int64
	for _, r := range list {
		if r.Table != pipeline.Telemetry || r.Topic != "telemetry" || r.Row.NumRows() != 1 || !strings.Contains(r.Reason, reason) || len(r.Reason) > reasonMax {
			t.Errorf("refused: got table %s, topic %s, %d rows, reason %q", r.Table, r.Topic, r.Row.NumRows(), r.Reason)
		}
		if at := r.Row.Column(schemas.ColKPart).(*array.Int32).Value(0); at != r.Partition {
			t.Errorf("refused: want partition %d, got %d", at, r.Partition)
		}
		offsets = append(offsets, r.Row.Column(schemas.ColKOffset).(*array.Int64).Value(0))
		r.Row.Release()
	}
	return offsets
}

// Scenario: a constraint refuses five rows, the first, the last and two neighbours among them, of 500 in two partitions and
// five batches each; the checkpoint is written, and resent by another process after the tokens are forgotten.
// Guarantees: the five come back, with the reason and whence they came, the same ones each time; all others are stored once.
func TestRefusedRows(t *testing.T) {
	mem := allocator(t)
	c := serve(t)
	s := openSink(t, c)
	conn := query(t, c)
	if err := conn.Exec(t.Context(), "ALTER TABLE telemetry ADD CONSTRAINT sane CHECK (k_part, k_offset) NOT IN ((0, 1000), (0, 1100), (0, 1101), (1, 1200), (1, 1249))"); err != nil {
		t.Fatal(err)
	}
	checkpoint := &pipeline.Checkpoint{Run: testRun, Seq: 1, Parts: map[pipeline.Table][]pipeline.Part{
		pipeline.Telemetry: {telemetryPart(t, mem, 0, 250, october), telemetryPart(t, mem, 1, 250, october)},
	}}
	for _, resent := range []bool{false, true, true} {
		checkpoint.Resent = resent
		written, err := s.Write(t.Context(), checkpoint)
		if err != nil {
			t.Fatal(err)
		}
		if got := refusedOffsets(t, written.Refused, "469"); !slices.Equal(got, []int64{1000, 1100, 1101, 1200, 1249}) {
			t.Errorf("resent %v: refused offsets: got %v", resent, got)
		}
		wantRows(t, c, map[pipeline.Table]uint64{pipeline.Telemetry: 495})
		forgetTokens(t, c)
		s = newSink(t, c)
	}
}

// Scenario: predictions and events of which a constraint refuses one each.
// Guarantees: the refused row is the one that was written, column by column, and the others are stored.
func TestRefusedRowsOfEachTable(t *testing.T) {
	mem := allocator(t)
	c := serve(t)
	s := openSink(t, c)
	conn := query(t, c)
	for table, check := range map[string]string{"predictions": "revision = 0", "anomaly_events": "event_seq = 0"} {
		if err := conn.Exec(t.Context(), fmt.Sprintf("ALTER TABLE %s ADD CONSTRAINT sane CHECK %s", table, check)); err != nil {
			t.Fatal(err)
		}
	}
	scored := predictions(t, mem)
	seen := events(t, mem, anomaly("e1", october, false), anomaly("e1", october, true), anomaly("e2", october, false))
	written, err := s.Write(t.Context(), &pipeline.Checkpoint{Run: testRun, Seq: 1, Parts: map[pipeline.Table][]pipeline.Part{
		pipeline.Predictions: {{Topic: "in", Partition: 5, Batches: []arrow.Record{scored}}},
		pipeline.EventsTable: {{Topic: "in", Partition: 6, Batches: []arrow.Record{seen}}},
	}})
	if err != nil || len(written.Refused) != 2 {
		t.Fatalf("want 2 refused rows, got %d (%v)", len(written.Refused), err)
	}
	for i, want := range []arrow.Record{scored.NewSlice(2, 3), seen.NewSlice(1, 2)} {
		if got := written.Refused[i]; !array.RecordEqual(want, got.Row) || got.Partition != int32(5+i) {
			t.Errorf("want %v, got %v of partition %d", want, got.Row, got.Partition)
		}
		want.Release()
		written.Refused[i].Row.Release()
	}
	wantRows(t, c, map[pipeline.Table]uint64{pipeline.Predictions: 2, pipeline.EventsTable: 2})
}

// Scenario: a block is being halved when its process ends, with some of its halves stored; then the constraint is as it
// was, or is gone, so that the server would take the whole block now; another process resends, with the tokens forgotten.
// Guarantees: the halving is gone on with: every row is there once, and only what the constraint refuses is refused.
func TestHalvingIsGoneOnWith(t *testing.T) {
	for name, dropped := range map[string]bool{"constraint stays": false, "constraint dropped": true} {
		t.Run(name, func(t *testing.T) {
			mem := allocator(t)
			c := serve(t)
			c.RefusedRowsMax = 2 // the third refused row ends the first process
			first := openSink(t, c)
			conn := query(t, c)
			exec := func(sql string) {
				t.Helper()
				if err := conn.Exec(t.Context(), sql); err != nil {
					t.Fatal(err)
				}
			}
			exec("ALTER TABLE telemetry ADD CONSTRAINT sane CHECK k_offset NOT IN (1000, 1001, 1090)")
			checkpoint := telemetryCheckpoint(t, mem, 1, 100)
			_, err := first.Write(t.Context(), checkpoint)
			wantError(t, err, "refused_rows_max (2)")
			if n := number(t, conn, "SELECT count() FROM telemetry"); n == 0 || n >= 97 {
				t.Fatalf("want some of the rows stored by the first process, got %d", n)
			}
			forgetTokens(t, c)
			want := []int64{1000, 1001, 1090}
			if dropped {
				exec("ALTER TABLE telemetry DROP CONSTRAINT sane")
				want = nil
			}
			checkpoint.Resent, c.RefusedRowsMax = true, 10
			written, err := newSink(t, c).Write(t.Context(), checkpoint)
			if err != nil {
				t.Fatal(err)
			}
			if got := refusedOffsets(t, written.Refused, "469"); !slices.Equal(got, want) {
				t.Errorf("refused offsets: want %v, got %v", want, got)
			}
			wantRows(t, c, map[pipeline.Table]uint64{pipeline.Telemetry: uint64(100 - len(want))})
		})
	}
}

// Scenario: four processes resend a checkpoint at once of which the server refuses two rows.
// Guarantees: each gives back the same two, and all other rows are there once.
func TestFourProcessesHalve(t *testing.T) {
	mem := allocator(t)
	c := serve(t)
	openSink(t, c)
	if err := query(t, c).Exec(t.Context(), "ALTER TABLE telemetry ADD CONSTRAINT sane CHECK k_offset NOT IN (1003, 1018)"); err != nil {
		t.Fatal(err)
	}
	checkpoint := telemetryCheckpoint(t, mem, 1, 20)
	checkpoint.Resent = true
	var all errgroup.Group
	refused := make([][]pipeline.RefusedRow, 4)
	for i := range refused {
		s := newSink(t, c)
		all.Go(func() error {
			written, err := s.Write(t.Context(), checkpoint)
			refused[i] = written.Refused
			return err
		})
	}
	if err := all.Wait(); err != nil {
		t.Fatal(err)
	}
	for i, list := range refused {
		if got := refusedOffsets(t, list, "469"); !slices.Equal(got, []int64{1003, 1018}) {
			t.Errorf("process %d: refused offsets: got %v", i, got)
		}
	}
	wantRows(t, c, map[pipeline.Table]uint64{pipeline.Telemetry: 18})
}

// Scenario: of two materialized views of a user's one throws at a row, in two checkpoints; then it is dropped.
// Guarantees: the table has every row once, the other view too, nothing is refused; the log names the view's error once, and
// once that it is over.
func TestViewThatThrows(t *testing.T) {
	mem := allocator(t)
	c := serve(t)
	openSink(t, c)
	conn := query(t, c)
	for _, sql := range []string{
		"CREATE TABLE offsets (k_offset Int64) ENGINE = MergeTree ORDER BY k_offset SETTINGS non_replicated_deduplication_window = 100000",
		"CREATE MATERIALIZED VIEW good TO offsets AS SELECT k_offset FROM telemetry",
		"CREATE MATERIALIZED VIEW bad ENGINE = MergeTree ORDER BY k_offset SETTINGS non_replicated_deduplication_window = 100000 AS SELECT k_offset FROM telemetry WHERE throwIf(k_offset = 1042, 'not this one') = 0",
	} {
		if err := conn.Exec(t.Context(), sql); err != nil {
			t.Fatal(err)
		}
	}
	s := newSink(t, c)
	if err := s.Open(t.Context()); err != nil {
		t.Fatal(err)
	}
	var log bytes.Buffer
	s.log = slog.New(slog.NewTextHandler(&log, nil))
	for seq := uint64(1); seq <= 3; seq++ {
		if seq == 3 {
			if err := conn.Exec(t.Context(), "DROP VIEW bad"); err != nil {
				t.Fatal(err)
			}
		}
		if err := write(t.Context(), s, telemetryCheckpoint(t, mem, seq, 100)); err != nil {
			t.Fatal(err)
		}
		for _, from := range []string{"telemetry", "offsets"} {
			if n := number(t, conn, "SELECT count() FROM "+from); n != seq*100 {
				t.Errorf("checkpoint %d: %s: want %d rows, got %d", seq, from, seq*100, n)
			}
		}
	}
	if n := s.Counters()["blocks_refused_by_views"]; n != 2 {
		t.Errorf("blocks refused by views: want 2, got %d", n)
	}
	if got := log.String(); strings.Count(got, "level=WARN") != 1 || !strings.Contains(got, "not this one") || strings.Count(got, "level=INFO") != 1 {
		t.Errorf("log: want one WARN with the view's words and one INFO, got\n%s", got)
	}
}
