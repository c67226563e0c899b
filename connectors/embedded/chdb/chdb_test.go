package chdb

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/tailrace/tailrace/deploy/native"
)

// envWriter makes the test binary a process that inserts into the folder it names until it is killed.
const envWriter = "CHDB_TEST_WRITER"

func TestMain(m *testing.M) {
	if dir := os.Getenv(envWriter); dir != "" {
		fmt.Println(insertForever(dir))
		os.Exit(1)
	}
	goleak.VerifyTestMain(m)
}

func open(dir string, o Options) (*Engine, error) {
	lib, err := native.Resolve(context.Background(), native.LibCHDB, native.Options{})
	if err != nil {
		return nil, err
	}
	o.Library, o.Dir = lib, dir
	return Open(o)
}

// openEngine opens an engine on a folder of the test's own, with a database "d".
func openEngine(t testing.TB, o Options) *Engine {
	t.Helper()
	e, err := open(t.TempDir(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := e.Close(); err != nil {
			t.Error(err)
		}
	})
	run(t, e, Request{SQL: "CREATE DATABASE d"})
	return e
}

func run(t testing.TB, e *Engine, r Request) string {
	t.Helper()
	b, _, err := e.Query(t.Context(), r)
	if err != nil {
		t.Fatalf("%s: %v", r.SQL, err)
	}
	return string(b)
}

func wantCode(t testing.TB, err error, code int) {
	t.Helper()
	var ex *Exception
	if !errors.As(err, &ex) || ex.Code != code {
		t.Errorf("want code %d, got %v", code, err)
	}
}

// Scenario: statements with settings, parameters, a database and formats; several statements; text that does not parse.
// Guarantees: results are ClickHouse's; a setting lasts for one request; faults are exceptions with ClickHouse's codes
// and nothing of ours in their text.
func TestQuery(t *testing.T) {
	e := openEngine(t, Options{})
	if v := run(t, e, Request{SQL: "SELECT version()"}); v != e.Version()+"\n" {
		t.Errorf("want version %s, got %s", e.Version(), v)
	}
	for _, c := range []struct {
		r    Request
		want string
	}{
		{Request{SQL: "SELECT 1; -- the end"}, "1\n"},
		{Request{SQL: "SELECT 1 AS a FORMAT CSV", Format: "JSON"}, "1\n"},
		{Request{SQL: "SELECT currentDatabase()", Database: "d"}, "d\n"},
		{Request{SQL: "SELECT currentDatabase()"}, "default\n"},
		{Request{SQL: "SELECT {x:UInt8} + 1, {y:String}, {z:String}", Params: map[string]string{"x": "41", "y": "",
			"z": `a\tb`}}, "42\t\ta\\tb\n"},
		{Request{SQL: "SELECT getSetting('max_threads')", Settings: map[string]string{"max_threads": "5"}}, "5\n"},
		{Request{SQL: "SELECT getSetting('custom_a') = 'x'", Settings: map[string]string{}}, ""},
	} {
		b, _, err := e.Query(t.Context(), c.r)
		if c.want == "" {
			wantCode(t, err, 115)
		} else if err != nil || string(b) != c.want {
			t.Errorf("%s: want %q, got %q, %v", c.r.SQL, c.want, b, err)
		}
	}
	if got := run(t, e, Request{SQL: "SELECT getSetting('max_threads') = 5"}); got != "0\n" {
		t.Error("want a setting of one request gone in the next")
	}
	for _, c := range []struct {
		r    Request
		code int
	}{
		{Request{SQL: "SELECT 1; SELECT 2"}, 62},
		{Request{SQL: "CREATE TABLE d.x (a UInt8) ENGINE = Memory; SELEC 1 FROM"}, 62},
		{Request{SQL: ""}, 62},
		{Request{SQL: "SELECT * FROM nowhere"}, 60},
		{Request{SQL: "SELECT 1", Database: "nowhere"}, 81},
		{Request{SQL: "SELECT 1", Settings: map[string]string{"max_thread": "1"}}, 115},
		{Request{SQL: "SELECT 1", Settings: map[string]string{"max_threads": "x'y"}}, 27},
		{Request{SQL: "SELECT throwIf(1)"}, 395},
	} {
		_, _, err := e.Query(t.Context(), c.r)
		wantCode(t, err, c.code)
		if err != nil && strings.Contains(err.Error(), "/*q:") {
			t.Errorf("want no tag of ours, got %v", err)
		}
	}
	if got := run(t, e, Request{SQL: "EXISTS TABLE d.x"}); got != "0\n" {
		t.Error("want no statement of a broken text run")
	}
}

