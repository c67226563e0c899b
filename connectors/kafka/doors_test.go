package kafka

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/apache/arrow/go/v15/arrow/memory"
	"github.com/tailrace/tailrace/connectors/credentials"
	"github.com/tailrace/tailrace/connectors/credentials/credentialstest"
	"github.com/tailrace/tailrace/pipeline"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// canary is the password that must be seen nowhere.
const canary = "canary-5f2a"

// doored is a cluster behind TLS with two users: admin may do all, plant what acls say.
func doored(t *testing.T, config *tls.Config, acls ...kfake.ACL) *fake {
	t.Helper()
	f := &fake{dir: t.TempDir(), ports: []int{0}, options: []kfake.Opt{
		kfake.EnableSASL(), kfake.EnableACLs(),
		kfake.Superuser("PLAIN", "admin", canary), kfake.Superuser("SCRAM-SHA-256", "admin", canary), kfake.Superuser("SCRAM-SHA-512", "admin", canary),
		kfake.User("SCRAM-SHA-512", "plant", canary, acls...),
		kfake.SeedTopics(1, "plant.telemetry", "anomaly.events.v1", "pipeline.late.v1", "pipeline.dlq.v1"),
	}}
	if config != nil {
		f.options = append(f.options, kfake.TLS(config))
	}
	f.start(t)
	t.Cleanup(func() { f.cluster.Close() })
	return f
}

func allow(kind kmsg.ACLResourceType, name string, operation kmsg.ACLOperation) kfake.ACL {
	return kfake.ACL{Resource: kind, Name: name, Pattern: kmsg.ACLResourcePatternTypeLiteral, Operation: operation, Allow: true}
}

func onTopic(name string, operation kmsg.ACLOperation) kfake.ACL {
	return allow(kmsg.ACLResourceTypeTopic, name, operation)
}

// secret is a file with a password.
func secret(t *testing.T, password string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "password")
	ok(t, os.WriteFile(path, []byte(password+"\n"), 0o600))
	return path
}

// journal is a log that is read while it is written.
type journal struct {
	mu   sync.Mutex
	text bytes.Buffer
	seen chan struct{} // gets a value when there is something new
}

func newJournal() *journal { return &journal{seen: make(chan struct{}, 1)} }

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

func (j *journal) log() *slog.Logger {
	return slog.New(slog.NewTextHandler(j, &slog.HandlerOptions{Level: slog.LevelDebug}))
}

// await waits for a text.
func (j *journal) await(t *testing.T, text string) {
	t.Helper()
	for ctx := deadline(t); !strings.Contains(j.String(), text); {
		select {
		case <-j.seen:
		case <-ctx.Done():
			t.Fatalf("want %q in the log, got:\n%s", text, j)
		}
	}
}

// guarded forwards connections to a plaintext broker but closes one that begins with a TLS handshake. So does Apache Kafka,
// which takes it for the size of a request that is over its limit; kfake makes room for the 369 MB that it reads there.
func guarded(t *testing.T, b *fake) []string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	ok(t, err)
	var wait sync.WaitGroup
	wait.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			wait.Go(func() {
				defer conn.Close()
				first := make([]byte, 1)
				if _, err := io.ReadFull(conn, first); err != nil || first[0] == 0x16 {
					return
				}
				to, err := net.Dial("tcp", b.addrs()[0])
				if err != nil {
					t.Error(err)
					return
				}
				wait.Go(func() {
					defer conn.Close()
					_, _ = io.Copy(conn, to) // the side that reads sees the end
				})
				_, _ = io.Copy(to, io.MultiReader(bytes.NewReader(first), conn))
				to.Close()
			})
		}
	})
	t.Cleanup(func() { l.Close(); wait.Wait() })
	return []string{l.Addr().String()}
}

// tenSeconds is how soon a cause must be known.
func tenSeconds(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	t.Cleanup(cancel)
	return ctx
}

// refused checks an error of a closed door at the start.
func refused(t *testing.T, err error, want string, log *journal) {
	t.Helper()
	if !errors.Is(err, pipeline.ErrConfig) || !strings.Contains(err.Error(), want) {
		t.Errorf("want a configuration error with %q, got %v", want, err)
	}
	if text := fmt.Sprintf("%v %+v %#v %s", err, err, err, log); strings.Contains(text, canary) {
		t.Errorf("shows the password: %s", text)
	}
}

