package chwire

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"math"
	"strings"
	"testing"
	"time"

	chproto "github.com/ClickHouse/ch-go/proto"
	"github.com/ClickHouse/clickhouse-go/v2/lib/proto"
	"pgregory.net/rapid"
)

var anyLimits = Limits{Columns: math.MaxInt64, Rows: math.MaxInt64}

// copyBlock copies one block as the server does, with a source that gives at most step bytes at a time.
func copyBlock(block []byte, from, to, step int) ([]byte, []Column, error) {
	var out bytes.Buffer
	dst := bufio.NewWriterSize(&out, 64)
	src := NewReader(&steps{b: block, step: step}, 128)
	src.Budget("block", int64(len(block)))
	b, err := ReadBlock(src, from, anyLimits)
	if err != nil {
		return nil, nil, err
	}
	if err := b.Start(dst, to); err != nil {
		return nil, nil, err
	}
	columns, err := b.Copy(dst, src, from, to)
	if err != nil {
		return nil, nil, err
	}
	if src.left != 0 {
		return nil, nil, fmt.Errorf("%d bytes of the block were not taken", src.left)
	}
	if err := dst.Flush(); err != nil {
		return nil, nil, err
	}
	return out.Bytes(), columns, nil
}

type steps struct {
	b    []byte
	step int
}

func (s *steps) Read(p []byte) (int, error) {
	if len(s.b) == 0 {
		return 0, io.EOF
	}
	n := copy(p[:min(len(p), s.step)], s.b)
	s.b = s.b[n:]
	return n, nil
}

// drawn makes a value of a type for clickhouse-go.
var drawn = map[string]*rapid.Generator[any]{
	"UInt8":                                rapid.Uint8().AsAny(),
	"UInt16":                               rapid.Uint16().AsAny(),
	"UInt64":                               rapid.Uint64().AsAny(),
	"Int32":                                rapid.Int32().AsAny(),
	"Int64":                                rapid.Int64().AsAny(),
	"Float32":                              rapid.Float32().AsAny(),
	"Float64":                              rapid.Float64().AsAny(),
	"Bool":                                 rapid.Bool().AsAny(),
	"String":                               rapid.StringN(-1, -1, 300).AsAny(),
	"FixedString(3)":                       rapid.StringMatching(`[a-z]{3}`).AsAny(),
	"LowCardinality(String)":               rapid.StringN(0, 3, 3).AsAny(),
	"LowCardinality(Nullable(String))":     rapid.Ptr(rapid.StringN(0, 3, 3), true).AsAny(),
	"Nullable(Float64)":                    rapid.Ptr(rapid.Float64(), true).AsAny(),
	"Nullable(String)":                     rapid.Ptr(rapid.String(), true).AsAny(),
	"DateTime64(6, 'UTC')":                 drawTime(),
	"DateTime('Europe/Berlin')":            drawTime(),
	"Date":                                 drawTime(),
	"UUID":                                 rapid.SampledFrom([]any{"00112233-4455-6677-8899-aabbccddeeff"}),
	"Enum8('on' = 1, 'a (b), \\'c' = 2)":   rapid.SampledFrom([]any{"on"}),
	"Array(String)":                        rapid.SliceOfN(rapid.String(), 0, 4).AsAny(),
	"Array(Array(UInt8))":                  rapid.SliceOfN(rapid.SliceOfN(rapid.Uint8(), 0, 3), 0, 3).AsAny(),
	"Array(LowCardinality(String))":        rapid.SliceOfN(rapid.StringN(0, 2, 2), 0, 4).AsAny(),
	"Array(Nullable(Int64))":               rapid.SliceOfN(rapid.Ptr(rapid.Int64(), true), 0, 4).AsAny(),
	"Map(String, UInt64)":                  rapid.MapOfN(rapid.String(), rapid.Uint64(), 0, 1).AsAny(),
	"Map(LowCardinality(String), Float32)": rapid.MapOfN(rapid.StringN(0, 2, 2), rapid.Float32(), 0, 1).AsAny(),
	"Tuple(a UInt8, `b_c` LowCardinality(String))": rapid.Map(rapid.Uint8(), func(v uint8) any { return []any{v, fmt.Sprint(v % 3)} }),
	"SimpleAggregateFunction(sum, UInt64)":         rapid.Uint64().AsAny(),
}

func drawTime() *rapid.Generator[any] {
	return rapid.Map(rapid.Int64Range(0, 4e9), func(s int64) any { return time.Unix(s, 0).UTC() })
}

