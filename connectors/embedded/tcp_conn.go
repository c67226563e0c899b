package embedded

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"time"

	"github.com/ClickHouse/ch-go/proto"

	"github.com/tailrace/tailrace/connectors/embedded/chwire"
)

// nativeConn is one client's connection. Its goroutine is the only reader; the writer is this goroutine too, or the one
// that runs a statement for it (attend), never both.
type nativeConn struct {
	srv *nativeServer
	nc  *timedConn
	in  *chwire.Reader
	out *bufio.Writer

	revision int
	readOnly bool
	database string
	settings map[string]string // of SET

	blocks     *chwire.Reader // where the blocks of the last query come from: in, or the frames in it
	compressed bool           // the blocks of the last query are in frames
}

const connBuffer = 64 << 10

func newNativeConn(s *nativeServer, nc net.Conn) *nativeConn {
	timed := &timedConn{Conn: nc, write: s.limits.TransferTimeout}
	return &nativeConn{
		srv: s, nc: timed, in: chwire.NewReader(timed, connBuffer), out: bufio.NewWriterSize(timed, connBuffer),
		settings: map[string]string{},
	}
}

// serve runs a connection to its end. Its error is io.EOF when the client left between packets.
func (c *nativeConn) serve(overLimit bool) error {
	if err := c.handshake(overLimit); err != nil {
		return err
	}
	for {
		code, err := c.nextPacket()
		if err != nil {
			return err
		}
		switch code {
		case chwire.ClientPing:
			err = c.send(func(b *proto.Buffer) { proto.ServerCodePong.Encode(b) })
		case chwire.ClientQuery:
			err = c.query()
		case chwire.ClientData:
			// What was under way when an INSERT failed: the client did not know yet.
			_, _, err = c.readBlock(bufio.NewWriter(io.Discard))
		case chwire.ClientCancel:
			// The statement ended before the packet came.
		default:
			err = c.unexpected(code)
		}
		if err != nil {
			return err
		}
	}
}

// nextPacket waits for a packet and takes its code.
func (c *nativeConn) nextPacket() (byte, error) {
	c.nc.read = c.srv.limits.IdleTimeout
	if _, err := c.in.Peek(); err != nil {
		return 0, err
	}
	c.nc.read = c.srv.limits.TransferTimeout
	c.in.Budget("packet code", 1)
	return c.in.Byte()
}

// unexpected tells the client and returns an error that ends the connection: where the next packet starts is unknown.
func (c *nativeConn) unexpected(code byte) error {
	return c.failAndEnd(exception(codeUnknownPacket, "unexpected packet %d from client", code))
}

func (c *nativeConn) failAndEnd(err error) error {
	return errors.Join(err, c.fail(err))
}

// handshake logs the client in.
func (c *nativeConn) handshake(overLimit bool) error {
	s := c.srv
	if err := c.nc.SetReadDeadline(time.Now().Add(s.limits.HandshakeTimeout)); err != nil {
		return err
	}
	if first, err := c.in.Peek(); err != nil {
		return err
	} else if first != chwire.ClientHello {
		return c.refuse(first)
	}
	hello, err := chwire.ReadHello(c.in)
	if err != nil {
		return c.failAndEnd(err)
	}
	if overLimit {
		return c.failAndEnd(exception(codeTooManyQueries, "too many connections: the limit is %d", s.limits.Connections))
	}
	if hello.Revision < chwire.OldestRevision {
		return c.failAndEnd(exception(codeNotImplemented, "the client speaks revision %d; this server needs %d or later",
			hello.Revision, chwire.OldestRevision))
	}
	c.revision = int(min(hello.Revision, chwire.Revision))
	user := hello.User
	if user == "" {
		user = "default"
	}
	if c.readOnly, err = s.login(user, hello.Password); err != nil {
		return c.failAndEnd(err)
	}
	ctx, cancel := context.WithTimeout(s.ctx, s.limits.HandshakeTimeout)
	defer cancel()
	if err := c.useDatabase(ctx, hello.Database); err != nil {
		return c.failAndEnd(err)
	}
	answer := proto.ServerHello{
		Name: "ClickHouse", Major: int(s.version[0]), Minor: int(s.version[1]), Patch: int(s.version[2]),
		Revision: chwire.Revision, Timezone: s.timezone, DisplayName: "tailrace",
	}
	if err := c.send(func(b *proto.Buffer) { answer.EncodeAware(b, c.revision) }); err != nil {
		return err
	}
	return chwire.ReadAddendum(c.in, c.revision)
}

// refuse answers one who does not speak the protocol. HTTP starts with a capital letter.
func (c *nativeConn) refuse(first byte) error {
	if first >= 'A' && first <= 'Z' {
		const text = "This port speaks ClickHouse's native protocol. Use the HTTP port.\n"
		fmt.Fprintf(c.out, "HTTP/1.0 400 Bad Request\r\nContent-Type: text/plain\r\nContent-Length: %d\r\n\r\n%s", len(text), text)
		return errors.Join(errors.New("an HTTP request on the native port"), c.out.Flush())
	}
	return c.failAndEnd(exception(codeUnknownPacket, "want a hello, got packet %d", first))
}

