package embedded

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"strings"
	"time"

	"github.com/ClickHouse/ch-go/proto"

	"github.com/tailrace/tailrace/connectors/embedded/chwire"
)

// settingsBytes is what a query packet may hold beside its text: settings, parameters, who the client is.
const settingsBytes = 1 << 20

// query takes a query packet, runs it and answers. An error ends the connection.
func (c *nativeConn) query() error {
	c.in.Budget("bytes of a query", int64(c.srv.limits.QueryBytes)+settingsBytes)
	q, err := chwire.ReadQuery(c.in, c.revision)
	if err != nil {
		return c.failAndEnd(err)
	}
	c.blocks, c.compressed = c.in, q.Compressed
	if q.Compressed {
		c.blocks = chwire.NewFrameReader(c.in, int64(c.srv.limits.BlockBytes))
	}
	external, err := c.externalTables()
	if err != nil {
		return c.failAndEnd(err)
	}
	if len(q.Body) > int(c.srv.limits.QueryBytes) {
		return c.fail(&chwire.LimitError{What: "bytes of a query", Limit: int64(c.srv.limits.QueryBytes)})
	}
	if external != "" {
		return c.fail(exception(codeNotImplemented, "external table %s: not carried here; INSERT into a table instead", external))
	}
	st, err := parseStatement(q.Body)
	if err != nil {
		return c.fail(exception(codeSyntax, "%v", err))
	}
	req := request{
		SQL: st.sql, Database: c.database, Format: "Native", ReadOnly: c.readOnly,
		Settings: maps.Clone(c.settings), Params: map[string]string{},
	}
	for _, s := range q.Settings {
		req.Settings[s.Name] = s.Value
	}
	for _, p := range q.Parameters {
		req.Params[p.Name] = p.Value
	}
	switch st.kind {
	case selectStatement:
		return c.attend(func(ctx context.Context) error { return c.stream(ctx, req) })
	case blocksInsert:
		return c.insertBlocks(st, req)
	case inlineInsert:
		return c.attend(func(ctx context.Context) error { return c.insertInline(ctx, st, req) })
	case useStatement:
		return c.attend(func(ctx context.Context) error { return c.answer(ctx, c.useDatabase(ctx, st.database)) })
	case setStatement:
		return c.attend(func(ctx context.Context) error { return c.answer(ctx, c.set(ctx, st, req)) })
	}
	return c.attend(func(ctx context.Context) error { return c.run(ctx, st, req) })
}

// externalTables takes the data packets after a query, up to the empty one, and returns the name of the first table.
func (c *nativeConn) externalTables() (name string, err error) {
	for {
		code, err := c.nextPacket()
		if err != nil {
			return name, err
		}
		if code != chwire.ClientData {
			return name, exception(codeUnknownPacket, "want the data packet that ends a query, got packet %d", code)
		}
		table, b, err := c.readBlock(bufio.NewWriter(io.Discard))
		if err != nil || b.End() {
			return name, err
		}
		if name == "" {
			name = table
		}
	}
}

// answer ends a statement that has no result.
func (c *nativeConn) answer(ctx context.Context, err error) error {
	if err != nil {
		return c.fail(causeOf(ctx, err))
	}
	return c.send(func(b *proto.Buffer) { proto.ServerCodeEndOfStream.Encode(b) })
}

// set keeps settings for the connection: the engine's own connections are shared by all clients. It asks the engine
// whether it takes them.
func (c *nativeConn) set(ctx context.Context, st statement, req request) error {
	maps.Copy(req.Settings, st.settings)
	req.SQL = "SELECT 1"
	if _, _, err := c.srv.engine.Query(ctx, req); err != nil {
		return err
	}
	maps.Copy(c.settings, st.settings)
	return nil
}

// run runs a statement whose result is small or nothing.
func (c *nativeConn) run(ctx context.Context, st statement, req request) error {
	start := time.Now()
	result, stats, err := c.srv.engine.Query(ctx, req)
	if err != nil {
		return c.fail(causeOf(ctx, err))
	}
	out := resultWriter{c: c, start: start}
	if len(result) == 0 && st.kind == tableStatement {
		columns, err := c.namesAndTypes(ctx, req)
		if err != nil {
			return c.fail(causeOf(ctx, err))
		}
		if err := out.header(columns); err != nil {
			return err
		}
	}
	if err := out.blocks(result); err != nil {
		return c.resultFailed(err)
	}
	return out.end(stats)
}

// stream runs a SELECT and passes its blocks on as they come.
func (c *nativeConn) stream(ctx context.Context, req request) error {
	out := resultWriter{c: c, start: time.Now()}
	rows, err := c.srv.engine.Stream(ctx, req)
	if err != nil {
		return c.fail(causeOf(ctx, err))
	}
	for {
		chunk, err := rows.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return errors.Join(c.fail(causeOf(ctx, err)), rows.Close())
		}
		if err := out.blocks(chunk); err != nil {
			return errors.Join(c.resultFailed(err), rows.Close())
		}
	}
	if err := rows.Close(); err != nil {
		return c.fail(causeOf(ctx, err))
	}
	if !out.started { // the engine gives no block for no rows, but the client wants to know the columns
		columns, err := c.describe(ctx, req, strings.TrimRight(req.SQL, "; \t\r\n"))
		if err != nil {
			return c.fail(causeOf(ctx, err))
		}
		if err := out.header(columns); err != nil {
			return err
		}
	}
	return out.end(rows.Stats())
}

