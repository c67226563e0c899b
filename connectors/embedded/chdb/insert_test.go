package chdb

import "testing"

// Scenario: INSERTs as people write them.
// Guarantees: statement, format and the start of the data are told apart; what has no data is left to the engine.
func TestParseInsert(t *testing.T) {
	for _, c := range []struct {
		sql  string
		ok   bool
		want InsertText
	}{
		{"INSERT INTO t FORMAT CSV\n\n1,2", true, InsertText{"INSERT INTO t", "CSV", "\n1,2"}},
		{"insert into t (a, `format`) settings x = 'format y' format\tNative \r\n\x00;", true,
			InsertText{"insert into t (a, `format`) settings x = 'format y'", "Native", "\x00;"}},
		{"/* c */ INSERT INTO t VALUES (1), ('VALUES')", true, InsertText{"/* c */ INSERT INTO t", "Values",
			" (1), ('VALUES')"}},
		{"INSERT INTO t (a) -- FORMAT CSV", true, InsertText{"INSERT INTO t (a) -- FORMAT CSV", "", ""}},
		{"INSERT INTO t;", true, InsertText{"INSERT INTO t", "", ""}},
		{"INSERT INTO t SELECT 1 FORMAT CSV", false, InsertText{}},
		{"INSERT INTO t WITH x AS (SELECT 1) SELECT * FROM x", false, InsertText{}},
		{"SELECT 1 FORMAT CSV", false, InsertText{}},
		{"", false, InsertText{}},
	} {
		if got, ok := ParseInsert(c.sql); got != c.want || ok != c.ok {
			t.Errorf("%q: want %+v, %v, got %+v, %v", c.sql, c.want, c.ok, got, ok)
		}
	}
}
