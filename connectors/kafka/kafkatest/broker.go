// Package kafkatest runs Apache Kafka for tests: one node, broker and controller at once, in a Java process on ports of
// 127.0.0.1. Kafka comes from Maven at the first use and stays in a cache, $TAILRACE_CACHE_DIR/kafka or
// tailrace/kafka in the user's cache folder.
//
// A machine without java or mvn fails the test: a suite that skips its broker proves nothing.
package kafkatest

import (
	"bytes"
	"fmt"
	"maps"
	"math/rand/v2"
	"net"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// The limits of what a broker may take. A machine with two busy cores needs some seconds.
const (
	installLimit = 5 * time.Minute
	startLimit   = time.Minute
	stopLimit    = 20 * time.Second // after SIGTERM; then it is killed
)

// started is what Kafka logs when it serves requests (KafkaBroker.STARTED_MESSAGE).
const started = "Kafka Server started"

// Config says what differs from one plain node.
type Config struct {
	Protocol   string            // of the listener: PLAINTEXT if empty, SSL, SASL_PLAINTEXT or SASL_SSL
	Properties map[string]string // of the broker; they replace those that every broker has
	Format     []string          // further arguments of kafka-storage format, such as --add-scram
}

// Broker is a node with its data, for a test. Its methods are for the test's goroutine.
type Broker struct{ node *Node }

// New starts a broker, which is ended and removed with the test.
func New(t testing.TB, c Config) *Broker {
	t.Helper()
	n, err := NewNode(t.Context(), t.TempDir(), c)
	if err != nil {
		t.Fatal(err)
	}
	b := &Broker{node: n}
	t.Cleanup(func() { b.Stop(t) })
	b.Start(t)
	return b
}

// Addr is host:port, the same over a restart.
func (b *Broker) Addr() string { return b.node.Addr() }

// Start starts a broker that is stopped, with the data it had, and waits until it serves.
func (b *Broker) Start(t testing.TB) {
	t.Helper()
	if err := b.node.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// Stop asks the broker to end, and kills it if it does not.
func (b *Broker) Stop(t testing.TB) {
	t.Helper()
	said := b.node.said()
	if err := b.node.Stop(); err != nil {
		t.Error(err)
	}
	if t.Failed() && said != nil {
		t.Logf("the end of Kafka's log:\n%s", said.tail())
	}
}

// Kill ends the broker as a power cut would, but for the page cache, which stays.
func (b *Broker) Kill() { b.node.Kill() }

// properties are a node's that is alone: nothing is replicated, and a group's first member does not wait for others.
func properties(c Config, dir string, port, controller int) []byte {
	protocol := c.Protocol
	if protocol == "" {
		protocol = "PLAINTEXT"
	}
	all := map[string]string{
		"process.roles":                  "broker,controller",
		"node.id":                        "1",
		"controller.quorum.voters":       fmt.Sprintf("1@127.0.0.1:%d", controller),
		"controller.listener.names":      "CONTROLLER",
		"listeners":                      fmt.Sprintf("CLIENT://127.0.0.1:%d,CONTROLLER://127.0.0.1:%d", port, controller),
		"advertised.listeners":           fmt.Sprintf("CLIENT://127.0.0.1:%d", port),
		"listener.security.protocol.map": "CLIENT:" + protocol + ",CONTROLLER:PLAINTEXT",
		"inter.broker.listener.name":     "CLIENT",
		"log.dirs":                       filepath.Join(dir, "data"),

		"auto.create.topics.enable":                        "false",
		"group.initial.rebalance.delay.ms":                 "0",
		"offsets.topic.num.partitions":                     "4",
		"offsets.topic.replication.factor":                 "1",
		"transaction.state.log.num.partitions":             "4",
		"transaction.state.log.replication.factor":         "1",
		"transaction.state.log.min.isr":                    "1",
		"share.coordinator.state.topic.replication.factor": "1",
		"share.coordinator.state.topic.min.isr":            "1",
	}
	maps.Copy(all, c.Properties)
	var text bytes.Buffer
	for _, key := range slices.Sorted(maps.Keys(all)) {
		// A backslash escapes in such a file.
		fmt.Fprintf(&text, "%s=%s\n", key, strings.ReplaceAll(all[key], `\`, `\\`))
	}
	return text.Bytes()
}

// process is a running broker.
type process struct {
	cmd  *exec.Cmd
	log  *log
	done chan struct{} // closed when it has ended and err is set
	err  error
}

func run(cmd *exec.Cmd) (*process, error) {
	p := &process{cmd: cmd, log: newLog(), done: make(chan struct{})}
	cmd.Stdout, cmd.Stderr = p.log, p.log
	dieWithParent(cmd)
	launched := make(chan error)
	go func() {
		defer close(p.done)
		// The kernel takes the end of the thread that started the process for the parent's end.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		launched <- err
		if err == nil {
			p.err = cmd.Wait()
		}
	}()
	return p, <-launched
}

// logKept is how much of the log a failing test shows: some stack traces.
const logKept = 16 << 10

// log keeps the end of what a broker says and watches for its start.
type log struct {
	mu    sync.Mutex
	text  []byte
	seen  bool
	ready chan struct{} // closed when started was said
}

func newLog() *log { return &log{ready: make(chan struct{})} }

func (l *log) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.text = append(l.text, p...)
	if !l.seen && bytes.Contains(l.text, []byte(started)) {
		l.seen = true
		close(l.ready)
	}
	if extra := len(l.text) - logKept; extra > 0 {
		l.text = append(l.text[:0], l.text[extra:]...)
	}
	return len(p), nil
}

func (l *log) tail() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return string(l.text)
}

// The ports to choose from lie under those that the kernel gives to outgoing connections: a client that dials a port of
// that range again and again, as while its broker is down, can end up connected to itself and hold the port.
const (
	firstPort = 10_000
	lastPort  = 32_000
)

func freePort() (int, error) {
	var err error
	for range 100 {
		port := firstPort + rand.IntN(lastPort-firstPort)
		var l net.Listener
		if l, err = net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port))); err == nil {
			if err = l.Close(); err == nil {
				return port, nil
			}
		}
	}
	return 0, fmt.Errorf("kafkatest: no free port: %w", err)
}