// nativeBlock is a Native block (revision 0) of one UInt64 column "a" and one String column "s".
func nativeBlock(first, rows uint64) []byte {
	b := []byte{2}
	b = binary.AppendUvarint(b, rows)
	b = append(b, "\x01a\x06UInt64"...)
	for i := range rows {
		b = binary.LittleEndian.AppendUint64(b, first+i)
	}
	b = append(b, "\x01s\x06String"...)
	for range rows {
		b = append(b, 3, '\n', '\n', 0)
	}
	return b
}

// Scenario: data with zero bytes, blank lines and SQL in it, in binary and text formats; faulty data; a reader that
// fails; VALUES in the text.
// Guarantees: data is never run as SQL and arrives byte for byte; faults are ClickHouse's or the reader's own; nothing
// of a failed insert of one block stays.
func TestInsert(t *testing.T) {
	e := openEngine(t, Options{})
	run(t, e, Request{SQL: "CREATE TABLE d.t (a UInt64, s String) ENGINE = MergeTree ORDER BY a"})
	insert := func(sql string, data []byte) (Stats, error) {
		return e.Insert(t.Context(), Request{SQL: sql, Database: "d"}, bytes.NewReader(data))
	}
	many := nativeBlock(0, 100_000)
	if st, err := insert("INSERT INTO t (a, s) SETTINGS insert_deduplication_token = 'x' FORMAT Native",
		many); err != nil || st.WrittenRows != 100_000 {
		t.Fatalf("want 100000 rows, got %+v, %v", st, err)
	}
	evil := "{\"a\":200000,\"s\":\"x\"}\n\nDROP TABLE d.t;\n"
	_, err := insert("INSERT INTO t FORMAT JSONEachRow", []byte(evil))
	wantCode(t, err, 27)
	if _, err := insert("INSERT INTO t FORMAT JSONEachRow",
		[]byte("{\"a\":200001,\"s\":\"x\"}\n\n{\"a\":200002,\"s\":\"y\"}")); err != nil {
		t.Error(err)
	}
	if _, _, err := e.Query(t.Context(), Request{SQL: "INSERT INTO d.t VALUES (200003, 'a;b')"}); err != nil {
		t.Error(err)
	}
	if got := run(t, e,
		Request{SQL: "SELECT count(), countIf(s = '\\n\\n\\0'), sum(a) FROM d.t"}); got != "100003\t100000\t5000550006\n" {
		// 0 + ... + 99999 = 4999950000, and 200001 + 200002 + 200003 = 600006
		t.Errorf("want the rows byte for byte, got %q", got)
	}
	broken := errors.New("broken pipe")
	_, err = e.Insert(t.Context(), Request{SQL: "INSERT INTO d.t FORMAT Native"},
		io.MultiReader(bytes.NewReader(many[:1000]), failing{broken}))
	if !errors.Is(err, broken) {
		t.Errorf("want the reader's error, got %v", err)
	}
	_, err = insert("INSERT INTO t FORMAT Native", many[:len(many)-5])
	wantCode(t, err, 33)
	_, err = insert("INSERT INTO nowhere FORMAT CSV", nil)
	wantCode(t, err, 60)
	_, err = e.Insert(t.Context(), Request{SQL: "INSERT INTO d.t FORMAT CSV", ReadOnly: true}, strings.NewReader("1,x"))
	wantCode(t, err, 164)
	if got := run(t, e, Request{SQL: "SELECT count() FROM d.t"}); got != "100003\n" {
		t.Errorf("want nothing of the failed inserts, got %s", got)
	}
}

type failing struct{ err error }

func (f failing) Read([]byte) (int, error) { return 0, f.err }

