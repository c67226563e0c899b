package embedded

import (
	"bufio"
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

// exceptionTag names the random word that frames an exception behind the first bytes of a result, so that no data can
// be taken for one.
const exceptionTag = "X-Clickhouse-Exception-Tag"

// insert runs an INSERT with the request's body.
func (s *httpServer) insert(w http.ResponseWriter, r *http.Request, q *query) {
	stats, err := s.engine.Insert(r.Context(), q.Request, q.data)
	if err != nil {
		// A client that is still sending would see a broken connection instead of the answer.
		_, _ = io.CopyN(io.Discard, q.data, drainBytes)
		s.fail(w, err)
		return
	}
	w.Header().Set("X-ClickHouse-Summary", summary(stats))
	w.Header().Set("Content-Type", "text/plain; charset=UTF-8")
	w.WriteHeader(http.StatusOK)
}

// drainBytes is how much of a failed INSERT is read to let the client come to the answer: some blocks of the Go
// clients, and soon over.
const drainBytes = 16 << 20

// answer runs any other statement and sends its result, as it comes where its format allows.
func (s *httpServer) answer(w http.ResponseWriter, r *http.Request, q *query) {
	out := &result{s: s, w: w, q: q, head: r.Method == http.MethodHead}
	format := q.Format
	if format == "" {
		format = "TabSeparated"
	}
	st, err := parseStatement(q.SQL)
	if err != nil {
		s.fail(w, exception(codeSyntax, "%v", err))
		return
	}
	if q.whole || st.kind != selectStatement || !chdb.CanStream(format) {
		b, stats, err := s.engine.Query(r.Context(), q.Request)
		if err != nil {
			s.fail(w, err)
			return
		}
		out.start(format, stats)
		out.finish(out.write(b))
		return
	}
	rows, err := s.engine.Stream(r.Context(), q.Request)
	if err != nil {
		s.fail(w, err)
		return
	}
	defer rows.Close()
	// The status waits for the first chunk: most statements that fail do so before it.
	for started := false; ; started = true {
		b, err := rows.Next()
		if err != nil && err != io.EOF && !started {
			s.fail(w, err)
			return
		}
		if !started {
			out.start(format, rows.Stats())
		}
		if err == io.EOF {
			out.finish(nil)
			return
		}
		if err == nil {
			err = out.write(b)
		}
		if err != nil {
			out.finish(err)
			return
		}
	}
}

// result sends a result: blocks recoded for the client's revision, in frames or an encoding if it asked for them.
type result struct {
	s    *httpServer
	w    http.ResponseWriter
	q    *query
	head bool
	tag  string

	net    *bufio.Writer // to the client
	sink   io.Writer     // what the result's bytes are written to: net, or frames or an encoder on top of it
	flush  func() error  // of the encoder
	close  func() error  // of the encoder
	native bool
}

// netBuffer is what is sent at once at least, unless a chunk ends: some packets.
const netBuffer = 64 << 10

// start sends the header.
func (o *result) start(format string, stats chdb.Stats) {
	o.tag = strings.ToLower(rand.Text()[:16])
	o.native = format == "Native"
	h := o.w.Header()
	h.Set("Content-Type", contentType(format))
	h.Set("X-ClickHouse-Format", format)
	h.Set("X-ClickHouse-Summary", summary(stats))
	h.Set(exceptionTag, o.tag)
	nothing := func() error { return nil }
	o.net = bufio.NewWriterSize(deadlined{o.w, o.s.limits.TransferTimeout}, netBuffer)
	o.sink, o.flush, o.close = o.net, nothing, nothing
	switch o.q.encoding {
	case "gzip":
		z := gzip.NewWriter(o.net)
		o.sink, o.flush, o.close = z, z.Flush, z.Close
	case "deflate":
		z := zlib.NewWriter(o.net)
		o.sink, o.flush, o.close = z, z.Flush, z.Close
	case "zstd":
		// The options are constant and valid.
		z, _ := zstd.NewWriter(o.net, zstd.WithEncoderConcurrency(1), zstd.WithEncoderLevel(zstd.SpeedFastest))
		o.sink, o.flush, o.close = z, z.Flush, z.Close
	}
	if o.q.encoding != "" {
		h.Set("Content-Encoding", o.q.encoding)
	}
	if o.q.compress {
		o.sink = chwire.NewFrameWriter(o.net)
	}
	o.w.WriteHeader(http.StatusOK)
}

// write sends one chunk.
func (o *result) write(b []byte) error {
	if o.head || len(b) == 0 {
		return nil
	}
	if err := o.put(b); err != nil {
		return err
	}
	if err := o.flush(); err != nil {
		return err
	}
	return o.net.Flush()
}

func (o *result) put(b []byte) error {
	if !o.native || o.q.revision == 0 {
		_, err := o.sink.Write(b)
		return err
	}
	// The engine writes blocks of revision 0; the client asked for those of its own.
	to := bufio.NewWriterSize(o.sink, chwire.FrameBytes)
	for src := chwire.NewBytesReader(b); src.Buffered() > 0; {
		block, err := chwire.ReadBlock(src, 0, chwire.Limits{Columns: 1 << 20, Rows: 1 << 40})
		if err != nil {
			return err
		}
		if err := block.Start(to, o.q.revision); err != nil {
			return err
		}
		if _, err := block.Copy(to, src, 0, o.q.revision); err != nil {
			return err
		}
	}
	return to.Flush()
}

// finish ends the result. An error becomes the block that ClickHouse's clients look for behind a result's first bytes,
// and a transfer that breaks off, for those that do not look.
func (o *result) finish(err error) {
	if err == nil {
		if err = o.close(); err == nil {
			err = o.net.Flush()
		}
		if err == nil {
			return
		}
	}
	message := o.s.text(failure(err))
	_, err = fmt.Fprintf(o.sink, "\r\n__exception__\r\n%s\r\n%s%d %s\r\n__exception__\r\n", o.tag, message, len(message),
		o.tag)
	if errors.Join(err, o.close(), o.net.Flush()) == nil {
		_ = http.NewResponseController(o.w).Flush() // then the connection is broken off anyway
	}
	panic(http.ErrAbortHandler)
}

// deadlined gives each write a time limit instead of one for the whole result.
type deadlined struct {
	w     http.ResponseWriter
	limit time.Duration
}

func (d deadlined) Write(p []byte) (int, error) {
	if err := http.NewResponseController(d.w).SetWriteDeadline(time.Now().Add(d.limit)); err != nil {
		return 0, err
	}
	n, err := d.w.Write(p)
	if err == nil {
		err = http.NewResponseController(d.w).Flush()
	}
	return n, err
}

// accepted is the best encoding that the client takes and we have, or "".
func accepted(header string) string {
	for _, encoding := range []string{"zstd", "gzip", "deflate"} {
		for offer := range strings.SplitSeq(header, ",") {
			name, q, _ := strings.Cut(strings.TrimSpace(offer), ";")
			if name == encoding && strings.ReplaceAll(q, " ", "") != "q=0" {
				return encoding
			}
		}
	}
	return ""
}

// summary is the JSON of X-ClickHouse-Summary, whose numbers are texts.
func summary(st chdb.Stats) string {
	var b strings.Builder
	b.WriteByte('{')
	for _, f := range []struct {
		name  string
		value uint64
	}{
		{"read_rows", st.ReadRows}, {"read_bytes", st.ReadBytes}, {"written_rows", st.WrittenRows},
		{"written_bytes", st.WrittenBytes}, {"total_rows_to_read", 0}, {"result_rows", st.ResultRows},
		{"result_bytes", st.ResultBytes}, {"elapsed_ns", uint64(st.Elapsed)},
	} {
		if b.Len() > 1 {
			b.WriteByte(',')
		}
		b.WriteString(strconv.Quote(f.name) + `:"` + strconv.FormatUint(f.value, 10) + `"`)
	}
	return b.String() + "}"
}

// contentType is the media type of an output format.
func contentType(format string) string {
	switch {
	case strings.HasSuffix(format, "EachRow") && strings.HasPrefix(format, "JSON"), format == "JSONLines",
		format == "NDJSON":
		return "application/x-ndjson; charset=UTF-8"
	case strings.HasPrefix(format, "JSON"):
		return "application/json; charset=UTF-8"
	case strings.HasPrefix(format, "TabSeparated"), strings.HasPrefix(format, "TSV"):
		return "text/tab-separated-values; charset=UTF-8"
	case strings.HasPrefix(format, "CSV"):
		return "text/csv; charset=UTF-8; header=absent"
	case format == "Native", format == "Parquet", strings.HasPrefix(format, "RowBinary"), strings.HasPrefix(format,
		"Arrow"):
		return "application/octet-stream"
	case format == "XML":
		return "application/xml; charset=UTF-8"
	}
	return "text/plain; charset=UTF-8"
}
