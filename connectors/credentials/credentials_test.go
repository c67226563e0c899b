package credentials

import (
	"context"
	"crypto/tls"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tailrace/tailrace/connectors/credentials/credentialstest"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// serve accepts connections with config (nil: plaintext) and echoes the first line of each.
func serve(t *testing.T, config *tls.Config) (address string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	plain := l
	if config != nil {
		l = tls.NewListener(l, config)
	}
	var wait sync.WaitGroup
	wait.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			wait.Go(func() {
				defer conn.Close()
				line := make([]byte, 5)
				if _, err := io.ReadFull(conn, line); err == nil {
					_, _ = conn.Write(line) // a client that has gone needs no echo
				}
			})
		}
	})
	t.Cleanup(func() { plain.Close(); wait.Wait() })
	return plain.Addr().String()
}

// visit connects and has hello echoed. A failure is looked at as the connectors do.
func visit(ctx context.Context, c *TLS, address string) error {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "tcp", address)
	if err != nil {
		return err
	}
	conn, err = c.Client(ctx, conn, address)
	if err == nil {
		defer conn.Close()
		if _, err = conn.Write([]byte("hello")); err == nil {
			_, err = io.ReadFull(conn, make([]byte, 5))
		}
	}
	return c.Diagnose(ctx, address, func(ctx context.Context) bool { return visit(ctx, nil, address) == nil }, c.Explain(address, err))
}

// Scenario: a server with each fault of TLS that a client can have or see.
// Guarantees: the error names the cause, and the file or key that mends it.
func TestCauses(t *testing.T) {
	ours, theirs := credentialstest.NewAuthority(t), credentialstest.NewAuthority(t)
	hour := time.Now().Add(time.Hour)
	past := time.Now().Add(-time.Hour)
	good := serve(t, ours.Server(t))
	demanding := serve(t, ours.Demanding(t))
	client, foreign := ours.Issue(t, "client", hour), theirs.Issue(t, "client", hour)
	expired := ours.Issue(t, "client", past)
	for name, c := range map[string]struct {
		address string
		tls     *TLS
		want    string // "" is no error
	}{
		"in order":              {good, &TLS{CAFile: ours.File}, ""},
		"by another name":       {good, &TLS{CAFile: ours.File, ServerName: "localhost"}, ""},
		"client certificate":    {demanding, &TLS{CAFile: ours.File, CertFile: client.CertFile, KeyFile: client.KeyFile}, ""},
		"wrong authority":       {good, &TLS{CAFile: theirs.File}, "is signed by none of the authorities in ca_file " + theirs.File},
		"system's authorities":  {good, &TLS{}, "in the system's list: give ca_file"},
		"wrong name":            {good, &TLS{CAFile: ours.File, ServerName: "elsewhere"}, `is not for the name "elsewhere": set tls.server_name`},
		"expired":               {serve(t, credentialstest.ServerOf(ours.Issue(t, "server", past))), &TLS{CAFile: ours.File}, "expired at " + past.UTC().Format(time.RFC3339)},
		"plaintext port":        {serve(t, nil), &TLS{CAFile: ours.File}, "speaks plaintext, not TLS"},
		"TLS port":              {good, nil, "speaks TLS: set tls"},
		"demanding TLS port":    {demanding, nil, "speaks TLS: set tls"},
		"no client certificate": {demanding, &TLS{CAFile: ours.File}, "wants a client certificate: give cert_file and key_file"},
		"foreign client": {demanding, &TLS{CAFile: ours.File, CertFile: foreign.CertFile, KeyFile: foreign.KeyFile},
			"does not take the client certificate in cert_file " + foreign.CertFile},
		"expired client": {demanding, &TLS{CAFile: ours.File, CertFile: expired.CertFile, KeyFile: expired.KeyFile},
			"the client certificate in cert_file " + expired.CertFile + " expired at"},
		"no such authority file": {good, &TLS{CAFile: "nowhere.pem"}, "ca_file: open nowhere.pem"},
		"not a certificate":      {good, &TLS{CAFile: client.KeyFile}, "want certificates as PEM, got none"},
		"another's key":          {demanding, &TLS{CAFile: ours.File, CertFile: client.CertFile, KeyFile: foreign.KeyFile}, "cert_file and key_file: "},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
			defer cancel()
			err := visit(ctx, c.tls, c.address)
			switch {
			case c.want == "" && err != nil:
				t.Fatal(err)
			case c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want) || !Refused(err)):
				t.Fatalf("want %q, got %v", c.want, err)
			}
		})
	}
}

// Scenario: the authority's and the client's files are renewed while the configuration stands.
// Guarantees: the next connection has what is in the files then.
func TestFilesAreReadForEachConnection(t *testing.T) {
	old, renewed := credentialstest.NewAuthority(t), credentialstest.NewAuthority(t)
	address := serve(t, renewed.Demanding(t))
	dir := t.TempDir()
	config := (&TLS{CAFile: "ca.pem", CertFile: "cert.pem", KeyFile: "key.pem"}).In(dir)
	put := func(a *credentialstest.Authority) {
		own := a.Issue(t, "client", time.Now().Add(time.Hour))
		for from, to := range map[string]string{a.File: "ca.pem", own.CertFile: "cert.pem", own.KeyFile: "key.pem"} {
			credentialstest.Copy(t, from, filepath.Join(dir, to))
		}
	}
	put(old)
	if err := visit(t.Context(), config, address); !Refused(err) {
		t.Fatalf("want a refusal, got %v", err)
	}
	put(renewed)
	if err := visit(t.Context(), config, address); err != nil {
		t.Fatal(err)
	}
}

// Scenario: passwords in files and in the environment, and missing ones.
// Guarantees: a line's end is not part of one; what is missing is named.
func TestPasswords(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{"good": "secret \r\n", "empty": "\n"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("TAILRACE_TEST_SECRET", "of the environment")
	for _, c := range []struct{ file, env, want, fault string }{
		{file: In(dir, "good"), want: "secret "},
		{env: "TAILRACE_TEST_SECRET", want: "of the environment"},
		{file: In(dir, "empty"), fault: "want a password, got nothing"},
		{file: In(dir, "none"), fault: "password_file: open "},
		{env: "TAILRACE_TEST_NO_SECRET", fault: "password_env: the environment has no TAILRACE_TEST_NO_SECRET"},
	} {
		got, err := Password(c.file, c.env)
		if got != c.want || (err == nil) != (c.fault == "") || err != nil && !strings.Contains(err.Error(), c.fault) {
			t.Errorf("%+v: got %q, %v", c, got, err)
		}
	}
}

// Scenario: a certificate without its key, and the other way round.
// Guarantees: both are faults with their key; no TLS at all is none.
func TestValidate(t *testing.T) {
	for want, c := range map[string]*TLS{
		"":              nil,
		"tls.key_file":  {CertFile: "c"},
		"tls.cert_file": {KeyFile: "k"},
	} {
		faults := c.Validate("tls")
		if got := len(faults); got > 0 && faults[0].Path != want || got == 0 && want != "" {
			t.Errorf("want a fault at %q, got %v", want, faults)
		}
	}
}
