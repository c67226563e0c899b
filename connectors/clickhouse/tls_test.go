package clickhouse

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tailrace/tailrace/connectors/credentials"
	"github.com/tailrace/tailrace/connectors/credentials/credentialstest"
	"github.com/tailrace/tailrace/pipeline"
)

// canary is the password that must be seen nowhere.
const canary = "canary-71c4"

// secured is a server behind TLS whose certificate the test changes.
type secured struct {
	face    atomic.Pointer[tls.Config]
	address string
	user    string // file with the writer's password
}

func serveSecured(t *testing.T) *secured {
	t.Helper()
	s := &secured{user: filepath.Join(t.TempDir(), "password")}
	server := startSecured(t, filepath.Join(t.TempDir(), "clickhouse"), "127.0.0.1:0", &tls.Config{
		GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) { return s.face.Load(), nil },
	})
	t.Cleanup(func() {
		if err := server.Close(); err != nil {
			t.Error(err)
		}
	})
	s.address = server.NativeAddr()
	s.setPassword(t, server.Password())
	return s
}

func (s *secured) setPassword(t *testing.T, password string) (old string) {
	t.Helper()
	before, err := os.ReadFile(s.user)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	credentialstest.WriteFile(t, s.user, password+"\n")
	return strings.TrimSpace(string(before))
}

func (s *secured) config(c *credentials.TLS) Config {
	config := DefaultConfig()
	config.Address, config.PasswordFile, config.TLS = s.address, s.user, c
	config.RetryMin, config.RetryMax, config.InsertsPerSecond = time.Millisecond, 20*time.Millisecond, 1000
	return config
}

// tenSeconds is how soon a cause must be known.
func tenSeconds(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	t.Cleanup(cancel)
	return ctx
}

// Scenario: the sink opens, the schema is shown and a query connects, before each kind of closed door.
// Guarantees: within 10 s a configuration error that names the cause; no password is in it.
func TestClosedDoors(t *testing.T) {
	ours, theirs := credentialstest.NewAuthority(t), credentialstest.NewAuthority(t)
	believe := &credentials.TLS{CAFile: ours.File}
	plain := startServer(t, filepath.Join(t.TempDir(), "plain"), "127.0.0.1:0")
	check := func(name string, c Config, want string) {
		t.Helper()
		_, shown := ShowSchema(tenSeconds(t), c)
		_, connected := Connect(tenSeconds(t), c)
		for _, err := range []error{newSink(t, c).Open(tenSeconds(t)), shown, connected, VerifySchema(tenSeconds(t), c)} {
			if !errors.Is(err, pipeline.ErrConfig) || !strings.Contains(err.Error(), want) {
				t.Errorf("%s: want a configuration error with %q, got %v", name, want, err)
			}
			if strings.Contains(fmt.Sprintf("%v %+v %#v", err, err, err), canary) {
				t.Errorf("%s: shows the password: %v", name, err)
			}
		}
	}
	c := configFor(plain)
	c.TLS = believe
	check("TLS to plaintext", c, "speaks plaintext, not TLS")
	if err := plain.Close(); err != nil {
		t.Fatal(err)
	}

	s := serveSecured(t)
	good := ours.Server(t)
	client, foreign := ours.Issue(t, "client", time.Now().Add(time.Hour)), theirs.Issue(t, "client", time.Now().Add(time.Hour))
	for name, c := range map[string]struct {
		face *tls.Config
		tls  *credentials.TLS
		want string
	}{
		"wrong authority":       {good, &credentials.TLS{CAFile: theirs.File}, "is signed by none of the authorities in ca_file"},
		"wrong name":            {good, &credentials.TLS{CAFile: ours.File, ServerName: "elsewhere"}, `is not for the name "elsewhere"`},
		"expired":               {credentialstest.ServerOf(ours.Issue(t, "server", time.Now().Add(-time.Minute))), believe, "expired at "},
		"plaintext to TLS":      {good, nil, "speaks TLS: set tls"},
		"no client certificate": {ours.Demanding(t), believe, "wants a client certificate"},
		"foreign client": {ours.Demanding(t), &credentials.TLS{CAFile: ours.File, CertFile: foreign.CertFile, KeyFile: foreign.KeyFile},
			"does not take the client certificate"},
	} {
		s.face.Store(c.face)
		check(name, s.config(c.tls), c.want)
	}
	s.face.Store(ours.Demanding(t))
	wrong := s.config(&credentials.TLS{CAFile: ours.File, CertFile: client.CertFile, KeyFile: client.KeyFile})
	password := s.setPassword(t, canary)
	check("wrong password", wrong, "Authentication failed")
	s.setPassword(t, password)
	openSink(t, wrong)
}

// journal is a log whose lines are awaited.
type journal struct {
	mu   sync.Mutex
	text bytes.Buffer
	seen chan struct{}
}

func (j *journal) Write(p []byte) (int, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	select {
	case j.seen <- struct{}{}:
	default:
	}
	return j.text.Write(p)
}

func (j *journal) String() string {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.text.String()
}

func (j *journal) await(t *testing.T, text string) {
	t.Helper()
	for ctx := tenSeconds(t); !strings.Contains(j.String(), text); {
		select {
		case <-j.seen:
		case <-ctx.Done():
			t.Fatalf("want %q in the log, got:\n%s", text, j)
		}
	}
}

// Scenario: an open sink loses its connection; the server has a certificate of another authority by then, and the password
// has changed. Then the files are renewed, one after the other.
// Guarantees: the block waits and the log says why, each cause once and without a password; with the new files the block
// is stored, without a restart.
func TestDoorsChangeWhileWriting(t *testing.T) {
	mem := allocator(t)
	first, second := credentialstest.NewAuthority(t), credentialstest.NewAuthority(t)
	s := serveSecured(t)
	s.face.Store(first.Server(t))
	ca := filepath.Join(t.TempDir(), "ca.pem")
	credentialstest.Copy(t, first.File, ca)
	c := s.config(&credentials.TLS{CAFile: ca})
	openSink(t, c)
	conn := query(t, c)
	log := &journal{seen: make(chan struct{}, 1)}
	sink, err := New(c, pipeline.Settings{Pipeline: "test", Log: slog.New(slog.NewTextHandler(log, nil))})
	if err != nil {
		t.Fatal(err)
	}
	defer sink.Close()
	if err := sink.Open(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := write(t.Context(), sink, telemetryCheckpoint(t, mem, 1, 10)); err != nil {
		t.Fatal(err)
	}

	s.face.Store(second.Server(t))
	password := s.setPassword(t, canary)
	sink.disconnect()
	written := make(chan error, 1)
	ctx := tenSeconds(t)
	checkpoint := telemetryCheckpoint(t, mem, 2, 20)
	go func() { written <- write(ctx, sink, checkpoint) }()
	log.await(t, "is signed by none of the authorities in ca_file")
	credentialstest.Copy(t, second.File, ca)
	log.await(t, "Authentication failed")
	s.setPassword(t, password)
	if err := <-written; err != nil {
		t.Fatal(err)
	}
	if got := number(t, conn, "SELECT count() FROM telemetry"); got != 30 {
		t.Errorf("want 30 rows, got %d", got)
	}
	if n := strings.Count(log.String(), "does not take blocks"); n != 2 || !strings.Contains(log.String(), "takes blocks again") {
		t.Errorf("want each of two causes said once, and the recovery, got:\n%s", log)
	}
	if strings.Contains(log.String(), canary) || strings.Contains(log.String(), password) {
		t.Errorf("shows a password:\n%s", log)
	}
}
