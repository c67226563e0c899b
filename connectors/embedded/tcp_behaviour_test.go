package embedded

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ClickHouse/ch-go"
	"github.com/ClickHouse/ch-go/proto"
	"github.com/ClickHouse/clickhouse-go/v2"

	"github.com/tailrace/tailrace/connectors/embedded/chdb"
)

// wantCode fails unless err is an exception with the code, from either client.
func wantCode(t *testing.T, what string, code int, err error) {
	t.Helper()
	var a *clickhouse.Exception
	var b *ch.Exception
	switch {
	case errors.As(err, &a) && int(a.Code) == code, errors.As(err, &b) && int(b.Code) == code:
		return
	}
	t.Errorf("%s: want an exception with code %d, got %v", what, code, err)
}

// ask returns the one text that a SELECT gives, asked past the face.
func ask(t *testing.T, e *chdb.Engine, sql string) string {
	t.Helper()
	b, _, err := e.Query(t.Context(), chdb.Request{SQL: sql, Database: "plant"})
	if err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	return strings.TrimSpace(string(b))
}

func mustExec(t *testing.T, e *chdb.Engine, statements ...string) {
	t.Helper()
	for _, sql := range statements {
		ask(t, e, sql)
	}
}

// Scenario: wrong passwords, an unknown user, an unknown database, and a reader that tries to write in every way.
// Guarantees: each is refused with ClickHouse's own code, nothing is written, and the reader may go on reading.
func TestNativeRefusesWhatAUserMayNot(t *testing.T) {
	e := openEngine(t)
	addr := serveNative(t, embeddedEngine{e}, NativeLimits{})
	ctx := t.Context()
	wantCode(t, "wrong password", 516, openClickhouseGo(t, addr, "writer", "x", clickhouse.CompressionNone).Ping(ctx))
	wantCode(t, "unknown user", 516, openClickhouseGo(t, addr, "nobody", "", clickhouse.CompressionNone).Ping(ctx))
	_, err := ch.Dial(ctx, ch.Options{Address: addr, User: "writer", Password: "w", Database: "it's \\ nowhere"})
	wantCode(t, "unknown database", 81, err)

	mustExec(t, e, "CREATE TABLE t (a UInt8) ENGINE = Memory")
	reader := openClickhouseGo(t, addr, "default", "", clickhouse.CompressionLZ4)
	for _, sql := range []string{
		"INSERT INTO t VALUES (1)", "INSERT INTO t SELECT 1", "DROP TABLE t", "CREATE TABLE u (a UInt8) ENGINE = Memory",
		"SELECT 1 INTO OUTFILE '/tmp/never'", "SELECT * FROM file('/etc/passwd', 'LineAsString')",
		"SET readonly = 0", "SET max_memory_usage = 0, allow_ddl = 1",
	} {
		if err := reader.Exec(ctx, sql); err == nil {
			t.Errorf("%s: want an exception, got none", sql)
		}
	}
	_, err = reader.PrepareBatch(ctx, "INSERT INTO t")
	wantCode(t, "batch of a reader", 164, err)
	var n uint64
	if err := reader.QueryRow(ctx, "SELECT count() FROM t").Scan(&n); err != nil || n != 0 {
		t.Errorf("want 0 rows, got %d, %v", n, err)
	}
	deadline, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	if err := reader.QueryRow(deadline, "SELECT 1").Scan(new(uint8)); err != nil {
		t.Errorf("a deadline of a reader's client, which it sends as max_execution_time: %v", err)
	}
}

