package embedded

import (
	"compress/gzip"
	"compress/zlib"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/klauspost/compress/zstd"

	"github.com/tailrace/tailrace/connectors/embedded/chdb"
	"github.com/tailrace/tailrace/connectors/embedded/chwire"
)

// query is an HTTP request as the engine sees it.
type query struct {
	chdb.Request
	id       string
	data     io.Reader // of an INSERT; nil for any other statement
	revision int       // of Native blocks in the result
	compress bool      // the result goes in compressed frames
	whole    bool      // wait_end_of_query: no byte before the statement has ended
	encoding string    // Content-Encoding of the result
}

// serve runs the statement of one request.
func (s *httpServer) serve(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	h.Set("X-ClickHouse-Server-Display-Name", "tailrace")
	h.Set("X-ClickHouse-Timezone", s.zone)
	role, err := s.login(r)
	if err != nil {
		s.fail(w, err)
		return
	}
	q, done, err := s.read(w, r, role)
	if err != nil {
		s.fail(w, err)
		return
	}
	defer done()
	h.Set("X-ClickHouse-Query-Id", q.id)
	if q.data != nil {
		s.insert(w, r, q)
		return
	}
	s.answer(w, r, q)
}

// login takes the user from the parameters, ClickHouse's headers or basic authentication.
func (s *httpServer) login(r *http.Request) (Role, error) {
	user, password, basic := r.BasicAuth()
	if v := r.Header.Get("X-ClickHouse-User"); !basic && v != "" {
		user, password = v, r.Header.Get("X-ClickHouse-Key")
	} else if q := r.URL.Query(); !basic {
		user, password = q.Get("user"), q.Get("password")
	}
	return s.access.Login(user, password)
}

// read takes the request apart, except for an INSERT's data. done gives back what it holds.
func (s *httpServer) read(w http.ResponseWriter, r *http.Request, role Role) (_ *query, done func(), err error) {
	q := &query{id: rand.Text()}
	q.ReadOnly = role != Writer || r.Method != http.MethodPost
	q.Format, q.Database = r.Header.Get("X-ClickHouse-Format"), r.Header.Get("X-ClickHouse-Database")
	var sql, session string
	var frames, check, closing bool
	keep, gzipResult := time.Minute, false
	for name, values := range r.URL.Query() {
		v := values[len(values)-1]
		switch name {
		case "query":
			sql = v
		case "database":
			q.Database = v
		case "default_format":
			q.Format = v
		case "query_id":
			q.id = v
		case "compress":
			q.compress = isOn(v)
		case "decompress":
			frames = isOn(v)
		case "wait_end_of_query":
			q.whole = isOn(v)
		case "enable_http_compression":
			gzipResult = isOn(v)
		case "client_protocol_version":
			if q.revision, err = strconv.Atoi(v); err != nil || q.revision < 0 {
				return nil, nil, exception(codeBadArguments, "client_protocol_version: want a number, got %q", v)
			}
		case "session_id":
			session = v
		case "session_check":
			check = isOn(v)
		case "close_session":
			closing = isOn(v)
		case "session_timeout":
			n, err := strconv.Atoi(v)
			if err != nil || n < 0 || time.Duration(n)*time.Second > s.limits.SessionTimeout {
				return nil, nil, exception(codeInvalidSessionTimeout, "session_timeout: want 0 to %.0f seconds, got %q",
					s.limits.SessionTimeout.Seconds(), v)
			}
			keep = time.Duration(n) * time.Second
		case "user", "password", "quota_key", "role", "stacktrace", "buffer_size", "client_info":
		default:
			// Settings of the transport are ours, and have no meaning for the engine.
			if strings.HasPrefix(name, "http_") || strings.HasPrefix(name, "network_") || strings.HasPrefix(name,
				"send_progress_") {
				continue
			}
			set(&q.Settings, &q.Params, name, v)
		}
	}
	if gzipResult && !q.compress {
		q.encoding = accepted(r.Header.Get("Accept-Encoding"))
	}
	if strings.HasPrefix(r.Header.Get("Content-Type"), "multipart/") {
		return nil, nil, exception(codeNotImplemented, "External tables are not supported")
	}
	body, err := decoded(r.Header.Get("Content-Encoding"), s.patient(w, r))
	if err != nil {
		return nil, nil, err
	}
	if frames {
		body = plainEOF(chwire.NewFrameReader(chwire.NewReader(body, 64<<10), int64(s.limits.FrameBytes)))
	}
	if err := q.split(sql, body, int64(s.limits.QueryBytes)); err != nil {
		return nil, nil, err
	}
	if session == "" || q.ReadOnly { // a reader can leave nothing in a session
		return q, func() {}, nil
	}
	q.Session, done, err = s.sessions.take(s.engine, session, q.Database, keep, check, closing)
	return q, done, err
}

