package chdb

import (
	"context"
	"errors"
	"io"
	"strings"
	"sync"
	"time"
	"unsafe"
)

// Query runs the statement and returns its whole result. If ctx ends first the statement is killed and ctx's error
// returned; an error of ClickHouse's is an *[Exception]. An INSERT with its data in the text is taken apart and goes
// the way of Insert.
func (e *Engine) Query(ctx context.Context, r Request) ([]byte, Stats, error) {
	if ins, ok := ParseInsert(r.SQL); ok && ins.Format != "" {
		stats, err := e.Insert(ctx, r, strings.NewReader(ins.Data))
		return nil, stats, err
	}
	s, err := e.begin(ctx, r)
	if err != nil {
		return nil, Stats{}, err
	}
	b, stats, err := e.collect(start(e.lib.query, s.conn.conn(), s.sql, s.format, r.Params))
	return b, stats, s.end(err)
}

// Rows is a result that comes in chunks. One goroutine uses it.
type Rows struct {
	s      *statement
	stream unsafe.Pointer
	stats  Stats
	err    error // why Next gives no more
}

// CanStream reports whether the chunks of a format can be put one behind the other. In other formats each chunk is a
// document of its own, and only Query gives a whole one. A Native chunk is one block.
func CanStream(format string) bool {
	switch format {
	case "Native", "RowBinary", "TabSeparated", "TSV", "TabSeparatedRaw", "TSVRaw", "CSV",
		"JSONEachRow", "JSONLines", "NDJSON", "JSONCompactEachRow":
		return true
	}
	return false
}

// Stream starts the statement, which must return rows (code 36 otherwise). If ctx ends the statement is killed and
// Next returns ctx's error. The caller closes Rows.
func (e *Engine) Stream(ctx context.Context, r Request) (*Rows, error) {
	s, err := e.begin(ctx, r)
	if err != nil {
		return nil, err
	}
	h := start(e.lib.streamQuery, s.conn.conn(), s.sql, s.format, r.Params)
	if h == nil {
		return nil, s.end(errors.New("libchdb made no stream"))
	}
	if msg := e.lib.resultError(h); msg != "" {
		e.lib.destroyResult(h)
		return nil, s.end(parseException(msg))
	}
	return &Rows{s: s, stream: h}, nil
}

// Next returns the next chunk, which belongs to the caller, or io.EOF.
func (r *Rows) Next() ([]byte, error) {
	if r.err != nil {
		return nil, r.err
	}
	h := r.s.e.lib.streamFetch(r.s.conn.conn(), r.stream)
	b, stats, err := r.s.e.collect(h)
	if err != nil {
		r.err = r.s.cause(err)
		return nil, r.err
	}
	r.stats.add(stats)
	if len(b) == 0 {
		// An empty chunk is the end; it comes too when the statement was killed.
		if r.err = r.s.ctx.Err(); r.err == nil {
			r.err = io.EOF
		}
		return nil, r.err
	}
	return b, nil
}

// Stats returns the counts so far.
func (r *Rows) Stats() Stats { return r.stats }

// Close ends the statement, also in the midst of its result, and frees its connection. It may be called again.
func (r *Rows) Close() error {
	if r.stream == nil {
		return nil
	}
	if r.err != io.EOF {
		r.s.e.lib.streamCancel(r.s.conn.conn(), r.stream)
		// A killed stream stays in system.processes, with its locks on tables, until its connection does something else.
		r.s.keep = false
		r.err = errors.New("the result is closed")
	}
	r.s.e.lib.destroyResult(r.stream)
	r.stream = nil
	_ = r.s.end(nil) // Next has told what there was to tell
	return nil
}

