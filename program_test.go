package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/tailrace/tailrace/connectors/clickhouse"
	"github.com/tailrace/tailrace/connectors/kafka"
	"github.com/tailrace/tailrace/deploy"
)

// asProgram makes the test binary be the program, so that the tests run it as its users do: in a process of its own,
// with signals and exit codes.
const asProgram = "TAILRACE_TEST_AS_PROGRAM"

func TestMain(m *testing.M) {
	if os.Getenv(asProgram) != "" {
		main()
		return
	}
	state, err := os.MkdirTemp("", "tailrace-test-state-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(2)
	}
	os.Setenv("XDG_STATE_HOME", state) // of the processes too
	code := m.Run()
	os.RemoveAll(state)
	if shared.servers != nil {
		shared.servers.end()
	}
	if shared.dir != "" {
		os.RemoveAll(shared.dir)
	}
	os.Exit(code)
}

// output collects what a process prints, while it runs.
type output struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.String()
}

// process is a run of the program.
type process struct {
	cmd      *exec.Cmd
	out, err output
	done     chan struct{} // closed when it has ended
}

// start runs the program with args; env is added to the environment.
func start(env []string, args ...string) (*process, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	p := &process{cmd: exec.Command(self, args...), done: make(chan struct{})}
	p.cmd.Env = append(append(os.Environ(), asProgram+"=1"), env...)
	p.cmd.Stdout, p.cmd.Stderr = &p.out, &p.err
	if err := p.cmd.Start(); err != nil {
		return nil, err
	}
	go func() {
		defer close(p.done)
		_ = p.cmd.Wait() // the exit code is in ProcessState
	}()
	return p, nil
}

func (p *process) end() {
	_ = p.cmd.Process.Kill()
	<-p.done
}

func (p *process) code() int { return p.cmd.ProcessState.ExitCode() }

// launch is start for a test, which ends the process.
func launch(t *testing.T, args ...string) *process {
	t.Helper()
	p, err := start(nil, args...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.end)
	return p
}

// within waits for the process to end and returns its exit code.
func (p *process) within(t *testing.T, limit time.Duration) int {
	t.Helper()
	select {
	case <-p.done:
		return p.code()
	case <-time.After(limit):
		t.Fatalf("%v still runs after %v\n%s", p.cmd.Args[1:], limit, p.err.String())
		return -1
	}
}

// ended runs the program to its end and returns its exit code.
func ended(t *testing.T, args ...string) (*process, int) {
	t.Helper()
	p := launch(t, args...)
	return p, p.within(t, 2*time.Minute)
}

func (p *process) signal(t *testing.T, s os.Signal) {
	t.Helper()
	if err := p.cmd.Process.Signal(s); err != nil {
		t.Fatal(err)
	}
}

// eventually asks until the answer is yes.
func eventually(t *testing.T, what string, limit time.Duration, yes func() bool) {
	t.Helper()
	deadline := time.After(limit)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for !yes() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("waited %v in vain: %s", limit, what)
		}
	}
}

// addresses are what `tailrace embedded --json` prints.
type addresses struct {
	Kafka        []string `json:"kafka"`
	HTTP         string   `json:"clickhouse_http"`
	Native       string   `json:"clickhouse_native"`
	PasswordFile string   `json:"password_file"`
}

// shared are the servers that most tests use: `tailrace embedded` in a process of its own.
var shared struct {
	once    sync.Once
	dir     string
	servers *process
	plants  atomic.Int32 // made so far: each has a name of its own
	at      addresses
	err     error
}

// embeddedServers starts them at the first use. A test keeps to a topic, a database and a group of its own.
func embeddedServers(t *testing.T) addresses {
	t.Helper()
	shared.once.Do(func() {
		if shared.dir, shared.err = os.MkdirTemp("", "tailrace-test-"); shared.err != nil {
			return
		}
		shared.servers, shared.at, shared.err = startEmbedded(filepath.Join(shared.dir, "data"))
	})
	if shared.err != nil {
		t.Fatal(shared.err)
	}
	return shared.at
}

func startEmbedded(data string) (*process, addresses, error) {
	var at addresses
	p, err := start(nil, "embedded", "--json", "--data", data, "--kafka", "127.0.0.1:0", "--http", "127.0.0.1:0", "--native", "127.0.0.1:0")
	if err != nil {
		return nil, at, err
	}
	for range 6000 { // ten minutes: the first start may fetch the engine
		if json.Unmarshal([]byte(p.out.String()), &at) == nil {
			return p, at, nil
		}
		select {
		case <-p.done:
			return nil, at, fmt.Errorf("embedded ended with %d: %s", p.code(), p.err.String())
		case <-time.After(100 * time.Millisecond):
		}
	}
	p.end()
	return nil, at, fmt.Errorf("embedded did not start: %s", p.err.String())
}