// Scenario: a source and a publisher start before each kind of closed door.
// Guarantees: within 10 s an error that ends the program with exit code 2 and names the cause; the password is nowhere.
func TestClosedDoors(t *testing.T) {
	ours, theirs := credentialstest.NewAuthority(t), credentialstest.NewAuthority(t)
	open := doored(t, ours.Server(t))
	plain := doored(t, nil)
	demanding := doored(t, ours.Demanding(t))
	expired := doored(t, credentialstest.ServerOf(ours.Issue(t, "broker", time.Now().Add(-time.Minute))))
	believe := &credentials.TLS{CAFile: ours.File}
	login := func(mechanism, user, password string) *SASL {
		return &SASL{Mechanism: mechanism, User: user, PasswordFile: secret(t, password)}
	}
	admin := login(SASLScramSHA256, "admin", canary)
	for name, c := range map[string]struct {
		brokers []string
		tls     *credentials.TLS
		sasl    *SASL
		want    string
	}{
		"wrong authority":       {open.addrs(), &credentials.TLS{CAFile: theirs.File}, admin, "is signed by none of the authorities in ca_file"},
		"wrong name":            {open.addrs(), &credentials.TLS{CAFile: ours.File, ServerName: "elsewhere"}, admin, `is not for the name "elsewhere"`},
		"expired":               {expired.addrs(), believe, admin, "expired at "},
		"plaintext to TLS":      {open.addrs(), nil, admin, "speaks TLS: set tls"},
		"TLS to plaintext":      {guarded(t, plain), believe, admin, "speaks plaintext, not TLS"},
		"no client certificate": {demanding.addrs(), believe, admin, "wants a client certificate"},
		"wrong password":        {open.addrs(), believe, login(SASLScramSHA256, "admin", canary+"-wrong"), `does not let user "admin" in with SCRAM-SHA-256: wrong user or password`},
		"wrong plain password":  {open.addrs(), believe, login(SASLPlain, "admin", canary+"-wrong"), `does not let user "admin" in with PLAIN: wrong user or password`},
		"unknown user":          {open.addrs(), believe, login(SASLScramSHA512, "nobody", canary), `does not let user "nobody" in with SCRAM-SHA-512: wrong user or password`},
		"forbidden character":   {open.addrs(), believe, login(SASLScramSHA512, "admin", canary+"\u0007"), "a character that SCRAM does not allow"},
		"no password file":      {open.addrs(), believe, &SASL{Mechanism: SASLPlain, User: "admin", PasswordFile: "/nowhere"}, "password_file: open /nowhere"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			turnedAway(t, c.brokers, c.tls, c.sasl, c.want)
		})
	}
}

// turnedAway starts a source, a publisher and an admin before a closed door.
func turnedAway(t *testing.T, brokers []string, believe *credentials.TLS, user *SASL, want string) {
	t.Helper()
	log := newJournal()
	config := DefaultSourceConfig()
	config.Brokers, config.Topic, config.TLS, config.SASL = brokers, "plant.telemetry", believe, user
	s, err := NewSource(config, pipeline.Settings{Pipeline: "p", Log: log.log(), Alloc: memory.DefaultAllocator}, newDigits)
	ok(t, err)
	_, err = s.Next(tenSeconds(t))
	refused(t, err, want, log)
	ok(t, s.Close())

	out := DefaultPublisherConfig()
	out.Brokers, out.TLS, out.SASL = config.Brokers, believe, user
	p, err := NewPublisher(out, pipeline.Settings{Pipeline: "p", Log: log.log()})
	ok(t, err)
	refused(t, p.Open(tenSeconds(t)), want, log)
	ok(t, p.Close())
	err = Access{Brokers: config.Brokers, TLS: believe, SASL: user}.CreateTopic(tenSeconds(t), "new", 1, nil)
	refused(t, err, want, log)
}

