package embedded

import (
	"bytes"
	"testing"

	"github.com/ClickHouse/clickhouse-go/v2"

	"github.com/tailrace/tailrace/connectors/embedded/chdb"
)

// Scenario: one server with both faces; the writer writes over TCP, HTTP and in the process; the reader reads over
// both and tries to write over both.
// Guarantees: all see the same rows, the same password opens both faces, and the reader is held on both.
func TestBothFaces(t *testing.T) {
	s := startServer(t, func(c *ClickHouseConfig) { c.NativeAddr = "127.0.0.1:0" })
	open := func(p clickhouse.Protocol, addr, user, password string) clickhouse.Conn {
		t.Helper()
		c, err := clickhouse.Open(&clickhouse.Options{Protocol: p, Addr: []string{addr},
			Auth: clickhouse.Auth{Username: user, Password: password}})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := c.Close(); err != nil {
				t.Error(err)
			}
		})
		return c
	}
	writers := []clickhouse.Conn{
		open(clickhouse.Native, s.NativeAddr(), WriterUser, s.Password()),
		open(clickhouse.HTTP, s.HTTPAddr(), WriterUser, s.Password()),
	}
	if err := writers[0].Exec(t.Context(), "CREATE TABLE t (a UInt64) ENGINE = MergeTree ORDER BY a"); err != nil {
		t.Fatal(err)
	}
	for i, c := range writers {
		batch, err := c.PrepareBatch(t.Context(), "INSERT INTO t (a)")
		if err != nil {
			t.Fatal(err)
		}
		if err := batch.Append(uint64(i + 1)); err != nil {
			t.Fatal(err)
		}
		if err := batch.Send(); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := s.Engine().Insert(t.Context(), chdb.Request{SQL: "INSERT INTO t FORMAT CSV"},
		bytes.NewReader([]byte("3\n"))); err != nil {
		t.Fatal(err)
	}
	for _, c := range []clickhouse.Conn{
		open(clickhouse.Native, s.NativeAddr(), ReaderUser, ""), open(clickhouse.HTTP, s.HTTPAddr(), ReaderUser, ""),
	} {
		var sum uint64
		if err := c.QueryRow(t.Context(), "SELECT sum(a) FROM t").Scan(&sum); err != nil || sum != 1+2+3 {
			t.Errorf("want 6, got %d, %v", sum, err)
		}
		if err := c.Exec(t.Context(), "DROP TABLE t"); err == nil {
			t.Error("want the reader refused")
		}
	}
}
