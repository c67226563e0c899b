package embedded

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/tailrace/tailrace/pipeline"
)

// NativeLimits bounds what the clients of the native face may take. A zero field is its default.
type NativeLimits struct {
	// Connections open at once. 256 by default: each costs two buffers of 64 KiB and a file descriptor, and the pools of
	// the Go clients take ten each. One more is told so and closed.
	Connections int `yaml:"connections"`
	// HandshakeTimeout bounds the time from accept to login, when nobody knows who is there. 10s by default.
	HandshakeTimeout time.Duration `yaml:"handshake_timeout"`
	// IdleTimeout ends a connection that sends nothing between packets. 1h by default, as ClickHouse's
	// idle_connection_timeout: the clients' pools keep connections for that long.
	IdleTimeout time.Duration `yaml:"idle_timeout"`
	// TransferTimeout ends a connection that stops inside a packet, or does not read its result. 5m by default, as
	// ClickHouse's receive_timeout and send_timeout.
	TransferTimeout time.Duration `yaml:"transfer_timeout"`
	// QueryBytes bounds a query's text. 16MiB by default: an INSERT with its rows in the text fits, bulk data belongs in
	// blocks.
	QueryBytes pipeline.Bytes `yaml:"query_bytes"`
	// BlockBytes bounds a block of an INSERT, and a compressed frame. 128MiB by default, the largest frame that the Go
	// clients read: 100,000 rows of telemetry take about 5 MiB.
	BlockBytes pipeline.Bytes `yaml:"block_bytes"`
	// BlockRows bounds the rows of a block of an INSERT. 16,777,216 by default, 16 times what the engine makes of a part.
	BlockRows int `yaml:"block_rows"`
	// BlockColumns bounds the columns of a block. 10,000 by default: the widest tables have some thousands.
	BlockColumns int `yaml:"block_columns"`
}

func (l NativeLimits) withDefaults() NativeLimits {
	orInt := func(v *int, d int) {
		if *v <= 0 {
			*v = d
		}
	}
	orTime := func(v *time.Duration, d time.Duration) {
		if *v <= 0 {
			*v = d
		}
	}
	orBytes := func(v *pipeline.Bytes, d pipeline.Bytes) {
		if *v <= 0 {
			*v = d
		}
	}
	orInt(&l.Connections, 256)
	orTime(&l.HandshakeTimeout, 10*time.Second)
	orTime(&l.IdleTimeout, time.Hour)
	orTime(&l.TransferTimeout, 5*time.Minute)
	orBytes(&l.QueryBytes, 16<<20)
	orBytes(&l.BlockBytes, 128<<20)
	orInt(&l.BlockRows, 16<<20)
	orInt(&l.BlockColumns, 10_000)
	return l
}

// nativeServer serves the native TCP protocol: one goroutine a connection, one more while it runs a statement.
type nativeServer struct {
	listener net.Listener
	engine   engine
	login    loginFunc
	log      *slog.Logger
	limits   NativeLimits

	version  [3]uint64 // of the engine: major, minor, patch
	timezone string    // of the engine

	ctx    context.Context // ends when the server closes: every statement runs under it
	cancel context.CancelFunc
	wait   sync.WaitGroup

	mu     sync.Mutex
	conns  map[net.Conn]struct{}
	closed bool
}

// loginFunc tells whether a user may read only. Its error is a *chdb.Exception if it is the user's fault.
type loginFunc func(user, password string) (readOnly bool, err error)

// startNative serves on l, which it closes in the end, until Close. The context is the one of the start: it bounds the
// questions asked to the engine before the first connection.
func startNative(ctx context.Context, l net.Listener, e engine, login loginFunc, log *slog.Logger, limits NativeLimits) (
	*nativeServer, error) {
	zone, _, err := e.Query(ctx, request{SQL: "SELECT timezone()", Format: "TabSeparated", ReadOnly: true})
	if err != nil {
		return nil, fmt.Errorf("native face: ask the engine for its time zone: %w", err)
	}
	s := &nativeServer{
		listener: l, engine: e, login: login, log: log, limits: limits.withDefaults(),
		version: parseVersion(e.Version()), timezone: strings.TrimSpace(string(zone)),
		conns: map[net.Conn]struct{}{},
	}
	s.ctx, s.cancel = context.WithCancel(context.WithoutCancel(ctx))
	s.wait.Go(s.accept)
	return s, nil
}

// Addr is where the server listens.
func (s *nativeServer) Addr() net.Addr { return s.listener.Addr() }

// Close ends all statements and connections and waits for them.
func (s *nativeServer) Close() error {
	s.mu.Lock()
	already := s.closed
	s.closed = true
	for nc := range s.conns {
		nc.Close()
	}
	s.mu.Unlock()
	s.cancel()
	err := s.listener.Close()
	s.wait.Wait()
	if already || errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}

func (s *nativeServer) accept() {
	for {
		nc, err := s.listener.Accept()
		if err != nil {
			if errors.Is(err, net.ErrClosed) {
				return
			}
			// Out of file descriptors, or the peer has gone: neither ends the server.
			s.log.Warn("native face: accept", "error", err)
			select {
			case <-s.ctx.Done():
				return
			case <-time.After(50 * time.Millisecond):
				continue
			}
		}
		open, ok := s.register(nc)
		// Those over the limit say hello, so that they can be told; twice the limit is cut without a word.
		if !ok || open > 2*s.limits.Connections {
			s.drop(nc)
			continue
		}
		s.wait.Go(func() {
			defer s.drop(nc)
			c := newNativeConn(s, nc)
			if err := c.serve(open > s.limits.Connections); !goneError(err) {
				s.log.Info("native face: connection ended", "client", nc.RemoteAddr().String(), "error", err)
			}
		})
	}
}

func (s *nativeServer) register(nc net.Conn) (open int, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.conns[nc] = struct{}{}
	return len(s.conns), !s.closed
}

func (s *nativeServer) drop(nc net.Conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.conns, nc)
	nc.Close()
}

// goneError is true when a client left between packets, or the server closed the connection.
func goneError(err error) bool {
	return errors.Is(err, io.EOF) || errors.Is(err, net.ErrClosed)
}

// parseVersion reads the first three numbers of a version such as 26.7.2.1. What is no number counts as 0.
func parseVersion(v string) (out [3]uint64) {
	for i, part := range strings.SplitN(v, ".", 4) {
		if i < len(out) {
			out[i], _ = strconv.ParseUint(part, 10, 32)
		}
	}
	return out
}

// timedConn gives every read and write a deadline of its own, so that a transfer may take long but not stop.
type timedConn struct {
	net.Conn
	read  time.Duration // 0: leave the deadline as it is
	write time.Duration
}

func (c *timedConn) Read(p []byte) (int, error) {
	if c.read > 0 {
		if err := c.SetReadDeadline(time.Now().Add(c.read)); err != nil {
			return 0, err
		}
	}
	return c.Conn.Read(p)
}

func (c *timedConn) Write(p []byte) (int, error) {
	if err := c.SetWriteDeadline(time.Now().Add(c.write)); err != nil {
		return 0, err
	}
	return c.Conn.Write(p)
}
