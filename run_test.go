package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/tailrace/tailrace/deploy"
)

// The shape of the demo's runs.
const (
	samples = 960
	tags    = 52
)

// untilEnd makes a plant's pipeline end where the topic ended when it started.
var untilEnd = []string{"    format:\n", "      until: end\n    format:\n"}

// Scenario: four runs of the demo's data at once, with the servers in another process, until all is stored.
// Guarantees: every value and every window is in its table once, the offsets are committed, and the pipeline's process has
// never held 1 GiB.
func TestRunStoresEverything(t *testing.T) { runStoresEverything(t, embeddedServers(t)) }

func runStoresEverything(t *testing.T, at addresses) {
	p := newPlant(t, at, untilEnd...)
	p.makeTopic(t, 4, nil)
	p.replay(t, []string{"--start", "2026-01-05T00:00:00Z"}, "d00_te", "d01_te", "d05_te", "d06_te")
	run := launch(t, "run", "--json", p.file)
	var peak int64
	eventually(t, "the run's end", 2*time.Minute, func() bool {
		select {
		case <-run.done:
			return true
		default:
			peak = max(peak, peakRSS(t, run))
			return false
		}
	})
	if run.code() != 0 {
		t.Fatalf("exit code %d\n%s", run.code(), run.err.String())
	}
	var said struct {
		Rows        int64 `json:"telemetry_rows"`
		Predictions int64 `json:"predictions"`
	}
	if err := json.Unmarshal([]byte(run.out.String()), &said); err != nil {
		t.Fatal(err)
	}
	if n := p.query(t, "SELECT count() FROM telemetry"); n != 4*samples*tags || n != said.Rows {
		t.Errorf("%d rows of telemetry, said %d, want %d", n, said.Rows, 4*samples*tags)
	}
	if n := p.query(t, "SELECT uniqExact(k_topic, k_part, k_offset, k_idx) FROM telemetry"); n != 4*samples*tags {
		t.Errorf("%d distinct places, want %d", n, 4*samples*tags)
	}
	if n := p.query(t, "SELECT count() FROM predictions WHERE score IS NOT NULL"); n != 4*samples || n != said.Predictions {
		t.Errorf("%d scored windows, said %d, want %d", n, said.Predictions, 4*samples)
	}
	if n := p.query(t, "SELECT count() FROM anomaly_events WHERE event_seq = 0 AND asset = 'd06_te'"); n != 1 {
		t.Errorf("%d openings for fault 6, want 1", n)
	}
	if peak == 0 || peak >= 1<<30 {
		t.Errorf("peak memory %d bytes, want under 1 GiB", peak)
	}
	if n := p.committed(t); n != 4*samples*tags {
		t.Errorf("committed %d, want %d", n, 4*samples*tags)
	}
}

// Scenario: a model of windows of five rows that overlap, trained by the program, over a run that starts on a hop.
// Guarantees: the number of scored windows is floor((rows - size) / hop) + 1 for each asset; windows that the run's start
// or end cuts have a reason and are counted apart.
func TestHoppingWindows(t *testing.T) {
	const size, hop = 5, 2
	p := newPlant(t, embeddedServers(t), append(untilEnd,
		"window: {kind: tumbling, size: 3m}", "window: {kind: hopping, size: 15m, hop: 6m}",
		"models/tep-pca/1.0.0", "models/wide/1.0.0", "name: tep-pca", "name: wide")...)
	if trained, code := ended(t, "train", p.file); code != 0 {
		t.Fatalf("train: exit code %d\n%s", code, trained.err.String())
	}
	p.makeTopic(t, 2, nil)
	p.replay(t, []string{"--start", "2026-01-05T00:00:00Z"}, "d00_te", "d04_te")
	if run, code := ended(t, "run", p.file); code != 0 {
		t.Fatalf("run: exit code %d\n%s", code, run.err.String())
	}
	if n, want := p.query(t, "SELECT count() FROM predictions WHERE score IS NOT NULL"), int64(2*((samples-size)/hop+1)); n != want {
		t.Errorf("%d scored windows, want %d", n, want)
	}
	// By hand: windows of 5 rows every 2 that reach over the first row start at rows -4 and -2; those that reach over the
	// last row, 959, start at rows 956 and 958.
	for reason, want := range map[string]int64{"cut_start": 2 * 2, "cut_end": 2 * 2} {
		if n := p.query(t, "SELECT count() FROM predictions WHERE score IS NULL AND reason = '"+reason+"'"); n != want {
			t.Errorf("%d windows %s, want %d", n, reason, want)
		}
	}
}

