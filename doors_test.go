package main

import (
	"crypto/tls"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/tailrace/tailrace/connectors/credentials/credentialstest"
	"github.com/twmb/franz-go/pkg/kfake"
)

// canary is the password that must be seen nowhere.
const canary = "canary-93be"

// lockedPlant is a plant whose broker wants TLS and SCRAM. The password is in the file that secret names.
type lockedPlant struct {
	*plant
	broker *kfake.Cluster
	port   int
	server *tls.Config
	secret string
}

func newLockedPlant(t *testing.T) *lockedPlant {
	t.Helper()
	authority := credentialstest.NewAuthority(t)
	l := &lockedPlant{server: authority.Server(t), secret: filepath.Join(t.TempDir(), "secret")}
	l.open(t, canary)
	l.setSecret(t, canary)
	doors := fmt.Sprintf("tls: {ca_file: %s}, sasl: {mechanism: scram-sha-512, user: plant, password_file: %s}", authority.File, l.secret)
	at := embeddedServers(t)
	at.Kafka = []string{net.JoinHostPort("127.0.0.1", strconv.Itoa(l.port))}
	l.plant = newPlant(t, at,
		"kafka: {brokers: [127.0.0.1:9092]}", "kafka: {brokers: ["+at.Kafka[0]+"], "+doors+"}",
		"brokers: [127.0.0.1:9092]", "brokers: ["+at.Kafka[0]+"]\n      "+strings.Replace(doors, "}, sasl", "}\n      sasl", 1))
	return l
}

// open starts the broker, at its old port if it had one, with a password and without data.
func (l *lockedPlant) open(t *testing.T, password string) {
	t.Helper()
	if l.broker != nil {
		l.broker.Close()
	}
	var err error
	l.broker, err = kfake.NewCluster(kfake.Ports(l.port), kfake.NumBrokers(1), kfake.TLS(l.server), kfake.EnableSASL(),
		kfake.Superuser("SCRAM-SHA-512", "plant", password), kfake.AllowAutoTopicCreation())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(l.broker.Close)
	_, port, err := net.SplitHostPort(l.broker.ListenAddrs()[0])
	if err != nil {
		t.Fatal(err)
	}
	if l.port, err = strconv.Atoi(port); err != nil {
		t.Fatal(err)
	}
}

func (l *lockedPlant) setSecret(t *testing.T, password string) {
	t.Helper()
	credentialstest.WriteFile(t, l.secret, password+"\n")
}

// Scenario: a pipeline behind TLS and SCRAM is checked, filled by replay and run; the broker comes back with another password;
// the program is given a wrong password at its start; at last it is made to dump its goroutines, as a panic does.
// Guarantees: it runs; with the door closed later it lives, is not ready and says why; closed at the start it ends with
// exit code 2 within 10 s and says why; neither password is in any output, status, metric or dump.
func TestLockedPlant(t *testing.T) {
	l := newLockedPlant(t)
	writer, err := os.ReadFile(l.PasswordFile)
	if err != nil {
		t.Fatal(err)
	}
	secrets := []string{canary, strings.TrimSpace(string(writer))}
	discreet := func(where, text string) {
		t.Helper()
		for _, secret := range secrets {
			if strings.Contains(text, secret) {
				t.Errorf("%s shows a password:\n%s", where, text)
			}
		}
	}
	checked, code := ended(t, "check", "--json", l.file)
	if code != 0 {
		t.Errorf("check: exit code %d\n%s", code, checked.err.String())
	}
	discreet("check", checked.out.String()+checked.err.String())
	sent, code := ended(t, "replay", "--pipeline", l.file, "--topic", l.name, "--format", "tep", filepath.Join(l.dir, "tep", "d01_te.dat.gz"))
	if code != 0 {
		t.Fatalf("replay: exit code %d\n%s", code, sent.err.String())
	}
	discreet("replay", sent.out.String()+sent.err.String())

	p := launch(t, "run", l.file)
	eventually(t, "rows and ready", time.Minute, func() bool {
		code, _ := l.answers("/readyz")
		_, metrics := l.answers("/metrics")
		return code == 200 && strings.Contains(metrics, `tailrace_stored_rows_total{table="telemetry"}`)
	})
	l.open(t, canary+"-changed")
	eventually(t, "not ready, and why", 30*time.Second, func() bool {
		code, _ := l.answers("/readyz")
		_, status := l.answers("/status")
		return code == 503 && strings.Contains(status, "wrong user or password")
	})
	for _, path := range []string{"/status", "/metrics", "/readyz"} {
		_, text := l.answers(path)
		discreet(path, text)
	}
	status, _ := ended(t, "status", "--address", l.http)
	discreet("status", status.out.String()+status.err.String())
	p.signal(t, syscall.SIGQUIT)
	p.within(t, 10*time.Second)
	if !strings.Contains(p.err.String(), "goroutine ") {
		t.Error("want a dump of the goroutines")
	}
	discreet("run", p.out.String()+p.err.String())

	refused := launch(t, "run", l.file)
	if code := refused.within(t, 10*time.Second); code != 2 || !strings.Contains(refused.err.String(), "wrong user or password") {
		t.Errorf("exit code %d, want 2 and the cause\n%s", code, refused.err.String())
	}
	discreet("refused run", refused.out.String()+refused.err.String())
}