// Scenario: a result of many blocks is read to its end, closed early, and fails in its midst.
// Guarantees: each chunk is one Native block; the rows add up; an early Close and a failure leave a usable engine with
// no statement running.
func TestStream(t *testing.T) {
	e := openEngine(t, Options{})
	r := Request{SQL: "SELECT number AS a FROM numbers(200000)", Format: "Native", ReadOnly: true,
		Settings: map[string]string{"max_block_size": "10000"}}
	for _, early := range []bool{false, true, true} {
		rows, err := e.Stream(t.Context(), r)
		if err != nil {
			t.Fatal(err)
		}
		var n uint64
		for {
			b, err := rows.Next()
			if err == io.EOF || early && n > 0 {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			columns, k := binary.Uvarint(b)
			count, k2 := binary.Uvarint(b[k:])
			if columns != 1 || len(b) != k+k2+len("\x01a\x06UInt64")+8*int(count) {
				t.Fatalf("want one block, got %d columns, %d rows in %d bytes", columns, count, len(b))
			}
			n += count
		}
		if err := rows.Close(); err != nil {
			t.Error(err)
		}
		if !early && n != 200_000 {
			t.Errorf("want 200000 rows, got %d", n)
		}
		if b, err := rows.Next(); err == nil {
			t.Errorf("want an error after Close, got %d bytes", len(b))
		}
	}
	rows, err := e.Stream(t.Context(), Request{SQL: "SELECT throwIf(number = 150000) FROM numbers(200000)", Format: "TSV",
		ReadOnly: true, Settings: r.Settings})
	if err != nil {
		t.Fatal(err)
	}
	for err == nil {
		_, err = rows.Next()
	}
	wantCode(t, err, 395)
	if err := rows.Close(); err != nil {
		t.Error(err)
	}
	_, err = e.Stream(t.Context(), Request{SQL: "CREATE TABLE d.x (a UInt8) ENGINE = Memory", Format: "TSV"})
	wantCode(t, err, 36)
	wantIdle(t, e)
}

// wantIdle waits until only the asking statement runs.
func wantIdle(t testing.TB, e *Engine) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	for {
		b, _, err := e.Query(ctx,
			Request{SQL: "SELECT groupArray(query) FROM system.processes WHERE query NOT LIKE '%system.processes%'"})
		if err != nil {
			t.Fatalf("statements still run: %v", err)
		}
		if string(b) == "[]\n" {
			return
		}
	}
}

// Scenario: endless statements are cancelled at different moments, before they start included, as queries and as
// streams, by readers and writers, many at once.
// Guarantees: each returns its context's error, and none is left running.
func TestCancel(t *testing.T) {
	e := openEngine(t, Options{})
	const endless = "SELECT count() FROM system.numbers WHERE NOT ignore(number)"
	var wg sync.WaitGroup
	for i := range 40 {
		wg.Go(func() {
			ctx, cancel := context.WithTimeout(t.Context(), time.Duration(i%10)*5*time.Millisecond)
			defer cancel()
			r := Request{SQL: endless, ReadOnly: i%2 == 0, Format: "TSV"}
			var err error
			if i%4 < 2 {
				_, _, err = e.Query(ctx, r)
			} else {
				var rows *Rows
				if rows, err = e.Stream(ctx, r); err == nil {
					_, err = rows.Next()
					if err := rows.Close(); err != nil {
						t.Error(err)
					}
				}
			}
			if !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("want the context's error, got %v", err)
			}
		})
	}
	wg.Wait()
	wantIdle(t, e)
	if got := run(t, e, Request{SQL: "SELECT 1", ReadOnly: true}); got != "1\n" {
		t.Errorf("want a usable engine, got %q", got)
	}
}

