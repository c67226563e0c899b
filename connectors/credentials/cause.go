package credentials

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"strings"
	"syscall"
	"time"
)

// Error says why a door is closed, in words for the one who has to open it. No retry opens it, but whoever closed it may.
type Error struct {
	Cause string // a sentence without its full stop
	Err   error  // what was seen; nil if the cause says all
	// Fresh says that another attempt may go better: servers of a cluster learn of users and grants one after the other, and
	// one that is going down may close a connection in the middle of a login.
	Fresh bool
}

func (e *Error) Error() string {
	if e.Err == nil {
		return e.Cause
	}
	return e.Cause + ": " + e.Err.Error()
}

func (e *Error) Unwrap() error { return e.Err }

func closed(cause string, err error) error { return &Error{Cause: cause, Err: err} }

// Refused tells whether err has the cause of a closed door.
func Refused(err error) bool {
	var known *Error
	return errors.As(err, &known)
}

// Cause is the sentence of the closed door that err tells of, or "".
func Cause(err error) string {
	var known *Error
	if errors.As(err, &known) {
		return known.Cause
	}
	return ""
}

// Fresh tells whether the closed door that err tells of may be open a moment later.
func Fresh(err error) bool {
	var known *Error
	return errors.As(err, &known) && known.Fresh
}

// Explain puts the cause of err, seen on a connection to address, into words. Without one it returns err.
func (t *TLS) Explain(address string, err error) error {
	if t == nil || err == nil || Refused(err) {
		return err
	}
	var authority x509.UnknownAuthorityError
	var name x509.HostnameError
	var invalid x509.CertificateInvalidError
	var noTLS tls.RecordHeaderError
	switch {
	case errors.As(err, &authority):
		return closed("the certificate of "+address+" is signed by none of the authorities in "+t.authorities(), err)
	case errors.As(err, &name):
		return closed(fmt.Sprintf("the certificate of %s is not for the name %q: set tls.server_name to the name that it is for",
			address, t.name(address)), err)
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired:
		return closed("the certificate of "+address+" "+validity(invalid.Cert, time.Now()), err)
	case errors.As(err, &invalid):
		return closed("the certificate of "+address+" is not valid", err)
	case errors.As(err, &noTLS):
		return closed(speaksPlain(address), err)
	}
	if alert := alertOf(err); alert != nil {
		return closed(t.refusal(address, alert), err)
	}
	return err
}

func speaksPlain(address string) string {
	return address + " speaks plaintext, not TLS: give the TLS port, or take tls out"
}

func (t *TLS) authorities() string {
	if t.CAFile == "" {
		return "the system's list: give ca_file"
	}
	return "ca_file " + t.CAFile
}

// validity says what is wrong with the time of a certificate.
func validity(c *x509.Certificate, now time.Time) string {
	if now.Before(c.NotBefore) {
		return "is not valid before " + c.NotBefore.UTC().Format(time.RFC3339) + ": is the clock right?"
	}
	return "expired at " + c.NotAfter.UTC().Format(time.RFC3339)
}

// alertOf is the alert that the server sent, or nil. crypto/tls has no exported type for it on a plain connection.
func alertOf(err error) error {
	var op *net.OpError
	if errors.As(err, &op) && op.Op == "remote error" {
		return op.Err
	}
	return nil
}

// refusal says what an alert means. With TLS 1.3 one about our certificate comes after the handshake.
func (t *TLS) refusal(address string, alert error) string {
	if !strings.Contains(alert.Error(), "certificate") {
		return address + " ended the TLS handshake"
	}
	if t.CertFile == "" {
		return address + " wants a client certificate: give cert_file and key_file"
	}
	if own, err := tls.LoadX509KeyPair(t.CertFile, t.KeyFile); err == nil && own.Leaf != nil {
		if now := time.Now(); now.Before(own.Leaf.NotBefore) || now.After(own.Leaf.NotAfter) {
			return "the client certificate in cert_file " + t.CertFile + " " + validity(own.Leaf, now)
		}
	}
	return address + " does not take the client certificate in cert_file " + t.CertFile
}

// look is how long a second look at a server may take. With a first attempt of 5 s the cause is known within 10 s.
const look = 2 * time.Second

// Diagnose looks once more at a server where a connection failed with an error that names no cause, and says what it finds:
// TLS where none was spoken, none where it was, or an alert that was lost because the server closed at once. Nothing secret
// is sent. plain tries the protocol without TLS and without credentials, and tells whether the server answers. Diagnose
// returns err if it finds nothing.
func (t *TLS) Diagnose(ctx context.Context, address string, plain func(context.Context) bool, err error) error {
	if err == nil || Refused(err) || ctx.Err() != nil || errors.Is(err, syscall.ECONNREFUSED) {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, look)
	defer cancel()
	if t == nil {
		if speaksTLS(ctx, address) {
			return closed(address+" speaks TLS: set tls, or give the plaintext port", err)
		}
		return err
	}
	if plain(ctx) {
		return closed(speaksPlain(address), err)
	}
	if late := t.lateAlert(ctx, address); late != nil {
		return late
	}
	return err
}

// speaksTLS tells whether a server answers a TLS handshake, with whatever certificate: nothing is said to it.
func speaksTLS(ctx context.Context, address string) bool {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "tcp", address)
	if err != nil {
		return false
	}
	defer conn.Close()
	err = tls.Client(conn, &tls.Config{InsecureSkipVerify: true, ServerName: host(address)}).HandshakeContext(ctx)
	return err == nil || alertOf(err) != nil
}

// lateAlert makes a connection and says nothing, so that what the server sends is not lost with the connection.
func (t *TLS) lateAlert(ctx context.Context, address string) error {
	ctx, cancel := context.WithTimeout(ctx, look/2)
	defer cancel()
	var d net.Dialer
	raw, err := d.DialContext(ctx, "tcp", address)
	if err != nil {
		return nil
	}
	conn, err := t.Client(ctx, raw, address)
	if err == nil {
		stop := context.AfterFunc(ctx, func() { conn.Close() })
		_, err = conn.Read(make([]byte, 1))
		stop()
		conn.Close()
		err = t.Explain(address, err)
	}
	if Refused(err) {
		return err
	}
	return nil
}