// plant is a pipeline of one test: a copy of the demo's, on the shared servers.
type plant struct {
	addresses
	name string // of topic, database and group
	dir  string
	file string
	http string
}

// newPlant writes the demo's pipeline file with the servers' addresses and further replacements, old and new in turn.
func newPlant(t *testing.T, at addresses, replaced ...string) *plant {
	t.Helper()
	name := fmt.Sprintf("%s_%d", strings.ToLower(strings.NewReplacer("/", "_").Replace(t.Name())), shared.plants.Add(1))
	p := &plant{addresses: at, name: name, dir: t.TempDir(), http: freePort(t)}
	demo, err := deploy.Demo.ReadFile("demo/tep.yaml")
	if err != nil {
		t.Fatal(err)
	}
	// A replacer takes the first text that fits, so what contains another stands before it.
	all := append(replaced,
		"kafka: {brokers: [127.0.0.1:9092]}", "kafka: {brokers: ["+at.Kafka[0]+"], prefix: "+name+".}",
		"127.0.0.1:9092", at.Kafka[0], "127.0.0.1:9000", at.Native, "127.0.0.1:9464", p.http,
		"password_file: writer.password", "password_file: "+at.PasswordFile+", database: "+name,
		"topic: plant.telemetry", "topic: "+name+"\n      group: "+name)
	p.file = filepath.Join(p.dir, "tep.yaml")
	text := strings.NewReplacer(all...).Replace(string(demo)) + "\nstate: {store: \"file://" + p.dir + "/state\"}\n"
	if err := os.WriteFile(p.file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	copyDemo(t, p.dir, "models", "tep")
	return p
}

// copyDemo copies folders of the demo.
func copyDemo(t *testing.T, to string, folders ...string) {
	t.Helper()
	for _, folder := range folders {
		carried, err := fs.Sub(deploy.Demo, "demo/"+folder)
		if err == nil {
			err = os.CopyFS(filepath.Join(to, folder), carried)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

// makeTopic makes the plant's topic.
func (p *plant) makeTopic(t *testing.T, partitions int, configs map[string]string) {
	t.Helper()
	if err := kafka.CreateTopic(t.Context(), p.Kafka, p.name, partitions, configs); err != nil {
		t.Fatal(err)
	}
}

// replay sends runs of the demo, from a start that is a multiple of an hour.
func (p *plant) replay(t *testing.T, flags []string, runs ...string) {
	t.Helper()
	args := append([]string{"replay", "--brokers", p.Kafka[0], "--topic", p.name, "--format", "tep"}, flags...)
	for _, run := range runs {
		args = append(args, filepath.Join(p.dir, "tep", run+".dat.gz"))
	}
	if sent, code := ended(t, args...); code != 0 {
		t.Fatalf("replay: exit code %d\n%s", code, sent.err.String())
	}
}

// query reads one number.
func (p *plant) query(t *testing.T, sql string) int64 {
	t.Helper()
	c := clickhouse.DefaultConfig()
	c.Address, c.Database, c.User = p.Native, p.name, "default"
	db, err := clickhouse.Connect(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	var n int64
	if err := db.QueryRow(t.Context(), "SELECT toInt64(("+sql+"))").Scan(&n); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	return n
}

// answers asks the pipeline's HTTP interface.
func (p *plant) answers(path string) (int, string) {
	client := http.Client{Timeout: time.Second}
	r, err := client.Get("http://" + p.http + path)
	if err != nil {
		return 0, err.Error()
	}
	defer r.Body.Close()
	text, err := io.ReadAll(r.Body)
	if err != nil {
		return 0, err.Error()
	}
	return r.StatusCode, string(text)
}

// peakRSS is the most memory that a process has had, in bytes (proc(5), VmHWM); 0 once it has ended.
func peakRSS(t *testing.T, p *process) int64 {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.cmd.Process.Pid))
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ESRCH) {
		return 0
	}
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if rest, ok := strings.CutPrefix(line, "VmHWM:"); ok {
			kib, err := strconv.ParseInt(strings.Fields(rest)[0], 10, 64)
			if err != nil {
				t.Fatal(err)
			}
			return kib << 10
		}
	}
	return 0
}

func freePort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// committed sums what the plant's group has committed.
func (p *plant) committed(t *testing.T) int64 {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	offsets, err := kafka.Committed(ctx, p.Kafka, p.name, p.name)
	if err != nil {
		t.Fatal(err)
	}
	var n int64
	for _, offset := range offsets {
		n += offset
	}
	return n
}
