package clickhouse

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tailrace/tailrace/pipeline"
)

// cutter stands between a sink and a server. While it has cuts left it takes a whole INSERT to the server, waits for the
// answer, and closes both connections instead of passing the answer on: the server has the block, the sink does not know.
// While it has holds left it does the same and keeps the connections open, until the sink gives up.
type cutter struct {
	server   string
	listener net.Listener
	cuts     atomic.Int32
	holds    atomic.Int32
	wait     sync.WaitGroup
	mu       sync.Mutex
	conns    map[net.Conn]bool
}

// cutMin is more than a login and an INSERT's text take, and less than the blocks of these tests.
const cutMin = 4 << 10

func startCutter(t *testing.T, server string) *cutter {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	c := &cutter{server: server, listener: l, conns: map[net.Conn]bool{}}
	c.wait.Go(func() {
		for {
			client, err := l.Accept()
			if err != nil {
				return
			}
			c.wait.Go(func() { c.relay(client) })
		}
	})
	t.Cleanup(func() {
		l.Close()
		c.mu.Lock()
		for conn := range c.conns {
			conn.Close()
		}
		c.mu.Unlock()
		c.wait.Wait()
	})
	return c
}

func (c *cutter) relay(client net.Conn) {
	server, err := net.Dial("tcp", c.server)
	if err != nil {
		client.Close()
		return
	}
	c.mu.Lock()
	c.conns[client], c.conns[server] = true, true
	c.mu.Unlock()
	var sent atomic.Int64
	gone := make(chan struct{})
	var both sync.WaitGroup
	both.Go(func() {
		defer server.Close()
		defer close(gone)
		buf := make([]byte, 32<<10)
		for {
			n, err := client.Read(buf)
			sent.Add(int64(n))
			if err != nil {
				return
			}
			if _, err := server.Write(buf[:n]); err != nil {
				return
			}
		}
	})
	both.Go(func() {
		defer client.Close()
		buf := make([]byte, 32<<10)
		for {
			n, err := server.Read(buf)
			if err != nil {
				return
			}
			if sent.Load() > cutMin && c.holds.Add(-1) >= 0 {
				<-gone
				return
			}
			if sent.Load() > cutMin && c.cuts.Add(-1) >= 0 {
				return
			}
			if _, err := client.Write(buf[:n]); err != nil {
				return
			}
		}
	})
	both.Wait()
}

// through is c by way of a cutter.
func through(t *testing.T, c Config) (Config, *cutter) {
	t.Helper()
	cut := startCutter(t, c.Address)
	c.Address = cut.listener.Addr().String()
	return c, cut
}

// Scenario: the acknowledgement of an INSERT is lost after the server has the block.
// Guarantees: the sink finds the block and does not send it again; every row is there once.
func TestLostAcknowledgement(t *testing.T) {
	mem := allocator(t)
	c := serve(t)
	openSink(t, c)
	via, cut := through(t, c)
	s := newSink(t, via)
	cut.cuts.Store(1)
	if err := write(t.Context(), s, telemetryCheckpoint(t, mem, 1, 500)); err != nil {
		t.Fatal(err)
	}
	if n := number(t, query(t, c), "SELECT count() FROM telemetry"); n != 500 {
		t.Errorf("rows: want 500, got %d", n)
	}
	st := s.Stats()
	if got := st.Tables[pipeline.Telemetry]; got.Rows != 500 || got.Blocks != 1 || got.Retries != 1 ||
		st.Counts["blocks_found_stored"] != 1 || st.Counts["failures_connection"] != 1 || st.LastError == "" {
		t.Errorf("stats: want 500 rows, 1 block, 1 retry, found stored, and an error, got %+v", st)
	}
}

// Scenario: the server knows a block's token and has none of its rows, as after a kill between the two; the first attempt
// fails on the way.
// Guarantees: the acknowledgement of the second is not believed, and the rows are there once at the end.
func TestTokenWithoutRows(t *testing.T) {
	mem := allocator(t)
	c := serve(t)
	s := openSink(t, c)
	checkpoint := telemetryCheckpoint(t, mem, 1, 500)
	if err := write(t.Context(), s, checkpoint); err != nil {
		t.Fatal(err)
	}
	conn := query(t, c)
	if err := conn.Exec(t.Context(), "DELETE FROM telemetry WHERE 1"); err != nil {
		t.Fatal(err)
	}
	if n := number(t, conn, "SELECT count() FROM telemetry"); n != 0 {
		t.Fatalf("want no rows left, got %d", n)
	}
	via, cut := through(t, c)
	cut.cuts.Store(1)
	if err := write(t.Context(), newSink(t, via), checkpoint); err != nil {
		t.Fatal(err)
	}
	if n := number(t, conn, "SELECT count() FROM telemetry"); n != 500 {
		t.Errorf("rows: want 500, got %d", n)
	}
}

// Scenario: the same checkpoint is written twice, then with another number, then by another pipeline.
// Guarantees: the same block is stored once; another checkpoint's or pipeline's is another block.
func TestTokens(t *testing.T) {
	mem := allocator(t)
	c := serve(t)
	s := openSink(t, c)
	checkpoint := telemetryCheckpoint(t, mem, 1, 20)
	conn := query(t, c)
	for _, step := range []struct {
		seq      uint64
		pipeline string
		want     uint64
	}{{1, "test", 20}, {1, "test", 20}, {2, "test", 40}, {2, "other", 60}} {
		checkpoint.Seq, s.pipeline = step.seq, step.pipeline
		if err := write(t.Context(), s, checkpoint); err != nil {
			t.Fatal(err)
		}
		if n := number(t, conn, "SELECT count() FROM telemetry"); n != step.want {
			t.Errorf("pipeline %s, checkpoint %d: want %d rows, got %d", step.pipeline, step.seq, step.want, n)
		}
	}
}