// Scenario: blocks of one to four columns of drawn types and values, encoded by clickhouse-go in the revision of the
// protocol and in revision 0, from a source that gives a few bytes at a time.
// Guarantees: the copy from either revision to the other is what clickhouse-go encodes, byte for byte.
func TestCopyIsWhatClickhouseGoEncodes(t *testing.T) {
	var types []string
	for typ := range drawn {
		types = append(types, typ)
	}
	rapid.Check(t, func(t *rapid.T) {
		block := proto.NewBlock()
		picked := rapid.SliceOfN(rapid.SampledFrom(types), 1, 4).Draw(t, "types")
		for i, typ := range picked {
			// A map of clickhouse-go has no order: at most one entry makes its two encodings equal.
			if err := block.AddColumn(fmt.Sprintf("c%d", i), column(typ)); err != nil {
				t.Fatal(err)
			}
		}
		for range rapid.IntRange(1, 20).Draw(t, "rows") {
			row := make([]any, len(picked))
			for i, typ := range picked {
				row[i] = drawn[typ].Draw(t, typ)
			}
			if err := block.Append(row...); err != nil {
				t.Fatal(err)
			}
		}
		var wire, engine chproto.Buffer
		if err := errors.Join(block.Encode(&wire, Revision), block.Encode(&engine, 0)); err != nil {
			t.Fatal(err)
		}
		step := rapid.IntRange(1, 200).Draw(t, "step")
		for _, c := range []struct {
			in, want []byte
			from, to int
		}{{wire.Buf, engine.Buf, Revision, 0}, {engine.Buf, wire.Buf, 0, Revision}, {wire.Buf, wire.Buf, Revision, Revision}} {
			got, columns, err := copyBlock(c.in, c.from, c.to, step)
			if err != nil {
				t.Fatalf("%d to %d: %v", c.from, c.to, err)
			}
			if !bytes.Equal(got, c.want) {
				t.Fatalf("%d to %d: want %x, got %x", c.from, c.to, c.want, got)
			}
			for i, col := range columns {
				if col != (Column{fmt.Sprintf("c%d", i), picked[i]}) {
					t.Fatalf("column %d: got %v", i, col)
				}
			}
		}
		cut := rapid.IntRange(0, len(wire.Buf)-1).Draw(t, "cut")
		if _, _, err := copyBlock(wire.Buf[:cut], Revision, 0, step); err == nil {
			t.Fatalf("cut at %d of %d: want an error, got none", cut, len(wire.Buf))
		}
	})
}

// Scenario: every type name with a fixed width or a structure, and names that are none.
// Guarantees: the widths are ClickHouse's, nesting works to its limit, and what is unknown or wrong is an error.
func TestShapes(t *testing.T) {
	for typ, width := range map[string]int64{
		"UInt128": 16, "Int256": 32, "Decimal(9, 2)": 4, "Decimal(10, 2)": 8, "Decimal(38, 0)": 16, "Decimal(76, 5)": 32,
		"DateTime64(9)": 8, "IPv4": 4, "IPv6": 16, "IntervalDay": 8, "Enum16('a' = -1)": 2, "FixedString(16)": 16,
		"Nothing": 1, "BFloat16": 2, " UInt8 ": 1, "Time64(3)": 8, "SimpleAggregateFunction(anyLast, Int16)": 2,
	} {
		if s, err := parseType(typ, 0); err != nil || s.kind != fixed || s.width != width {
			t.Errorf("%s: want %d bytes, got %+v, %v", typ, width, s, err)
		}
	}
	for _, typ := range []string{
		"Polygon", "MultiLineString", "Nested(a UInt8, b Array(String))", "Tuple(`a\\`(` UInt8, \"b \" String)",
		"Map(LowCardinality(FixedString(2)), Tuple(UInt8))", strings.Repeat("Array(", 30) + "UInt8" + strings.Repeat(")", 30),
	} {
		if err := Known(typ); err != nil {
			t.Errorf("%s: %v", typ, err)
		}
	}
	for _, typ := range []string{
		"", "uint8", "Variant(UInt8, String)", "Dynamic", "JSON", "AggregateFunction(sum, UInt64)", "Array", "Array()",
		"Array(UInt8", "Array(UInt8))", "Map(String)", "Nullable(UInt8, UInt8)", "FixedString(0)", "FixedString(-1)",
		"FixedString(a)", "Decimal(77, 1)", "Decimal(0, 0)", "Tuple()", "Tuple('a", "LowCardinality(JSON)", "(", ")",
		strings.Repeat("Array(", 40) + "UInt8" + strings.Repeat(")", 40), strings.Repeat("A", maxTypeBytes+1),
	} {
		if err := Known(typ); err == nil {
			t.Errorf("%.40q: want an error, got none", typ)
		}
	}
}