// Scenario: statements that fail before, within and after the first block of a result, and an INSERT that the engine
// refuses half-way, on one connection each client.
// Guarantees: the engine's own code arrives every time, and the connection serves the next statement.
func TestNativeCarriesExceptions(t *testing.T) {
	e := openEngine(t)
	addr := serveNative(t, embeddedEngine{e}, NativeLimits{})
	ctx := t.Context()
	mustExec(t, e, "CREATE TABLE t (a UInt8, CONSTRAINT small CHECK a < 100) ENGINE = MergeTree ORDER BY a")
	client := dialCh(t, addr, ch.CompressionZSTD)
	conn := openClickhouseGo(t, addr, "writer", "w", clickhouse.CompressionZSTD)
	for sql, code := range map[string]int{
		"SELECT * FROM nothing":        60,
		"SELEC 1 FROM":                 62,
		"SELECT 1; SELECT 2":           62,
		"SELECT no_such_function(1)":   46,
		"SELECT throwIf(1)":            395,
		"INSERT INTO nothing VALUES":   60,
		"INSERT INTO t (no) VALUES":    47,
		"INSERT INTO t VALUES (1, 2":   62,
		"SELECT 1 SETTINGS no_such=1":  115,
		"USE nowhere":                  81,
		"SET no_such_setting = 1":      115,
		"SET ROLE admin":               62,
		"SELECT {missing:UInt8}":       456,
		"SELECT 'quote without an end": 62,
	} {
		err := client.Do(ctx, ch.Query{Body: sql, Result: (&proto.Results{}).Auto()})
		wantCode(t, sql, code, err)
		if err := client.Ping(ctx); err != nil {
			t.Fatalf("ping after %s: %v", sql, err)
		}
	}
	err := client.Do(ctx, ch.Query{Body: "SELECT 1", Settings: []ch.Setting{{Key: "no_such_setting", Value: "1"}}, Result: (&proto.Results{}).Auto()})
	wantCode(t, "unknown setting", 115, err)

	// In the midst of a result.
	var n proto.ColUInt8
	rowsSeen := 0
	err = client.Do(ctx, ch.Query{
		Body:     "SELECT throwIf(number = 500000) AS a FROM numbers(1000000) SETTINGS max_threads = 1",
		Result:   proto.Results{{Name: "a", Data: &n}},
		OnResult: func(context.Context, proto.Block) error { rowsSeen += n.Rows(); return nil },
	})
	wantCode(t, "in the midst of a result", 395, err)
	if rowsSeen == 0 || rowsSeen > 500_000 {
		t.Errorf("want some of the first 500000 rows, got %d", rowsSeen)
	}

	// An INSERT of many blocks, of which the engine refuses one.
	var a proto.ColUInt8
	blocks := 0
	in := proto.Input{{Name: "a", Data: &a}}
	fill := func(context.Context) error {
		a.Reset()
		if blocks++; blocks > 200 {
			return io.EOF
		}
		for range 10_000 {
			a.Append(uint8(blocks))
		}
		return nil
	}
	err = client.Do(ctx, ch.Query{Body: in.Into("t"), Input: in, OnInput: fill})
	wantCode(t, "INSERT against a constraint", 469, err)
	if err := client.Do(ctx, ch.Query{Body: "SELECT 1", Result: (&proto.Results{}).Auto()}); err != nil {
		t.Errorf("after the INSERT: %v", err)
	}
	batch, err := conn.PrepareBatch(ctx, "INSERT INTO t")
	if err != nil {
		t.Fatal(err)
	}
	if err := batch.Append(uint8(200)); err != nil {
		t.Fatal(err)
	}
	wantCode(t, "batch against a constraint", 469, batch.Send())
	if err := conn.Ping(ctx); err != nil {
		t.Error(err)
	}
}

