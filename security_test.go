package main

import (
	"os"
	"strings"
	"testing"

	"github.com/tailrace/tailrace/connectors/clickhouse"
)

// Scenario: the SQL of deploy/SECURITY.md.
// Guarantees: ClickHouse parses every statement of it.
func TestSQLOfTheDocs(t *testing.T) {
	text, err := os.ReadFile("deploy/SECURITY.md")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, found := strings.Cut(string(text), "```sql\n")
	sql, _, closed := strings.Cut(rest, "```")
	if !found || !closed {
		t.Fatal("want a block of SQL")
	}
	c := clickhouse.DefaultConfig()
	c.Address, c.Database, c.User = embeddedServers(t).Native, "default", "default"
	db, err := clickhouse.Connect(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	n := 0
	for statement := range strings.SplitSeq(sql, ";") {
		if statement = strings.TrimSpace(statement); statement == "" {
			continue
		}
		var formatted string
		if err := db.QueryRow(t.Context(), "SELECT formatQuery(?)", statement).Scan(&formatted); err != nil {
			t.Errorf("%s: %v", statement, err)
		}
		n++
	}
	if n < 5 {
		t.Errorf("want the statements of the docs, got %d", n)
	}
}