// Scenario: a user who lacks one ACL of those that a source and a publisher need.
// Guarantees: within 10 s an error that ends the program with exit code 2 and says which ACL is missing, for whom.
func TestMissingACLs(t *testing.T) {
	const topic, group = "plant.telemetry", "tailrace.p"
	ours := credentialstest.NewAuthority(t)
	server := ours.Server(t)
	all := []kfake.ACL{
		onTopic(topic, kmsg.ACLOperationDescribe), onTopic(topic, kmsg.ACLOperationRead), allow(kmsg.ACLResourceTypeGroup, group, kmsg.ACLOperationRead),
		onTopic("anomaly.events.v1", kmsg.ACLOperationWrite), onTopic("pipeline.late.v1", kmsg.ACLOperationWrite),
		onTopic("pipeline.dlq.v1", kmsg.ACLOperationDescribe),
	}
	for name, c := range map[string]struct {
		acls      []kfake.ACL
		publishes bool
		prefix    string
		want      string
	}{
		"no topic":   {all[:0], false, "", `user "plant" has no ACL for Describe on topic "plant.telemetry"`},
		"no read":    {all[:1], false, "", `user "plant" has no ACL for Read on topic "plant.telemetry"`},
		"no group":   {all[:2], false, "", `user "plant" has no ACL for Read on group "tailrace.p"`},
		"no write":   {all, true, "", `user "plant" has no ACL for Write on topic "pipeline.dlq.v1"`},
		"no creator": {append(all[:6:6], onTopic("new.anomaly.events.v1", kmsg.ACLOperationDescribe)), true, "new.", `user "plant" has no ACL for Create on topic "new.anomaly.events.v1"`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := doored(t, server, c.acls...)
			user := &SASL{Mechanism: SASLScramSHA512, User: "plant", PasswordFile: secret(t, canary)}
			lacks(t, Access{b.addrs(), &credentials.TLS{CAFile: ours.File}, user}, c.publishes, c.prefix, c.want)
		})
	}
}

// lacks starts a publisher, or else a source of plant.telemetry in the group tailrace.p.
func lacks(t *testing.T, a Access, publishes bool, prefix, want string) {
	t.Helper()
	log := newJournal()
	if publishes {
		config := DefaultPublisherConfig()
		config.Brokers, config.TLS, config.SASL, config.Prefix = a.Brokers, a.TLS, a.SASL, prefix
		p, err := NewPublisher(config, pipeline.Settings{Pipeline: "p", Log: log.log()})
		ok(t, err)
		refused(t, p.Open(tenSeconds(t)), want, log)
		ok(t, p.Close())
		return
	}
	config := DefaultSourceConfig()
	config.Brokers, config.Topic, config.TLS, config.SASL = a.Brokers, "plant.telemetry", a.TLS, a.SASL
	s, err := NewSource(config, pipeline.Settings{Pipeline: "p", Log: log.log(), Alloc: memory.DefaultAllocator}, newDigits)
	ok(t, err)
	_, err = s.Next(tenSeconds(t))
	refused(t, err, want, log)
	ok(t, s.Close())
}

// Scenario: telemetry goes through every mechanism and a client certificate, from a producer to a source that has just the
// ACLs of deploy/SECURITY.md.
// Guarantees: what was sent arrives; the password is nowhere.
func TestOpenDoors(t *testing.T) {
	const topic, group = "plant.telemetry", "tailrace.p"
	ours := credentialstest.NewAuthority(t)
	client := ours.Issue(t, "client", time.Now().Add(time.Hour))
	own := &credentials.TLS{CAFile: ours.File, CertFile: client.CertFile, KeyFile: client.KeyFile}
	b := doored(t, ours.Demanding(t), onTopic(topic, kmsg.ACLOperationRead), allow(kmsg.ACLResourceTypeGroup, group, kmsg.ACLOperationRead))
	t.Setenv("TAILRACE_TEST_SASL", canary)
	var want int64
	for _, mechanism := range []string{SASLPlain, SASLScramSHA256, SASLScramSHA512} {
		log := newJournal()
		produce := DefaultProducerConfig()
		produce.Brokers, produce.Topics, produce.TLS, produce.Log = b.addrs(), []string{topic}, own, log.log()
		produce.SASL = &SASL{Mechanism: mechanism, User: "admin", PasswordEnv: "TAILRACE_TEST_SASL"}
		p := NewProducer(produce)
		ok(t, p.Open(tenSeconds(t)))
		ok(t, p.Send(t.Context(), topic, []byte("press"), fmt.Append(nil, want), 1))
		ok(t, p.Flush(tenSeconds(t)))
		ok(t, p.Close())

		config := testConfig(b, topic)
		config.Group, config.TLS = group, own
		config.SASL = &SASL{Mechanism: SASLScramSHA512, User: "plant", PasswordFile: secret(t, canary)}
		s := openSource(t, config)
		g := join(t, s)
		r := readMessages(t, only(t, g), 1)
		if len(r.values) != 1 || r.values[0] != want {
			t.Errorf("%s: want %d, got %v", mechanism, want, r.values)
		}
		ok(t, g.Commit(t.Context(), at(0, r.next)))
		ok(t, g.Close())
		ok(t, s.Close())
		if strings.Contains(log.String()+fmt.Sprintf("%+v %#v", config.SASL, *produce.SASL), canary) {
			t.Errorf("%s: shows the password:\n%s", mechanism, log)
		}
		want++
	}
}