// Scenario: 200,000 rows in 20 blocks in one INSERT (20,000 where they are compressed), with each client; the same INSERT again under the same
// insert_deduplication_token, given as a setting and in the text; rows in the text; INSERT ... SELECT.
// Guarantees: every row is there once when the client hears of the end, and the token reaches the engine.
func TestNativeInserts(t *testing.T) {
	e := openEngine(t)
	addr := serveNative(t, embeddedEngine{e}, NativeLimits{})
	ctx := t.Context()
	for _, c := range compressions() {
		mustExec(t, e, "DROP TABLE IF EXISTS t", `CREATE TABLE t (ts DateTime64(3, 'UTC'), asset LowCardinality(String), value Float64)
			ENGINE = MergeTree ORDER BY ts SETTINGS non_replicated_deduplication_window = 100`)
		client := dialCh(t, addr, c.ch)
		blockRows := 1000
		if c.ch == ch.CompressionDisabled {
			blockRows = 10_000
		}
		wrote := uint64(0)
		insert := func(body string, settings ...ch.Setting) {
			t.Helper()
			ts, asset, value := new(proto.ColDateTime64).WithPrecision(3), new(proto.ColStr).LowCardinality(), proto.ColFloat64{}
			in := proto.Input{{Name: "ts", Data: ts}, {Name: "asset", Data: asset}, {Name: "value", Data: &value}}
			blocks := 0
			err := client.Do(ctx, ch.Query{
				Body: body, Input: in, Settings: settings,
				OnInput: func(context.Context) error {
					in.Reset()
					if blocks++; blocks > 20 {
						return io.EOF
					}
					for i := range blockRows {
						ts.Append(time.Unix(int64(blocks*10_000+i), 0))
						asset.Append(fmt.Sprintf("pump-%d", i%300))
						value.Append(float64(i))
					}
					return nil
				},
				OnProgress: func(_ context.Context, p proto.Progress) error { wrote = p.WroteRows; return nil },
			})
			if err != nil {
				t.Fatalf("%s: %v", body, err)
			}
		}
		const body = "INSERT INTO t (ts, asset, value) VALUES"
		insert(body, ch.Setting{Key: "insert_deduplication_token", Value: "batch 1"})
		insert(body, ch.Setting{Key: "insert_deduplication_token", Value: "batch 1"})
		insert("INSERT INTO t (ts, asset, value) SETTINGS insert_deduplication_token = 'batch 1' FORMAT Native")
		if got := ask(t, e, "SELECT count(), uniqExact(ts), uniqExact(asset), sum(value) FROM t"); got != fmt.Sprintf("%d\t%[1]d\t300\t%d", 20*blockRows, 20*blockRows*(blockRows-1)/2) {
			t.Fatalf("%s: got %q", c.name, got)
		}
		insert(body)
		if wrote != uint64(20*blockRows) {
			t.Errorf("%s: progress: want %d rows written, got %d", c.name, 20*blockRows, wrote)
		}
		conn := openClickhouseGo(t, addr, "writer", "w", c.goch)
		withToken := clickhouse.Context(ctx, clickhouse.WithSettings(clickhouse.Settings{"insert_deduplication_token": "batch 2"}))
		for range 2 {
			batch, err := conn.PrepareBatch(withToken, "INSERT INTO t (ts, asset, value)")
			if err != nil {
				t.Fatal(err)
			}
			for i := range 1000 {
				if err := batch.Append(time.Unix(int64(i), 0), "pump", 1.5); err != nil {
					t.Fatal(err)
				}
			}
			if err := batch.Send(); err != nil {
				t.Fatal(err)
			}
		}
		for _, sql := range []string{
			"INSERT INTO t VALUES ('2026-01-01 00:00:00', 'a;b\n\nDROP TABLE t', 1), ('2026-01-01 00:00:01', 'c', 2)",
			"INSERT INTO t SELECT now(), 'd', 3",
			"INSERT INTO t (SELECT now(), 'e', 4)",
			"INSERT INTO t FORMAT JSONEachRow {\"ts\":\"2026-01-01 00:00:02\",\"asset\":\"f\",\"value\":5}",
		} {
			if err := conn.Exec(ctx, sql); err != nil {
				t.Errorf("%s: %v", sql, err)
			}
		}
		if got := ask(t, e, "SELECT count() FROM t"); got != fmt.Sprint(40*blockRows+1005) {
			t.Errorf("%s: want %d rows, got %s", c.name, 40*blockRows+1005, got)
		}
	}
}

// Scenario: USE and SET on one connection; another connection beside it.
// Guarantees: they last for their connection and do not reach another.
func TestNativeKeepsUseAndSetToTheConnection(t *testing.T) {
	addr := serveNative(t, embeddedEngine{openEngine(t)}, NativeLimits{})
	one, other := dialCh(t, addr, ch.CompressionDisabled), dialCh(t, addr, ch.CompressionDisabled)
	for _, sql := range []string{"USE system", "SET max_block_size = 17, join_use_nulls = 1"} {
		if err := one.Do(t.Context(), ch.Query{Body: sql}); err != nil {
			t.Fatal(err)
		}
	}
	for client, want := range map[*ch.Client]string{one: "system 17 1", other: "plant 65409 0"} {
		var got proto.ColStr
		if err := client.Do(t.Context(), ch.Query{
			Body: "SELECT concatWithSeparator(' ', currentDatabase(), toString(getSetting('max_block_size'))," +
				" toString(toUInt8(getSetting('join_use_nulls')))) AS x",
			Result: proto.Results{{Name: "x", Data: &got}},
		}); err != nil || got.Row(0) != want {
			t.Errorf("want %q, got %q, %v", want, got.Row(0), err)
		}
	}
}

// running is how many statements with the mark run in the engine.
func running(t *testing.T, e *chdb.Engine, mark string) int {
	t.Helper()
	var n int
	if _, err := fmt.Sscan(ask(t, e, "SELECT count() FROM system.processes WHERE query LIKE '%"+mark+"%' AND query NOT LIKE '%processes%'"), &n); err != nil {
		t.Fatal(err)
	}
	return n
}