// useDatabase makes name, or default, the connection's database.
func (c *nativeConn) useDatabase(ctx context.Context, name string) error {
	if name == "" {
		name = "default"
	}
	found, _, err := c.srv.engine.Query(ctx, request{
		SQL:    "SELECT count() FROM system.databases WHERE name = {name:String}",
		Params: map[string]string{"name": escapeParam(name)}, Format: "TabSeparated", ReadOnly: true,
	})
	if err != nil {
		return err
	}
	if strings.TrimSpace(string(found)) != "1" {
		return exception(codeUnknownDatabase, "Database %s does not exist", name)
	}
	c.database = name
	return nil
}

// escapeParam writes a parameter's value as the engine reads it: escaped as in a tab-separated file.
func escapeParam(s string) string {
	return strings.NewReplacer(`\`, `\\`, "\t", `\t`, "\n", `\n`, "\r", `\r`, "\x00", `\0`).Replace(s)
}

// readBlock takes the rest of a data packet: the name of an external table, and a block, which goes to dst as the engine
// reads it. The block that ends a stream of blocks writes nothing.
func (c *nativeConn) readBlock(dst *bufio.Writer) (table string, b chwire.Block, err error) {
	limit := int64(c.srv.limits.BlockBytes)
	c.in.Budget("bytes of a block", limit)
	if c.blocks == nil {
		return "", b, c.unexpected(chwire.ClientData)
	}
	if table, err = c.in.String(); err != nil {
		return table, b, fmt.Errorf("data packet: table name: %w", err)
	}
	c.blocks.Budget("bytes of a block", limit)
	b, err = chwire.ReadBlock(c.blocks, c.revision, chwire.Limits{
		Columns: uint64(c.srv.limits.BlockColumns), Rows: uint64(c.srv.limits.BlockRows),
	})
	if err != nil {
		return table, b, fmt.Errorf("data packet: %w", err)
	}
	if b.End() {
		return table, b, nil
	}
	if b.Rows == 0 {
		dst = bufio.NewWriter(io.Discard) // columns alone are no data, and no end either
	}
	if err := b.Start(dst, engineRevision); err != nil {
		return table, b, err
	}
	if _, err := b.Copy(dst, c.blocks, c.revision, engineRevision); err != nil {
		return table, b, fmt.Errorf("data packet: %w", err)
	}
	return table, b, dst.Flush()
}

// engineRevision is the revision of the Native format without a protocol around it.
const engineRevision = 0

// attend runs a statement on a goroutine of its own and watches the connection meanwhile: a cancel packet, or a client
// that is gone, ends the statement. The statement writes its answer itself; the error is one of writing.
func (c *nativeConn) attend(run func(ctx context.Context) error) error {
	ctx, cancel := context.WithCancelCause(c.srv.ctx)
	defer cancel(nil)
	if err := c.nc.SetReadDeadline(time.Time{}); err != nil {
		return err
	}
	c.nc.read = 0
	done := make(chan error, 1)
	go func() {
		err := run(ctx)
		// From here on the connection is idle, though the watch below may still wait in a read.
		done <- errors.Join(err, c.nc.SetReadDeadline(time.Now().Add(c.srv.limits.IdleTimeout)))
	}()
	for {
		code, err := c.in.Peek()
		if err != nil {
			cancel(errClientGone)
			c.nc.Close() // a write to a client that does not read ends too
			<-done
			return err
		}
		switch code {
		case chwire.ClientQuery, chwire.ClientPing, chwire.ClientData:
			return <-done // the client has its answer, or waits for it before it goes on
		case chwire.ClientCancel:
			c.in.Budget("packet code", 1)
			if _, err := c.in.Byte(); err != nil {
				return errors.Join(err, <-done)
			}
			cancel(errCancelled)
		default:
			// ch-go v0.74.0 sends a zero byte before its cancel packet, and closes after it (cancelQuery in query.go).
			cancel(errCancelled)
			return errors.Join(fmt.Errorf("packet %d while a statement runs", code), <-done)
		}
	}
}

var (
	errCancelled  = errors.New("the client cancelled the query")
	errClientGone = errors.New("the client closed the connection")
)

// send writes a packet and flushes.
func (c *nativeConn) send(encode func(*proto.Buffer)) error {
	if err := c.put(encode); err != nil {
		return err
	}
	return c.out.Flush()
}

func (c *nativeConn) put(encode func(*proto.Buffer)) error {
	var b proto.Buffer
	encode(&b)
	_, err := c.out.Write(b.Buf)
	return err
}

// fail tells the client what went wrong. Its own error is one of writing.
func (c *nativeConn) fail(err error) error {
	e := exceptionOf(err)
	return c.send(func(b *proto.Buffer) {
		proto.ServerCodeException.Encode(b)
		e.EncodeAware(b, c.revision)
	})
}
