package embedded

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/big"
	"net"
	"testing"
	"time"

	"github.com/ClickHouse/ch-go"
	"github.com/ClickHouse/ch-go/proto"
	"github.com/ClickHouse/clickhouse-go/v2"
	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"

	"github.com/tailrace/tailrace/connectors/embedded/chdb"
	"github.com/tailrace/tailrace/deploy/native"
)

// openEngine is the real engine on a folder of the test's own, with a database "plant".
func openEngine(t testing.TB) *chdb.Engine {
	t.Helper()
	lib, err := native.Resolve(t.Context(), native.LibCHDB, native.Options{})
	if err != nil {
		t.Fatal(err)
	}
	e, err := chdb.Open(chdb.Options{Library: lib, Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := e.Close(); err != nil {
			t.Error(err)
		}
	})
	if _, _, err := e.Query(t.Context(), chdb.Request{SQL: "CREATE DATABASE plant"}); err != nil {
		t.Fatal(err)
	}
	return e
}

// testLogin knows writer (password "w") and default (no password, reads only).
func testLogin(user, password string) (bool, error) {
	switch {
	case user == "writer" && password == "w":
		return false, nil
	case user == "default" && password == "":
		return true, nil
	}
	return false, exception(516, "%s: Authentication failed", user)
}

// serveNative starts a native face and returns its address.
func serveNative(t testing.TB, e engine, limits NativeLimits) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s, err := startNative(t.Context(), l, e, testLogin, slog.New(slog.DiscardHandler), limits)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s.Addr().String()
}

type compressionCase struct {
	name string
	goch clickhouse.CompressionMethod
	ch   ch.Compression
}

func compressions() []compressionCase {
	return []compressionCase{
		{"none", clickhouse.CompressionNone, ch.CompressionDisabled},
		{"lz4", clickhouse.CompressionLZ4, ch.CompressionLZ4},
		{"zstd", clickhouse.CompressionZSTD, ch.CompressionZSTD},
	}
}

func openClickhouseGo(t testing.TB, addr, user, password string, m clickhouse.CompressionMethod) driver.Conn {
	t.Helper()
	conn, err := clickhouse.Open(&clickhouse.Options{
		Addr:        []string{addr},
		Auth:        clickhouse.Auth{Database: "plant", Username: user, Password: password},
		Compression: &clickhouse.Compression{Method: m},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := conn.Close(); err != nil {
			t.Error(err)
		}
	})
	return conn
}

func dialCh(t testing.TB, addr string, c ch.Compression) *ch.Client {
	t.Helper()
	client, err := ch.Dial(t.Context(), ch.Options{
		Address: addr, Database: "plant", User: "writer", Password: "w", Compression: c,
		ReadTimeout: 100 * time.Millisecond, // how often it looks whether its context has ended; not a limit
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = client.Close() }) // a test may have closed it
	return client
}

const telemetryTable = `CREATE TABLE telemetry (
	ts DateTime64(6, 'UTC'), ts_ms DateTime64(3, 'UTC'), asset LowCardinality(String), tag LowCardinality(String),
	value Nullable(Float64), text Nullable(String), whole Nullable(Int64), score Nullable(Float32),
	q UInt8, q16 UInt16, q32 UInt32, q64 UInt64, run UInt128, k_offset Int64,
	shares Map(LowCardinality(String), Float32), window Array(Float64), names Array(LowCardinality(String)), ok Bool
) ENGINE = MergeTree ORDER BY (asset, tag, ts)`

