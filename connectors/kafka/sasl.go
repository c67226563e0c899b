package kafka

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"strings"
	"syscall"

	kafka "github.com/segmentio/kafka-go"
	"github.com/segmentio/kafka-go/sasl"
	"github.com/segmentio/kafka-go/sasl/plain"
	"github.com/segmentio/kafka-go/sasl/scram"
	"github.com/tailrace/tailrace/connectors/credentials"
	"github.com/tailrace/tailrace/pipeline"
)

// SASL says who logs in. The password is read for every connection.
type SASL struct {
	// Mechanism is plain, scram-sha-256 or scram-sha-512. plain sends the password itself, and only with tls.
	Mechanism string `yaml:"mechanism"`
	// User that logs in.
	User string `yaml:"user"`
	// PasswordFile is a file that holds the password, relative to the pipeline file. One of it and password_env is needed.
	PasswordFile string `yaml:"password_file,omitempty"`
	// PasswordEnv is an environment variable that holds the password.
	PasswordEnv string `yaml:"password_env,omitempty"`
}

// The values of Mechanism.
const (
	SASLPlain       = "plain"
	SASLScramSHA256 = "scram-sha-256"
	SASLScramSHA512 = "scram-sha-512"
)

// validDoors gives every fault of tls and sasl.
func validDoors(t *credentials.TLS, s *SASL) []pipeline.Fault {
	faults := t.Validate("tls")
	if s == nil {
		return faults
	}
	switch s.Mechanism {
	case SASLScramSHA256, SASLScramSHA512:
	case SASLPlain:
		if t == nil {
			faults = append(faults, pipeline.Faultf("sasl.mechanism", "plain sends the password itself: want tls, or one of the scram mechanisms"))
		}
	default:
		faults = append(faults, pipeline.Faultf("sasl.mechanism", "want %s, %s or %s, got %q", SASLPlain, SASLScramSHA256, SASLScramSHA512, s.Mechanism))
	}
	if s.User == "" {
		faults = append(faults, pipeline.Faultf("sasl.user", "want a name, got nothing"))
	}
	switch {
	case s.PasswordFile == "" && s.PasswordEnv == "":
		faults = append(faults, pipeline.Faultf("sasl.password_file", "want password_file or password_env, got none"))
	case s.PasswordFile != "" && s.PasswordEnv != "":
		faults = append(faults, pipeline.Faultf("sasl.password_env", "want one of password_file and password_env, got both"))
	}
	return faults
}

// in returns a copy whose relative path starts in dir.
func (s *SASL) in(dir string) *SASL {
	if s == nil {
		return nil
	}
	c := *s
	c.PasswordFile = credentials.In(dir, c.PasswordFile)
	return &c
}

// login is a [sasl.Mechanism] that knows the password only while it logs in.
type login struct {
	sasl  *SASL
	began *bool // set when the broker has agreed to the mechanism; may be nil
}

func (l login) Name() string { return strings.ToUpper(l.sasl.Mechanism) }

func (l login) Start(ctx context.Context) (sasl.StateMachine, []byte, error) {
	if l.began != nil {
		*l.began = true
	}
	password, err := credentials.Password(l.sasl.PasswordFile, l.sasl.PasswordEnv)
	if err != nil {
		return nil, nil, err
	}
	algorithm := scram.SHA512
	switch l.sasl.Mechanism {
	case SASLPlain:
		return plain.Mechanism{Username: l.sasl.User, Password: password}.Start(ctx)
	case SASLScramSHA256:
		algorithm = scram.SHA256
	}
	m, err := scram.Mechanism(algorithm, l.sasl.User, password)
	if err != nil {
		// The library's error may quote what it could not prepare.
		return nil, nil, &credentials.Error{Cause: "user or password has a character that SCRAM does not allow (RFC 4013)"}
	}
	return m.Start(ctx)
}