// eventually polls until what it waits for in another thread of the engine is so; the test's own time-out is the limit.
func eventually(t *testing.T, what string, is func() bool) {
	t.Helper()
	for !is() {
		select {
		case <-t.Context().Done():
			t.Fatalf("%s: never", what)
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// Scenario: an endless SELECT is cancelled by its client's context, by a connection that closes, and by the server's own
// Close; so is an INSERT that has sent half of its rows.
// Guarantees: the statement leaves the engine each time, the INSERT's rows stay out, and Close returns.
func TestNativeEndsStatementsWhoseClientIsGone(t *testing.T) {
	e := openEngine(t)
	addr := serveNative(t, embeddedEngine{e}, NativeLimits{})
	mustExec(t, e, "CREATE TABLE t (a UInt64) ENGINE = MergeTree ORDER BY a")
	const endless = "SELECT count() FROM (SELECT number, 'endless' FROM system.numbers) WHERE NOT ignore(*)"
	for name, stop := range map[string]func(*ch.Client, context.CancelFunc){
		"cancel packet": func(_ *ch.Client, cancel context.CancelFunc) { cancel() },
		"closed":        func(c *ch.Client, cancel context.CancelFunc) { _ = c.Close(); cancel() },
	} {
		client := dialCh(t, addr, ch.CompressionLZ4)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- client.Do(ctx, ch.Query{Body: endless, Result: (&proto.Results{}).Auto()}) }()
		eventually(t, name+": starts", func() bool { return running(t, e, "endless") > 0 })
		stop(client, cancel)
		if err := <-done; err == nil {
			t.Errorf("%s: want an error, got none", name)
		}
		eventually(t, name+": ends", func() bool { return running(t, e, "endless") == 0 })
	}

	ctx, cancel := context.WithCancel(t.Context())
	client := dialCh(t, addr, ch.CompressionDisabled)
	var a proto.ColUInt64
	in := proto.Input{{Name: "a", Data: &a}}
	blocks := 0
	if err := client.Do(ctx, ch.Query{Body: in.Into("t"), Input: in, OnInput: func(context.Context) error {
		a.Reset()
		if blocks++; blocks > 5 {
			cancel()
		}
		for i := range 10_000 {
			a.Append(uint64(i))
		}
		return nil
	}}); !errors.Is(err, context.Canceled) {
		t.Errorf("want context.Canceled, got %v", err)
	}
	eventually(t, "the INSERT ends", func() bool { return running(t, e, "INSERT INTO") == 0 })
	if got := ask(t, e, "SELECT count() FROM t"); got != "0" {
		t.Errorf("want no rows of the cancelled INSERT, got %s", got)
	}
}

// Scenario: eight clients insert and read at once through pools of connections.
// Guarantees: every row arrives once and no answer goes to another client.
func TestNativeServesManyConnections(t *testing.T) {
	e := openEngine(t)
	addr := serveNative(t, embeddedEngine{e}, NativeLimits{})
	mustExec(t, e, "CREATE TABLE t (client UInt8, n UInt64) ENGINE = MergeTree ORDER BY (client, n)")
	conn := openClickhouseGo(t, addr, "writer", "w", clickhouse.CompressionLZ4)
	var wait sync.WaitGroup
	for client := range uint8(8) {
		wait.Go(func() {
			for round := range 5 {
				batch, err := conn.PrepareBatch(t.Context(), "INSERT INTO t")
				if err != nil {
					t.Error(err)
					return
				}
				for n := range 1000 {
					if err := batch.Append(client, uint64(round*1000+n)); err != nil {
						t.Error(err)
						return
					}
				}
				if err := batch.Send(); err != nil {
					t.Error(err)
					return
				}
				var mine, n uint64
				if err := conn.QueryRow(t.Context(), "SELECT count(), max(n) + 1 FROM t WHERE client = ?", client).Scan(&mine, &n); err != nil ||
					mine != uint64(round+1)*1000 || n != mine {
					t.Errorf("client %d round %d: got %d rows up to %d, %v", client, round, mine, n, err)
				}
			}
		})
	}
	wait.Wait()
}

// Scenario: one connection more than the limit; an HTTP request; bytes that are no packet; a hello that never ends.
// Guarantees: each is answered or cut, and the connection within the limit goes on.
func TestNativeBoundsStrangers(t *testing.T) {
	addr := serveNative(t, embeddedEngine{openEngine(t)}, NativeLimits{Connections: 1, HandshakeTimeout: 2 * time.Second})
	first := dialCh(t, addr, ch.CompressionDisabled)
	_, err := ch.Dial(t.Context(), ch.Options{Address: addr, User: "writer", Password: "w"})
	wantCode(t, "one connection too many", 202, err)
	for sent, want := range map[string]string{
		"GET / HTTP/1.1\r\n\r\n":                   "HTTP/1.0 400",
		"\x16\x03\x01":                             "Packet 22",
		"\x00\xff\xff\xff\xff\xff\xff\xff\xff\x7f": "limit",
		"\x00": "", // and then nothing
	} {
		nc, err := net.Dial("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(nc, sent); err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(nc)
		if !strings.Contains(strings.ToLower(string(got)), strings.ToLower(want)) {
			t.Errorf("%q: want an answer with %q, got %q, %v", sent, want, got, err)
		}
		nc.Close()
	}
	if err := first.Ping(t.Context()); err != nil {
		t.Error(err)
	}
}