// resultFailed tells the client that a result cannot be sent, if the fault lies in the result and not in the connection.
func (c *nativeConn) resultFailed(err error) error {
	var sink *chwire.SinkError
	if errors.As(err, &sink) {
		return err
	}
	return c.fail(err)
}

// describe asks the engine for the columns of a SELECT.
func (c *nativeConn) describe(ctx context.Context, req request, sql string) ([]chwire.Column, error) {
	// The line break ends a comment in the text.
	req.SQL, req.Format = "DESCRIBE TABLE ("+sql+"\n)", "JSONCompactEachRow"
	result, _, err := c.srv.engine.Query(ctx, req)
	if err != nil {
		return nil, err
	}
	var columns []chwire.Column
	for d := json.NewDecoder(bytes.NewReader(result)); ; {
		var row []string // name, type, and more
		if err := d.Decode(&row); errors.Is(err, io.EOF) {
			return columns, nil
		} else if err != nil || len(row) < 2 {
			return nil, fmt.Errorf("describe: want [name, type, ...], got %q: %w", row, err)
		}
		columns = append(columns, chwire.Column{Name: row[0], Type: row[1]})
	}
}

// namesAndTypes runs a statement without side effects again for the two lines that a result without rows has, too.
func (c *nativeConn) namesAndTypes(ctx context.Context, req request) ([]chwire.Column, error) {
	req.Format = "JSONCompactEachRowWithNamesAndTypes"
	result, _, err := c.srv.engine.Query(ctx, req)
	if err != nil {
		return nil, err
	}
	var names, types []string
	d := json.NewDecoder(bytes.NewReader(result))
	if err := errors.Join(d.Decode(&names), d.Decode(&types)); err != nil {
		return nil, fmt.Errorf("names and types of a result: %w", err)
	}
	columns := make([]chwire.Column, min(len(names), len(types)))
	for i := range columns {
		columns[i] = chwire.Column{Name: names[i], Type: types[i]}
	}
	return columns, nil
}

// resultWriter sends the blocks of a result and what is said about them at its end.
type resultWriter struct {
	c       *nativeConn
	start   time.Time
	started bool // the header is sent
	sink    *bufio.Writer

	rows, count, bytes uint64
}

// resultLimits are none: the engine is trusted, and its memory is bounded.
var resultLimits = chwire.Limits{Columns: math.MaxInt64, Rows: math.MaxInt64}

// blocks sends the blocks in a piece of the engine's answer. The first piece is walked twice: its columns go first, as a
// block without rows, and a column that cannot be sent is found before a byte of it is.
func (w *resultWriter) blocks(chunk []byte) error {
	if len(chunk) == 0 {
		return nil
	}
	if !w.started {
		src := chwire.NewBytesReader(chunk)
		b, err := chwire.ReadBlock(src, engineRevision, resultLimits)
		if err != nil {
			return fmt.Errorf("result: %w", err)
		}
		columns, err := b.Copy(bufio.NewWriter(io.Discard), src, engineRevision, engineRevision)
		if err != nil {
			return fmt.Errorf("result: %w", err)
		}
		if err := w.header(columns); err != nil {
			return &chwire.SinkError{Err: err}
		}
	}
	for src := chwire.NewBytesReader(chunk); src.Buffered() > 0; {
		b, err := chwire.ReadBlock(src, engineRevision, resultLimits)
		if err != nil {
			return fmt.Errorf("result: %w", err)
		}
		err = w.packet(func(dst *bufio.Writer) error {
			if err := b.Start(dst, w.c.revision); err != nil {
				return err
			}
			_, err := b.Copy(dst, src, engineRevision, w.c.revision)
			return err
		})
		if err != nil { // a part of the packet is sent: nothing that follows would be understood
			return &chwire.SinkError{Err: err}
		}
		w.rows += b.Rows
		w.count++
	}
	w.bytes += uint64(len(chunk))
	return nil
}

func (w *resultWriter) header(columns []chwire.Column) error {
	w.started = true
	return w.packet(func(dst *bufio.Writer) error { return chwire.WriteHeader(dst, columns, w.c.revision) })
}

// packet sends a data packet with a block in it.
func (w *resultWriter) packet(block func(dst *bufio.Writer) error) error {
	c := w.c
	if err := c.put(func(b *proto.Buffer) {
		proto.ServerCodeData.Encode(b)
		b.PutString("") // the name of an external table
	}); err != nil {
		return err
	}
	dst := c.out
	if c.compressed {
		if w.sink == nil {
			w.sink = bufio.NewWriterSize(chwire.NewFrameWriter(c.out), chwire.FrameBytes)
		}
		dst = w.sink
	}
	if err := block(dst); err != nil {
		return err
	}
	if c.compressed {
		if err := dst.Flush(); err != nil {
			return err
		}
	}
	return c.out.Flush()
}

// end sends what was read and what was sent, and the end of the stream.
func (w *resultWriter) end(read stats) error {
	progress := proto.Progress{
		Rows: max(read.ReadRows, w.rows), Bytes: max(read.ReadBytes, w.bytes), ElapsedNs: uint64(time.Since(w.start)),
	}
	return w.c.send(func(b *proto.Buffer) {
		if w.started {
			proto.Profile{Rows: w.rows, Blocks: w.count, Bytes: w.bytes}.EncodeAware(b, w.c.revision)
		}
		proto.ServerCodeProgress.Encode(b)
		progress.EncodeAware(b, w.c.revision)
		proto.ServerCodeEndOfStream.Encode(b)
	})
}
