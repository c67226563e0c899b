package main

import (
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/tailrace/tailrace/pipeline/failpoint"
)

// steps are those of the checkpoint protocol, in an order in which each is reached after the kill before it: the steps of a
// recovery come after a kill that leaves a plan open. See pipeline/settle.go.
var steps = []string{
	"barrier:2", "blob:2", "plan", "recover-plan", "recover-sent", "recover-flushed", "recover-ledger", "recover-commit", "block:2",
	"table", "sent:2", "flushed", "ledger:2", "commit:2", "plan:3",
}

// Scenario: the program is killed by itself, as kill -9 does it, at each step of the checkpoint protocol, between two blocks and
// between two tables, and started again each time.
// Guarantees: in the end every message is in telemetry once, every window has one prediction and every event its two rows, and
// the ledger goes from the first offset to the last without a gap.
func TestKilledAtEveryStep(t *testing.T) {
	p := newPlant(t, embeddedServers(t), "interval: 500ms", "interval: 100ms, rows: 1000",
		"user: tailrace", "inserts_per_second: 200, user: tailrace", "memory: 256MiB", "memory: 1MiB", "    format:\n", "      batch_rows: 500\n    format:\n")
	p.makeTopic(t, 2, nil)
	p.replay(t, []string{"--start", "2026-01-05T00:00:00Z"}, "d01_te", "d02_te", "d04_te", "d06_te", "d07_te")
	const runs = 5
	const produced = runs * samples * tags
	for _, step := range steps {
		run, err := start([]string{failpoint.Env + "=" + step}, "run", p.file)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(run.end)
		select {
		case <-run.done:
		case <-time.After(time.Minute):
			t.Fatalf("%s: it was not reached within a minute\n%s", step, run.err.String())
		}
		if code := run.code(); code != -1 { // by a signal
			t.Fatalf("%s: want it killed there, got exit code %d\n%s", step, code, run.err.String())
		}
	}
	run := launch(t, "run", p.file)
	eventually(t, "the rest", time.Minute, func() bool { return p.committed(t) == produced })
	run.signal(t, syscall.SIGINT)
	if code := run.within(t, 5*time.Second); code != 0 {
		t.Errorf("exit code %d\n%s", code, run.err.String())
	}
	p.storedOnce(t, produced)
	if n := p.query(t, "SELECT count() FROM predictions"); n < runs*(samples-1) {
		t.Errorf("%d predictions, want one for each of %d windows but for those that are open", n, runs*samples)
	}
	if n := p.query(t, "SELECT sum(rows['telemetry']) FROM checkpoints"); n != produced {
		t.Errorf("the ledger has %d rows of telemetry, want %d", n, produced)
	}
}

// storedOnce wants produced messages in telemetry, each once, no prediction and no event message twice, and no gap in the
// ledger.
func (p *plant) storedOnce(t *testing.T, produced int64) {
	t.Helper()
	for _, c := range []struct {
		what, sql string
		want      int64
	}{
		{"rows of telemetry", "SELECT count() FROM telemetry", produced},
		{"distinct messages", "SELECT uniqExact(k_topic, k_part, k_offset, k_idx) FROM telemetry", produced},
		{"predictions that are there twice", "SELECT count() - uniqExact(asset, window_start, window_end, model, model_version, revision) FROM predictions", 0},
		{"event messages that are there twice", "SELECT count() - uniqExact(event_id, event_seq) FROM anomaly_events", 0},
		{"gaps in the ledger", `SELECT countIf(before >= 0 AND from != before) FROM
			(SELECT from, lagInFrame(to, 1, -1) OVER (PARTITION BY topic, partition ORDER BY to ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW) AS before
			FROM (SELECT topic, partition, "from" AS from, "to" AS to FROM checkpoints))`, 0},
	} {
		if n := p.query(t, c.sql); n != c.want {
			t.Errorf("%s: want %d, got %d", c.what, c.want, n)
		}
	}
}

// valve passes bytes on to a server until it is shut: then nothing passes and nothing is closed.
type valve struct {
	listener net.Listener
	to       string
	mu       sync.Mutex
	opened   *sync.Cond
	shut     bool
	conns    []net.Conn
}

func newValve(t *testing.T, to string) *valve {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	v := &valve{listener: l, to: to}
	v.opened = sync.NewCond(&v.mu)
	var wait sync.WaitGroup
	wait.Go(func() {
		for {
			from, err := l.Accept()
			if err != nil {
				return
			}
			onto, err := net.Dial("tcp", to)
			if err != nil {
				from.Close()
				continue
			}
			v.mu.Lock()
			v.conns = append(v.conns, from, onto)
			v.mu.Unlock()
			wait.Go(func() { v.pass(from, onto) })
			wait.Go(func() { v.pass(onto, from) })
		}
	})
	t.Cleanup(func() {
		v.set(false)
		l.Close()
		v.mu.Lock()
		for _, c := range v.conns {
			c.Close()
		}
		v.mu.Unlock()
		wait.Wait()
	})
	return v
}

func (v *valve) set(shut bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.shut = shut
	v.opened.Broadcast()
}

func (v *valve) pass(from, to net.Conn) {
	defer from.Close()
	defer to.Close()
	buf := make([]byte, 64<<10)
	for {
		n, err := from.Read(buf)
		v.mu.Lock()
		for v.shut {
			v.opened.Wait()
		}
		v.mu.Unlock()
		if n > 0 {
			if _, err := to.Write(buf[:n]); err != nil {
				return
			}
		}
		if err != nil {
			return
		}
	}
}

