package clickhouse

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"github.com/ClickHouse/ch-go"
	"github.com/ClickHouse/ch-go/proto"

	"github.com/tailrace/tailrace/pipeline"
)

// Scenario: somebody has set the token window of two tables to 5, and that of a third to nothing; the sink opens with schema
// verify, then with apply.
// Guarantees: verify names each with what was wanted and what is there; apply mends them, and a window counts at once.
func TestWindowTooSmall(t *testing.T) {
	mem := allocator(t)
	c := serve(t)
	openSink(t, c)
	conn := query(t, c)
	exec := func(sql string) {
		t.Helper()
		if err := conn.Exec(t.Context(), sql); err != nil {
			t.Fatal(err)
		}
	}
	exec("ALTER TABLE telemetry MODIFY SETTING non_replicated_deduplication_window = 5")
	exec("ALTER TABLE checkpoints MODIFY SETTING non_replicated_deduplication_window = 5")
	exec("ALTER TABLE predictions RESET SETTING non_replicated_deduplication_window")
	verify := c
	verify.Schema = SchemaVerify
	err := newSink(t, verify).Open(t.Context())
	if !errors.Is(err, pipeline.ErrConfig) {
		t.Errorf("want a configuration error, got %v", err)
	}
	wantError(t, err, "table telemetry: non_replicated_deduplication_window: want 100000, got 5",
		"table checkpoints: non_replicated_deduplication_window: want 100000, got 5",
		"table predictions: non_replicated_deduplication_window: want 100000, got 0")

	s := newSink(t, c)
	var log bytes.Buffer
	s.log = slog.New(slog.NewTextHandler(&log, nil))
	if err := s.Open(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := log.String(); strings.Count(got, "level=WARN") != 3 {
		t.Errorf("log: want a line for each of three tables, got\n%s", got)
	}
	if err := VerifySchema(t.Context(), c); err != nil {
		t.Error(err)
	}
	for seq := range uint64(8) { // more than the old window
		if err := write(t.Context(), s, telemetryCheckpoint(t, mem, seq, 10)); err != nil {
			t.Fatal(err)
		}
	}
	if err := write(t.Context(), s, telemetryCheckpoint(t, mem, 0, 10)); err != nil {
		t.Fatal(err)
	}
	if n := number(t, conn, "SELECT count() FROM telemetry"); n != 80 {
		t.Errorf("rows: want 80, got %d", n)
	}
}

// Scenario: users' views of the tables: into a plain MergeTree, into an inner table, into a Memory table, through a Null table
// to one more, under names that need quotes; and two that do no harm.
// Guarantees: each that would double is named, with its target and what is wrong, and no other; warn goes on, refuse does not.
func TestDependentsThatWouldDouble(t *testing.T) {
	c := serve(t)
	openSink(t, c)
	conn := query(t, c)
	const window = " SETTINGS non_replicated_deduplication_window = 100000"
	for _, sql := range []string{
		"CREATE DATABASE `plant 'n\\` dashboards`",
		"CREATE TABLE `plant 'n\\` dashboards`.`per.hour` (asset String, n UInt64) ENGINE = SummingMergeTree ORDER BY asset",
		"CREATE MATERIALIZED VIEW hourly TO `plant 'n\\` dashboards`.`per.hour` AS SELECT asset, count() AS n FROM telemetry GROUP BY asset",
		"CREATE MATERIALIZED VIEW inner_one ENGINE = MergeTree ORDER BY asset AS SELECT asset, score FROM predictions",
		"CREATE TABLE kept (asset String) ENGINE = Memory",
		"CREATE MATERIALIZED VIEW in_memory TO kept AS SELECT asset FROM anomaly_events",
		"CREATE TABLE nothing (asset String) ENGINE = Null",
		"CREATE MATERIALIZED VIEW to_nothing TO nothing AS SELECT asset FROM telemetry",
		"CREATE TABLE behind (asset String) ENGINE = MergeTree ORDER BY asset SETTINGS non_replicated_deduplication_window = 99",
		"CREATE MATERIALIZED VIEW from_nothing TO behind AS SELECT asset FROM nothing",
		"CREATE TABLE fine (asset String) ENGINE = MergeTree ORDER BY asset" + window,
		"CREATE MATERIALIZED VIEW good TO fine AS SELECT asset FROM telemetry",
		"CREATE VIEW plain_view AS SELECT asset FROM telemetry",
	} {
		if err := conn.Exec(t.Context(), sql); err != nil {
			t.Fatalf("%s: %v", sql, err)
		}
	}
	want := []string{
		"table telemetry: view tailrace.hourly would double a block that is sent again: its target `plant 'n\\` dashboards`.`per.hour`: " +
			"non_replicated_deduplication_window: want 100000, got 0",
		"table telemetry: view tailrace.from_nothing would double a block that is sent again: its target tailrace.behind: " +
			"non_replicated_deduplication_window: want 100000, got 99",
		"table predictions: view tailrace.inner_one would double",
		"table anomaly_events: view tailrace.in_memory would double a block that is sent again: its target tailrace.kept: engine Memory keeps no tokens",
	}
	found, err := schema{c}.look(t.Context(), conn)
	if err != nil {
		t.Fatal(err)
	}
	if len(found.faults) != len(want) {
		t.Errorf("want %d faults, got %q", len(want), found.faults)
	}
	s := newSink(t, c)
	var log bytes.Buffer
	s.log = slog.New(slog.NewTextHandler(&log, nil))
	if err := s.Open(t.Context()); err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(log.String(), "level=WARN"); n != len(want) {
		t.Errorf("log: want %d warnings, got %d:\n%s", len(want), n, log.String())
	}
	c.Dependents = DependentsRefuse
	err = newSink(t, c).Open(t.Context())
	if !errors.Is(err, pipeline.ErrConfig) {
		t.Errorf("refuse: want a configuration error, got %v", err)
	}
	wantError(t, err, want...)
	if strings.Contains(err.Error(), "good") || strings.Contains(err.Error(), "plain_view") {
		t.Errorf("a view that does no harm is named: %v", err)
	}
}

// Scenario: a server was killed after the table had a block and before a view had it; the block is resent, twice.
// Guarantees: the block stays once in the table, and is once in the view.
func TestResendMendsViews(t *testing.T) {
	mem := allocator(t)
	c := serve(t)
	first := openSink(t, c)
	conn := query(t, c)
	exec := func(sql string) {
		t.Helper()
		if err := conn.Exec(t.Context(), sql); err != nil {
			t.Fatal(err)
		}
	}
	checkpoint := telemetryCheckpoint(t, mem, 1, 100)
	if err := write(t.Context(), first, checkpoint); err != nil {
		t.Fatal(err)
	}
	exec("CREATE TABLE offsets (k_offset Int64) ENGINE = MergeTree ORDER BY k_offset SETTINGS non_replicated_deduplication_window = 100000")
	exec("CREATE MATERIALIZED VIEW good TO offsets AS SELECT k_offset FROM telemetry")
	checkpoint.Resent = true
	for range 2 {
		s := newSink(t, c)
		if err := s.Open(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := write(t.Context(), s, checkpoint); err != nil {
			t.Fatal(err)
		}
		for _, from := range []string{"telemetry", "offsets"} {
			if n := number(t, conn, "SELECT count() FROM "+from); n != 100 {
				t.Errorf("%s: want 100 rows, got %d", from, n)
			}
		}
	}
}

// Scenario: the server's text of views, of all forms.
// Guarantees: the target is where the rows go; a view that the clock refreshes is none that an insert feeds.
func TestViewTargets(t *testing.T) {
	const id = "aef25f66-b795-4cb4-ac00-2d79669dc8ee"
	for create, want := range map[string]named{
		"CREATE MATERIALIZED VIEW d.v TO d.t (`a` Int64) AS SELECT a FROM d.s":                                {"d", "t"},
		"CREATE MATERIALIZED VIEW d.v UUID '" + id + "' TO `e f`.`t\\`.x` (`a` Int64) AS SELECT a FROM d.s":   {"e f", "t`.x"},
		"CREATE MATERIALIZED VIEW d.` TO x.y` TO t AS SELECT 1":                                               {"d", "t"},
		"CREATE MATERIALIZED VIEW d.v (`a` Int64) ENGINE = MergeTree ORDER BY a AS SELECT a AS ` TO ` FROM s": {"d", ".inner_id." + id},
		"CREATE MATERIALIZED VIEW d.v TO INNER UUID '" + id + "' (`a` Int64) ENGINE = Log AS SELECT 1":        {"d", ".inner_id." + id},
		"CREATE MATERIALIZED VIEW d.v REFRESH EVERY 1 HOUR TO d.t (`a` Int64) AS SELECT a FROM d.s":           {},
	} {
		r := relation{database: "d", name: "v", uuid: id, engine: "MaterializedView", create: create}
		if got, fed := r.target(); got != want || fed != (want != named{}) {
			t.Errorf("%s: want %v, got %v (%v)", create, want, got, fed)
		}
	}
	old := relation{database: "d", name: "v", uuid: "00000000-0000-0000-0000-000000000000", engine: "MaterializedView", create: "CREATE MATERIALIZED VIEW d.v (a Int64) ENGINE = Log"}
	if got, _ := old.target(); got != (named{"d", ".inner.v"}) {
		t.Errorf("without uuid: got %v", got)
	}
}

// Scenario: tables of other engines, as a cluster has them.
// Guarantees: a replicated table is judged by its own settings, by the server's defaults where it has none.
func TestWindowsOfReplicatedTables(t *testing.T) {
	defaults := map[string]uint64{plainWindow: 0, replicatedWindow: 10_000, replicatedSeconds: 604_800}
	for _, test := range []struct{ engine, full, want string }{
		{"ReplicatedMergeTree", "ReplicatedMergeTree('/t', 'r') ORDER BY a SETTINGS replicated_deduplication_window = 100000", ""},
		{"ReplicatedMergeTree", "ReplicatedMergeTree('/t', 'r') ORDER BY a SETTINGS non_replicated_deduplication_window = 100000", "replicated_deduplication_window: want 100000, got 10000"},
		{"SharedMergeTree", "SharedMergeTree ORDER BY a SETTINGS index_granularity = 8192, replicated_deduplication_window = 100000, replicated_deduplication_window_seconds = 3600",
			"replicated_deduplication_window_seconds: want 604800, got 3600"},
		{"MergeTree", "MergeTree ORDER BY a SETTINGS replicated_deduplication_window = 100000", "non_replicated_deduplication_window: want 100000, got 0"},
		{"Distributed", "Distributed('c', 'd', 't')", "engine Distributed keeps no tokens"},
	} {
		r := relation{engine: test.engine, full: test.full}
		if got := r.short(defaults); got != test.want {
			t.Errorf("%s: want %q, got %q", test.full, test.want, got)
		}
	}
}

// Scenario: the exceptions of a server that is short of something, of one that is misused, and of rows that are at fault.
// Guarantees: each has its kind and its counter; what is unknown is neither tried again nor put down to the rows.
func TestKindsOfErrors(t *testing.T) {
	for code, want := range map[proto.Error]struct {
		kind  kind
		fault fault
	}{
		252: {transient, faultParts}, 241: {transient, faultMemory}, 159: {transient, faultTimeout}, 242: {transient, faultServer},
		516: {closed, faultClosed}, 60: {access, faultServer}, 469: {refused, faultServer}, 395: {refused, faultServer}, 49: {broken, faultServer},
	} {
		err := fmt.Errorf("somewhere: %w", &ch.Exception{Code: code})
		if got := kindOf(err); got != want.kind || faultOf(err) != want.fault {
			t.Errorf("code %d: want kind %d and %s, got %d and %s", code, want.kind, want.fault, got, faultOf(err))
		}
	}
	if k := kindOf(errors.New("connection reset")); k != transient {
		t.Errorf("no exception: want kind %d, got %d", transient, k)
	}
}
