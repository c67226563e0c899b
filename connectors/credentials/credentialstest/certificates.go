// Package credentialstest makes certificates for tests.
package credentialstest

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// Authority signs certificates.
type Authority struct {
	File string // its certificate, as PEM
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

// Pair is a certificate with its key.
type Pair struct {
	CertFile, KeyFile string
	Pair              tls.Certificate
}

// NewAuthority makes an authority whose files live as long as the test.
func NewAuthority(t testing.TB) *Authority {
	t.Helper()
	key := newKey(t)
	template := &x509.Certificate{
		SerialNumber: serial(t), Subject: pkix.Name{CommonName: "test authority"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	check(t, err)
	cert, err := x509.ParseCertificate(der)
	check(t, err)
	return &Authority{File: write(t, "CERTIFICATE", der), cert: cert, key: key}
}

// Issue makes a certificate for 127.0.0.1 and localhost, good for server and client, that ends at a time. It began an hour
// before now, or an hour before its end if that is past.
func (a *Authority) Issue(t testing.TB, name string, end time.Time) Pair {
	t.Helper()
	key := newKey(t)
	begin := time.Now()
	if end.Before(begin) {
		begin = end
	}
	template := &x509.Certificate{
		SerialNumber: serial(t), Subject: pkix.Name{CommonName: name},
		NotBefore: begin.Add(-time.Hour), NotAfter: end,
		DNSNames: []string{"localhost"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, key.Public(), a.key)
	check(t, err)
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	check(t, err)
	p := Pair{CertFile: write(t, "CERTIFICATE", der), KeyFile: write(t, "PRIVATE KEY", keyDER)}
	p.Pair, err = tls.LoadX509KeyPair(p.CertFile, p.KeyFile)
	check(t, err)
	return p
}

// Server is a server's side with a certificate that is good for an hour.
func (a *Authority) Server(t testing.TB) *tls.Config {
	t.Helper()
	return ServerOf(a.Issue(t, "server", time.Now().Add(time.Hour)))
}

// ServerOf is a server's side with a certificate.
func ServerOf(p Pair) *tls.Config { return &tls.Config{Certificates: []tls.Certificate{p.Pair}} }

// Demanding is a server's side that wants clients' certificates of a.
func (a *Authority) Demanding(t testing.TB) *tls.Config {
	t.Helper()
	c := a.Server(t)
	c.ClientCAs = x509.NewCertPool()
	c.ClientCAs.AddCert(a.cert)
	c.ClientAuth = tls.RequireAndVerifyClientCert
	return c
}

// Copy puts from's content into to, as one step, as those who renew certificates do.
func Copy(t testing.TB, from, to string) {
	t.Helper()
	text, err := os.ReadFile(from)
	check(t, err)
	WriteFile(t, to, string(text))
}

// WriteFile puts a text in the place of a file in one step, so that nobody who reads at that moment finds half of it.
func WriteFile(t testing.TB, path, text string) {
	t.Helper()
	check(t, os.WriteFile(path+".new", []byte(text), 0o600))
	check(t, os.Rename(path+".new", path))
}

func write(t testing.TB, kind string, der []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "file.pem")
	check(t, os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600))
	return path
}

func newKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	check(t, err)
	return key
}

func serial(t testing.TB) *big.Int {
	t.Helper()
	n, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 100))
	check(t, err)
	return n
}

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
