package embedded

import (
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/ClickHouse/ch-go"
	"github.com/ClickHouse/ch-go/proto"

	"github.com/tailrace/tailrace/connectors/embedded/chdb"
	"github.com/tailrace/tailrace/connectors/embedded/chwire"
)

// fakeEngine answers what every connection asks and leaves the rest to the test.
type fakeEngine struct {
	insert func(context.Context, chdb.Request, io.Reader) (chdb.Stats, error)
	chunks chan []any // of the streams to come: []byte or error each
}

func (f *fakeEngine) Version() string { return "26.7.2.1" }

func (f *fakeEngine) Query(_ context.Context, r chdb.Request) ([]byte, chdb.Stats, error) {
	switch {
	case strings.Contains(r.SQL, "timezone"):
		return []byte("UTC\n"), chdb.Stats{}, nil
	case strings.Contains(r.SQL, "system.databases"):
		return []byte("1\n"), chdb.Stats{}, nil
	case strings.HasPrefix(r.SQL, "DESCRIBE"):
		return []byte(`["a","UInt64",""]`), chdb.Stats{}, nil
	}
	return nil, chdb.Stats{}, nil
}

func (f *fakeEngine) Insert(ctx context.Context, r chdb.Request, data io.Reader) (chdb.Stats, error) {
	return f.insert(ctx, r, data)
}

func (f *fakeEngine) Stream(context.Context, chdb.Request) (rows, error) {
	return &fakeRows{chunks: <-f.chunks}, nil
}

type fakeRows struct{ chunks []any }

func (f *fakeRows) Next() ([]byte, error) {
	if len(f.chunks) == 0 {
		return nil, io.EOF
	}
	next := f.chunks[0]
	f.chunks = f.chunks[1:]
	if err, ok := next.(error); ok {
		return nil, err
	}
	return next.([]byte), nil
}

func (f *fakeRows) Stats() chdb.Stats { return chdb.Stats{} }
func (f *fakeRows) Close() error      { return nil }

// uint64Blocks is an INSERT of blocks with as many rows each.
func uint64Blocks(blocks, rows int) ch.Query {
	var a proto.ColUInt64
	for i := range rows {
		a.Append(uint64(i))
	}
	in := proto.Input{{Name: "a", Data: &a}}
	sent := 0
	return ch.Query{Body: in.Into("t"), Input: in, OnInput: func(context.Context) error {
		if sent++; sent >= blocks {
			a.Reset()
			return io.EOF
		}
		return nil
	}}
}

