package kafkatest

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"time"
)

// Node is a broker with its data, for a program that measures. Its methods are for one goroutine.
type Node struct {
	jars    string
	dir     string
	port    int
	process *process
}

// NewNode fetches Kafka at the first use and makes a node in dir, which is the caller's. It is not started yet.
func NewNode(ctx context.Context, dir string, c Config) (*Node, error) {
	ctx, cancel := context.WithTimeout(ctx, installLimit)
	defer cancel()
	jars, err := install(ctx)
	if err != nil {
		return nil, err
	}
	port, err := freePort()
	if err != nil {
		return nil, err
	}
	controller, err := freePort()
	if err != nil {
		return nil, err
	}
	n := &Node{jars: jars, dir: dir, port: port}
	file := filepath.Join(dir, "server.properties")
	if err := os.WriteFile(file, properties(c, dir, port, controller), 0o600); err != nil {
		return nil, err
	}
	format := n.java("kafka.tools.StorageTool",
		append([]string{"format", "--cluster-id", "MkU3OEVBNTcwNTJENDM2Qg", "--config", file}, c.Format...)...)
	if out, err := format.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("kafkatest: format: %w: %s", err, out)
	}
	return n, nil
}

// Addr is host:port, the same over a restart.
func (n *Node) Addr() string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(n.port)) }

// Pid is the number of the process, 0 while there is none.
func (n *Node) Pid() int {
	if n.process == nil {
		return 0
	}
	return n.process.cmd.Process.Pid
}

// Start starts a node that is stopped, with the data it had, and waits until it serves.
func (n *Node) Start(ctx context.Context) error {
	p, err := run(n.java("kafka.Kafka", filepath.Join(n.dir, "server.properties")))
	if err != nil {
		return fmt.Errorf("kafkatest: %w", err)
	}
	n.process = p
	timer := time.NewTimer(startLimit)
	defer timer.Stop()
	select {
	case <-p.log.ready:
		return nil
	case <-p.done:
		n.process = nil
		return fmt.Errorf("kafkatest: Kafka ended while it started: %v\n%s", p.err, p.log.tail())
	case <-ctx.Done():
		n.Kill()
		return ctx.Err()
	case <-timer.C:
		n.Kill()
		return fmt.Errorf("kafkatest: Kafka did not start within %v\n%s", startLimit, p.log.tail())
	}
}

// Stop asks the node to end, and kills it if it does not, which is an error. A node that does not run stays as it is.
func (n *Node) Stop() error {
	if n.process == nil {
		return nil
	}
	p := n.process
	n.process = nil
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return errors.Join(err, p.kill())
	}
	timer := time.NewTimer(stopLimit)
	defer timer.Stop()
	select {
	case <-p.done:
		return nil
	case <-timer.C:
		return errors.Join(fmt.Errorf("kafkatest: Kafka did not stop within %v and is killed\n%s", stopLimit, p.log.tail()), p.kill())
	}
}

// Kill ends the node as a power cut would, but for the page cache, which stays.
func (n *Node) Kill() {
	if n.process != nil {
		_ = n.process.kill() // it may have ended
		n.process = nil
	}
}

// said is the log of a node that runs, else nil.
func (n *Node) said() *log {
	if n.process == nil {
		return nil
	}
	return n.process.log
}

// java is a command with Kafka's classes. One broker for a test needs little: a small heap, the plain collector, and the
// compiler that is ready sooner.
func (n *Node) java(class string, args ...string) *exec.Cmd {
	const logger = "-Dorg.slf4j.simpleLogger."
	return exec.Command("java", append([]string{
		"-Xmx512m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-cp", filepath.Join(n.jars, "*"),
		logger + "defaultLogLevel=warn", logger + "log.kafka.server=info", logger + "showDateTime=true", class,
	}, args...)...)
}

// kill ends the process and waits for its end.
func (p *process) kill() error {
	err := p.cmd.Process.Kill()
	<-p.done
	if errors.Is(err, os.ErrProcessDone) {
		return nil
	}
	return err
}
