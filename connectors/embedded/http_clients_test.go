package embedded

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2"
	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"
)

// httpClient is clickhouse-go over HTTP as the writer.
func httpClient(t testing.TB, s *ClickHouse, m clickhouse.CompressionMethod) driver.Conn {
	t.Helper()
	c, err := clickhouse.Open(&clickhouse.Options{
		Addr: []string{s.HTTPAddr()}, Protocol: clickhouse.HTTP, Compression: &clickhouse.Compression{Method: m},
		Auth: clickhouse.Auth{Username: WriterUser, Password: s.Password()},
	})
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

// Scenario: clickhouse-go over HTTP with every compression: ping, DDL, batch insert, select, parameters, settings,
// exceptions before and in the midst of a result, a deadline.
// Guarantees: values arrive unchanged in every type that the pipeline writes; exceptions keep their code.
func TestClickhouseGoHTTP(t *testing.T) {
	s := startServer(t)
	for _, m := range []clickhouse.CompressionMethod{
		clickhouse.CompressionNone, clickhouse.CompressionLZ4, clickhouse.CompressionZSTD, clickhouse.CompressionGZIP,
		clickhouse.CompressionDeflate,
	} {
		t.Run(m.String(), func(t *testing.T) {
			c := httpClient(t, s, m)
			ctx := t.Context()
			if err := c.Ping(ctx); err != nil {
				t.Fatal(err)
			}
			db := "d_" + m.String()
			for _, sql := range []string{"CREATE DATABASE " + db,
				"CREATE TABLE " + db + ".t (ts DateTime64(9, 'UTC'), asset LowCardinality(String), " +
					"v Nullable(Float64), q UInt16, tags Array(String), m Map(String, Float64)) ENGINE = MergeTree ORDER BY (asset, ts)"} {
				if err := c.Exec(ctx, sql); err != nil {
					t.Fatal(err)
				}
			}
			checkRows(t, c, db)
			checkExceptions(t, c)
		})
	}
}

func checkRows(t *testing.T, c driver.Conn, db string) {
	t.Helper()
	ctx := clickhouse.Context(t.Context(), clickhouse.WithSettings(clickhouse.Settings{"insert_deduplication_token": "x",
		"async_insert": 0}))
	batch, err := c.PrepareBatch(ctx, "INSERT INTO "+db+".t")
	if err != nil {
		t.Fatal(err)
	}
	at := time.Date(2026, 11, 24, 1, 2, 3, 456789123, time.UTC)
	const n = 5000
	for i := range n {
		v := new(float64)
		*v = float64(i) / 4
		if i%7 == 0 {
			v = nil
		}
		if err := batch.Append(at.Add(time.Duration(i)), fmt.Sprintf("press%d", i%3), v, uint16(i), []string{"a", "\n\n"},
			map[string]float64{"k": 1.5}); err != nil {
			t.Fatal(err)
		}
	}
	if err := batch.Send(); err != nil {
		t.Fatal(err)
	}
	blocks := clickhouse.Context(t.Context(), clickhouse.WithSettings(clickhouse.Settings{"max_block_size": 1000}))
	rows, err := c.Query(blocks, "SELECT ts, asset, v, q, tags, m FROM "+db+".t ORDER BY ts")
	if err != nil {
		t.Fatal(err)
	}
	i := 0
	for ; rows.Next(); i++ {
		var ts time.Time
		var asset string
		var v *float64
		var q uint16
		var tags []string
		var m map[string]float64
		if err := rows.Scan(&ts, &asset, &v, &q, &tags, &m); err != nil {
			t.Fatal(err)
		}
		if !ts.Equal(at.Add(time.Duration(i))) || asset != fmt.Sprintf("press%d", i%3) || (v == nil) != (i%7 == 0) ||
			v != nil && *v != float64(i)/4 || q != uint16(i) || len(tags) != 2 || tags[1] != "\n\n" || m["k"] != 1.5 {
			t.Fatalf("row %d: got %v %s %v %d %v %v", i, ts, asset, v, q, tags, m)
		}
	}
	if err := errors.Join(rows.Err(), rows.Close()); err != nil || i != n {
		t.Fatalf("want %d rows, got %d, %v", n, i, err)
	}
	var sum uint16 // UInt8 + UInt8
	var threads string
	ctx = clickhouse.Context(t.Context(), clickhouse.WithSettings(clickhouse.Settings{"max_threads": 3}),
		clickhouse.WithParameters(clickhouse.Parameters{"x": "41"}))
	err = c.QueryRow(ctx, "SELECT {x:UInt8} + 1, toString(getSetting('max_threads'))").Scan(&sum, &threads)
	if err != nil || sum != 42 || threads != "3" {
		t.Errorf("want 42 and 3, got %d, %s, %v", sum, threads, err)
	}
}

func checkExceptions(t *testing.T, c driver.Conn) {
	t.Helper()
	code := func(err error) int32 {
		var ex *clickhouse.Exception
		if !errors.As(err, &ex) {
			t.Errorf("want an exception, got %v", err)
			return 0
		}
		return ex.Code
	}
	if got := code(c.Exec(t.Context(), "DROP TABLE nowhere")); got != 60 {
		t.Errorf("want 60, got %d", got)
	}
	rows, err := c.Query(clickhouse.Context(t.Context(), clickhouse.WithSettings(clickhouse.Settings{"max_threads": 1,
		"max_block_size": 1000})),
		"SELECT throwIf(number = 500000) FROM numbers(1000000)")
	if err == nil {
		for rows.Next() {
		}
		err = errors.Join(rows.Err(), rows.Close())
	}
	if got := code(err); got != 395 {
		t.Errorf("want 395, got %d, %v", got, err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if err := c.QueryRow(ctx, "SELECT count() FROM system.numbers WHERE NOT ignore(number)").Err(); err == nil {
		t.Error("want an error from a statement past its deadline")
	}
}

// Scenario: InsertFormat of clickhouse-go with Native bytes of our own, plain and with gzip.
// Guarantees: the rows arrive.
func TestInsertFormat(t *testing.T) {
	s := startServer(t)
	for _, m := range []clickhouse.CompressionMethod{clickhouse.CompressionNone, clickhouse.CompressionLZ4,
		clickhouse.CompressionGZIP} {
		c := httpClient(t, s, m)
		if err := c.Exec(t.Context(), "CREATE OR REPLACE TABLE t (a UInt64) ENGINE = MergeTree ORDER BY a"); err != nil {
			t.Fatal(err)
		}
		const n = 100_000
		b := binary.AppendUvarint([]byte{1}, n)
		b = append(b, "\x01a\x06UInt64"...)
		for i := range n {
			b = binary.LittleEndian.AppendUint64(b, uint64(i))
		}
		if err := c.InsertFormat(t.Context(), "Native", "INSERT INTO t (a)", bytes.NewReader(b)); err != nil {
			t.Fatalf("%v: %v", m, err)
		}
		var count, sum uint64
		if err := c.QueryRow(t.Context(), "SELECT count(), sum(a) FROM t").Scan(&count, &sum); err != nil || count != n ||
			sum != n*(n-1)/2 {
			t.Errorf("%v: got %d rows, sum %d, %v", m, count, sum, err)
		}
	}
}

// Scenario: what Grafana's ClickHouse plugin asks over HTTP, through database/sql, as the reader.
// Guarantees: its health check, its query builder's questions, and a time series with its macros filled in are answered.
func TestGrafanaRequests(t *testing.T) {
	s := startServer(t)
	w := httpClient(t, s, clickhouse.CompressionLZ4)
	for _, sql := range []string{"CREATE DATABASE plant",
		"CREATE TABLE plant.telemetry (ts DateTime64(3), value Float64) " +
			"ENGINE = MergeTree ORDER BY ts",
		"INSERT INTO plant.telemetry SELECT toDateTime64(1700000000 + number, 3), number FROM numbers(120)"} {
		if err := w.Exec(t.Context(), sql); err != nil {
			t.Fatal(err)
		}
	}
	db := clickhouse.OpenDB(&clickhouse.Options{
		Addr: []string{s.HTTPAddr()}, Protocol: clickhouse.HTTP, Auth: clickhouse.Auth{Database: "plant"},
		Compression: &clickhouse.Compression{Method: clickhouse.CompressionGZIP},
		ClientInfo:  clickhouse.ClientInfo{Products: []struct{ Name, Version string }{{"grafana", "4.0"}}},
		Settings:    clickhouse.Settings{"max_execution_time": 30},
	})
	defer db.Close()
	if err := db.PingContext(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		sql  string
		rows int
	}{
		{"SELECT 1", 1},
		{"SELECT name FROM system.databases WHERE name = 'plant'", 1},
		{"SELECT name FROM system.tables WHERE database = 'plant'", 1},
		{"SHOW TABLES FROM plant", 1},
		{`DESC TABLE "plant"."telemetry"`, 2},
		{"SELECT timezone()", 1},
		{`SELECT toStartOfInterval("ts", INTERVAL 60 second) as "time", avg(value) AS "mm/s" FROM "plant"."telemetry" ` +
			`WHERE ts >= toDateTime(1700000000) AND ts <= toDateTime(1700000119) GROUP BY time ORDER BY time LIMIT 1000`, 3},
	} {
		rows, err := db.QueryContext(t.Context(), c.sql)
		if err != nil {
			t.Errorf("%s: %v", c.sql, err)
			continue
		}
		n := 0
		for ; rows.Next(); n++ {
		}
		if err := errors.Join(rows.Err(), rows.Close()); err != nil || n != c.rows {
			t.Errorf("%s: want %d rows, got %d, %v", c.sql, c.rows, n, err)
		}
	}
}
