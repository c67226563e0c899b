package clickhouse

import (
	"context"
	"errors"
	"io"
	"net"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/tailrace/tailrace/pipeline"
)

// serveMute accepts connections, reads them and never answers. It reports each connection once its client has spoken.
func serveMute(t *testing.T) (addr string, spoken <-chan struct{}) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	heard := make(chan struct{}, 16)
	var connections errgroup.Group
	connections.Go(func() error {
		for {
			conn, err := l.Accept()
			if err != nil {
				return nil // the test is over
			}
			connections.Go(func() error {
				defer conn.Close()
				var first [1]byte
				if _, err := io.ReadFull(conn, first[:]); err != nil {
					return nil // the client has gone, as it should
				}
				heard <- struct{}{}
				_, err := io.Copy(io.Discard, conn)
				return err
			})
		}
	})
	t.Cleanup(func() {
		l.Close()
		if err := connections.Wait(); err != nil {
			t.Error(err)
		}
	})
	return l.Addr().String(), heard
}

// Scenario: the server takes connections and never says a word; then the program is told to stop.
// Guarantees: opening, writing and connecting all end with the context's error at once, though no timeout has passed,
// and leave no connection behind.
func TestMuteServer(t *testing.T) {
	addr, spoken := serveMute(t)
	c := DefaultConfig()
	c.Address, c.DialTimeout, c.InsertTimeout = addr, time.Hour, time.Hour
	mem := allocator(t)
	ck := &pipeline.Checkpoint{Run: testRun, Seq: 1, Parts: map[pipeline.Table][]pipeline.Part{
		pipeline.Telemetry: {telemetryPart(t, mem, 0, 10, october)},
	}}
	for name, call := range map[string]func(context.Context, *Sink) error{
		"open":  func(ctx context.Context, s *Sink) error { return s.Open(ctx) },
		"write": func(ctx context.Context, s *Sink) error { return write(ctx, s, ck) },
		"connect": func(ctx context.Context, _ *Sink) error {
			_, err := Connect(ctx, c)
			if ctx.Err() != nil && err != nil {
				return ctx.Err()
			}
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSink(t, c)
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			var ended errgroup.Group
			ended.Go(func() error { return call(ctx, s) })
			<-spoken
			cancel()
			if err := ended.Wait(); !errors.Is(err, context.Canceled) {
				t.Errorf("want %v, got %v", context.Canceled, err)
			}
		})
	}
}
