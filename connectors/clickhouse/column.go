package clickhouse

import (
	"encoding/binary"
	"slices"
	"unsafe"

	"github.com/ClickHouse/ch-go/proto"
	"github.com/apache/arrow/go/v15/arrow"
	"github.com/apache/arrow/go/v15/arrow/bitutil"
)

// block is what the columns of a table encode: the rows of one INSERT and where they come from.
type block struct {
	cut
	run   [16]byte
	seq   uint64
	num   uint32
	bytes int64 // encoded so far, before compression
}

// column is one column of a table: its name and ClickHouse type, and how it is encoded. It implements
// [proto.ColInput] and [proto.StateEncoder] over the block that its table has loaded.
type column struct {
	name  string
	kind  proto.ColumnType
	enc   encoder
	block *block
}

// encoder writes one column of b. Bytes that it lends must stay as they are until the next block is loaded.
type encoder interface {
	encode(to *wire, b *block)
}

var (
	_ proto.ColInput     = (*column)(nil)
	_ proto.StateEncoder = (*column)(nil)
)

// Type is the column's ClickHouse type.
func (c *column) Type() proto.ColumnType { return c.kind }

// Rows is the number of rows of the block.
func (c *column) Rows() int { return c.block.rows }

// EncodeColumn appends the column to b, for a block that will be compressed.
func (c *column) EncodeColumn(b *proto.Buffer) { c.write(wire{buf: b}) }

// WriteColumn lends the column's buffers to w.
func (c *column) WriteColumn(w *proto.Writer) { c.write(wire{w: w}) }

func (c *column) write(to wire) {
	c.enc.encode(&to, c.block)
	c.block.bytes += to.bytes
}

// lowCardinalityVersion is "shared dictionaries with additional keys", the only one there is on the wire.
const lowCardinalityVersion = 1

// EncodeState writes what a type puts before its data: a version for each LowCardinality inside it.
func (c *column) EncodeState(b *proto.Buffer) {
	switch c.enc.(type) {
	case *lowCardinality, *topicOf, *mapping:
		b.PutInt64(lowCardinalityVersion)
	}
}

// wire takes encoded bytes: for a vectored write, which borrows large buffers, or into one buffer.
type wire struct {
	w     *proto.Writer
	buf   *proto.Buffer
	bytes int64
}

// lendMin is the size from which an entry of a vectored write is cheaper than a copy.
const lendMin = 1 << 10

// lend sends p, which stays as it is until the block is sent.
func (o *wire) lend(p []byte) {
	if o.w != nil && len(p) >= lendMin {
		o.w.ChainWrite(p)
		o.bytes += int64(len(p))
		return
	}
	copy(o.room(len(p)), p)
}

// room appends n bytes, to be filled before the next call.
func (o *wire) room(n int) (p []byte) {
	grow := func(b *proto.Buffer) {
		at := len(b.Buf)
		b.Buf = slices.Grow(b.Buf, n)[:at+n]
		p = b.Buf[at:]
	}
	if o.w != nil {
		o.w.ChainBuffer(grow)
	} else {
		grow(o.buf)
	}
	o.bytes += int64(n)
	return p
}

// shrink takes back the last n bytes of the room made last.
func (o *wire) shrink(n int) {
	cut := func(b *proto.Buffer) { b.Buf = b.Buf[:len(b.Buf)-n] }
	if o.w != nil {
		o.w.ChainBuffer(cut)
	} else {
		cut(o.buf)
	}
	o.bytes -= int64(n)
}

func (o *wire) int64(v int64) { binary.LittleEndian.PutUint64(o.room(8), uint64(v)) }

// Arrow and ClickHouse both lay numbers out little-endian, so that a column of them is the same bytes in both.

// values are the rows [from, to) of a column of T, without a copy.
func values[T any](d arrow.ArrayData, from, to int) []T {
	p := raw(d, int(unsafe.Sizeof(*new(T))), from, to)
	if len(p) == 0 {
		return nil
	}
	return unsafe.Slice((*T)(unsafe.Pointer(unsafe.SliceData(p))), to-from)
}

// raw are the bytes of the rows [from, to) of a column of width bytes a row.
func raw(d arrow.ArrayData, width, from, to int) []byte {
	if from == to {
		return nil
	}
	at := d.Offset()
	return d.Buffers()[1].Bytes()[(at+from)*width : (at+to)*width]
}

// validity is the bitmap of a column and the place of row 0 in it, or nil if no row is null.
func validity(d arrow.ArrayData) (bits []byte, at int) {
	if b := d.Buffers()[0]; b != nil && d.NullN() != 0 {
		return b.Bytes(), d.Offset()
	}
	return nil, 0
}

// fixed sends the values as they are: floats and integers, and int32 that are never negative as UInt32.
type fixed struct{ col, width int }

func (e fixed) encode(to *wire, b *block) {
	for _, p := range b.pieces {
		to.lend(raw(p.column(e.col), e.width, p.from, p.to))
	}
}

// nullable sends one byte per row, 1 for null, and then the values as they are. What lies under a null is not seen.
type nullable struct{ col, width int }

