package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/tailrace/tailrace/connectors/embedded"
	"github.com/tailrace/tailrace/connectors/kafka"
	"github.com/tailrace/tailrace/connectors/kafka/kafkatest"
	"github.com/tailrace/tailrace/deploy/native"
	"github.com/tailrace/tailrace/pipeline"
)

// What starting and stopping a server may take. A server that was killed reads its data first.
const (
	serverStart = 2 * time.Minute
	serverStop  = 20 * time.Second
)

// serve is the embedded broker or ClickHouse alone, so that either can be killed without the other. It is what this
// program runs as a child of its own.
func serve(ctx context.Context, args []string, log io.Writer) error {
	flags := flag.NewFlagSet("serve", flag.ContinueOnError)
	flags.SetOutput(log)
	data := flags.String("data", "", "data folder")
	kafkaAddr := flags.String("kafka", "", "address of the broker; empty for none")
	httpAddr := flags.String("http", "", "HTTP address of ClickHouse")
	nativeAddr := flags.String("native", "", "native address of ClickHouse; empty for none")
	if err := flags.Parse(args); err != nil {
		return err
	}
	var closers []io.Closer
	defer func() {
		for _, c := range closers {
			c.Close()
		}
	}()
	if *kafkaAddr != "" {
		k, err := embedded.StartKafka(ctx, embedded.KafkaConfig{Dir: *data, Addr: *kafkaAddr})
		if err != nil {
			return err
		}
		closers = append(closers, k)
	}
	if *nativeAddr != "" {
		library, err := native.Resolve(ctx, native.LibCHDB, native.Options{})
		if err != nil {
			return err
		}
		c, err := embedded.StartClickHouse(ctx, embedded.ClickHouseConfig{
			Dir: *data, Library: library, HTTPAddr: *httpAddr, NativeAddr: *nativeAddr,
			Log: slog.New(slog.NewTextHandler(log, &slog.HandlerOptions{Level: slog.LevelWarn})),
		})
		if err != nil {
			return err
		}
		closers = append(closers, c)
	}
	<-ctx.Done()
	return nil
}

// server is a process that is killed and started again with its data.
type server interface {
	Start(ctx context.Context) error // returns when it serves
	Stop() error
	Kill()
	Pid() int // 0 while there is none
}

// childServer is this program as a server.
type childServer struct {
	name  string
	log   string
	args  []string
	ready func(context.Context) error
	child *child
}

// Start starts the process and waits until it answers.
func (s *childServer) Start(ctx context.Context) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	c, err := startChild(s.name, s.log, nil, self, append([]string{"serve"}, s.args...)...)
	if err != nil {
		return err
	}
	s.child = c
	err = within(ctx, serverStart, s.name+" to serve", func() (bool, error) {
		if c.ended() {
			return false, fmt.Errorf("%s ended with %d, see %s", s.name, c.cmd.ProcessState.ExitCode(), s.log)
		}
		ctx, cancel := context.WithTimeout(ctx, time.Second)
		defer cancel()
		err := s.ready(ctx)
		return err == nil, err
	})
	if err != nil {
		s.Kill()
	}
	return err
}

// Stop asks the process to end.
func (s *childServer) Stop() error {
	if s.child == nil {
		return nil
	}
	c := s.child
	s.child = nil
	return errors.Join(c.signal(syscall.SIGCONT), c.stop(serverStop))
}

// Kill ends the process with SIGKILL.
func (s *childServer) Kill() {
	if s.child != nil {
		s.child.kill()
		s.child = nil
	}
}

// Pid is the process's number.
func (s *childServer) Pid() int {
	if s.child == nil {
		return 0
	}
	return s.child.cmd.Process.Pid
}

// The kinds of broker.
const (
	apacheKafka   = "apache"
	embeddedKafka = "embedded"
)

// newBroker makes a broker with its data in dir. It is not started yet.
func newBroker(ctx context.Context, kind, dir string) (server, string, error) {
	data := filepath.Join(dir, "kafka")
	if kind == apacheKafka {
		if err := os.MkdirAll(data, 0o700); err != nil {
			return nil, "", err
		}
		// Members may set a session time-out of 6 s, which is the least that brokers take by default.
		n, err := kafkatest.NewNode(ctx, data, kafkatest.Config{})
		if err != nil {
			return nil, "", err
		}
		return n, n.Addr(), nil
	}
	address, err := freeAddress()
	if err != nil {
		return nil, "", err
	}
	return &childServer{
		name: "the embedded broker", log: filepath.Join(dir, "kafka.log"), args: []string{"-data", data, "-kafka", address},
		ready: func(ctx context.Context) error {
			_, err := kafka.CountMessages(ctx, []string{address}, "bench.probe")
			if errors.Is(err, pipeline.ErrConfig) { // it has no such topic, and says so
				return nil
			}
			return err
		},
	}, address, nil
}

// clickhouseServer is an embedded ClickHouse in a process of its own.
type clickhouseServer struct {
	childServer
	http, native string // addresses
	passwordFile string
}

func newClickHouse(dir string) (*clickhouseServer, error) {
	httpAddr, err := freeAddress()
	if err != nil {
		return nil, err
	}
	nativeAddr, err := freeAddress()
	if err != nil {
		return nil, err
	}
	data := filepath.Join(dir, "clickhouse")
	s := &clickhouseServer{http: httpAddr, native: nativeAddr, passwordFile: filepath.Join(data, embedded.PasswordFile)}
	s.childServer = childServer{
		name: "ClickHouse", log: filepath.Join(dir, "clickhouse.log"),
		args:  []string{"-data", data, "-http", httpAddr, "-native", nativeAddr},
		ready: func(ctx context.Context) error { return s.queries().ping(ctx) },
	}
	return s, nil
}

func (s *clickhouseServer) queries() *queries { return &queries{address: s.http} }