// Scenario: blocks that lie: more rows than bytes, arrays whose end is beyond the block, keys and indices of a dictionary
// that do not fit, a sparse column, an unknown field of the block info, too many columns and rows.
// Guarantees: an error each, and none waits for bytes or takes memory for what was promised.
func TestCopyRefusesLies(t *testing.T) {
	column := func(typ string, data ...byte) []byte {
		b := append([]byte{1, 1, 1, 'c', byte(len(typ))}, typ...)
		return append(b, data...)
	}
	u64 := func(v uint64) []byte {
		var b chproto.Buffer
		b.PutUInt64(v)
		return b.Buf
	}
	join := func(parts ...[]byte) []byte { return bytes.Join(parts, nil) }
	for name, block := range map[string][]byte{
		"rows beyond the bytes":    {1, 100, 1, 'c', 5, 'U', 'I', 'n', 't', '8', 0},
		"rows beyond all bytes":    {1, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f, 1, 'c', 5, 'U', 'I', 'n', 't', '8'},
		"string beyond the bytes":  column("String", 0xff, 0xff, 0xff, 0xff, 0x0f, 'x'),
		"array beyond the bytes":   column("Array(UInt8)", u64(1<<60)...),
		"dictionary version":       column("LowCardinality(String)", u64(2)...),
		"shared dictionary":        column("LowCardinality(String)", join(u64(1), u64(0x100))...),
		"width of the indices":     column("LowCardinality(String)", join(u64(1), u64(0x204))...),
		"keys beyond the bytes":    column("LowCardinality(String)", join(u64(1), u64(0x200), u64(1<<50))...),
		"no indices":               column("LowCardinality(String)", join(u64(1), u64(0x200), u64(0), u64(0))...),
		"more indices than rows":   column("LowCardinality(String)", join(u64(1), u64(0x200), u64(0), u64(2), []byte{0, 0})...),
		"number of too many bits":  {0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f, 1},
		"type that is not carried": column("JSON", 0),
	} {
		if got, _, err := copyBlock(block, 0, 0, 7); err == nil {
			t.Errorf("%s: want an error, got %x", name, got)
		}
	}
	for name, block := range map[string][]byte{
		"sparse column":      join(blockInfo, []byte{1, 1, 1, 'c', 5}, []byte("UInt8"), []byte{1, 0}),
		"unknown info":       {3, 0},
		"info without end":   blockInfo[:7],
		"nothing":            {},
		"columns and no end": join(blockInfo, []byte{5, 0, 1, 'c'}),
	} {
		if got, _, err := copyBlock(block, Revision, 0, 7); err == nil {
			t.Errorf("%s: want an error, got %x", name, got)
		}
	}
	for _, limits := range []Limits{{Columns: 1, Rows: 100}, {Columns: 100, Rows: 1}} {
		var limit *LimitError
		if _, err := ReadBlock(NewBytesReader([]byte{2, 2}), 0, limits); !errors.As(err, &limit) || limit.Limit != 1 {
			t.Errorf("%+v: want a LimitError of 1, got %v", limits, err)
		}
	}
}

// Scenario: a destination that fails.
// Guarantees: the error says that it was the destination, so that a server can tell a client's fault from its own.
func TestCopyNamesTheDestinationsFault(t *testing.T) {
	var b chproto.Buffer
	block := telemetryBlock(t, 100)
	if err := block.Encode(&b, Revision); err != nil {
		t.Fatal(err)
	}
	r, w := io.Pipe()
	r.Close()
	src := NewBytesReader(b.Buf)
	start, err := ReadBlock(src, Revision, anyLimits)
	if err != nil {
		t.Fatal(err)
	}
	var sink *SinkError
	if _, err := start.Copy(bufio.NewWriterSize(w, 16), src, Revision, 0); !errors.As(err, &sink) || !errors.Is(err, io.ErrClosedPipe) {
		t.Errorf("want a SinkError of a closed pipe, got %v", err)
	}
}
