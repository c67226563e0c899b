package schemas

import (
	"unsafe"

	"github.com/apache/arrow/go/v15/arrow"
	"github.com/apache/arrow/go/v15/arrow/array"
	"github.com/apache/arrow/go/v15/arrow/memory"
)

// fixed is a type whose values lie next to each other in an Arrow buffer.
type fixed interface {
	~int32 | ~int64 | ~uint8 | ~uint32 | ~uint64 | ~float64
}

// column is an Arrow buffer of T that grows. Values are stored straight into data: array's builders check and count on
// every Append, which for the nineteen columns of telemetry.v1 costs more than reading the row's JSON.
type column[T fixed] struct {
	data []T // as long as there is room; what no row stored is zero, whatever the allocator hands out
	buf  *memory.Buffer
}

// grow makes room for rows values. It never shrinks.
func (c *column[T]) grow(mem memory.Allocator, rows int) {
	if rows <= len(c.data) {
		return
	}
	if c.buf == nil {
		c.buf = memory.NewResizableBuffer(mem)
	}
	var zero T
	c.buf.Resize(rows * int(unsafe.Sizeof(zero)))
	old := len(c.data)
	c.data = unsafe.Slice((*T)(unsafe.Pointer(unsafe.SliceData(c.buf.Buf()))), rows)
	clear(c.data[old:])
}

// take returns the buffer, cut to its first n values. The caller owns it; the column is empty afterwards.
func (c *column[T]) take(n int) *memory.Buffer {
	buf := c.buf
	c.buf, c.data = nil, nil
	if buf != nil {
		var zero T
		buf.ResizeNoShrink(n * int(unsafe.Sizeof(zero)))
	}
	return buf
}

func (c *column[T]) release() {
	if c.buf != nil {
		c.buf.Release()
	}
	c.buf, c.data = nil, nil
}

// bitmap is a validity bitmap that grows.
type bitmap struct {
	bits column[uint8]
	set  int // rows that are valid
}

func (b *bitmap) grow(mem memory.Allocator, rows int) { b.bits.grow(mem, (rows+7)/8) }

func (b *bitmap) mark(row int) {
	b.bits.data[row>>3] |= 1 << (row & 7)
	b.set++
}

// take returns the bitmap of n rows, nil if every row is valid, and the number of nulls among them.
func (b *bitmap) take(n int) (*memory.Buffer, int) {
	nulls := n - b.set
	b.set = 0
	if nulls == 0 {
		b.bits.release()
		return nil, 0
	}
	return b.bits.take((n + 7) / 8), nulls
}

// newArray makes an array of type t from buffers, whose references it takes, and a dictionary, which it borrows.
func newArray(t arrow.DataType, n, nulls int, dict *Interner, buffers ...*memory.Buffer) arrow.Array {
	data := array.NewData(t, n, buffers, nil, nulls, 0)
	defer data.Release()
	for _, b := range buffers {
		if b != nil {
			b.Release()
		}
	}
	if dict != nil {
		data.SetDictionary(dict.Dictionary().Data())
	}
	return array.MakeFromData(data)
}
