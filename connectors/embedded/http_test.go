package embedded

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/tailrace/tailrace/connectors/embedded/chdb"
	"github.com/tailrace/tailrace/deploy/native"
)

// startServer starts an embedded ClickHouse with its HTTP face on a folder of the test's own.
func startServer(t testing.TB, change ...func(*ClickHouseConfig)) *ClickHouse {
	t.Helper()
	lib, err := native.Resolve(t.Context(), native.LibCHDB, native.Options{})
	if err != nil {
		t.Fatal(err)
	}
	c := ClickHouseConfig{Dir: filepath.Join(t.TempDir(), "data"), Library: lib, HTTPAddr: "127.0.0.1:0"}
	for _, f := range change {
		f(&c)
	}
	s, err := StartClickHouse(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// curl runs the real curl as a user ("" is the reader) and returns status, header and body.
type answer struct {
	code   int
	header string
	body   string
	rc     int
}

func curl(t testing.TB, s *ClickHouse, user, stdin string, args ...string) answer {
	t.Helper()
	head := filepath.Join(t.TempDir(), "head")
	all := []string{"-sS", "--noproxy", "*", "-D", head, "-o", "-"}
	if user == WriterUser {
		all = append(all, "-u", WriterUser+":"+s.Password())
	}
	for _, a := range args {
		all = append(all, strings.Replace(a, "URL", "http://"+s.HTTPAddr(), 1))
	}
	cmd := exec.Command("curl", all...)
	cmd.Stdin = strings.NewReader(stdin)
	var out, bad bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &bad
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	b, err := os.ReadFile(head)
	if err != nil {
		t.Fatalf("curl: %s", bad.String())
	}
	a := answer{header: string(b), body: out.String(), rc: cmd.ProcessState.ExitCode()}
	if _, err := fmt.Sscanf(a.header, "HTTP/1.1 %d", &a.code); err != nil {
		t.Fatalf("curl: no status in %q: %s", a.header, bad.String())
	}
	return a
}

func (a answer) want(t testing.TB, code int, words ...string) {
	t.Helper()
	if a.code != code {
		t.Errorf("want status %d, got %d: %s", code, a.code, a.body)
	}
	for _, w := range words {
		if !strings.Contains(a.header+a.body, w) {
			t.Errorf("want %q in the answer, got %s%s", w, a.header, a.body)
		}
	}
}

// Scenario: curl as the writer makes a table, inserts in the ways that people use, and reads.
// Guarantees: the statement may stand in the parameter, in the body or in both; data may follow the statement in the
// body or be all of it; blank lines in data end nothing; formats, settings, parameters, database and compression do
// what ClickHouse's documentation says.
func TestCurl(t *testing.T) {
	s := startServer(t)
	w := WriterUser
	curl(t, s, "", "", "URL/ping").want(t, 200, "Ok.\n")
	curl(t, s, "", "", "URL/").want(t, 200, "Ok.\n")
	curl(t, s, "", "", "URL/?query=SELECT%201").want(t, 200, "\r\n\r\n1\n", "X-Clickhouse-Query-Id: ",
		"X-Clickhouse-Format: TabSeparated",
		"text/tab-separated-values", `X-Clickhouse-Summary: {"read_rows":"1"`)
	curl(t, s, w, "CREATE DATABASE plant", "URL", "--data-binary", "@-").want(t, 200)
	curl(t, s, w, "CREATE TABLE t (a UInt32, s String) ENGINE = MergeTree ORDER BY a", "URL/?database=plant",
		"--data-binary", "@-").want(t, 200)
	insert := func(sql string) string { return "URL/?query=" + url.QueryEscape(sql) }
	curl(t, s, w, "{\"a\":1,\"s\":\"x\"}\n\n{\"a\":2,\"s\":\"SELECT 1\"}\n",
		insert("INSERT INTO plant.t FORMAT JSONEachRow"), "--data-binary", "@-").
		want(t, 200, `"written_rows":"2"`)
	curl(t, s, w, "INSERT INTO plant.t FORMAT CSV\n3,\"a\"\n4,\"b\"\n", "URL", "--data-binary", "@-").want(t, 200,
		`"written_rows":"2"`)
	curl(t, s, w, "(5, 'it''s'), (6, 'DROP TABLE plant.t; x')", insert("INSERT INTO plant.t (a, s) VALUES"),
		"--data-binary", "@-").want(t, 200)
	curl(t, s, w, "7\tseven\n", insert("INSERT INTO plant.t (a, s) SETTINGS insert_deduplication_token='x' FORMAT TSV"),
		"--data-binary", "@-").want(t, 200)
	curl(t, s, w, "INSERT INTO plant.t SELECT 8, 'eight'", "URL", "--data-binary", "@-").want(t, 200)
	curl(t, s, "", "SELECT count(), sum(a) FROM t", "URL/?database=plant&default_format=JSONCompactEachRow",
		"--data-binary", "@-").
		want(t, 200, "[8, 36]")
	curl(t, s, "", "SELECT a, s FROM plant.t WHERE a = 6 FORMAT JSON", "URL", "--data-binary", "@-").
		want(t, 200, `"s": "DROP TABLE plant.t; x"`, "application/json", "X-Clickhouse-Format: JSON\r\n")
	curl(t, s, "", "SELECT {x:UInt8} + 1, {y:String}", "URL/?param_x=41&param_y=it%27s", "--data-binary", "@-").want(t,
		200, "42\tit\\'s\n")
	curl(t, s, "", "SELECT getSetting('max_execution_time')", "URL/?max_execution_time=7", "--data-binary", "@-").want(t,
		200, "\n7\n")
	curl(t, s, "", "SELECT number FROM numbers(100000)", "URL/?enable_http_compression=1", "--compressed", "-H",
		"Accept-Encoding: gzip",
		"--data-binary", "@-").want(t, 200, "Content-Encoding: gzip", "\n99999\n")
	if a := curl(t, s, "", "", "URL/?query=SELECT%201", "-I"); a.code != 200 || strings.Contains(a.body, "\n1\n") {
		t.Errorf("HEAD: want a header alone, got %v", a)
	}
}

// Scenario: a statement fails before its result begins, in its midst, and in the midst with wait_end_of_query.
// Guarantees: status, code header and text are ClickHouse's; behind the first bytes comes the exception block with its
// tag, and the transfer breaks off, which curl reports as 18.
func TestCurlExceptions(t *testing.T) {
	s := startServer(t)
	for _, c := range []struct {
		sql    string
		params string
		status int
		code   int
		word   string
	}{
		{"SELECT * FROM nowhere", "", 404, 60, "UNKNOWN_TABLE"},
		{"SELEC 1 FROM", "", 400, 62, "SYNTAX_ERROR"},
		{"SELECT 1; SELECT 2", "", 400, 62, "Multi-statements are not allowed"},
		{"SELECT 1", "?max_thread=1", 404, 115, "UNKNOWN_SETTING"},
		{"SELECT 1", "?database=nowhere", 404, 81, "UNKNOWN_DATABASE"},
		{"SELECT {x:UInt8}", "?param_x=no", 400, 457, "BAD_QUERY_PARAMETER"},
		{"SELECT sleepEachRow(1) FROM numbers(3)", "?max_execution_time=1", 408, 159, "TIMEOUT_EXCEEDED"},
		{"SELECT throwIf(number = 1000000) FROM numbers(2000000)", "?wait_end_of_query=1&max_threads=1", 500, 395,
			"FUNCTION_THROW_IF"},
		{"SELECT 1", "?user=nobody&password=x", 403, 516, "Authentication failed"},
		{"", "", 400, 62, "Empty query"},
	} {
		a := curl(t, s, "", c.sql, "URL/"+c.params, "--data-binary", "@-")
		a.want(t, c.status, fmt.Sprintf("X-Clickhouse-Exception-Code: %d\r\n", c.code),
			fmt.Sprintf("\nCode: %d. DB::Exception: ", c.code), c.word)
		if strings.Contains(a.body, "/*q:") {
			t.Errorf("want no tag of ours, got %s", a.body)
		}
	}
	a := curl(t, s, "", "SELECT throwIf(number = 1000000) FROM numbers(2000000)", "URL/?max_block_size=1000",
		"--data-binary", "@-")
	a.want(t, 200, "\r\n__exception__\r\n", "Code: 395. DB::Exception: ")
	_, tag, _ := strings.Cut(a.header, exceptionTag+": ")
	tag, _, _ = strings.Cut(tag, "\r")
	if len(tag) != 16 || !strings.HasSuffix(a.body, " "+tag+"\r\n__exception__\r\n") || a.rc != 18 {
		t.Errorf("want the block with its tag at the end and curl's 18, got tag %q, rc %d, %q", tag, a.rc, a.body[max(0,
			len(a.body)-300):])
	}
}

// Scenario: the reader, over POST and GET, tries everything that DESIGN's hostile input names and what was found to
// slip through readonly=1; the writer tries to change something with GET.
// Guarantees: each is refused with code 164 and status 403, nothing is written, and no file is read.
func TestReaderIsHeld(t *testing.T) {
	s := startServer(t)
	secret := filepath.Join(t.TempDir(), "secret.csv")
	if err := os.WriteFile(secret, []byte("hidden,1\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	out := filepath.Join(t.TempDir(), "out.csv")
	for _, sql := range []string{
		"CREATE TABLE x (a UInt8) ENGINE = Memory", "CREATE DATABASE x", "DROP DATABASE default", "SET max_threads = 1",
		"INSERT INTO x VALUES (1)", "INSERT INTO x SELECT 1", "INSERT INTO FUNCTION file('" + out + "') SELECT 1",
		"SELECT 1 INTO OUTFILE '" + out + "'", "SYSTEM SHUTDOWN", "KILL QUERY WHERE 1 ASYNC",
		"SELECT 1 SETTINGS readonly = 0",
		"SELECT * FROM file('" + secret + "')", "SELECT file('" + secret + "')", "SELECT `file`/**/('" + secret + "')",
		"SELECT * APPLY(file) FROM (SELECT '" + secret + "')", "SELECT ('a', 1) IN file('" + secret + "')",
		"DESCRIBE file('" + secret + "')", "DESCRIBE url('http://127.0.0.1:1/')",
		"SELECT * FROM url('http://127.0.0.1:1/', 'CSV', 'a String')",
		"SELECT * FROM `" + secret + "`", "SELECT * FROM default.`" + secret + "`", "EXISTS TABLE `" + secret + "`",
		"DESCRIBE `" + secret + "`",
		"SELECT 1 IN executable('sh', 'CSV', 'a UInt8')", "SELECT * FROM view(SELECT * FROM file('" + secret + "'))",
		"EXPLAIN SELECT * FROM file('" + secret + "')", "SELECT /* /* */ ' */ file('" + secret + "') -- '",
		"SELECT * FROM remote('127.0.0.1:1', system.one)", "SELECT hasColumnInTable('127.0.0.1:1', 'a', 'b', 'c', 'd', 'e')",
	} {
		for _, a := range []answer{
			curl(t, s, "", sql, "URL", "--data-binary", "@-"),
			curl(t, s, "", "", "URL/?query="+url.QueryEscape(sql)),
			curl(t, s, WriterUser, "", "URL/?query="+url.QueryEscape(sql)),
		} {
			if a.code != 403 || !strings.Contains(a.body, "(READONLY)") || strings.Contains(a.body, "hidden") {
				t.Errorf("%s: want 403 READONLY, got %d %s", sql, a.code, a.body)
			}
		}
	}
	curl(t, s, "", "SELECT 1", "URL/?format_avro_schema_registry_url=http://x", "--data-binary", "@-").want(t, 403,
		"READONLY")
	if _, err := os.Stat(out); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("want no file, got %v", err)
	}
	curl(t, s, "", "SELECT position('file(1)', 'file('), 'INTO OUTFILE' FORMAT CSV", "URL", "--data-binary", "@-").want(t,
		200, `1,"INTO OUTFILE"`)
}

// Scenario: requests with a foreign Host, with an Origin, with wrong passwords in each of the three places, as the
// writer; the password file is read by its owner.
// Guarantees: 403 before anything else, whatever the password; the three ways to log in; the file has mode 0600 and
// the password; it stays the same over a restart; a file that others can read is refused.
func TestAccess(t *testing.T) {
	s := startServer(t)
	for _, args := range [][]string{
		{"URL/ping", "-H", "Host: evil.example"}, {"URL/?query=SELECT%201", "-H", "Host: localhost.evil.example:8123"},
		{"URL/?query=SELECT%201", "-H", "Origin: http://" + s.HTTPAddr()}, {"URL/?query=SELECT%201", "-H", "Origin: null"},
		{"URL/?query=SELECT%201", "-H", "Host:"},
	} {
		if a := curl(t, s, WriterUser, "", args...); a.code != 403 && a.code != 400 {
			t.Errorf("%v: want a refusal, got %d %s", args, a.code, a.body)
		}
	}
	curl(t, s, "", "", "URL/?query=SELECT%201", "-H", "Host: LOCALHOST").want(t, 200)
	curl(t, s, "", "", "URL/?query=SELECT%201", "-H", "Host: [::1]:8123").want(t, 200)
	create := "CREATE DATABASE IF NOT EXISTS x"
	p := s.Password()
	for _, args := range [][]string{
		{"URL/?user=tailrace&password=" + p}, {"URL", "-H", "X-ClickHouse-User: tailrace", "-H", "X-ClickHouse-Key: " + p},
		{"URL", "-H", "Authorization: Basic " + base64.StdEncoding.EncodeToString([]byte("tailrace:"+p))},
	} {
		curl(t, s, "", create, append(args, "--data-binary", "@-")...).want(t, 200)
		for i := range args {
			args[i] = strings.Replace(args[i], p, p[1:], 1)
		}
		if strings.Contains(strings.Join(args, " "), "Basic") {
			args[2] = "Authorization: Basic " + base64.StdEncoding.EncodeToString([]byte("tailrace:"))
		}
		curl(t, s, "", create, append(args, "--data-binary", "@-")...).want(t, 403, "Code: 516", PasswordFile)
	}
	curl(t, s, "", create, "URL/?user=default&password=x", "--data-binary", "@-").want(t, 403, "Code: 516")

	dir := s.engineDir(t)
	path := filepath.Join(dir, PasswordFile)
	if st, err := os.Stat(path); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("want mode 0600, got %v, %v", st.Mode(), err)
	}
	if b, err := os.ReadFile(path); err != nil || strings.TrimSpace(string(b)) != p || len(p) != 32 {
		t.Errorf("want the password, got %q, %v", b, err)
	}
	if a, err := openAccess(dir); err != nil || a.password != p {
		t.Errorf("want the same password again, got %v", err)
	}
	if err := os.Chmod(path, 0o640); err != nil {
		t.Fatal(err)
	}
	if _, err := openAccess(dir); err == nil || !strings.Contains(err.Error(), "want mode 0600, got 0640") {
		t.Errorf("want a refusal of a file that others can read, got %v", err)
	}
}

func (s *ClickHouse) engineDir(t testing.TB) string {
	t.Helper()
	b, _, err := s.engine.Query(t.Context(), chdb.Request{SQL: "SELECT path FROM system.disks WHERE name = 'default'"})
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(b))
}

// Scenario: a session with a temporary table, over several requests; a session that is asked for and not there.
// Guarantees: the table lives in the session alone and goes with it; a reader's session_id does nothing.
func TestSessions(t *testing.T) {
	s := startServer(t)
	q := func(params, sql string) answer {
		return curl(t, s, WriterUser, sql, "URL/?"+params, "--data-binary", "@-")
	}
	q("session_id=a", "CREATE TEMPORARY TABLE tmp AS SELECT 7 AS x").want(t, 200)
	q("session_id=a", "SELECT x FROM tmp").want(t, 200, "\n7\n")
	q("session_id=b", "SELECT x FROM tmp").want(t, 404, "UNKNOWN_TABLE")
	q("session_id=c&session_check=1", "SELECT 1").want(t, 404, "Code: 372")
	q("session_id=a&session_timeout=100000", "SELECT 1").want(t, 400, "Code: 374")
	q("session_id=a&close_session=1", "SELECT x FROM tmp").want(t, 200)
	q("session_id=a", "SELECT x FROM tmp").want(t, 404, "UNKNOWN_TABLE")
	curl(t, s, "", "SELECT 1", "URL/?session_id=a", "--data-binary", "@-").want(t, 200, "\n1\n")
}

// Scenario: the port is taken; the folder is in use; an address is not loopback.
// Guarantees: errors that can be recognised and name the port, the folder, the address; nothing stays open.
func TestStartFaults(t *testing.T) {
	s := startServer(t)
	lib, err := native.Resolve(t.Context(), native.LibCHDB, native.Options{})
	if err != nil {
		t.Fatal(err)
	}
	start := func(c ClickHouseConfig) error {
		t.Helper()
		c.Library = lib
		other, err := StartClickHouse(t.Context(), c)
		if err == nil {
			other.Close()
			t.Fatal("want an error")
		}
		return err
	}
	_, port, err := net.SplitHostPort(s.HTTPAddr())
	if err != nil {
		t.Fatal(err)
	}
	if err := start(ClickHouseConfig{Dir: t.TempDir(), HTTPAddr: "127.0.0.1:" + port}); !errors.Is(err,
		syscall.EADDRINUSE) ||
		!strings.Contains(err.Error(), "HTTP: listen tcp 127.0.0.1:"+port) {
		t.Errorf("want the taken port, got %v", err)
	}
	dir := s.engineDir(t)
	if err := start(ClickHouseConfig{Dir: dir, HTTPAddr: "127.0.0.1:0"}); !errors.Is(err, chdb.ErrBusy) ||
		!strings.Contains(err.Error(), strings.TrimSuffix(dir, "/")+" (PID: ") {
		t.Errorf("want the folder in use, got %v", err)
	}
	if err := start(ClickHouseConfig{Dir: t.TempDir(), HTTPAddr: "0.0.0.0:0"}); !strings.Contains(err.Error(),
		"want a loopback address") {
		t.Errorf("want a refusal, got %v", err)
	}
}

// Scenario: the client goes away in the midst of a long statement; the server closes in the midst of another.
// Guarantees: the first one's statement is gone from system.processes, and Close returns with the second one ended.
func TestClientGone(t *testing.T) {
	s := startServer(t)
	long := "http://" + s.HTTPAddr() + "/?query=" + url.QueryEscape("SELECT count() FROM system.numbers")
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 2)
	get := func(ctx context.Context) {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, long, nil)
		if err != nil {
			done <- err
			return
		}
		res, err := (&http.Client{Transport: &http.Transport{DisableKeepAlives: true}}).Do(req)
		if err == nil {
			_, err = io.Copy(io.Discard, res.Body)
			err = errors.Join(err, res.Body.Close(), fmt.Errorf("status %d", res.StatusCode))
		}
		done <- err
	}
	running := func(want string) {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		for {
			b, _, err := s.engine.Query(ctx,
				chdb.Request{SQL: "SELECT countIf(query LIKE '%system.num' || 'bers%') FROM system.processes"})
			if err != nil {
				t.Fatal(err)
			}
			if strings.TrimSpace(string(b)) == want {
				return
			}
		}
	}
	go get(ctx)
	running("1")
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("want the client's cancellation, got %v", err)
	}
	running("0")
	go get(t.Context())
	running("1")
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	if err := <-done; err == nil {
		t.Error("want an error for the client of a closed server")
	}
}
