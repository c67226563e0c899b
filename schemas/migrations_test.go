package schemas

import (
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/apache/arrow/go/v15/arrow"
)

// createOf returns the columns of a CREATE TABLE, name and type, in order.
func createOf(t *testing.T, table string) (names []string, types map[string]string) {
	t.Helper()
	list, err := Migrations()
	if err != nil {
		t.Fatal(err)
	}
	column := regexp.MustCompile("(?m)^    `?([a-z0-9_.]+)`? +(.+?)(?: COMMENT | CODEC|,?$)")
	types = map[string]string{}
	for _, m := range list {
		for _, statement := range m.Statements() {
			body, ok := strings.CutPrefix(statement, "CREATE TABLE IF NOT EXISTS "+table+" (\n")
			if !ok {
				continue
			}
			body, _, _ = strings.Cut(body, "\n)\n")
			for _, c := range column.FindAllStringSubmatch(body, -1) {
				names = append(names, c[1])
				types[c[1]] = c[2]
			}
		}
	}
	if names == nil {
		t.Fatalf("no migration makes table %s", table)
	}
	return names, types
}

// sqlTypes gives for each Arrow type the types that hold it: an int32 that is never negative may be unsigned, an arrival has
// the resolution of Kafka's clock, a text that may be unknown is empty.
func sqlTypes(f arrow.Field) []string {
	var list []string
	switch f.Type.ID() {
	case arrow.TIMESTAMP:
		list = []string{"DateTime64(6, 'UTC')", "DateTime64(3, 'UTC')"}
	case arrow.DICTIONARY:
		return []string{"LowCardinality(String)"}
	case arrow.STRING:
		list = []string{"String"}
	case arrow.UINT8:
		list = []string{"UInt8"}
	case arrow.UINT32:
		list = []string{"UInt32"}
	case arrow.UINT64:
		list = []string{"UInt64"}
	case arrow.INT32:
		list = []string{"Int32", "UInt32"}
	case arrow.INT64:
		list = []string{"Int64"}
	case arrow.FLOAT32:
		list = []string{"Float32"}
	case arrow.FLOAT64:
		list = []string{"Float64"}
	case arrow.BOOL:
		list = []string{"Bool"}
	case arrow.MAP:
		list = []string{"Map(LowCardinality(String), Float32)"}
	}
	if f.Nullable {
		for i := range list {
			list[i] = "Nullable(" + list[i] + ")"
		}
	}
	return list
}

// Scenario: the tables of the migrations beside the Arrow schemas whose rows they take.
// Guarantees: a table has every column of its schema, in that order, with a type that holds it, then only lineage.
func TestTablesFollowTheSchemas(t *testing.T) {
	lineage := []string{"run", "seq", "block"}
	for table, test := range map[string]struct {
		schema *arrow.Schema
		extra  []string // from the part, not in the record
	}{
		"telemetry":   {schema: Telemetry()},
		"predictions": {schema: Predictions(), extra: []string{"k_topic", "k_part"}},
	} {
		names, types := createOf(t, table)
		var want []string
		for _, f := range test.schema.Fields() {
			if got := types[f.Name]; !slices.Contains(sqlTypes(f), got) {
				t.Errorf("%s.%s: want one of %q for %s, got %q", table, f.Name, sqlTypes(f), f.Type, got)
			}
			want = append(want, f.Name)
		}
		for _, name := range append(test.extra, lineage...) {
			if types[name] == "" {
				t.Errorf("%s: want a column %s", table, name)
			}
		}
		rest := slices.DeleteFunc(slices.Clone(names), func(n string) bool {
			return slices.Contains(test.extra, n) || slices.Contains(lineage, n)
		})
		if !slices.Equal(rest, want) {
			t.Errorf("%s:\nwant %v\ngot  %v", table, want, rest)
		}
		if !slices.Equal(names[len(names)-3:], lineage) {
			t.Errorf("%s: want the lineage last, got %v", table, names)
		}
	}
	names, _ := createOf(t, "anomaly_events")
	for _, name := range []string{"event_id", "event_seq", "asset", "event_ts", "k_topic", "k_part", "k_first", "k_last", "run", "seq", "block", "event"} {
		if !slices.Contains(names, name) {
			t.Errorf("anomaly_events: want a column %s, got %v", name, names)
		}
	}
}

// Scenario: every migration, statement by statement.
// Guarantees: a statement can be run twice, holds no second one, and every MergeTree keeps tokens for 100,000 inserts and a week.
func TestMigrationsCanRunTwice(t *testing.T) {
	list, err := Migrations()
	if err != nil || len(list) == 0 {
		t.Fatalf("got %d migrations (%v)", len(list), err)
	}
	for _, m := range list {
		if len(m.SHA256) != 64 || m.Name == "" {
			t.Errorf("migration %d: got %+v", m.Version, m)
		}
		for _, s := range m.Statements() {
			if !regexp.MustCompile(`^CREATE (TABLE|VIEW) IF NOT EXISTS `).MatchString(s) {
				t.Errorf("migration %s: a second run would fail: %.60s", m.Name, s)
			}
			if strings.Contains(regexp.MustCompile(`'[^']*'`).ReplaceAllString(s, "''"), ";") {
				t.Errorf("migration %s: two statements in one: %.60s", m.Name, s)
			}
			for _, setting := range []string{
				"non_replicated_deduplication_window = 100000", "replicated_deduplication_window = 100000",
				"replicated_deduplication_window_seconds = 604800",
			} {
				if strings.Contains(s, "MergeTree") && !strings.Contains(s, setting) {
					t.Errorf("migration %s: want %s", m.Name, setting)
				}
			}
		}
	}
}