// Scenario: ClickHouse stops answering, and closes nothing, in the middle of a replay; then Ctrl+C; then ClickHouse answers again
// and the program is started again.
// Guarantees: it ends within 5 s with exit code 1 and says what was not stored; the next start settles the plan that was left
// open, and in the end every message is stored once.
func TestHungClickHouseLeavesAPlan(t *testing.T) {
	at := embeddedServers(t)
	v := newValve(t, at.Native)
	p := newPlant(t, at, "address: 127.0.0.1:9000", "address: "+v.listener.Addr().String(), "interval: 500ms", "interval: 100ms")
	p.makeTopic(t, 1, nil)
	launch(t, "replay", "--brokers", at.Kafka[0], "--topic", p.name, "--format", "tep", "--rate", "20000",
		"--start", "2026-01-05T00:00:00Z", p.dir+"/tep/d01_te.dat.gz")
	run := launch(t, "run", p.file)
	eventually(t, "rows", 30*time.Second, func() bool {
		code, _ := p.answers("/readyz")
		return code == 200 && p.query(t, "SELECT count() FROM telemetry") > 0
	})
	v.set(true)
	eventually(t, "a checkpoint on its way", 10*time.Second, func() bool {
		_, text := p.answers("/metrics")
		return strings.Contains(text, "tailrace_held_bytes") && !strings.Contains(text, "tailrace_held_bytes 0\n")
	})
	time.Sleep(500 * time.Millisecond) // several intervals: its plan is committed
	run.signal(t, syscall.SIGINT)
	if code := run.within(t, 5*time.Second); code != 1 {
		t.Errorf("exit code %d, want 1\n%s", code, run.err.String())
	}
	if !strings.Contains(run.err.String(), "not stored") {
		t.Errorf("want it to say that rows were not stored, got:\n%s", run.err.String())
	}
	v.set(false)
	const produced = samples * tags
	again := launch(t, "run", p.file)
	eventually(t, "the rest", time.Minute, func() bool { return p.committed(t) == produced })
	if !strings.Contains(again.err.String(), "settled a checkpoint that was left open") {
		t.Errorf("want the next start to say that it settles a plan, got:\n%s", again.err.String())
	}
	again.signal(t, syscall.SIGINT)
	if code := again.within(t, 5*time.Second); code != 0 {
		t.Errorf("exit code %d\n%s", code, again.err.String())
	}
	p.storedOnce(t, produced)
}

// Scenario: the broker's data are lost and a fresh broker stands beside the old ClickHouse folder and the old state, with as many
// messages as before; then the program is told to adopt it.
// Guarantees: it stops with exit code 2, says that the topic was made anew and what to do, and stores nothing; then every message
// of the new topic is stored, none vanishes behind an old token, and the lineage of each run is whole.
func TestFreshBrokerBesideOldStore(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "data")
	servers, at, err := startEmbedded(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { servers.end() })
	p := newPlant(t, at)
	const produced = samples * tags
	fill := func() {
		p.makeTopic(t, 1, nil)
		p.replay(t, []string{"--start", "2026-01-05T00:00:00Z"}, "d01_te")
	}
	through := func(args ...string) {
		run := launch(t, append(args, p.file)...)
		eventually(t, "all messages", time.Minute, func() bool { return p.committed(t) == produced })
		run.signal(t, syscall.SIGINT)
		if code := run.within(t, 5*time.Second); code != 0 {
			t.Fatalf("exit code %d\n%s", code, run.err.String())
		}
	}
	fill()
	through("run")
	servers.signal(t, syscall.SIGTERM)
	servers.within(t, 20*time.Second)
	if err := os.RemoveAll(filepath.Join(dir, "kafka")); err != nil {
		t.Fatal(err)
	}
	old := at
	if servers, at, err = startEmbedded(dir); err != nil {
		t.Fatal(err)
	}
	p.move(t, old, at)
	fill()
	run, code := ended(t, "run", p.file)
	if code != 2 || !strings.Contains(run.err.String(), "made anew") || !strings.Contains(run.err.String(), "--adopt") {
		t.Fatalf("want exit code 2 and what to do about a topic that was made anew, got %d:\n%s", code, run.err.String())
	}
	if n := p.query(t, "SELECT count() FROM telemetry"); n != produced {
		t.Fatalf("want nothing stored by a run that stops, got %d rows more", n-produced)
	}
	through("run", "--adopt")
	if n := p.query(t, "SELECT count() FROM telemetry"); n != 2*produced {
		t.Errorf("want every message of both topics, %d, got %d", 2*produced, n)
	}
	if n := p.query(t, "SELECT count() - uniqExact(run, k_part, k_offset, k_idx) FROM telemetry"); n != 0 {
		t.Errorf("%d rows are there twice within a run", n)
	}
}

// move puts other addresses into the plant's file.
func (p *plant) move(t *testing.T, from, to addresses) {
	t.Helper()
	text, err := os.ReadFile(p.file)
	if err != nil {
		t.Fatal(err)
	}
	moved := strings.NewReplacer(from.Kafka[0], to.Kafka[0], from.Native, to.Native).Replace(string(text))
	if err := os.WriteFile(p.file, []byte(moved), 0o600); err != nil {
		t.Fatal(err)
	}
	p.addresses = to
}
