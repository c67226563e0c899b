package embedded

import (
	"bufio"
	"context"
	"errors"
	"io"
	"strings"
	"time"

	"github.com/ClickHouse/ch-go/proto"

	"github.com/tailrace/tailrace/connectors/embedded/chwire"
)

// feedBuffer is how much of an INSERT's blocks lies between a client and the engine.
const feedBuffer = 256 << 10

// insertBlocks runs an INSERT whose rows come as data packets. All of them are one stream to the engine: it decides what
// becomes a part, and the client hears of the end when the engine has acknowledged.
func (c *nativeConn) insertBlocks(st statement, req request) error {
	if c.readOnly {
		return c.fail(errReaderInsert())
	}
	start := time.Now()
	columns, err := c.insertColumns(st, req)
	if err != nil {
		return c.fail(err)
	}
	out := resultWriter{c: c, start: start}
	if err := out.header(columns); err != nil {
		return err
	}
	req.SQL = st.sql + "\nFORMAT Native"
	f := &feed{engine: c.srv.engine, req: req}
	dst := bufio.NewWriterSize(f, feedBuffer)
	for {
		code, err := c.nextPacket()
		if err != nil {
			f.abort(errClientGone)
			return err
		}
		switch code {
		case chwire.ClientData:
		case chwire.ClientCancel:
			f.abort(errCancelled)
			return c.fail(errCancelled)
		default:
			f.abort(errClientGone)
			return c.unexpected(code)
		}
		f.open(c.srv.ctx)
		_, b, err := c.readBlock(dst)
		if err != nil {
			f.abort(err)
			return c.failAndEnd(err)
		}
		if err := f.failed; err != nil {
			return c.fail(errors.Join(err, f.finish(c.srv.ctx)))
		}
		if b.End() {
			break
		}
	}
	return c.attend(func(ctx context.Context) error {
		if err := f.finish(ctx); err != nil {
			return c.fail(causeOf(ctx, err))
		}
		return c.inserted(start, f.stats)
	})
}

// insertInline runs an INSERT with its rows in the text.
func (c *nativeConn) insertInline(ctx context.Context, st statement, req request) error {
	if c.readOnly {
		return c.fail(errReaderInsert())
	}
	start := time.Now()
	req.SQL, req.Format = st.sql+"\nFORMAT "+st.format, st.format
	stats, err := c.srv.engine.Insert(ctx, req, strings.NewReader(st.data))
	if err != nil {
		return c.fail(causeOf(ctx, err))
	}
	return c.inserted(start, stats)
}

func (c *nativeConn) inserted(start time.Time, s stats) error {
	progress := proto.Progress{WroteRows: s.WrittenRows, WroteBytes: s.WrittenBytes, ElapsedNs: uint64(time.Since(start))}
	return c.send(func(b *proto.Buffer) {
		proto.ServerCodeProgress.Encode(b)
		progress.EncodeAware(b, c.revision)
		proto.ServerCodeEndOfStream.Encode(b)
	})
}

// insertColumns asks the engine for the columns that an INSERT fills, and refuses those that a block cannot bring.
func (c *nativeConn) insertColumns(st statement, req request) ([]chwire.Column, error) {
	which := st.columns
	if which == "" {
		which = "*"
	}
	req.Settings, req.Params = nil, nil // they are the INSERT's
	columns, err := c.describe(c.srv.ctx, req, "SELECT "+which+" FROM "+withoutFunction(st.table))
	if err != nil {
		return nil, err
	}
	for _, column := range columns {
		if err := chwire.Known(column.Type); err != nil {
			return nil, exception(codeNotImplemented, "column %s: %v", column.Name, err)
		}
	}
	return columns, nil
}

// withoutFunction is a table function as FROM wants it.
func withoutFunction(table string) string {
	if len(table) > 9 && strings.EqualFold(table[:9], "FUNCTION ") {
		return table[9:]
	}
	return table
}

// feed carries an INSERT's blocks to the engine. The engine's side starts with the first byte, so that an INSERT that a
// client keeps open without rows holds nothing there. A write never fails: when the engine has given up, the rest of the
// block must still be taken off the connection, and failed says so.
type feed struct {
	engine engine
	req    request

	ctx    context.Context
	cancel context.CancelFunc
	pipe   *io.PipeWriter // nil: not started
	done   chan struct{}
	stats  stats // valid after done
	err    error // valid after done

	failed error // the engine ended before the stream did
}

var errFeedEnded = errors.New("the engine ended the INSERT before its data did")

// open gives the feed the context that its engine side will run under.
func (f *feed) open(ctx context.Context) {
	if f.ctx == nil {
		f.ctx, f.cancel = context.WithCancel(ctx)
	}
}

func (f *feed) Write(p []byte) (int, error) {
	if f.failed != nil {
		return len(p), nil
	}
	if f.pipe == nil {
		r, w := io.Pipe()
		f.pipe, f.done = w, make(chan struct{})
		go func() {
			defer close(f.done)
			f.stats, f.err = f.engine.Insert(f.ctx, f.req, r)
			r.CloseWithError(errFeedEnded)
		}()
	}
	if _, err := f.pipe.Write(p); err != nil {
		f.failed = err
	}
	return len(p), nil
}

// finish ends the stream and waits for the engine's acknowledgement. When ctx ends, so does the engine's side.
func (f *feed) finish(ctx context.Context) error {
	if f.pipe == nil {
		f.abort(nil)
		return nil
	}
	defer f.cancel()
	f.pipe.Close()
	stop := context.AfterFunc(ctx, f.cancel)
	defer stop()
	<-f.done
	if f.err == nil && f.failed != nil {
		return errFeedEnded
	}
	return f.err
}

// abort ends the stream with an error, so that the engine keeps nothing of what it has not made a part of yet, and waits.
func (f *feed) abort(err error) {
	if f.cancel != nil {
		f.cancel()
	}
	if f.pipe != nil {
		f.pipe.CloseWithError(err)
		<-f.done
	}
}
