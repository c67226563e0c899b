package embedded

import (
	"maps"
	"strings"
	"testing"
)

// Scenario: statements as the two Go clients, people and Grafana write them, with comments, quotes and names that look like
// keywords.
// Guarantees: each is told apart, an INSERT's table, columns and rows are found, and only a result's FORMAT clause is cut.
func TestParseStatement(t *testing.T) {
	for sql, want := range map[string]statement{
		"SELECT 1":                             {kind: selectStatement, sql: "SELECT 1"},
		"-- why\n/* and */ select 1;":          {kind: selectStatement, sql: "-- why\n/* and */ select 1;"},
		"(SELECT 1) UNION ALL (SELECT 2)":      {kind: selectStatement, sql: "(SELECT 1) UNION ALL (SELECT 2)"},
		"SELECT 1 FORMAT JSON":                 {kind: selectStatement, sql: "SELECT 1 "},
		"SELECT 1 format JSON SETTINGS a = 1":  {kind: selectStatement, sql: "SELECT 1  SETTINGS a = 1"},
		"SELECT format FROM t":                 {kind: selectStatement, sql: "SELECT format FROM t"},
		"SELECT 1 AS format":                   {kind: selectStatement, sql: "SELECT 1 AS format"},
		"SELECT t.format x":                    {kind: selectStatement, sql: "SELECT t.format x"},
		"SELECT 'FORMAT JSON'":                 {kind: selectStatement, sql: "SELECT 'FORMAT JSON'"},
		"SELECT $a$ FORMAT x $a$":              {kind: selectStatement, sql: "SELECT $a$ FORMAT x $a$"},
		"SELECT (SELECT 1 FORMAT x)":           {kind: selectStatement, sql: "SELECT (SELECT 1 FORMAT x)"},
		"WITH 1 AS x SELECT x":                 {kind: selectStatement, sql: "WITH 1 AS x SELECT x"},
		"WITH 1 AS x INSERT INTO t SELECT x":   {kind: otherStatement, sql: "WITH 1 AS x INSERT INTO t SELECT x"},
		"SHOW TABLES FORMAT TSV":               {kind: tableStatement, sql: "SHOW TABLES "},
		"CREATE TABLE t (a UInt8) ENGINE=Null": {kind: otherStatement, sql: "CREATE TABLE t (a UInt8) ENGINE=Null"},
		"":                                     {kind: otherStatement},
		"USE `my db`;":                         {kind: useStatement, sql: "USE `my db`;", database: "my db"},
		"SET a = -1.5, b = 'it''s \\n', c=x":   {kind: setStatement, sql: "SET a = -1.5, b = 'it''s \\n', c=x"},

		`INSERT INTO "t" ("a","b") VALUES`:            {kind: blocksInsert, sql: `INSERT INTO "t" ("a","b")`, table: `"t"`, columns: `"a","b"`},
		"insert into db.t settings x=1 FORMAT Native": {kind: blocksInsert, sql: "insert into db.t settings x=1", table: "db.t"},
		"INSERT INTO TABLE values (values)":           {kind: blocksInsert, sql: "INSERT INTO TABLE values (values)", table: "values", columns: "values"},
		"INSERT INTO t (* EXCEPT(a)) VALUES":          {kind: blocksInsert, sql: "INSERT INTO t (* EXCEPT(a))", table: "t", columns: "* EXCEPT(a)"},
		"INSERT INTO FUNCTION null('a UInt8') FORMAT Native": {kind: blocksInsert, sql: "INSERT INTO FUNCTION null('a UInt8')",
			table: "FUNCTION null('a UInt8')"},
		"INSERT INTO t VALUES (1, ';')": {kind: inlineInsert, sql: "INSERT INTO t", table: "t", format: "Values", data: "(1, ';')"},
		"INSERT INTO t FORMAT JSONEachRow\n{}\n\n{}": {kind: inlineInsert, sql: "INSERT INTO t", table: "t", format: "JSONEachRow",
			data: "{}\n\n{}"},
		"INSERT INTO t SELECT 1":                       {kind: otherStatement, sql: "INSERT INTO t SELECT 1"},
		"INSERT INTO t (SELECT 1)":                     {kind: otherStatement, sql: "INSERT INTO t (SELECT 1)"},
		"INSERT INTO t (a) FROM INFILE 'x' FORMAT CSV": {kind: otherStatement, sql: "INSERT INTO t (a) FROM INFILE 'x' FORMAT CSV"},
	} {
		got, err := parseStatement(sql)
		if err != nil {
			t.Errorf("%q: %v", sql, err)
		}
		if strings.HasPrefix(sql, "SET") {
			if !maps.Equal(got.settings, map[string]string{"a": "-1.5", "b": "it's \n", "c": "x"}) {
				t.Errorf("%q: got %q", sql, got.settings)
			}
		}
		got.settings, want.settings = nil, nil
		if got.kind != want.kind || got.sql != want.sql || got.table != want.table || got.columns != want.columns ||
			got.format != want.format || got.data != want.data || got.database != want.database {
			t.Errorf("%q:\nwant %+v\ngot  %+v", sql, want, got)
		}
	}
	for _, sql := range []string{"SET", "SET a", "SET a 1", "SET a = ", "SET a = 1 b", "SET ROLE x", "INSERT INTO t SETTINGS 'x", "SET a = (1)"} {
		if got, err := parseStatement(sql); err == nil {
			t.Errorf("%q: want an error, got %+v", sql, got)
		}
	}
}

// FuzzParseStatement reads any text.
//
// Scenario: a text from a client.
// Guarantees: no panic; what the engine gets of it is a part of it, so that nothing is made up.
func FuzzParseStatement(f *testing.F) {
	for _, sql := range []string{
		"INSERT INTO a.b (c, `d`) SETTINGS e='f' VALUES (1)", "SELECT $x$a$x$ FORMAT JSON SETTINGS y=1;", "SET a='b', c=-1",
		"USE `a``b`", "/* x", "-- x", "'\\", "INSERT INTO FUNCTION f(", "INSERT INTO .b (c VALUES (1)",
	} {
		f.Add(sql)
	}
	f.Fuzz(func(t *testing.T, sql string) {
		st, err := parseStatement(sql)
		if err == nil && st.kind >= blocksInsert && !strings.Contains(sql, st.sql) {
			t.Errorf("%q became %q", sql, st.sql)
		}
	})
}