// mechanism is nil without SASL: kafka-go tells by that.
func (c *cluster) mechanism(began *bool) sasl.Mechanism {
	if c.sasl == nil {
		return nil
	}
	return login{c.sasl, began}
}

// loginCause puts into words why a broker that was reached does not let the user in.
func (c *cluster) loginCause(address string, err error) error {
	if credentials.Refused(err) {
		return err
	}
	name := login{sasl: c.sasl}.Name()
	switch {
	case errors.Is(err, kafka.UnsupportedSASLMechanism), errors.Is(err, kafka.IllegalSASLState):
		return &credentials.Error{Cause: fmt.Sprintf("%s does not offer sasl mechanism %s", address, name), Err: err}
	case errors.Is(err, kafka.SASLAuthenticationFailed):
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE):
		// How a broker refuses that does not know the error code.
	default:
		return err
	}
	return &credentials.Error{Cause: fmt.Sprintf("%s does not let user %q in with %s: wrong user or password", address, c.sasl.User, name), Err: err, Fresh: true}
}

// grant puts into words which ACL is missing, where err says that one is.
func (c *cluster) grant(err error, operation, topic, group string) error {
	who := "the user that is not logged in"
	if c.sasl != nil {
		who = fmt.Sprintf("user %q", c.sasl.User)
	} else if c.tls != nil && c.tls.CertFile != "" {
		who = "the user of cert_file " + c.tls.CertFile
	}
	what := ""
	switch {
	case err == nil || credentials.Refused(err):
		return err
	case errors.Is(err, kafka.TopicAuthorizationFailed):
		what = fmt.Sprintf("%s on topic %q", operation, topic)
	case errors.Is(err, kafka.GroupAuthorizationFailed):
		what = fmt.Sprintf("Read on group %q", group)
	case errors.Is(err, kafka.ClusterAuthorizationFailed):
		what = operation + " on the cluster"
	default:
		return err
	}
	return &credentials.Error{Cause: who + " has no ACL for " + what, Err: err, Fresh: true}
}

// What a user may do with a topic, by the codes of the protocol (org.apache.kafka.common.acl.AclOperation).
const (
	opRead  = 3
	opWrite = 4
)

// lacks returns the missing ACL, or nil. Brokers that do not tell are believed to let the user.
func (c *cluster) lacks(t topic, operation int, name string) error {
	const untold = math.MinInt32
	if t.operations == untold || t.operations&(1<<operation) != 0 {
		return nil
	}
	return c.grant(kafka.TopicAuthorizationFailed, map[int]string{opRead: "Read", opWrite: "Write"}[operation], name, "")
}

// final makes a closed door a fault of the configuration, as long as the cluster has not settled: later the door may be
// opened again by whoever closed it, and what waits at it is not lost.
func (c *cluster) final(err error) error {
	if err == nil || c.settled.Load() || !credentials.Refused(err) || errors.Is(err, pipeline.ErrConfig) {
		return err
	}
	return fmt.Errorf("%w: %w", pipeline.ErrConfig, err)
}

// diagnose finds the cause of a connection that failed, while the cluster has not settled.
func (c *cluster) diagnose(ctx context.Context, address string, err error) error {
	err = c.tls.Explain(address, err)
	if c.settled.Load() || c.network != nil { // other doors are tried over TCP
		return err
	}
	return c.tls.Diagnose(ctx, address, func(ctx context.Context) bool { return speaksKafka(ctx, address) }, err)
}

// speaksKafka tells whether a broker answers without TLS and without a user.
func speaksKafka(ctx context.Context, address string) bool {
	conn, err := (&kafka.Dialer{ClientID: clientID}).DialContext(ctx, "tcp", address)
	if err != nil {
		return false
	}
	defer conn.Close()
	if at, ok := ctx.Deadline(); ok {
		if conn.SetDeadline(at) != nil {
			return false
		}
	}
	_, err = conn.ApiVersions()
	return err == nil
}