// Insert runs an INSERT whose data, in the statement's format, is read from data to its end. Nothing is buffered
// beyond one chunk. If ctx ends, or data fails, the insert is cancelled; blocks that were written whole stay, as with
// any ClickHouse insert (one block holds up to a million rows).
func (e *Engine) Insert(ctx context.Context, r Request, data io.Reader) (Stats, error) {
	ins, ok := ParseInsert(r.SQL)
	if !ok {
		ins = InsertText{Statement: r.SQL}
	}
	if ins.Format != "" {
		r.Format = ins.Format
	}
	r.SQL = ins.Statement
	s, err := e.begin(ctx, r)
	if err != nil {
		return Stats{}, err
	}
	h := start(e.lib.insert, s.conn.conn(), s.sql, s.format, r.Params)
	if h == nil {
		return Stats{}, s.end(errors.New("libchdb made no insert stream"))
	}
	stats, err := e.feed(h, data)
	e.lib.insertDestroy(h)
	if err != nil {
		s.keep = false // as with a killed stream
	}
	return stats, s.end(err)
}

// insertChunk is how much data goes over in one call: large enough that the call does not count, small enough that
// many inserts at once stay small.
const insertChunk = 1 << 20

// feed copies data into an insert stream and finishes it.
func (e *Engine) feed(h unsafe.Pointer, data io.Reader) (Stats, error) {
	if msg := e.lib.insertError(h); msg != "" {
		return Stats{}, parseException(msg)
	}
	buf := make([]byte, insertChunk)
	for {
		n, err := fill(data, buf)
		if n > 0 && e.lib.insertAppend(h, unsafe.Pointer(&buf[0]), uintptr(n)) != 0 {
			msg := e.lib.insertError(h)
			return Stats{}, parseException(msg)
		}
		if err == io.EOF {
			break
		}
		if err != nil {
			e.lib.insertCancel(h)
			return Stats{}, err
		}
	}
	_, stats, err := e.collect(e.lib.insertDone(h))
	return stats, err
}

// fill reads until p is full or data ends. io.ReadFull would make one error of a short last chunk and of data that was
// cut off, such as an HTTP body; the second must not be taken for the end.
func fill(data io.Reader, p []byte) (n int, err error) {
	for n < len(p) && err == nil {
		var k int
		k, err = data.Read(p[n:])
		n += k
	}
	return n, err
}

// collect copies a result out of C and frees it.
func (e *Engine) collect(h unsafe.Pointer) ([]byte, Stats, error) {
	if h == nil {
		return nil, Stats{}, errors.New("libchdb gave no result")
	}
	defer e.lib.destroyResult(h)
	if msg := e.lib.resultError(h); msg != "" {
		return nil, Stats{}, parseException(msg)
	}
	stats := Stats{
		ResultRows: e.lib.resultRows(h), ResultBytes: e.lib.resultBytes(h),
		ReadRows: e.lib.resultReadRows(h), ReadBytes: e.lib.resultReadBytes(h),
		WrittenRows: e.lib.resultWrittenRows(h), WrittenBytes: e.lib.resultWritten(h),
		Elapsed: time.Duration(e.lib.resultElapsed(h) * float64(time.Second)),
	}
	n := e.lib.resultLength(h)
	if n == 0 {
		return nil, stats, nil
	}
	b := make([]byte, n)
	copy(b, unsafe.Slice((*byte)(e.lib.resultBuffer(h)), n))
	return b, stats, nil
}

// killEvery is how often a kill is repeated: the first may come before the statement has its place in
// system.processes.
const killEvery = 20 * time.Millisecond

// watch kills the statement with the tag when ctx ends. The returned func ends the watch and waits for it.
func (e *Engine) watch(ctx context.Context, tag string) (stop func()) {
	if ctx.Done() == nil {
		return func() {}
	}
	done := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		select {
		case <-done:
			return
		case <-ctx.Done():
		}
		tick := time.NewTicker(killEvery)
		defer tick.Stop()
		for {
			// SYNC would hang for ever. The text ends with the tag, this one's does not.
			e.kill.Lock()
			// A kill that fails is repeated, and the statement's own limits stand behind it.
			_ = e.run(e.killer, "KILL QUERY WHERE endsWith(query, '"+tag+"') ASYNC")
			e.kill.Unlock()
			select {
			case <-done:
				return
			case <-tick.C:
			}
		}
	})
	return func() {
		close(done)
		wg.Wait()
	}
}