// Scenario: the engine takes all data of an INSERT and acknowledges only when the test lets it.
// Guarantees: the client hears of the end after that, and every block came as the engine reads them, in one stream.
func TestNativeAcknowledgesAfterTheEngine(t *testing.T) {
	read, acknowledge := make(chan int, 1), make(chan struct{})
	var acknowledged atomic.Bool
	addr := serveNative(t, &fakeEngine{insert: func(_ context.Context, r chdb.Request, data io.Reader) (chdb.Stats, error) {
		b, err := io.ReadAll(data)
		read <- len(b)
		<-acknowledge
		acknowledged.Store(true)
		return chdb.Stats{}, errors.Join(err, wantSQL(r, "INSERT INTO \"t\" (\"a\")\nFORMAT Native"))
	}}, NativeLimits{})
	client := dialCh(t, addr, ch.CompressionLZ4)
	done := make(chan error, 1)
	go func() {
		err := client.Do(t.Context(), uint64Blocks(7, 10_000))
		if !acknowledged.Load() {
			err = errors.Join(err, errors.New("the client was told before the engine had acknowledged"))
		}
		done <- err
	}()
	// A block: 1 column, 10000 rows (2 bytes), "a", "UInt64", 8 bytes a row.
	if got, want := <-read, 7*(1+2+2+7+80_000); got != want {
		t.Errorf("want %d bytes, got %d", want, got)
	}
	close(acknowledge)
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func wantSQL(r chdb.Request, want string) error {
	if r.SQL != want {
		return errors.New("want " + want + ", got " + r.SQL)
	}
	return nil
}

// Scenario: the engine refuses an INSERT without reading it, in the midst of it, and at its end; then it ends well before
// its data.
// Guarantees: the client gets that exception, or one if there was none, and the connection takes the next INSERT.
func TestNativeInsertThatTheEngineEnds(t *testing.T) {
	full := &chdb.Exception{Code: 243, Name: "NOT_ENOUGH_SPACE", Message: "full"}
	type plan struct {
		take   int64
		result error
	}
	plans := make(chan plan, 2) // of the INSERTs to come
	addr := serveNative(t, &fakeEngine{insert: func(_ context.Context, _ chdb.Request, data io.Reader) (chdb.Stats, error) {
		p := <-plans
		if _, err := io.CopyN(io.Discard, data, p.take); err != nil && err != io.EOF {
			return chdb.Stats{}, err
		}
		return chdb.Stats{}, p.result
	}}, NativeLimits{})
	client := dialCh(t, addr, ch.CompressionDisabled)
	for name, c := range map[string]struct {
		plan
		code int
	}{
		"at once":         {plan{0, full}, 243},
		"in the midst":    {plan{300_000, full}, 243},
		"at the end":      {plan{1 << 40, full}, 243},
		"without a word":  {plan{100, nil}, codeUnknown},
		"of another kind": {plan{100, errors.New("disk gone")}, codeUnknown},
	} {
		plans <- c.plan
		wantCode(t, name, c.code, client.Do(t.Context(), uint64Blocks(20, 50_000)))
		plans <- plan{1 << 40, nil}
		if err := client.Do(t.Context(), uint64Blocks(2, 10)); err != nil {
			t.Errorf("%s: the next INSERT: %v", name, err)
		}
	}
}

// Scenario: a client is gone in the midst of a block, between two blocks, and sends a block that is broken or too large.
// Guarantees: the engine's side of the INSERT sees an error and never an end of its data, so that nothing is committed.
func TestNativeNeverEndsAnInsertThatWasCutOff(t *testing.T) {
	seen := make(chan error, 1)
	addr := serveNative(t, &fakeEngine{insert: func(_ context.Context, _ chdb.Request, data io.Reader) (chdb.Stats, error) {
		_, err := io.Copy(io.Discard, data)
		seen <- err
		return chdb.Stats{}, err
	}}, NativeLimits{BlockBytes: 1 << 20, BlockRows: 100_000})
	var query, block proto.Buffer
	proto.ClientHello{Name: "x", ProtocolVersion: chwire.Revision, User: "writer", Password: "w"}.Encode(&query)
	query.PutString("") // addendum
	proto.Query{Body: "INSERT INTO t VALUES", Info: proto.ClientInfo{Interface: proto.InterfaceTCP, Query: proto.ClientQueryInitial}}.
		EncodeAware(&query, chwire.Revision)
	data := func(b *proto.Buffer, columns, rows int, values []byte) {
		proto.ClientCodeData.Encode(b)
		b.PutString("")
		proto.Block{Info: proto.BlockInfo{BucketNum: -1}, Columns: columns, Rows: rows}.EncodeAware(b, chwire.Revision)
		if columns > 0 {
			b.PutString("a")
			b.PutString("UInt64")
			b.PutBool(false)
			b.PutRaw(values)
		}
	}
	data(&query, 0, 0, nil) // no external tables
	data(&block, 1, 50_000, make([]byte, 400_000))
	for name, sent := range map[string]func() []byte{
		"in the midst of a block": func() []byte { return append(block.Buf, block.Buf[:300_000]...) },
		"between two blocks":      func() []byte { return append(block.Buf, block.Buf...) },
		"a packet that is none":   func() []byte { return append(block.Buf, 77) },
		"a type that is none": func() []byte {
			var b proto.Buffer
			data(&b, 1, 0, nil)
			return append(block.Buf, strings.Replace(string(b.Buf), "UInt64", "UInt65", 1)...)
		},
		"a block over the limit of rows": func() []byte {
			var b proto.Buffer
			data(&b, 1, 100_001, nil)
			return append(block.Buf, b.Buf...)
		},
		"a block over the limit of bytes": func() []byte {
			var b proto.Buffer
			data(&b, 1, 90_000, nil)
			b.Buf = []byte(strings.Replace(string(b.Buf), "\x06UInt64", "\x07UInt128", 1))
			return append(block.Buf, b.Buf...)
		},
	} {
		nc, err := net.Dial("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := nc.Write(append(query.Buf[:len(query.Buf):len(query.Buf)], sent()...)); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if err := nc.(*net.TCPConn).CloseWrite(); err != nil {
			t.Fatal(err)
		}
		if _, err := io.Copy(io.Discard, nc); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		nc.Close()
		if err := <-seen; err == nil || err == io.ErrUnexpectedEOF {
			t.Errorf("%s: want an error, got %v", name, err)
		}
	}
}

// Scenario: an INSERT without rows.
// Guarantees: it ends well and the engine never hears of it.
func TestNativeInsertOfNothing(t *testing.T) {
	addr := serveNative(t, &fakeEngine{insert: func(context.Context, chdb.Request, io.Reader) (chdb.Stats, error) {
		return chdb.Stats{}, errors.New("called")
	}}, NativeLimits{})
	client := dialCh(t, addr, ch.CompressionZSTD)
	q := uint64Blocks(1, 0)
	q.OnInput = func(context.Context) error { return io.EOF }
	if err := client.Do(t.Context(), q); err != nil {
		t.Error(err)
	}
}

// Scenario: a stream that fails after a block, one whose bytes are no block, one with a type that cannot be carried.
// Guarantees: the client gets an exception, and where nothing was sent by half the connection goes on.
func TestNativeResultThatFails(t *testing.T) {
	block := []byte{1, 1, 1, 'a', 5, 'U', 'I', 'n', 't', '8', 7}
	e := &fakeEngine{chunks: make(chan []any, 1)}
	addr := serveNative(t, e, NativeLimits{})
	client := dialCh(t, addr, ch.CompressionLZ4)
	for name, c := range map[string]struct {
		chunks []any
		code   int
	}{
		"after a block": {[]any{block, block, &chdb.Exception{Code: 241, Message: "memory"}}, 241},
		"no block":      {[]any{[]byte("garbage")}, codeUnknown},
		"cut off":       {[]any{block[:9]}, codeUnknown},
		"JSON":          {[]any{[]byte{1, 1, 1, 'a', 4, 'J', 'S', 'O', 'N', 0}}, codeNotImplemented},
	} {
		e.chunks <- c.chunks
		var a proto.ColUInt8
		err := client.Do(t.Context(), ch.Query{Body: "SELECT a", Result: proto.Results{{Name: "a", Data: &a}},
			OnResult: func(context.Context, proto.Block) error { return nil }})
		wantCode(t, name, c.code, err)
		if err := client.Ping(t.Context()); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
	}
}