// Scenario: clickhouse-go and ch-go, with each compression, create the telemetry types, insert rows with nulls, empty and
// full maps and arrays, and read them back.
// Guarantees: what comes out is what went in, for every type and both clients.
func TestNativeRoundTripsEveryTelemetryType(t *testing.T) {
	addr := serveNative(t, embeddedEngine{openEngine(t)}, NativeLimits{})
	ctx := t.Context()
	first := time.Date(2026, 11, 24, 8, 0, 0, 123456000, time.UTC)
	for _, c := range compressions() {
		t.Run(c.name, func(t *testing.T) {
			conn := openClickhouseGo(t, addr, "writer", "w", c.goch)
			for _, sql := range []string{"DROP TABLE IF EXISTS telemetry", telemetryTable} {
				if err := conn.Exec(ctx, sql); err != nil {
					t.Fatal(err)
				}
			}
			batch, err := conn.PrepareBatch(ctx, "INSERT INTO telemetry")
			if err != nil {
				t.Fatal(err)
			}
			value, text, whole, score := 1.5, "open", int64(-7), float32(0.25)
			none := func() (*float64, *string, *int64, *float32) { return nil, nil, nil, nil }
			v0, t0, w0, s0 := none()
			for _, row := range [][]any{
				{first, first, "pump-1", "flow", &value, &text, &whole, &score, uint8(1), uint16(2), uint32(3), uint64(4), big.NewInt(6), int64(5),
					map[string]float32{"flow": 0.75, "level": 0.25}, []float64{1, 2, 3}, []string{"a", "b", "a"}, true},
				{first.Add(time.Microsecond), first, "pump-2", "level", v0, t0, w0, s0, uint8(0), uint16(0), uint32(0), uint64(0),
					new(big.Int), int64(0), map[string]float32{}, []float64{}, []string{}, false},
			} {
				if err := batch.Append(row...); err != nil {
					t.Fatal(err)
				}
			}
			if err := batch.Send(); err != nil {
				t.Fatal(err)
			}
			rows, err := conn.Query(ctx, "SELECT ts, value, text, whole, score, shares, window, names, ok FROM telemetry ORDER BY ts")
			if err != nil {
				t.Fatal(err)
			}
			defer rows.Close()
			n := 0
			for ; rows.Next(); n++ {
				var (
					ts     time.Time
					v      *float64
					s      *string
					w      *int64
					f      *float32
					shares map[string]float32
					window []float64
					names  []string
					ok     bool
				)
				if err := rows.Scan(&ts, &v, &s, &w, &f, &shares, &window, &names, &ok); err != nil {
					t.Fatal(err)
				}
				if want := first.Add(time.Duration(n) * time.Microsecond); !ts.Equal(want) {
					t.Errorf("row %d: ts: want %v, got %v", n, want, ts)
				}
				full := n == 0
				if (v != nil && *v == value) != full || (s != nil && *s == text) != full || (w != nil && *w == whole) != full ||
					(f != nil && *f == score) != full || ok != full {
					t.Errorf("row %d: want nulls %v, got %v %v %v %v %v", n, !full, v, s, w, f, ok)
				}
				if full && (shares["flow"] != 0.75 || len(shares) != 2 || len(window) != 3 || window[2] != 3 || names[1] != "b") ||
					!full && (len(shares) != 0 || len(window) != 0 || len(names) != 0) {
					t.Errorf("row %d: got %v %v %v", n, shares, window, names)
				}
			}
			if err := rows.Err(); err != nil || n != 2 {
				t.Fatalf("want 2 rows, got %d, %v", n, err)
			}

			client := dialCh(t, addr, c.ch)
			run := proto.ColUInt128{{Low: 1, High: 1 << 63}}
			asset, k := new(proto.ColStr).LowCardinality(), proto.ColInt64{42}
			asset.Append("pump-3")
			text2 := new(proto.ColStr).Nullable()
			text2.Append(proto.Null[string]())
			in := proto.Input{{Name: "run", Data: run}, {Name: "asset", Data: asset}, {Name: "k_offset", Data: k}, {Name: "text", Data: text2}}
			if err := client.Do(ctx, ch.Query{Body: in.Into("telemetry"), Input: in}); err != nil {
				t.Fatal(err)
			}
			var gotRun proto.ColUInt128
			var gotAsset proto.ColLowCardinality[string] = *new(proto.ColStr).LowCardinality()
			gotText := new(proto.ColStr).Nullable()
			if err := client.Do(ctx, ch.Query{
				Body:       "SELECT run, asset, text FROM telemetry WHERE k_offset = {k:Int64}",
				Parameters: ch.Parameters(map[string]any{"k": 42}),
				Result: proto.Results{{Name: "run", Data: &gotRun}, {Name: "asset", Data: &gotAsset},
					{Name: "text", Data: gotText}},
			}); err != nil {
				t.Fatal(err)
			}
			if gotRun.Rows() != 1 || gotRun[0] != run[0] || gotAsset.Row(0) != "pump-3" || gotText.Row(0).Set {
				t.Errorf("ch-go: got %v %v %v", gotRun, gotAsset.Values, gotText)
			}
		})
	}
}

// Scenario: a SELECT of a million rows (200,000 where they are compressed) with each client, and one of no rows.
// Guarantees: every row comes once and in order; a result without rows still has its columns.
func TestNativeStreamsResults(t *testing.T) {
	addr := serveNative(t, embeddedEngine{openEngine(t)}, NativeLimits{})
	ctx := t.Context()
	for _, c := range compressions() {
		t.Run(c.name, func(t *testing.T) {
			client := dialCh(t, addr, c.ch)
			total := uint64(200_000)
			if c.ch == ch.CompressionDisabled {
				total = 1_000_000
			}
			var n proto.ColUInt64
			var s proto.ColStr
			next := uint64(0)
			if err := client.Do(ctx, ch.Query{
				Body:   fmt.Sprintf("SELECT number AS n, toString(number) AS s FROM numbers(%d)", total),
				Result: proto.Results{{Name: "n", Data: &n}, {Name: "s", Data: &s}},
				OnResult: func(context.Context, proto.Block) error {
					for i, v := range n {
						if v != next || i == 0 && s.Row(i) == "" {
							return errors.New("out of order")
						}
						next++
					}
					return nil
				},
			}); err != nil || next != total {
				t.Fatalf("ch-go: want %d rows, got %d, %v", total, next, err)
			}
			conn := openClickhouseGo(t, addr, "default", "", c.goch)
			rows, err := conn.Query(ctx, "SELECT number FROM numbers(100000) FORMAT JSON")
			if err != nil {
				t.Fatal(err)
			}
			next = 0
			for ; rows.Next(); next++ {
				var v uint64
				if err := rows.Scan(&v); err != nil || v != next {
					t.Fatalf("want %d, got %d, %v", next, v, err)
				}
			}
			if err := errors.Join(rows.Err(), rows.Close()); err != nil || next != 100_000 {
				t.Fatalf("clickhouse-go: got %d rows, %v", next, err)
			}
			for _, sql := range []string{
				"SELECT 1 AS a, 'x' AS b WHERE 0 -- none", "SHOW TABLES FROM plant LIKE 'no such'", "SELECT 1 AS a WHERE {x:UInt8} = 0",
			} {
				rows, err := conn.Query(clickhouse.Context(ctx, clickhouse.WithParameters(clickhouse.Parameters{"x": "1"})), sql)
				if err != nil {
					t.Fatalf("%s: %v", sql, err)
				}
				if len(rows.Columns()) == 0 || rows.Next() {
					t.Errorf("%s: want columns and no rows, got %v", sql, rows.Columns())
				}
				if err := rows.Close(); err != nil {
					t.Error(err)
				}
			}
		})
	}
}