// Scenario: a reader asks for more memory and time than a reader gets, for less, and holds all readers' turns.
// Guarantees: the limits hold with code 241, 159; lower ones are taken; a writer is not held up by readers.
func TestReaderLimits(t *testing.T) {
	e := openEngine(t, Options{MaxReaderMemory: 50 << 20, MaxReaderTime: 30 * time.Second, Readers: 1})
	_, _, err := e.Query(t.Context(), Request{ReadOnly: true, Settings: map[string]string{"max_memory_usage": "0"},
		SQL: "SELECT length(groupArray(number)) FROM numbers(20000000)"})
	wantCode(t, err, 241)
	_, _, err = e.Query(t.Context(), Request{ReadOnly: true,
		SQL:      "SELECT count() FROM system.numbers WHERE NOT ignore(number)",
		Settings: map[string]string{"max_execution_time": "0.1"}})
	wantCode(t, err, 159)
	for _, ask := range []string{"0", "100", "x"} {
		got := run(t, e, Request{ReadOnly: true, SQL: "SELECT getSetting('max_execution_time')",
			Settings: map[string]string{"max_execution_time": ask}})
		if got != "30\n" {
			t.Errorf("asked for %s s: want 30, got %s", ask, got)
		}
	}
	rows, err := e.Stream(t.Context(), Request{SQL: "SELECT number FROM numbers(10)", ReadOnly: true, Format: "TSV"})
	if err != nil {
		t.Fatal(err)
	}
	run(t, e, Request{SQL: "SELECT 1"})
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, _, err := e.Query(ctx, Request{SQL: "SELECT 1", ReadOnly: true}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("want the second reader to wait, got %v", err)
	}
	if err := rows.Close(); err != nil {
		t.Error(err)
	}
	run(t, e, Request{SQL: "SELECT 1", ReadOnly: true})
}

// Scenario: two engines on one folder in a process; another folder while one is open; the same folder after Close.
// Guarantees: ErrBusy with the folder and the process; a closed engine says so; the data is there again.
func TestOneFolder(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "data")
	e, err := open(dir, Options{})
	if err != nil {
		t.Fatal(err)
	}
	run(t, e, Request{SQL: "CREATE DATABASE d"})
	run(t, e, Request{SQL: "CREATE TABLE d.t ENGINE = MergeTree ORDER BY a AS SELECT 7 AS a"})
	if _, err := open(dir, Options{}); !errors.Is(err, ErrBusy) || !strings.Contains(err.Error(),
		dir+" (PID: "+strconv.Itoa(os.Getpid())+")") {
		t.Errorf("want the folder in use by this process, got %v", err)
	}
	if _, err := open(filepath.Join(t.TempDir(), "other"), Options{}); err == nil {
		t.Error("want no second folder in a process")
	}
	for range 2 {
		if err := e.Close(); err != nil {
			t.Error(err)
		}
	}
	if _, _, err := e.Query(t.Context(), Request{SQL: "SELECT 1"}); !errors.Is(err, ErrClosed) {
		t.Errorf("want ErrClosed, got %v", err)
	}
	if e, err = open(dir, Options{}); err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	if got := run(t, e, Request{SQL: "SELECT a FROM d.t"}); got != "7\n" {
		t.Errorf("want the row again, got %q", got)
	}
}

// Scenario: a nil dereference in Go code, a signal and forced collections while statements run.
// Guarantees: the panic is recovered (with libchdb's own signal handlers the process would hang), the signal reaches
// Go's channel, and the statements give their results.
func TestSignals(t *testing.T) {
	e := openEngine(t, Options{})
	got := make(chan os.Signal, 1)
	signal.Notify(got, syscall.SIGUSR1)
	defer signal.Stop(got)
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range 20 {
				b, _, err := e.Query(t.Context(), Request{SQL: "SELECT sum(number) FROM numbers(100000)", ReadOnly: true})
				if err != nil || string(b) != "4999950000\n" {
					t.Errorf("want the sum, got %q, %v", b, err)
				}
			}
		})
	}
	for range 20 {
		if err := dereferenceNil(); err == nil {
			t.Error("want a recovered panic")
		}
		runtime.GC()
	}
	if err := syscall.Kill(os.Getpid(), syscall.SIGUSR1); err != nil {
		t.Fatal(err)
	}
	if s := <-got; s != syscall.SIGUSR1 {
		t.Errorf("want SIGUSR1, got %v", s)
	}
	wg.Wait()
}

func dereferenceNil() (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("recovered: %v", r)
		}
	}()
	var p *Stats
	p.ReadRows++
	return nil
}
