package clickhouse

import (
	"context"
	"crypto/tls"
	"fmt"
	"log/slog"
	"path/filepath"
	"testing"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"
	"go.uber.org/goleak"

	"github.com/tailrace/tailrace/connectors/embedded"
	"github.com/tailrace/tailrace/deploy/native"
	"github.com/tailrace/tailrace/pipeline"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// startServer runs the embedded ClickHouse on dir and returns it.
func startServer(t testing.TB, dir, addr string) *embedded.ClickHouse {
	t.Helper()
	return startSecured(t, dir, addr, nil)
}

// startSecured runs it behind TLS.
func startSecured(t testing.TB, dir, addr string, secured *tls.Config) *embedded.ClickHouse {
	t.Helper()
	library, err := native.Resolve(t.Context(), native.LibCHDB, native.Options{})
	if err != nil {
		t.Fatal(err)
	}
	s, err := embedded.StartClickHouse(t.Context(), embedded.ClickHouseConfig{Dir: dir, Library: library, NativeAddr: addr, TLS: secured})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// serve runs the embedded ClickHouse for the test's length and returns a configuration that reaches it.
func serve(t testing.TB) Config {
	t.Helper()
	s := startServer(t, filepath.Join(t.TempDir(), "clickhouse"), "127.0.0.1:0")
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return configFor(s)
}

func configFor(s *embedded.ClickHouse) Config {
	c := DefaultConfig()
	c.Address, c.Password = s.NativeAddr(), Secret(s.Password())
	c.RetryMin, c.RetryMax = time.Millisecond, 20*time.Millisecond
	c.InsertsPerSecond = 1000
	c.Settle = 50 * time.Millisecond // the server of a test is never killed between a token and its part
	return c
}

// openSink makes and opens a sink for the test's length. The tables keep rows for ever: a test's rows have fixed times, and
// would expire one day.
func openSink(t testing.TB, c Config) *Sink {
	t.Helper()
	s := newSink(t, c)
	if err := s.Open(t.Context()); err != nil {
		t.Fatal(err)
	}
	conn := query(t, c)
	for _, table := range s.tables {
		if err := conn.Exec(t.Context(), "ALTER TABLE "+string(table.name())+" REMOVE TTL"); err != nil {
			t.Fatal(err)
		}
	}
	return s
}

func newSink(t testing.TB, c Config) *Sink {
	t.Helper()
	s, err := New(c, pipeline.Settings{Pipeline: "test", Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// write stores a checkpoint of which no row is refused.
func write(ctx context.Context, s *Sink, c *pipeline.Checkpoint) error {
	written, err := s.Write(ctx, c)
	for _, r := range written.Refused {
		r.Row.Release()
	}
	if err == nil && len(written.Refused) > 0 {
		return fmt.Errorf("%d rows are refused, the first of %s: %s", len(written.Refused), written.Refused[0].Table, written.Refused[0].Reason)
	}
	return err
}

// query opens a connection for reading back.
func query(t testing.TB, c Config) driver.Conn {
	t.Helper()
	conn, err := Connect(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

// number is the one number that a query gives.
func number(t testing.TB, conn driver.Conn, sql string) uint64 {
	t.Helper()
	var n uint64
	if err := conn.QueryRow(t.Context(), sql).Scan(&n); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	return n
}