// Scenario: the server goes away between two checkpoints and comes back on its port while the second is being written.
// Guarantees: the write waits and then stores every row once; the log has one line for each change of state.
func TestServerRestarts(t *testing.T) {
	mem := allocator(t)
	dir := filepath.Join(t.TempDir(), "clickhouse")
	server := startServer(t, dir, "127.0.0.1:0")
	c := configFor(server)
	openSink(t, c)
	s := newSink(t, c)
	lines := logged{first: make(chan struct{})}
	s.log = slog.New(slog.NewTextHandler(&lines, nil))
	if err := write(t.Context(), s, telemetryCheckpoint(t, mem, 1, 100)); err != nil {
		t.Fatal(err)
	}
	if err := server.Close(); err != nil {
		t.Fatal(err)
	}
	written := make(chan error, 1)
	go func() { written <- write(t.Context(), s, telemetryCheckpoint(t, mem, 2, 100)) }()
	<-lines.first // the sink has met the closed port
	server = startServer(t, dir, c.Address)
	defer server.Close()
	if err := <-written; err != nil {
		t.Fatal(err)
	}
	if n := number(t, query(t, c), "SELECT uniqExact(seq, k_offset) FROM telemetry"); n != 200 {
		t.Errorf("distinct rows: want 200, got %d", n)
	}
	if n := number(t, query(t, c), "SELECT count() FROM telemetry"); n != 200 {
		t.Errorf("rows: want 200, got %d", n)
	}
	if got := lines.String(); strings.Count(got, "level=WARN") != 1 || strings.Count(got, "level=INFO") != 1 {
		t.Errorf("log: want one WARN and one INFO, got\n%s", got)
	}
}

// logged is a log that says when it has its first line.
type logged struct {
	first chan struct{}
	once  sync.Once
	strings.Builder
}

func (l *logged) Write(p []byte) (int, error) {
	l.once.Do(func() { close(l.first) })
	return l.Builder.Write(p)
}

// Scenario: nothing listens where the server should be, and the context ends during Open and during Write.
// Guarantees: both return the context's error, and the failure is in the statistics.
func TestServerDown(t *testing.T) {
	mem := allocator(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	c := DefaultConfig()
	c.Address, c.RetryMin, c.RetryMax = l.Addr().String(), time.Millisecond, time.Millisecond
	l.Close()
	checkpoint := telemetryCheckpoint(t, mem, 1, 10)
	for name, call := range map[string]func(*Sink, context.Context) error{
		"open":  func(s *Sink, ctx context.Context) error { return s.Open(ctx) },
		"write": func(s *Sink, ctx context.Context) error { return write(ctx, s, checkpoint) },
	} {
		s := newSink(t, c)
		ctx, cancel := context.WithCancel(t.Context())
		s.log = slog.New(slog.NewTextHandler(onWrite(cancel), nil)) // the first warning ends the context
		if err := call(s, ctx); !errors.Is(err, context.Canceled) {
			t.Errorf("%s: want the context's error, got %v", name, err)
		}
		if s.Stats().LastError == "" {
			t.Errorf("%s: want the failure in the statistics", name)
		}
		cancel()
	}
}

type onWrite func()

func (f onWrite) Write(p []byte) (int, error) { f(); return len(p), nil }

// Scenario: a wrong password, an unknown user, a table dropped behind the sink's back, more refused rows than may be.
// Guarantees: what the user must change wraps ErrConfig; refused rows do not, and the error names table, code and limit.
func TestErrorsThatNoRetryMends(t *testing.T) {
	mem := allocator(t)
	c := serve(t)
	c.RefusedRowsMax = 4
	s := openSink(t, c)
	for _, change := range []func(*Config){
		func(c *Config) { c.Password = "wrong-canary" },
		func(c *Config) { c.User = "nobody" },
		func(c *Config) { c.Database, c.Schema = "nowhere", SchemaVerify },
	} {
		bad := c
		change(&bad)
		err := newSink(t, bad).Open(t.Context())
		if !errors.Is(err, pipeline.ErrConfig) {
			t.Errorf("%s: want a configuration error, got %v", bad, err)
		}
		wantError(t, err, bad.String())
		if strings.Contains(err.Error(), "wrong-canary") || strings.Contains(err.Error(), string(c.Password)) {
			t.Errorf("the error shows the password: %v", err)
		}
	}
	conn := query(t, c)
	exec := func(sql string) {
		if err := conn.Exec(t.Context(), sql); err != nil {
			t.Fatal(err)
		}
	}
	exec("ALTER TABLE telemetry ADD CONSTRAINT small CHECK k_offset < 1015")
	err := write(t.Context(), s, telemetryCheckpoint(t, mem, 9, 20))
	wantError(t, err, "table telemetry", "refused_rows_max (4)", "checkpoint 9", "469", "VIOLATED_CONSTRAINT")
	if errors.Is(err, pipeline.ErrConfig) {
		t.Errorf("a refused block is no configuration error: %v", err)
	}
	exec("DROP TABLE telemetry")
	if err := write(t.Context(), s, telemetryCheckpoint(t, mem, 10, 20)); !errors.Is(err, pipeline.ErrConfig) {
		t.Errorf("dropped table: want a configuration error, got %v", err)
	}
	err = write(t.Context(), s, &pipeline.Checkpoint{Parts: map[pipeline.Table][]pipeline.Part{"tags": nil}})
	wantError(t, err, "table tags: want one of")
}
