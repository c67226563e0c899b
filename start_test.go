package main

import (
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// Scenario: what keeps the program from starting, each on its own: a topic that does not exist, a port that is taken, a
// bundle with a changed byte, a missing file, a wrong flag, a file with faults.
// Guarantees: exit code 2 and one message that names what is wrong; check, which ran, gives 1 for faults it found.
func TestStartFaults(t *testing.T) {
	at := embeddedServers(t)
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	port := taken.Addr().String()
	plain := filepath.Join(t.TempDir(), "plain")
	if err := os.WriteFile(plain, nil, 0o600); err != nil {
		t.Fatal(err)
	}

	missing := newPlant(t, at)
	changed := newPlant(t, at)
	changed.makeTopic(t, 1, nil)
	model := filepath.Join(changed.dir, "models/tep-pca/1.0.0/model.onnx")
	bytes, err := os.ReadFile(model)
	if err != nil {
		t.Fatal(err)
	}
	bytes[len(bytes)/2] ^= 1
	if err := os.WriteFile(model, bytes, 0o600); err != nil {
		t.Fatal(err)
	}
	busy := newPlant(t, at, "127.0.0.1:9464", port)
	faulty := newPlant(t, at, "grid: 3m", "grdi: 3m", "size: 3m", "size: often")

	for _, c := range []struct {
		name  string
		args  []string
		code  int
		words []string
	}{
		{"missing topic", []string{"run", missing.file}, 2, []string{missing.name}},
		{"changed byte", []string{"run", changed.file}, 2, []string{"model.onnx"}},
		{"changed byte, check", []string{"check", changed.file}, 1, []string{"tep.yaml:", "model.onnx"}},
		{"http port", []string{"run", busy.file}, 2, []string{port}},
		{"broker port", []string{"embedded", "--data", t.TempDir(), "--kafka", port, "--http", "127.0.0.1:0", "--native", "127.0.0.1:0"}, 2, []string{port}},
		{"engine port", []string{"embedded", "--data", t.TempDir(), "--kafka", "127.0.0.1:0", "--http", port, "--native", "127.0.0.1:0"}, 2, []string{port}},
		{"data below a file", []string{"embedded", "--data", filepath.Join(plain, "x"), "--kafka", "127.0.0.1:0", "--http", "127.0.0.1:0", "--native", "127.0.0.1:0"}, 2, []string{"plain"}},
		{"no file", []string{"run", "/nowhere.yaml"}, 2, []string{"/nowhere.yaml"}},
		{"no argument", []string{"run"}, 2, []string{"run FILE"}},
		{"unknown flag", []string{"demo", "--fast"}, 2, []string{"--fast"}},
		{"unknown command", []string{"dance"}, 2, []string{"dance"}},
		{"faulty file", []string{"run", faulty.file}, 2, []string{`grdi`, "grid", `often`}},
		{"faulty file, check", []string{"check", faulty.file}, 1, []string{"grdi", "often"}},
		{"nobody to ask", []string{"status", "--address", "127.0.0.1:1"}, 2, []string{"127.0.0.1:1"}},
		{"replay of nothing", []string{"replay", "--format", "tep", "--brokers", at.Kafka[0], "/nowhere.dat"}, 2, []string{"/nowhere.dat"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			p, code := ended(t, c.args...)
			said := p.out.String() + p.err.String()
			if code != c.code {
				t.Errorf("exit code %d, want %d\n%s", code, c.code, said)
			}
			for _, word := range c.words {
				if !strings.Contains(said, word) {
					t.Errorf("want a message with %q, got\n%s", word, said)
				}
			}
			if strings.Contains(said, "goroutine ") {
				t.Errorf("a stack trace:\n%s", said)
			}
		})
	}
}

// Scenario: the cache of native libraries lies below a plain file.
// Guarantees: the demo ends with exit code 2 and names the folder.
func TestUnwritableCache(t *testing.T) {
	plain := filepath.Join(t.TempDir(), "plain")
	if err := os.WriteFile(plain, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	p, err := start([]string{"TAILRACE_CACHE_DIR=" + filepath.Join(plain, "cache"), "TAILRACE_LIB_DIR="}, "demo")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.end)
	if code := p.within(t, time.Minute); code != 2 || !strings.Contains(p.err.String(), plain) {
		t.Errorf("exit code %d, want 2 and the folder named\n%s", code, p.err.String())
	}
}

// Scenario: neither Kafka nor ClickHouse answers when the pipeline starts; then one of them does.
// Guarantees: it waits, alive and not ready, and one Ctrl+C ends it with exit code 0 within 5 s.
func TestServersDownAtStart(t *testing.T) {
	at := embeddedServers(t)
	for name, replaced := range map[string][]string{
		"kafka":      {"brokers: [127.0.0.1:9092]", "brokers: [127.0.0.1:1]"},
		"clickhouse": {"127.0.0.1:9000", "127.0.0.1:1"},
	} {
		t.Run(name, func(t *testing.T) {
			down := newPlant(t, at, replaced...)
			down.makeTopic(t, 1, nil)
			p := launch(t, "run", down.file)
			eventually(t, "healthy and not ready", 30*time.Second, func() bool {
				healthy, _ := down.answers("/healthz")
				ready, _ := down.answers("/readyz")
				return healthy == 200 && ready == 503
			})
			asked, code := ended(t, "status", "--address", down.http)
			if code != 0 || !strings.Contains(asked.out.String(), "not ready") {
				t.Errorf("status: exit code %d\n%s", code, asked.out.String())
			}
			p.signal(t, syscall.SIGINT)
			if code := p.within(t, 5*time.Second); code != 0 {
				t.Errorf("exit code %d, want 0\n%s", code, p.err.String())
			}
		})
	}
}
