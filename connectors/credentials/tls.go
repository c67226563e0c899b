// Package credentials opens doors for connectors: TLS with certificates from files, passwords from files or the
// environment, and a sentence for each reason why a server turns a connection down.
package credentials

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"net"
	"os"
	"path/filepath"

	"github.com/tailrace/tailrace/pipeline"
)

// TLS says how connections are encrypted and which servers are believed. The files are read for every connection, so that
// a renewed certificate counts from the next one on; connections that stand keep what they have.
type TLS struct {
	// CAFile holds the certificates of the authorities that are believed, as PEM; those of the system if empty.
	CAFile string `yaml:"ca_file,omitempty"`
	// CertFile holds this client's certificate with its chain, as PEM, for servers that ask for one.
	CertFile string `yaml:"cert_file,omitempty"`
	// KeyFile holds the key of cert_file, as PEM.
	KeyFile string `yaml:"key_file,omitempty"`
	// ServerName is the name that the server's certificate must have; the host of its address if empty.
	ServerName string `yaml:"server_name,omitempty"`
}

// Validate gives every fault, at path.
func (t *TLS) Validate(path string) []pipeline.Fault {
	switch {
	case t == nil, (t.CertFile == "") == (t.KeyFile == ""):
		return nil
	case t.CertFile == "":
		return []pipeline.Fault{pipeline.Faultf(path+".cert_file", "want the certificate of key_file, got nothing")}
	}
	return []pipeline.Fault{pipeline.Faultf(path+".key_file", "want the key of cert_file, got nothing")}
}

// In returns a copy whose relative paths start in dir.
func (t *TLS) In(dir string) *TLS {
	if t == nil {
		return nil
	}
	c := *t
	c.CAFile, c.CertFile, c.KeyFile = In(dir, c.CAFile), In(dir, c.CertFile), In(dir, c.KeyFile)
	return &c
}

// In returns path, from dir if it is relative. No path stays none.
func In(dir, path string) string {
	if path == "" || filepath.IsAbs(path) {
		return path
	}
	return filepath.Join(dir, path)
}

// Client encrypts conn to address, and closes it if that fails. The error is an [Error] if its cause is known. A nil TLS
// returns conn as it is.
func (t *TLS) Client(ctx context.Context, conn net.Conn, address string) (net.Conn, error) {
	if t == nil {
		return conn, nil
	}
	config, err := t.Config(address)
	if err != nil {
		conn.Close()
		return nil, err
	}
	client := tls.Client(conn, config)
	if err := client.HandshakeContext(ctx); err != nil {
		conn.Close()
		return nil, t.Explain(address, err)
	}
	return client, nil
}

// Config reads the files, for a connection to address.
func (t *TLS) Config(address string) (*tls.Config, error) {
	c := &tls.Config{ServerName: t.name(address), MinVersion: tls.VersionTLS12}
	if t.CAFile != "" {
		text, err := os.ReadFile(t.CAFile)
		if err != nil {
			return nil, &Error{Cause: "ca_file", Err: err}
		}
		c.RootCAs = x509.NewCertPool()
		if !c.RootCAs.AppendCertsFromPEM(text) {
			return nil, &Error{Cause: "ca_file " + t.CAFile + ": want certificates as PEM, got none"}
		}
	}
	if t.CertFile != "" {
		own, err := tls.LoadX509KeyPair(t.CertFile, t.KeyFile)
		if err != nil {
			return nil, &Error{Cause: "cert_file and key_file", Err: err}
		}
		c.Certificates = []tls.Certificate{own}
	}
	return c, nil
}

// name is what the server's certificate must be for.
func (t *TLS) name(address string) string {
	if t.ServerName != "" {
		return t.ServerName
	}
	return host(address)
}

func host(address string) string {
	if h, _, err := net.SplitHostPort(address); err == nil {
		return h
	}
	return address
}
