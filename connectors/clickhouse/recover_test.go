package clickhouse

import (
	"log/slog"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/apache/arrow/go/v15/arrow"

	"github.com/tailrace/tailrace/pipeline"
	"github.com/tailrace/tailrace/schemas"
)

// Scenario: the sink is opened before its server is up.
// Guarantees: Open waits, makes the tables once the server is there, and the log tells of both.
func TestServerStartsLate(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "clickhouse")
	server := startServer(t, dir, "127.0.0.1:0")
	c := configFor(server)
	if err := server.Close(); err != nil {
		t.Fatal(err)
	}
	s := newSink(t, c)
	log := &logged{first: make(chan struct{})}
	s.log = slog.New(slog.NewTextHandler(log, nil))
	opened := make(chan error, 1)
	go func() { opened <- s.Open(t.Context()) }()
	<-log.first
	server = startServer(t, dir, c.Address)
	defer server.Close()
	if err := <-opened; err != nil {
		t.Fatal(err)
	}
	if err := VerifySchema(t.Context(), c); err != nil {
		t.Error(err)
	}
	if got := log.String(); strings.Count(got, "level=WARN") != 1 || !strings.Contains(got, "again") {
		t.Errorf("log: want one WARN and the recovery, got\n%s", got)
	}
}

// Scenario: the server refuses inserts because merges are behind (code 252), until it does not.
// Guarantees: the sink waits and sends the block again; every row is there once.
func TestTooManyParts(t *testing.T) {
	mem := allocator(t)
	c := serve(t)
	s := openSink(t, c)
	log := &logged{first: make(chan struct{})}
	s.log = slog.New(slog.NewTextHandler(log, nil))
	conn := query(t, c)
	limit := func(setting string) {
		t.Helper()
		if err := conn.Exec(t.Context(), "ALTER TABLE telemetry MODIFY SETTING "+setting); err != nil {
			t.Fatal(err)
		}
	}
	if err := write(t.Context(), s, telemetryCheckpoint(t, mem, 1, 10)); err != nil {
		t.Fatal(err)
	}
	limit("parts_to_delay_insert = 1, parts_to_throw_insert = 1")
	checkpoint := telemetryCheckpoint(t, mem, 2, 10)
	written := make(chan error, 1)
	go func() { written <- write(t.Context(), s, checkpoint) }()
	<-log.first
	limit("parts_to_delay_insert = 1000, parts_to_throw_insert = 3000")
	if err := <-written; err != nil {
		t.Fatal(err)
	}
	if n := number(t, conn, "SELECT count() FROM telemetry"); n != 20 {
		t.Errorf("rows: want 20, got %d", n)
	}
	if last := s.Stats().LastError; !strings.Contains(last, "252") {
		t.Errorf("last error: want code 252, got %q", last)
	}
}

// Scenario: blocks of all tables, with names that are SQL, and times from before 1970 to after 2200, are stored; then the
// sink looks for each of them.
// Guarantees: what is stored is found by its first row, whatever the name and the time.
func TestStoredBlocksAreFound(t *testing.T) {
	mem := allocator(t)
	c := serve(t)
	s := openSink(t, c)
	const hostile = "x' OR 1 = 1 -- \\' \x00 \n{a:String}"
	b := schemas.NewTelemetryBuilder(mem, "telemetry", 0)
	t.Cleanup(b.Release)
	for i, at := range []time.Time{
		october, time.Date(1950, 1, 1, 0, 0, 0, 1, time.UTC), time.Unix(0, -1), time.Date(2250, 6, 1, 0, 0, 0, 0, time.UTC),
		time.Date(1800, 1, 1, 0, 0, 0, 0, time.UTC),
	} {
		b.Append(&schemas.Row{TS: at.UnixNano(), Asset: []byte(hostile), Tag: []byte(hostile)}, int64(i), october.UnixNano())
	}
	rec := b.NewRecord()
	t.Cleanup(rec.Release)
	e := anomaly("id'", october, false)
	e.Asset = hostile
	ck := &pipeline.Checkpoint{Run: testRun, Seq: 4, Parts: map[pipeline.Table][]pipeline.Part{
		pipeline.Telemetry:   {{Topic: "telemetry", Batches: []arrow.Record{rec}}},
		pipeline.Predictions: {{Topic: "telemetry", Batches: []arrow.Record{predictions(t, mem)}}},
		pipeline.EventsTable: {{Topic: "telemetry", Batches: []arrow.Record{events(t, mem, e)}}},
	}}
	if err := write(t.Context(), s, ck); err != nil {
		t.Fatal(err)
	}
	for _, table := range s.tables {
		n, err := table.plan(ck.Parts[table.name()], s.config.InsertRowsMax)
		if err != nil || n == 0 {
			t.Fatalf("%s: %d blocks (%v)", table.name(), n, err)
		}
		for i := range n {
			block := table.load(node{root: uint32(i), to: table.rows(i)}, ck.Run, ck.Seq)
			if there, err := s.there(t.Context(), table, block, settling{}); err != nil || !there {
				t.Errorf("%s, block %d: want it found, got %v (%v): %s", table.name(), i, there, err, table.witness())
			}
		}
		table.release()
	}
}