func (e nullable) encode(to *wire, b *block) {
	nulls(to, b, e.col)
	fixed(e).encode(to, b)
}

func nulls(to *wire, b *block, col int) {
	for _, p := range b.pieces {
		dst := to.room(p.rows())
		if bits, at := validity(p.column(col)); bits != nil {
			spread(dst, bits, at+p.from, 0xff)
		} else {
			clear(dst)
		}
	}
}

// truth sends a bitmap of booleans as bytes.
type truth struct{ col int }

func (e truth) encode(to *wire, b *block) {
	for _, p := range b.pieces {
		d := p.column(e.col)
		spread(to.room(p.rows()), d.Buffers()[1].Bytes(), d.Offset()+p.from, 0)
	}
}

// spread writes the bits from bit at on as bytes 0 and 1, after flipping those set in flip.
func spread(dst, bits []byte, at int, flip byte) {
	shift := at % 8
	for i := 0; i < len(dst); i += 8 {
		k := (at + i) / 8
		word := uint(bits[k]) >> shift
		if shift != 0 && k+1 < len(bits) {
			word |= uint(bits[k+1]) << (8 - shift)
		}
		// Byte i keeps bit i of the word; adding 0x7f carries it into the byte's top bit.
		x := uint64(byte(word)^flip) * 0x0101010101010101 & 0x8040201008040201
		x = (x + 0x7f7f7f7f7f7f7f7f) >> 7 & 0x0101010101010101
		if len(dst)-i >= 8 {
			binary.LittleEndian.PutUint64(dst[i:], x)
			continue
		}
		for j := i; j < len(dst); j++ {
			dst[j] = byte(x)
			x >>= 8
		}
	}
}

// micros sends times in ns as DateTime64(6), rounded down.
type micros struct{ col int }

func (e micros) encode(to *wire, b *block) {
	for _, p := range b.pieces {
		dst := to.room(8 * p.rows())
		for i, ns := range values[int64](p.column(e.col), p.from, p.to) {
			binary.LittleEndian.PutUint64(dst[8*i:], uint64(floorMicros(ns)))
		}
	}
}

func floorMicros(ns int64) int64 {
	us := ns / 1_000
	if ns%1_000 < 0 {
		us--
	}
	return us
}

// millis sends times in ns as DateTime64(3), rounded down.
type millis struct{ col int }

func (e millis) encode(to *wire, b *block) {
	for _, p := range b.pieces {
		dst := to.room(8 * p.rows())
		for i, ns := range values[int64](p.column(e.col), p.from, p.to) {
			ms := ns / 1_000_000
			if ns%1_000_000 < 0 {
				ms--
			}
			binary.LittleEndian.PutUint64(dst[8*i:], uint64(ms))
		}
	}
}

// nullableText sends Nullable(String): one byte per row, 1 for null, and then each text after its length.
type nullableText struct {
	col   int
	empty [lendMin]byte // a run of empty texts
}

func (e *nullableText) encode(to *wire, b *block) {
	nulls(to, b, e.col)
	for _, p := range b.pieces {
		d := p.column(e.col)
		bits, at := validity(d)
		if bits != nil && bitutil.CountSetBits(bits, at+p.from, p.rows()) == 0 {
			for n := p.rows(); n > 0; n -= len(e.empty) {
				to.lend(e.empty[:min(n, len(e.empty))])
			}
			continue
		}
		texts := textsOf(d)
		valid := func(i int) bool { return bits == nil || bitutil.BitIsSet(bits, at+i) }
		size := 0
		for i := p.from; i < p.to; i++ {
			if valid(i) {
				size += len(texts.at(i))
			}
		}
		dst := to.room(size + binary.MaxVarintLen32*p.rows())[:0]
		for i := p.from; i < p.to; i++ {
			var text []byte
			if valid(i) {
				text = texts.at(i)
			}
			dst = append(binary.AppendUvarint(dst, uint64(len(text))), text...)
		}
		to.shrink(size + binary.MaxVarintLen32*p.rows() - len(dst))
	}
}

// constant sends the same value in every row.
type constant struct {
	value func(b *block, dst []byte) []byte
	want  []byte
	run   []byte // want over and over
}

// constantRun is long enough to make vectored writes of it rare and short enough to stay in the cache.
const constantRun = 64 << 10

func (e *constant) encode(to *wire, b *block) {
	value := e.value(b, nil)
	if !slices.Equal(value, e.want) {
		e.want = value
		e.run = e.run[:0]
		for len(e.run) < constantRun {
			e.run = append(e.run, value...)
		}
	}
	for n := b.rows * len(value); n > 0; n -= len(e.run) {
		to.lend(e.run[:min(n, len(e.run))])
	}
}

// partOf sends the partition that a row came from.
type partOf struct{}

func (partOf) encode(to *wire, b *block) {
	for _, p := range b.pieces {
		dst := to.room(4 * p.rows())
		for i := 0; i < len(dst); i += 4 {
			binary.LittleEndian.PutUint32(dst[i:], uint32(p.part))
		}
	}
}
