package main

import (
	"fmt"
	"net/http"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tailrace/tailrace/connectors/embedded"
	"github.com/tailrace/tailrace/deploy/native"
	"github.com/tailrace/tailrace/schemas"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// tables are two databases with the program's tables, in an embedded ClickHouse.
func tables(t *testing.T) (write, read *queries) {
	t.Helper()
	library, err := native.Resolve(t.Context(), native.LibCHDB, native.Options{})
	if err != nil {
		t.Fatal(err)
	}
	s, err := embedded.StartClickHouse(t.Context(), embedded.ClickHouseConfig{
		Dir: filepath.Join(t.TempDir(), "clickhouse"), Library: library, HTTPAddr: "127.0.0.1:0",
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		http.DefaultClient.CloseIdleConnections()
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	write = &queries{address: s.HTTPAddr(), user: embedded.WriterUser, password: s.Password()}
	migrations, err := schemas.Migrations()
	if err != nil {
		t.Fatal(err)
	}
	for _, database := range []string{"d", "u"} {
		do(t, write, "CREATE DATABASE "+database)
		for _, m := range migrations {
			for _, sql := range m.Statements() {
				do(t, &queries{address: write.address, user: write.user, password: write.password, database: database}, sql)
			}
		}
	}
	return write, &queries{address: s.HTTPAddr()}
}

func do(t *testing.T, q *queries, sql string) {
	t.Helper()
	if _, err := q.do(t.Context(), sql); err != nil {
		t.Fatal(err)
	}
}

// What is there again is of another run: ClickHouse takes no block of equal bytes twice. Arrivals are recent, or the
// tables' TTL would take the rows.
const (
	rowSQL = "INSERT INTO %s.telemetry (ts_ingest, ts, asset, tag, vtype, value, quality, k_topic, k_part, k_offset, " +
		"run, seq) VALUES " +
		"(now(), '2026-01-01 00:00:0%d', 'a', 'x', 4, %v, 2, 't', 0, %d, %d, 1)"
	windowSQL = "INSERT INTO %s.predictions (asset, window_start, window_end, ts, n, model, model_version, score, " +
		"outputs, contrib, revision, k_topic, run, ts_ingest) VALUES " +
		"('a', '2026-01-01 00:00:0%d', '2026-01-01 00:00:0%[2]d.5', '2026-01-01 00:00:0%[2]d', 1, " +
		"'m', '1', %[3]v, {'t2': %[3]v}, {'x': 0.25, 'y': 0.5}, %[4]d, 't', %[5]d, '2026-01-01 00:00:0%[5]d')"
	eventSQL = "INSERT INTO %s.anomaly_events (event_id, event_seq, status, pipeline, detector, asset, onset_ts, " +
		"event_ts, k_last, score, run, detected_ts) VALUES " +
		"('%[1]s', %[2]d, 'firing', '%[1]s', 'detect', 'a', '2026-01-01 00:00:0%[3]d', '2026-01-01 00:00:09', " +
		"%[4]d, 1, %[5]d, now())"
	ledgerRowSQL = "INSERT INTO %s.checkpoints (pipeline, run, seq, topic, partition, `from`, `to`, messages, rows, " +
		"counters) VALUES " +
		"('%[1]s', 1, %d, 't', 0, 0, 0, %d, {'telemetry': %d}, %s)"
)

// fill writes the same into one table of both databases, under other runs, in place of what was there: two rows, two
// windows of which one was corrected, an event, or a line of the ledger.
func fill(t *testing.T, write *queries, table string) {
	t.Helper()
	for run, database := range []string{"d", "u"} {
		do(t, write, "TRUNCATE TABLE "+database+"."+table)
		var rows []string
		switch table {
		case "telemetry":
			rows = []string{fmt.Sprintf(rowSQL, database, 1, "1.5", 10, run), fmt.Sprintf(rowSQL, database, 2, "NULL", 11, run)}
		case "predictions":
			rows = []string{
				fmt.Sprintf(windowSQL, database, 1, "2.0", 0, run), fmt.Sprintf(windowSQL, database, 2, "NULL", 0, run),
				fmt.Sprintf(windowSQL, database, 2, "4.0", 1, run),
			}
		case "anomaly_events":
			rows = []string{fmt.Sprintf(eventSQL, database, 0, 5, 11, run)}
		case "checkpoints":
			rows = []string{fmt.Sprintf(ledgerRowSQL, database, run, 4, 2,
				"{'dead.invalid_json': 1, 'rows.duplicate': 1, 'rows.late': 2}")}
		}
		for _, sql := range rows {
			do(t, write, sql)
		}
	}
}

// Scenario: two runs that stored the same; then one change at a time to what either stored.
// Guarantees: the same is found to be the same, whatever run, arrival and revision; each change is counted where it
// belongs and nowhere else.
func TestCompare(t *testing.T) {
	write, read := tables(t)
	for _, table := range []string{"telemetry", "predictions", "anomaly_events", "checkpoints"} {
		fill(t, write, table)
	}
	clean := comparison{Rows: 2, Windows: 2, Revised: 1, Events: 1}
	check := func(what string, want comparison) {
		t.Helper()
		got, err := compare(t.Context(), read, "d", "u")
		if err != nil {
			t.Fatal(err)
		}
		got.Counters = nil
		if fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("%s:\n got %+v\nwant %+v", what, got, want)
		}
	}
	check("the same", clean)
	if faults := clean.gates(); len(faults) > 0 {
		t.Errorf("want no faults, got %v", faults)
	}
	for _, c := range []struct {
		what, change string
		want         func(*comparison)
	}{
		{"lost", fmt.Sprintf(rowSQL, "u", 3, "7", 12, 0), func(c *comparison) { c.TelemetryLost, c.Rows = 1, 3 }},
		{"doubled", fmt.Sprintf(rowSQL, "d", 1, "1.5", 10, 2), func(c *comparison) { c.TelemetryDoubled = 1 }},
		{"doubled with another value", fmt.Sprintf(rowSQL, "d", 1, "1.6", 10, 2),
			func(c *comparison) { c.TelemetryDoubled, c.TelemetryDiffer = 1, 1 }},
		{"one too many", fmt.Sprintf(rowSQL, "d", 3, "7", 12, 0), func(c *comparison) { c.TelemetryDiffer = 1 }},
		{"window missing", fmt.Sprintf(windowSQL, "u", 3, "1.0", 0, 1),
			func(c *comparison) { c.WindowsMissing, c.Windows = 1, 3 }},
		{"window too many", fmt.Sprintf(windowSQL, "d", 3, "1.0", 0, 1), func(c *comparison) { c.WindowsDiffer = 1 }},
		{"a correction that says the same", fmt.Sprintf(windowSQL, "d", 1, "2.00001", 1, 1), func(*comparison) {}},
		{"a correction that says something else", fmt.Sprintf(windowSQL, "d", 1, "2.0001", 1, 1),
			func(c *comparison) { c.WindowsDiffer = 1 }},
		{"a score that is gone", fmt.Sprintf(windowSQL, "d", 1, "NULL", 1, 1), func(c *comparison) { c.WindowsDiffer = 1 }},
		{"prediction doubled", fmt.Sprintf(windowSQL, "d", 1, "2.0", 0, 2), func(c *comparison) { c.PredictionsDoubled = 1 }},
		{"event missing", fmt.Sprintf(eventSQL, "u", 1, 5, 11, 1), func(c *comparison) { c.EventsMissing, c.Events = 1, 2 }},
		{"event too many", fmt.Sprintf(eventSQL, "d", 0, 6, 11, 0), func(c *comparison) { c.EventsDiffer = 1 }},
		{"event doubled", fmt.Sprintf(eventSQL, "d", 0, 5, 11, 2), func(c *comparison) { c.EventsDiffer = 1 }},
		{"message nowhere", fmt.Sprintf(ledgerRowSQL, "d", 9, 1, 0, "{}"), func(c *comparison) { c.LedgerMissing = 2 }},
		{"counter", fmt.Sprintf(ledgerRowSQL, "d", 9, 0, 0, "{'rows.late': 1, 'step.align.late': 1}"),
			func(c *comparison) { c.CountersDiffer = 2 }},
	} {
		do(t, write, c.change)
		want := clean
		c.want(&want)
		check(c.what, want)
		if harmless := strings.HasSuffix(c.what, "says the same"); (len(want.gates()) == 0) != harmless {
			t.Errorf("%s: got the faults %v", c.what, want.gates())
		}
		_, table, _ := strings.Cut(strings.Fields(c.change)[2], ".")
		fill(t, write, table)
	}
}
