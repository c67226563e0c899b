package chwire

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"slices"
	"strings"
	"testing"

	"github.com/ClickHouse/ch-go/compress"
	chproto "github.com/ClickHouse/ch-go/proto"
	"go.opentelemetry.io/otel/trace"
)

// Scenario: a query packet of ch-go with a trace, settings and parameters, in each revision at which the layout changed.
// Guarantees: what was said comes out, and nothing of the packet is left.
func TestReadQueryInEveryRevision(t *testing.T) {
	for _, revision := range []int{
		OldestRevision, revisionInterserverSecret, revisionOpenTelemetry, revisionDistributedDepth, revisionQueryStartTime,
		revisionParallelReplicas, revisionAddendum, revisionParameters, Revision,
	} {
		var b chproto.Buffer
		chproto.Query{
			ID: "id", Body: "SELECT {p:String}", Secret: "s", Stage: chproto.StageComplete, Compression: chproto.CompressionEnabled,
			Info: chproto.ClientInfo{
				Interface: chproto.InterfaceTCP, Query: chproto.ClientQueryInitial, InitialUser: "u", ClientName: "n", QuotaKey: "q",
				Span: trace.NewSpanContext(trace.SpanContextConfig{TraceID: trace.TraceID{1}, SpanID: trace.SpanID{2}}),
			},
			Settings:   []chproto.Setting{{Key: "max_threads", Value: "3", Important: true}, {Key: "custom_x", Value: `'a\'\n\\b'`, Custom: true}},
			Parameters: []chproto.Parameter{{Key: "p", Value: `'tab\\there'`}},
		}.EncodeAware(&b, revision)
		r := NewBytesReader(b.Buf[1:])
		q, err := ReadQuery(r, revision)
		if err != nil {
			t.Fatalf("%d: %v", revision, err)
		}
		if q.ID != "id" || q.Body != "SELECT {p:String}" || !q.Compressed || r.Buffered() != 0 ||
			!slices.Equal(q.Settings, []Setting{{"max_threads", "3"}, {"custom_x", "a'\n\\b"}}) {
			t.Errorf("%d: got %+v, %d bytes left", revision, q, r.Buffered())
		}
		if revision >= revisionParameters && !slices.Equal(q.Parameters, []Setting{{"p", `tab\there`}}) {
			t.Errorf("%d: got %+v", revision, q.Parameters)
		}
		for cut := range len(b.Buf) - 1 {
			if _, err := ReadQuery(NewBytesReader(b.Buf[1:1+cut]), revision); err == nil {
				t.Errorf("%d: cut at %d: want an error, got none", revision, cut)
			}
		}
	}
}

// Scenario: a query with more settings than any server has, one over HTTP, and a hello over its budget.
// Guarantees: each is refused.
func TestPacketsAreBounded(t *testing.T) {
	var b chproto.Buffer
	settings := make([]chproto.Setting, maxSettings+1)
	for i := range settings {
		settings[i] = chproto.Setting{Key: "a", Value: "1"}
	}
	info := chproto.ClientInfo{Interface: chproto.InterfaceTCP, Query: chproto.ClientQueryInitial}
	chproto.Query{Settings: settings, Info: info}.EncodeAware(&b, Revision)
	var limit *LimitError
	if _, err := ReadQuery(NewBytesReader(b.Buf[1:]), Revision); !errors.As(err, &limit) || limit.Limit != maxSettings {
		t.Errorf("settings: want a limit of %d, got %v", maxSettings, err)
	}
	b.Reset()
	info.Interface = chproto.InterfaceHTTP
	chproto.Query{Info: info}.EncodeAware(&b, Revision)
	if _, err := ReadQuery(NewBytesReader(b.Buf[1:]), Revision); err == nil {
		t.Error("interface HTTP: want an error, got none")
	}
	b.Reset()
	chproto.ClientHello{Password: strings.Repeat("x", HelloBytes)}.Encode(&b)
	if _, err := ReadHello(NewReader(bytes.NewReader(b.Buf), 512)); !errors.As(err, &limit) || limit.Limit != HelloBytes {
		t.Errorf("hello: want a limit of %d, got %v", HelloBytes, err)
	}
}

// Scenario: frames of every method, read back to back with what follows them; frames over the limit; a frame with a
// wrong checksum.
// Guarantees: the bytes come out, what follows stays for the next packet, and a frame's sizes are refused before memory
// is taken for them.
func TestFrames(t *testing.T) {
	data := bytes.Repeat([]byte("0123456789abcdef"), 1000)
	for _, method := range []compress.Method{compress.None, compress.LZ4, compress.LZ4HC, compress.ZSTD} {
		w := compress.NewWriter(compress.LevelZero, method)
		var wire []byte
		for _, part := range [][]byte{data[:7], data[7:]} {
			if err := w.Compress(part); err != nil {
				t.Fatal(err)
			}
			wire = append(wire, w.Data...)
		}
		raw := NewReader(bytes.NewReader(append(slices.Clone(wire), "next"...)), 100)
		frames := NewFrameReader(raw, int64(len(data)+100))
		frames.Budget("data", int64(len(data)))
		got := make([]byte, len(data))
		if err := frames.Full(got); err != nil || !bytes.Equal(got, data) {
			t.Errorf("%s: want the data, got %d bytes, %v", method, len(got), err)
		}
		if rest, err := io.ReadAll(raw); err != nil || string(rest) != "next" {
			t.Errorf("%s: want what follows, got %q, %v", method, rest, err)
		}
		var limit *LimitError
		small := NewFrameReader(NewReader(bytes.NewReader(wire), 100), 6)
		small.Budget("data", 100)
		if _, err := small.Byte(); !errors.As(err, &limit) {
			t.Errorf("%s: want a LimitError, got %v", method, err)
		}
		wire[0] ^= 1
		broken := NewFrameReader(NewReader(bytes.NewReader(wire), 100), 1<<20)
		broken.Budget("data", 100)
		if _, err := broken.Byte(); err == nil {
			t.Errorf("%s: wrong checksum: want an error, got none", method)
		}
	}
	var out bytes.Buffer
	dst := bufio.NewWriter(&out)
	big := bytes.Repeat(data, 80) // more than a frame
	if _, err := NewFrameWriter(dst).Write(big); err != nil {
		t.Fatal(err)
	}
	if err := dst.Flush(); err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(io.LimitReader(compress.NewReader(&out), int64(len(big)))); err != nil || !bytes.Equal(got, big) {
		t.Errorf("frames written: want the data back, got %d bytes, %v", len(got), err)
	}
}