// Scenario: while a source reads, its broker comes back with a certificate of another authority and a new password; then
// ca_file and password_file are renewed.
// Guarantees: the source waits, is in trouble and says why, each cause once and without the password; with the new files it goes on,
// without a restart, where it was.
func TestDoorsChangeWhileReading(t *testing.T) {
	const topic, renewed = "plant.telemetry", canary + "-renewed"
	first, second := credentialstest.NewAuthority(t), credentialstest.NewAuthority(t)
	b := doored(t, first.Server(t))
	dir := t.TempDir()
	believe := &credentials.TLS{CAFile: filepath.Join(dir, "ca.pem")}
	credentialstest.Copy(t, first.File, believe.CAFile)
	login := &SASL{Mechanism: SASLPlain, User: "admin", PasswordFile: secret(t, canary)}
	send := func(value string) {
		t.Helper()
		produce := DefaultProducerConfig()
		produce.Brokers, produce.Topics, produce.TLS, produce.SASL = b.addrs(), []string{topic}, believe, login
		p := NewProducer(produce)
		ok(t, p.Open(tenSeconds(t)))
		ok(t, p.Send(t.Context(), topic, nil, []byte(value), 1))
		ok(t, p.Flush(tenSeconds(t)))
		ok(t, p.Close())
	}
	send("1")
	log := newJournal()
	config := testConfig(b, topic)
	config.TLS, config.SASL = believe, login
	mem := memory.NewCheckedAllocator(memory.DefaultAllocator)
	defer mem.AssertSize(t, 0)
	s, err := NewSource(config, pipeline.Settings{Pipeline: "p", Log: log.log(), Alloc: mem}, newDigits)
	ok(t, err)
	defer func() { ok(t, s.Close()) }()
	g, err := s.Next(deadline(t))
	ok(t, err)
	p := only(t, g)
	readMessages(t, p, 1)

	b.stop(t)
	ok(t, os.Remove(filepath.Join(b.dir, "sasl.json"))) // kfake keeps users with the data
	b.options = append(b.options, kfake.TLS(second.Server(t)), kfake.Superuser("PLAIN", "admin", renewed))
	b.start(t)
	read := make(chan reading, 1)
	wait := sync.WaitGroup{}
	wait.Go(func() {
		r := reading{next: -1}
		defer func() { read <- r }()
		for ctx := deadline(t); r.messages < 1; {
			d, err := p.Read(ctx)
			if err != nil {
				t.Error(err)
				return
			}
			r.take(t, d)
		}
	})
	defer wait.Wait()
	log.await(t, "is signed by none of the authorities in ca_file")
	if got := s.Trouble(); !strings.Contains(got, "is signed by none of the authorities in ca_file") {
		t.Errorf("want the cause as the source's trouble, got %q", got)
	}
	credentialstest.Copy(t, second.File, believe.CAFile)
	log.await(t, `does not let user`)
	credentialstest.Copy(t, secret(t, renewed), login.PasswordFile)
	send("2")
	if r := <-read; len(r.values) != 1 || r.values[0] != 2 {
		t.Errorf("want the value 2, got %v", r.values)
	}
	if got := s.Trouble(); got != "" {
		t.Errorf("want no trouble any more, got %q", got)
	}
	if n := strings.Count(log.String(), "kafka partition: retrying"); n != 2 {
		t.Errorf("want each of two causes said once, got %d lines:\n%s", n, log)
	}
	if strings.Contains(log.String(), canary) {
		t.Errorf("shows the password:\n%s", log)
	}
	ok(t, g.Close())
}

