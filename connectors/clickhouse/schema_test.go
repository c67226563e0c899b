package clickhouse

import (
	"context"
	"errors"
	"reflect"
	"testing"

	"golang.org/x/sync/errgroup"

	"github.com/tailrace/tailrace/pipeline"
	"github.com/tailrace/tailrace/schemas"
)

// Scenario: a server without the database; the schema is shown, planned, applied, and applied again.
// Guarantees: showing and planning make nothing; the first apply runs every migration in order, the second none; every
// migration then has a time, and the database verifies.
func TestApplySchema(t *testing.T) {
	c := serve(t)
	migrations, err := schemas.Migrations()
	if err != nil {
		t.Fatal(err)
	}
	step := func(name string, call func(context.Context, Config) ([]MigrationState, error), want int, applied bool) {
		t.Helper()
		list, err := call(t.Context(), c)
		if err != nil || len(list) != want {
			t.Fatalf("%s: want %d migrations, got %d (%v)", name, want, len(list), err)
		}
		for i, m := range list {
			if !reflect.DeepEqual(m.Migration, migrations[i]) || m.AppliedAt.IsZero() == applied || m.Fault != "" {
				t.Errorf("%s: migration %d: got %+v", name, i+1, m)
			}
		}
	}
	n := len(migrations)
	if err := VerifySchema(t.Context(), c); !errors.Is(err, pipeline.ErrConfig) {
		t.Errorf("verify without a database: want a configuration error, got %v", err)
	}
	step("show before", ShowSchema, n, false)
	step("plan before", PlanSchema, n, false)
	step("apply", ApplySchema, n, false)
	step("show after", ShowSchema, n, true)
	step("plan after", PlanSchema, 0, true)
	step("apply again", ApplySchema, 0, true)
	if err := VerifySchema(t.Context(), c); err != nil {
		t.Error(err)
	}
}

// Scenario: four processes apply to an empty server at once.
// Guarantees: all succeed, and each migration is recorded with one hash.
func TestApplySchemaConcurrently(t *testing.T) {
	c := serve(t)
	var all errgroup.Group
	for range 4 {
		all.Go(func() error {
			_, err := ApplySchema(t.Context(), c)
			return err
		})
	}
	if err := all.Wait(); err != nil {
		t.Fatal(err)
	}
	if err := VerifySchema(t.Context(), c); err != nil {
		t.Error(err)
	}
}

// Scenario: the tables in the database have, in SQL, the columns that the sink sends.
// Guarantees: names, types and order agree for every table, so that no column of the DDL is left to its default.
func TestSinkFillsEveryColumn(t *testing.T) {
	c := serve(t)
	if _, err := ApplySchema(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	for _, table := range shapes() {
		var want []string
		for _, in := range table.columns {
			want = append(want, in.Name+"|"+string(in.Data.Type()))
		}
		got := lines(t, c, "name, type",
			"system.columns WHERE database = 'tailrace' AND table = '"+table.name+"' ORDER BY position")
		if !reflect.DeepEqual(got, want) {
			t.Errorf("table %s:\nsink %v\nSQL  %v", table.name, want, got)
		}
	}
}

// Scenario: tables that were changed by hand, a migration recorded with another text, one from a newer release.
// Guarantees: each fault is named with what was wanted and what is there, all of them at once, and nothing is applied.
func TestSchemaMismatch(t *testing.T) {
	c := serve(t)
	if _, err := ApplySchema(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	conn := query(t, c)
	exec := func(sql string) {
		t.Helper()
		if err := conn.Exec(t.Context(), sql); err != nil {
			t.Fatal(err)
		}
	}
	exec("ALTER TABLE telemetry MODIFY COLUMN vtype UInt16, DROP COLUMN src_seq, ADD COLUMN site String DEFAULT 'here'")
	exec("ALTER TABLE predictions RESET SETTING non_replicated_deduplication_window")
	exec("DROP TABLE anomaly_events")
	c.Schema = SchemaVerify
	err := newSink(t, c).Open(t.Context())
	if !errors.Is(err, pipeline.ErrConfig) {
		t.Errorf("want a configuration error, got %v", err)
	}
	wantError(t, err, "table telemetry: column vtype: want UInt8, got UInt16", "table telemetry: column src_seq: want UInt64, got no such",
		"table predictions: non_replicated_deduplication_window: want 100000, got 0", "table anomaly_events: does not exist")

	exec("INSERT INTO schema_migrations SELECT 2, 'telemetry', repeat('0', 64), now64(3, 'UTC')")
	exec("INSERT INTO schema_migrations SELECT 99, 'later', repeat('1', 64), now64(3, 'UTC')")
	for name, call := range map[string]func() error{
		"verify": func() error { return VerifySchema(t.Context(), c) },
		"apply":  func() error { _, err := ApplySchema(t.Context(), c); return err },
		"plan":   func() error { _, err := PlanSchema(t.Context(), c); return err },
	} {
		err := call()
		if !errors.Is(err, pipeline.ErrConfig) {
			t.Errorf("%s: want a configuration error, got %v", name, err)
		}
		wantError(t, err, "migration 0002_telemetry: applied with another text", "migration 0099_later: applied by a newer release")
	}
	if list, err := ShowSchema(t.Context(), c); err != nil || list[1].Fault == "" || list[len(list)-1].Version != 99 {
		t.Errorf("show: want the faults shown, got %+v (%v)", list, err)
	}
}
