package state

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
)

// Encoder appends values to Bytes: signed and unsigned integers as varints, floats as their eight bytes, texts with their
// length in front.
type Encoder struct{ Bytes []byte }

// Int appends a signed integer.
func (e *Encoder) Int(v int64) { e.Bytes = binary.AppendVarint(e.Bytes, v) }

// Uint appends an unsigned integer.
func (e *Encoder) Uint(v uint64) { e.Bytes = binary.AppendUvarint(e.Bytes, v) }

// Float appends a float, bit by bit: NaN stays the NaN it is.
func (e *Encoder) Float(v float64) {
	e.Bytes = binary.LittleEndian.AppendUint64(e.Bytes, math.Float64bits(v))
}

// Bool appends a truth value.
func (e *Encoder) Bool(v bool) {
	var b byte
	if v {
		b = 1
	}
	e.Bytes = append(e.Bytes, b)
}

// Text appends a text.
func (e *Encoder) Text(v string) {
	e.Uint(uint64(len(v)))
	e.Bytes = append(e.Bytes, v...)
}

// Raw appends bytes with their length in front.
func (e *Encoder) Raw(v []byte) {
	e.Uint(uint64(len(v)))
	e.Bytes = append(e.Bytes, v...)
}

// Reset empties the encoder and keeps its memory.
func (e *Encoder) Reset() { e.Bytes = e.Bytes[:0] }

// ErrCorrupt marks bytes that are not what an Encoder wrote.
var ErrCorrupt = errors.New("stored state is damaged")

// Decoder reads what an Encoder wrote, in the same order. After the first fault it gives zeros; Err says what was wrong.
type Decoder struct {
	rest []byte
	err  error
}

// NewDecoder reads b, which it borrows.
func NewDecoder(b []byte) *Decoder { return &Decoder{rest: b} }

func (d *Decoder) fail(what string) {
	if d.err == nil {
		d.err = fmt.Errorf("%w: want %s, got %d bytes", ErrCorrupt, what, len(d.rest))
	}
	d.rest = nil
}

// Int reads a signed integer.
func (d *Decoder) Int() int64 {
	v, n := binary.Varint(d.rest)
	if n <= 0 {
		d.fail("an integer")
		return 0
	}
	d.rest = d.rest[n:]
	return v
}

// Uint reads an unsigned integer.
func (d *Decoder) Uint() uint64 {
	v, n := binary.Uvarint(d.rest)
	if n <= 0 {
		d.fail("a number")
		return 0
	}
	d.rest = d.rest[n:]
	return v
}

// Len reads a count of things that take at least size bytes each, so that damaged bytes can't ask for memory that they do
// not fill.
func (d *Decoder) Len(size int) int {
	n := d.Uint()
	if n > uint64(len(d.rest)/max(size, 1)) {
		d.fail("a count that fits")
		return 0
	}
	return int(n)
}

// Float reads a float.
func (d *Decoder) Float() float64 {
	if len(d.rest) < 8 {
		d.fail("a float")
		return 0
	}
	v := math.Float64frombits(binary.LittleEndian.Uint64(d.rest))
	d.rest = d.rest[8:]
	return v
}

// Bool reads a truth value.
func (d *Decoder) Bool() bool {
	if len(d.rest) == 0 || d.rest[0] > 1 {
		d.fail("a truth value")
		return false
	}
	v := d.rest[0] == 1
	d.rest = d.rest[1:]
	return v
}

// Text reads a text.
func (d *Decoder) Text() string { return string(d.Raw()) }

// Raw reads bytes. They lie in what the decoder borrowed.
func (d *Decoder) Raw() []byte {
	n := d.Len(1)
	v := d.rest[:n:n]
	d.rest = d.rest[n:]
	return v
}

// More tells whether anything is left.
func (d *Decoder) More() bool { return len(d.rest) > 0 }

// Err is the first fault; at the end of what should be all, also that something is left.
func (d *Decoder) Err() error {
	if d.err == nil && len(d.rest) > 0 {
		return fmt.Errorf("%w: want the end, got %d bytes more", ErrCorrupt, len(d.rest))
	}
	return d.err
}
