package embedded

import (
	"bufio"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2"

	"github.com/tailrace/tailrace/connectors/credentials"
	"github.com/tailrace/tailrace/connectors/credentials/credentialstest"
)

// Scenario: both faces behind TLS; the reader runs a second statement, writes a file, reads one and writes a table, over
// both; a web page's request reaches both, over TLS and without.
// Guarantees: every one is refused and leaves nothing behind; the reader may still read.
func TestClosedDoorsOfBothFaces(t *testing.T) {
	authority := credentialstest.NewAuthority(t)
	s := startServer(t, func(c *ClickHouseConfig) { c.NativeAddr, c.TLS = "127.0.0.1:0", authority.Server(t) })
	client, err := (&credentials.TLS{CAFile: authority.File}).Config(s.NativeAddr())
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	secret, out := filepath.Join(dir, "secret.csv"), filepath.Join(dir, "out.csv")
	if err := os.WriteFile(secret, []byte("1\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	open := func(p clickhouse.Protocol, addr, user, password string) clickhouse.Conn {
		t.Helper()
		c, err := clickhouse.Open(&clickhouse.Options{Protocol: p, Addr: []string{addr}, TLS: client,
			Auth: clickhouse.Auth{Username: user, Password: password}})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := c.Close(); err != nil {
				t.Error(err)
			}
		})
		return c
	}
	if err := open(clickhouse.Native, s.NativeAddr(), WriterUser, s.Password()).Exec(t.Context(),
		"CREATE TABLE t (a UInt64) ENGINE = MergeTree ORDER BY a"); err != nil {
		t.Fatal(err)
	}
	for p, addr := range map[clickhouse.Protocol]string{clickhouse.Native: s.NativeAddr(), clickhouse.HTTP: s.HTTPAddr()} {
		reader := open(p, addr, ReaderUser, "")
		for _, sql := range []string{
			"SELECT 1; SELECT 2", "SELECT 1; DROP TABLE t", "SELECT 1 INTO OUTFILE '" + out + "'", "SELECT * FROM file('" + secret + "', 'CSV')",
			"INSERT INTO FUNCTION file('" + out + "', 'CSV', 'a UInt8') SELECT 1", "INSERT INTO t SELECT 1", "DROP TABLE t", "ALTER TABLE t DELETE WHERE 1",
			"CREATE TABLE u (a UInt8) ENGINE = Memory", "SET readonly = 0",
		} {
			if err := reader.Exec(t.Context(), sql); err == nil {
				t.Errorf("%s: %s: want it refused", p, sql)
			}
		}
		var n uint64
		if err := reader.QueryRow(t.Context(), "SELECT count() FROM t").Scan(&n); err != nil || n != 0 {
			t.Errorf("%s: want 0 rows, got %d, %v", p, n, err)
		}
	}
	if _, err := os.Stat(out); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("want no file, got %v", err)
	}

	for _, addr := range []string{s.HTTPAddr(), s.NativeAddr()} {
		for _, config := range []*tls.Config{client, nil} {
			for name, head := range map[string]string{
				"origin":       "Host: " + addr + "\r\nOrigin: https://page.example",
				"foreign host": "Host: page.example",
			} {
				answer := page(t, addr, config, head)
				if answer == http.StatusOK {
					t.Errorf("%s, %s: a web page's request was served", addr, name)
				}
				if addr == s.HTTPAddr() && config != nil && answer != http.StatusForbidden {
					t.Errorf("%s, %s: want status 403, got %d", addr, name, answer)
				}
			}
		}
	}
}

// page asks as a browser does, and returns the status of the answer, or 0 if it is none of HTTP.
func page(t *testing.T, addr string, config *tls.Config, head string) int {
	t.Helper()
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if config != nil {
		conn = tls.Client(conn, config)
	}
	if _, err := fmt.Fprintf(conn, "GET /?query=SELECT+1 HTTP/1.1\r\n%s\r\n\r\n", head); err != nil {
		return 0 // it has hung up already
	}
	response, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		return 0
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err == nil && response.StatusCode != http.StatusOK && strings.TrimSpace(string(body)) == "1" {
		t.Errorf("%s: the statement ran", addr)
	}
	return response.StatusCode
}