// Scenario: train on the demo's file, once as it is and once with a test run altered.
// Guarantees: the bundle is the carried one, byte for byte: nothing of a test run is learnt.
func TestTrainGivesTheCarriedBundle(t *testing.T) {
	for _, altered := range []bool{false, true} {
		dir := t.TempDir()
		copyDemo(t, dir, "tep")
		file, err := deploy.Demo.ReadFile("demo/tep.yaml")
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, "tep.yaml"), file, 0o600); err != nil {
			t.Fatal(err)
		}
		if altered {
			if err := os.WriteFile(filepath.Join(dir, "tep/d04_te.dat.gz"), []byte("not even gzip"), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if p, code := ended(t, "train", filepath.Join(dir, "tep.yaml")); code != 0 {
			t.Fatalf("exit code %d\n%s", code, p.err.String())
		}
		const bundle = "models/tep-pca/1.0.0"
		carried, err := deploy.Demo.ReadDir("demo/" + bundle)
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range carried {
			want, err := deploy.Demo.ReadFile("demo/" + bundle + "/" + f.Name())
			if err != nil {
				t.Fatal(err)
			}
			got, err := os.ReadFile(filepath.Join(dir, bundle, f.Name()))
			if err != nil || !bytes.Equal(got, want) {
				t.Errorf("altered %v: %s differs from the carried one (%v)", altered, f.Name(), err)
			}
		}
	}
}

// Scenario: Ctrl+C while a replay is going on, at three moments.
// Guarantees: the pipeline ends within 5 s with exit code 0, and the offsets that are committed are the rows that
// ClickHouse has: everything acknowledged is committed, and nothing else.
func TestStopCommitsWhatIsStored(t *testing.T) {
	p := newPlant(t, embeddedServers(t))
	p.makeTopic(t, 2, nil)
	source := launch(t, "replay", "--brokers", p.Kafka[0], "--topic", p.name, "--format", "tep", "--rate", "20000",
		"--start", "2026-01-05T00:00:00Z", filepath.Join(p.dir, "tep/d01_te.dat.gz"), filepath.Join(p.dir, "tep/d02_te.dat.gz"))
	for _, enough := range []int64{1, 20_000, 60_000} {
		run := launch(t, "run", p.file)
		eventually(t, fmt.Sprintf("%d rows", enough), 30*time.Second, func() bool {
			code, _ := p.answers("/readyz")
			return code == 200 && p.query(t, "SELECT count() FROM telemetry") >= enough
		})
		run.signal(t, syscall.SIGINT)
		if code := run.within(t, 5*time.Second); code != 0 {
			t.Fatalf("exit code %d\n%s", code, run.err.String())
		}
		if rows, committed := p.query(t, "SELECT count() FROM telemetry"), p.committed(t); rows != committed {
			t.Errorf("%d rows stored, %d committed", rows, committed)
		}
	}
	source.end()
}