func isOn(v string) bool { return v == "1" || v == "true" }

// set files a parameter under settings or query parameters.
func set(settings, params *map[string]string, name, value string) {
	into := settings
	if p, ok := strings.CutPrefix(name, "param_"); ok {
		into, name = params, p
	}
	if *into == nil {
		*into = map[string]string{}
	}
	(*into)[name] = value
}

// split finds the statement in parameter and body, and the data after it. Only the text of a statement is read.
func (q *query) split(sql string, body io.Reader, limit int64) error {
	if int64(len(sql)) > limit {
		return exception(codeSyntax, "Max query size exceeded: %d bytes (limit %d)", len(sql), limit)
	}
	if ins, ok := chdb.ParseInsert(sql); ok && ins.Format != "" {
		q.SQL, q.Format, q.data = ins.Statement, ins.Format, io.MultiReader(strings.NewReader(ins.Data), body)
		return nil
	}
	text, err := io.ReadAll(io.LimitReader(body, limit+1))
	if err != nil {
		return err
	}
	all := string(text)
	if sql != "" {
		all = strings.TrimSpace(sql + "\n" + all)
	}
	if ins, ok := chdb.ParseInsert(all); ok {
		q.SQL, q.data = ins.Statement, io.MultiReader(strings.NewReader(ins.Data), body)
		if ins.Format != "" {
			q.Format = ins.Format
		}
		return nil
	}
	if int64(len(text)) > limit {
		return exception(codeSyntax, "Max query size exceeded (limit %d bytes)", limit)
	}
	if strings.TrimSpace(all) == "" {
		return exception(codeSyntax, "Empty query")
	}
	q.SQL = all
	if _, format := cutFormat(all); format != "" {
		q.Format = format
	}
	return nil
}

// decoded undoes a Content-Encoding.
func decoded(encoding string, r io.Reader) (io.Reader, error) {
	switch encoding {
	case "", "identity":
		return r, nil
	case "gzip":
		return &lazyReader{open: func() (io.Reader, error) { return gzip.NewReader(r) }}, nil
	case "deflate":
		return &lazyReader{open: func() (io.Reader, error) { return zlib.NewReader(r) }}, nil
	case "zstd":
		// One goroutine and a bounded window: the decoder must not outlive or outgrow the request.
		z, err := zstd.NewReader(r, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(128<<20))
		if err != nil {
			return nil, err
		}
		return z, nil
	}
	return nil, exception(codeUnknownCompression, "Content-Encoding %q: want gzip, deflate or zstd", encoding)
}

// lazyReader opens a decoder at the first read: a request without a body has no header to read.
type lazyReader struct {
	open func() (io.Reader, error)
	r    io.Reader
}

func (l *lazyReader) Read(p []byte) (int, error) {
	if l.r == nil {
		r, err := l.open()
		if err != nil {
			return 0, err
		}
		l.r = r
	}
	return l.r.Read(p)
}

// patient reads the body with a time limit for each read instead of one for the whole: an INSERT may stream for hours.
func (s *httpServer) patient(w http.ResponseWriter, r *http.Request) io.Reader {
	control := http.NewResponseController(w)
	return readFunc(func(p []byte) (int, error) {
		if err := control.SetReadDeadline(time.Now().Add(s.limits.TransferTimeout)); err != nil {
			return 0, err
		}
		n, err := r.Body.Read(p)
		if err == io.EOF {
			// The server goes on reading, to notice a client that leaves. That may take as long as the statement does.
			_ = control.SetReadDeadline(time.Time{}) // if the connection has gone it will notice that too
		}
		if err != nil && err != io.EOF {
			err = fmt.Errorf("the request's body: %w", err)
		}
		return n, err
	})
}

// plainEOF unwraps the end that the frames' decoder wraps. An end within a frame is io.ErrUnexpectedEOF.
func plainEOF(r io.Reader) io.Reader {
	return readFunc(func(p []byte) (int, error) {
		n, err := r.Read(p)
		if errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
			err = io.EOF
		}
		return n, err
	})
}

type readFunc func([]byte) (int, error)

func (f readFunc) Read(p []byte) (int, error) { return f(p) }