// Scenario: the right to write is taken from a producer that is open, and given back.
// Guarantees: the record waits, the log says once which ACL is missing, and the record is stored.
func TestWriteIsRefusedForAWhile(t *testing.T) {
	b := newFake(t)
	topic := makeTopic(t, b, 1, nil)
	log := newJournal()
	config := DefaultProducerConfig()
	config.Brokers, config.Topics, config.Log = b.addrs(), []string{topic}, log.log()
	p := NewProducer(config)
	defer p.Close()
	ok(t, p.Open(deadline(t)))
	var refusals atomic.Int32
	b.cluster.ControlKey(int16(kmsg.Produce), func(r kmsg.Request) (kmsg.Response, error, bool) {
		if refusals.Add(1) > 3 {
			return nil, nil, false
		}
		b.cluster.KeepControl()
		request := r.(*kmsg.ProduceRequest)
		response := request.ResponseKind().(*kmsg.ProduceResponse)
		for _, t := range request.Topics {
			refused := kmsg.NewProduceResponseTopicPartition()
			refused.Partition, refused.ErrorCode = t.Partitions[0].Partition, 29 // TOPIC_AUTHORIZATION_FAILED
			named := kmsg.NewProduceResponseTopic()
			named.Topic, named.TopicID, named.Partitions = t.Topic, t.TopicID, []kmsg.ProduceResponseTopicPartition{refused}
			response.Topics = append(response.Topics, named)
		}
		return response, nil, true
	})
	ok(t, p.Send(t.Context(), topic, nil, []byte("1"), 1))
	ok(t, p.Flush(deadline(t)))
	if got := p.Produced(topic)[0]; got.Records != 1 || refusals.Load() < 3 {
		t.Errorf("want 1 record after 3 refusals, got %+v after %d", got, refusals.Load())
	}
	if n := strings.Count(log.String(), "has no ACL for Write on topic"); n != 1 {
		t.Errorf("want the missing ACL said once, got:\n%s", log)
	}
}

// Scenario: tls and sasl with something missing, unknown or in the open, each on its own; then as they should be.
// Guarantees: each is one fault with its key, for the source and for the publisher.
func TestDoorFaults(t *testing.T) {
	sound := SASL{Mechanism: SASLScramSHA512, User: "plant", PasswordEnv: "X"}
	with := func(change func(*SASL)) *SASL {
		s := sound
		change(&s)
		return &s
	}
	for _, c := range []struct {
		want string
		tls  *credentials.TLS
		sasl *SASL
	}{
		{"", nil, nil},
		{"", nil, &sound},
		{"", &credentials.TLS{}, with(func(s *SASL) { s.Mechanism = SASLPlain })},
		{"sasl.mechanism", nil, with(func(s *SASL) { s.Mechanism = SASLPlain })},
		{"sasl.mechanism", nil, with(func(s *SASL) { s.Mechanism = "gssapi" })},
		{"sasl.user", nil, with(func(s *SASL) { s.User = "" })},
		{"sasl.password_file", nil, with(func(s *SASL) { s.PasswordEnv = "" })},
		{"sasl.password_env", nil, with(func(s *SASL) { s.PasswordFile = "x" })},
		{"tls.key_file", &credentials.TLS{CertFile: "c"}, nil},
	} {
		source, publisher := DefaultSourceConfig(), DefaultPublisherConfig()
		source.Brokers, source.Topic, source.TLS, source.SASL = []string{"a:1"}, "t", c.tls, c.sasl
		publisher.Brokers, publisher.TLS, publisher.SASL = []string{"a:1"}, c.tls, c.sasl
		for _, faults := range [][]pipeline.Fault{source.Validate(), publisher.Validate()} {
			if c.want == "" && len(faults) != 0 || c.want != "" && (len(faults) != 1 || faults[0].Path != c.want) {
				t.Errorf("want a fault at %q, got %v", c.want, faults)
			}
		}
	}
}
