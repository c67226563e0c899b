package embedded

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/tailrace/tailrace/connectors/embedded/chdb"
	"github.com/tailrace/tailrace/pipeline"
)

// HTTPLimits bounds what the clients of the HTTP face may take. A zero field is its default.
type HTTPLimits struct {
	// Requests at once. 128 by default: the engine runs few statements at a time and the others wait, each with its
	// buffers. One more gets status 503.
	Requests int `yaml:"requests"`
	// HeaderTimeout bounds the time from connect to the end of the request's header. 10s by default.
	HeaderTimeout time.Duration `yaml:"header_timeout"`
	// IdleTimeout ends a connection without a request. 5m by default, longer than the clients' pools keep one.
	IdleTimeout time.Duration `yaml:"idle_timeout"`
	// TransferTimeout ends a request that sends no data, or does not read its result. 5m by default, as ClickHouse's
	// receive_timeout and send_timeout.
	TransferTimeout time.Duration `yaml:"transfer_timeout"`
	// QueryBytes bounds a statement's text. 256KiB by default, as ClickHouse's max_query_size; an INSERT's data is
	// not counted.
	QueryBytes pipeline.Bytes `yaml:"query_bytes"`
	// FrameBytes bounds a compressed frame of an INSERT. 128MiB by default, the largest that the Go clients send.
	FrameBytes pipeline.Bytes `yaml:"frame_bytes"`
	// SessionTimeout bounds how long a session_id is remembered after its last request. 1h by default, as ClickHouse's
	// max_session_timeout; a request asks for less with session_timeout, and gets 60 s if it does not ask.
	SessionTimeout time.Duration `yaml:"session_timeout"`
}

func (l HTTPLimits) withDefaults() HTTPLimits {
	for _, d := range []struct {
		field *time.Duration
		value time.Duration
	}{
		{&l.HeaderTimeout, 10 * time.Second}, {&l.IdleTimeout, 5 * time.Minute},
		{&l.TransferTimeout, 5 * time.Minute}, {&l.SessionTimeout, time.Hour},
	} {
		if *d.field <= 0 {
			*d.field = d.value
		}
	}
	if l.Requests <= 0 {
		l.Requests = 128
	}
	if l.QueryBytes <= 0 {
		l.QueryBytes = 256 << 10
	}
	if l.FrameBytes <= 0 {
		l.FrameBytes = 128 << 20
	}
	return l
}

// httpServer serves ClickHouse's HTTP interface.
type httpServer struct {
	listener net.Listener
	server   *http.Server
	engine   *chdb.Engine
	access   *Access
	limits   HTTPLimits
	zone     string
	sessions sessions

	cancel  context.CancelFunc
	serving sync.WaitGroup // the accept loop
	running sync.WaitGroup // requests
	turns   chan struct{}
}

// startHTTP serves on l, which it closes in the end, until Close. ctx bounds the start.
func startHTTP(ctx context.Context, l net.Listener, e *chdb.Engine, a *Access, log *slog.Logger, limits HTTPLimits) (
	*httpServer, error) {
	zone, _, err := e.Query(ctx, chdb.Request{SQL: "SELECT timezone()", ReadOnly: true})
	if err != nil {
		return nil, err
	}
	limits = limits.withDefaults()
	s := &httpServer{
		listener: l, engine: e, access: a, limits: limits, zone: strings.TrimSpace(string(zone)),
		turns: make(chan struct{}, limits.Requests),
	}
	s.sessions.open = map[string]*httpSession{}
	base, cancel := context.WithCancel(context.WithoutCancel(ctx))
	s.cancel = cancel
	s.server = &http.Server{
		Handler:           s,
		ReadHeaderTimeout: limits.HeaderTimeout,
		IdleTimeout:       limits.IdleTimeout,
		BaseContext:       func(net.Listener) context.Context { return base },
		ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelWarn),
	}
	s.serving.Go(func() {
		if err := s.server.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			log.Error("HTTP face of the embedded ClickHouse", "error", err)
		}
	})
	return s, nil
}

// Close ends all statements and connections and waits for them.
func (s *httpServer) Close() error {
	s.cancel()
	err := s.server.Close()
	s.serving.Wait()
	s.running.Wait()
	return errors.Join(err, s.sessions.close())
}

// ServeHTTP answers one request.
func (s *httpServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.running.Add(1)
	defer s.running.Done()
	// A page in the user's browser can reach loopback. It cannot hide its Origin, nor its own name behind DNS.
	if !localHost(r.Host) || r.Header.Get("Origin") != "" {
		http.Error(w, "only for programs on this machine: a foreign Host or an Origin header is refused",
			http.StatusForbidden)
		return
	}
	select {
	case s.turns <- struct{}{}:
		defer func() { <-s.turns }()
	default:
		s.fail(w, exception(codeTooManyQueries, "Too many requests at once (limit %d)", s.limits.Requests))
		return
	}
	switch {
	case r.URL.Path == "/ping", r.URL.Path == "/replicas_status", r.URL.Path == "/" && isBareGet(r):
		w.Header().Set("Content-Type", "text/html; charset=UTF-8")
		_, _ = w.Write([]byte("Ok.\n")) // a client that has gone needs no answer
	case r.URL.Path != "/" && r.URL.Path != "/query":
		http.Error(w, "There is no handle "+r.URL.Path+". Use / or /ping.", http.StatusNotFound)
	case r.Method != http.MethodGet && r.Method != http.MethodHead && r.Method != http.MethodPost:
		w.Header().Set("Allow", "GET, HEAD, POST")
		http.Error(w, "Use GET for reading and POST", http.StatusMethodNotAllowed)
	default:
		s.serve(w, r)
	}
}

func isBareGet(r *http.Request) bool {
	return r.Method != http.MethodPost && r.URL.Query().Get("query") == ""
}

// localHost reports whether a Host header names this machine by a name that no DNS answer can give to another.
func localHost(host string) bool {
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	}
	host = strings.TrimSuffix(strings.TrimPrefix(host, "["), "]")
	if strings.EqualFold(host, "localhost") {
		return true
	}
	ip := net.ParseIP(host)
	return ip != nil && ip.IsLoopback()
}