// Scenario: both servers hang, as when their machine stops, with rows on their way; then Ctrl+C once, or twice.
// Guarantees: one ends the pipeline within 5 s, with exit code 1 since rows were not stored; the second ends it at once.
func TestStopWhileServersHang(t *testing.T) {
	for _, twice := range []bool{false, true} {
		servers, at, err := startEmbedded(filepath.Join(t.TempDir(), "data"))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(servers.end)
		p := newPlant(t, at)
		p.makeTopic(t, 1, nil)
		launch(t, "replay", "--brokers", at.Kafka[0], "--topic", p.name, "--format", "tep", "--rate", "20000",
			"--start", "2026-01-05T00:00:00Z", filepath.Join(p.dir, "tep/d01_te.dat.gz"))
		run := launch(t, "run", p.file)
		eventually(t, "rows", 30*time.Second, func() bool {
			code, _ := p.answers("/readyz")
			return code == 200 && p.query(t, "SELECT count() FROM telemetry") > 0
		})
		servers.signal(t, syscall.SIGSTOP)
		time.Sleep(time.Second) // a checkpoint's interval and more: one is on its way
		run.signal(t, syscall.SIGINT)
		limit, want := 5*time.Second, 1
		if twice {
			time.Sleep(100 * time.Millisecond) // two signals at once may count as one
			run.signal(t, syscall.SIGINT)
			limit, want = time.Second, 130
		}
		if code := run.within(t, limit); code != want {
			t.Errorf("twice %v: exit code %d, want %d\n%s", twice, code, want, run.err.String())
		}
		servers.end()
	}
}

// Scenario: Ctrl+C in the middle of the demo.
// Guarantees: it ends within 5 s with exit code 0 and leaves no folder behind.
func TestStopDemo(t *testing.T) {
	tmp := t.TempDir()
	p, err := start([]string{"TMPDIR=" + tmp}, "demo")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.end)
	eventually(t, "the paced phase", 5*time.Minute, func() bool {
		select {
		case <-p.done:
			t.Fatalf("the demo ended with %d\n%s", p.code(), p.err.String())
		default:
		}
		return strings.Contains(p.out.String(), "Paced")
	})
	p.signal(t, syscall.SIGINT)
	if code := p.within(t, 5*time.Second); code != 0 {
		t.Errorf("exit code %d\n%s", code, p.err.String())
	}
	left, err := os.ReadDir(tmp)
	if err != nil || len(left) > 0 {
		t.Errorf("left in the temporary folder: %v, %v", left, err)
	}
}

// Scenario: the pipeline is killed with SIGKILL at three moments of a replay and started again each time.
// Guarantees: exactly once: in the end every message is in telemetry once, and nothing that was made of them is there twice.
func TestKillLosesNothing(t *testing.T) { killLosesNothing(t, embeddedServers(t)) }

func killLosesNothing(t *testing.T, at addresses) {
	p := newPlant(t, at, "interval: 500ms", "interval: 50ms",
		"    format:\n", "      session_timeout: 6s\n      heartbeat_interval: 1s\n    format:\n")
	p.makeTopic(t, 2, nil)
	p.replay(t, []string{"--start", "2026-01-05T00:00:00Z"}, "d01_te", "d02_te")
	const produced = 2 * samples * tags
	killed := 0
	for {
		run := launch(t, "run", p.file)
		// A member that was killed holds its partitions until its session ends; each start waits for that.
		before := int64(-1)
		eventually(t, "rows", time.Minute, func() bool {
			if before < 0 {
				if code, _ := p.answers("/readyz"); code != 200 {
					return false
				}
				before = p.query(t, "SELECT count() FROM telemetry")
			}
			return p.query(t, "SELECT count() FROM telemetry") > before || p.committed(t) == produced
		})
		if p.committed(t) == produced || killed == 3 {
			eventually(t, "the rest", time.Minute, func() bool { return p.committed(t) == produced })
			run.signal(t, syscall.SIGINT)
			if code := run.within(t, 5*time.Second); code != 0 {
				t.Errorf("exit code %d\n%s", code, run.err.String())
			}
			break
		}
		run.end()
		killed++
	}
	if killed == 0 {
		t.Fatal("nothing was killed")
	}
	p.storedOnce(t, produced)
	if n := p.query(t, "SELECT uniqExact(asset, tag, ts) FROM telemetry"); n != produced {
		t.Errorf("%d distinct values, want %d", n, produced)
	}
}
