package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/apache/arrow/go/v15/arrow/memory"
	"github.com/tailrace/tailrace/deploy/native"
	"github.com/tailrace/tailrace/pipeline"
	"github.com/tailrace/tailrace/pipeline/spec"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// Scenario: errors of every kind that a command may end with, wrapped as they come.
// Guarantees: the documented exit code: what the user must change before it can start is 2, a fault of the run is 1.
func TestExitCodes(t *testing.T) {
	for _, c := range []struct {
		err  error
		want int
	}{
		{nil, 0},
		{errFound, 1},
		{errors.New("checkpoint 3: connection reset"), 1},
		{usage(errors.New("unknown flag")), 2},
		{fmt.Errorf("http.address: %w", &net.OpError{Op: "listen", Err: &os.SyscallError{Err: syscall.EADDRINUSE}}), 2},
		{fmt.Errorf("topic: %w", pipeline.ErrConfig), 2},
		{errors.Join(errors.New("closing"), fmt.Errorf("topic: %w", pipeline.ErrConfig)), 2},
		{fmt.Errorf("starting: %w", &native.Error{Kind: native.Hash}), 2},
		{spec.Faults{{Message: "want a mapping"}}, 2},
	} {
		if got := exitCode(c.err); got != c.want {
			t.Errorf("%v: exit code %d, want %d", c.err, got, c.want)
		}
	}
}

// Scenario: assets of the demo's runs, and one that is none.
// Guarantees: the fault's number, or an error that names the asset.
func TestFaultOf(t *testing.T) {
	for run, want := range map[string]string{"d00_te": "0", "d04_te": "4", "d11_te": "11"} {
		if got, err := faultOf(fullPrefix + run); err != nil || got != want {
			t.Errorf("%s: got %q, %v, want %q", run, got, err, want)
		}
	}
	if _, err := faultOf("press"); err == nil {
		t.Error("press: want an error")
	}
}

// Scenario: metrics are served while something runs that then fails.
// Guarantees: they answer meanwhile, the failure comes back, and the port is free afterwards.
func TestServeWhile(t *testing.T) {
	engine := pipeline.New(pipeline.Plan{ID: "x"}, pipeline.Env{Log: slog.New(slog.DiscardHandler), Alloc: memory.DefaultAllocator})
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := l.Addr().String()
	l.Close()
	broken := errors.New("broken")
	err = serveWhile(t.Context(), engine, pipeline.HTTPConfig{Address: address, PProf: true}, func(context.Context) error {
		client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
		for path, want := range map[string]int{"/healthz": 200, "/readyz": 503, "/metrics": 200, "/status": 200, "/debug/pprof/": 200} {
			r, err := client.Get("http://" + address + path)
			if err != nil {
				return err
			}
			r.Body.Close()
			if r.StatusCode != want {
				t.Errorf("%s: %d, want %d", path, r.StatusCode, want)
			}
		}
		return broken
	})
	if !errors.Is(err, broken) {
		t.Errorf("got %v, want the failure", err)
	}
	if l, err = net.Listen("tcp", address); err != nil {
		t.Fatal(err)
	}
	l.Close()
}

// Scenario: files that a user names relative to the pipeline file, above it, and absolutely.
// Guarantees: each is opened where the user means.
func TestUserFiles(t *testing.T) {
	dir := t.TempDir()
	if err := os.MkdirAll(filepath.Join(dir, "pipe"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "data.csv"), []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"../data.csv", filepath.Join(dir, "data.csv")} {
		f, err := userFiles(filepath.Join(dir, "pipe")).Open(name)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if text, err := io.ReadAll(f); err != nil || string(text) != "x" {
			t.Errorf("%s: %q, %v", name, text, err)
		}
		f.Close()
	}
	if _, err := userFiles(dir).Open("nothing"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("got %v, want not exist", err)
	}
}
