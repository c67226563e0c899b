package chwire

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"io"
	"math"
)

// LimitError says that a client sent more than it may.
type LimitError struct {
	What  string
	Limit int64
}

func (e *LimitError) Error() string {
	return fmt.Sprintf("%s: more than the limit of %d", e.What, e.Limit)
}

// Reader reads a stream of packets within a budget of bytes. It never reads from the source more than the source gives
// without waiting, so it does not wait for bytes that the packet at hand does not have.
type Reader struct {
	src      io.Reader
	buf      []byte
	pos, end int

	what string // what the budget is for
	max  int64
	left int64
}

// NewReader returns a Reader with a buffer of size bytes and no budget yet: Budget comes first.
func NewReader(src io.Reader, size int) *Reader {
	return &Reader{src: src, buf: make([]byte, size)}
}

// NewBytesReader returns a Reader over bytes in memory, which it does not change. Their end is budget enough.
func NewBytesReader(b []byte) *Reader {
	return &Reader{src: eof{}, buf: b, end: len(b), what: "bytes in memory", max: math.MaxInt64, left: math.MaxInt64}
}

type eof struct{}

func (eof) Read([]byte) (int, error) { return 0, io.EOF }

// Budget allows limit bytes from here on for what.
func (r *Reader) Budget(what string, limit int64) { r.what, r.max, r.left = what, limit, limit }

// Buffered is the number of bytes read from the source and not yet taken.
func (r *Reader) Buffered() int { return r.end - r.pos }

// Peek waits for the next byte and leaves it in place. It needs no budget.
func (r *Reader) Peek() (byte, error) {
	if err := r.fill(); err != nil {
		return 0, err
	}
	return r.buf[r.pos], nil
}

// Read takes bytes outside the budget: it is the way of a decompressor, which has limits of its own.
func (r *Reader) Read(p []byte) (int, error) {
	if err := r.fill(); err != nil {
		return 0, err
	}
	n := copy(p, r.buf[r.pos:r.end])
	r.pos += n
	return n, nil
}

// fill makes sure that a byte is there.
func (r *Reader) fill() error {
	for empty := 0; r.pos == r.end; empty++ {
		n, err := r.src.Read(r.buf)
		r.pos, r.end = 0, n
		if n == 0 && err != nil {
			return err
		}
		if empty == 100 {
			return io.ErrNoProgress
		}
	}
	return nil
}

func (r *Reader) charge(n int64) error {
	if n < 0 || n > r.left {
		return &LimitError{What: r.what, Limit: r.max}
	}
	r.left -= n
	return nil
}

// inside turns the end of the source into io.ErrUnexpectedEOF: within a packet it is one.
func inside(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}

// Byte takes one byte.
func (r *Reader) Byte() (byte, error) {
	if err := r.charge(1); err != nil {
		return 0, err
	}
	if err := r.fill(); err != nil {
		return 0, inside(err)
	}
	b := r.buf[r.pos]
	r.pos++
	return b, nil
}

// Uvarint takes a variable-length number.
func (r *Reader) Uvarint() (uint64, error) {
	var x uint64
	for shift := 0; shift < 64; shift += 7 {
		b, err := r.Byte()
		if err != nil {
			return 0, err
		}
		if shift == 63 && b > 1 {
			break
		}
		x |= uint64(b&0x7f) << shift
		if b < 0x80 {
			return x, nil
		}
	}
	return 0, fmt.Errorf("variable-length number: want at most 64 bits, got more")
}

// Full fills p.
func (r *Reader) Full(p []byte) error {
	if err := r.charge(int64(len(p))); err != nil {
		return err
	}
	for len(p) > 0 {
		n, err := r.Read(p)
		if err != nil {
			return inside(err)
		}
		p = p[n:]
	}
	return nil
}

// Uint64 takes eight bytes, little-endian.
func (r *Reader) Uint64() (uint64, error) {
	var b [8]byte
	err := r.Full(b[:])
	return binary.LittleEndian.Uint64(b[:]), err
}

// stringStep is how much memory a text gets ahead of its bytes: a length alone must not make a server allocate.
const stringStep = 64 << 10

// String takes a text with its length before it.
func (r *Reader) String() (string, error) {
	n, err := r.Uvarint()
	if err != nil {
		return "", err
	}
	if n > uint64(r.left) {
		return "", &LimitError{What: r.what, Limit: r.max}
	}
	if n <= uint64(r.end-r.pos) {
		s := string(r.buf[r.pos : r.pos+int(n)])
		r.pos += int(n)
		r.left -= int64(n)
		return s, nil
	}
	var b []byte
	for rest := int(n); rest > 0; {
		step := min(rest, stringStep)
		b = append(b, make([]byte, step)...)
		if err := r.Full(b[len(b)-step:]); err != nil {
			return "", err
		}
		rest -= step
	}
	return string(b), nil
}

// copyN passes n bytes on. An error of dst comes back as a *SinkError.
func (r *Reader) copyN(dst *bufio.Writer, n int64) error {
	if err := r.charge(n); err != nil {
		return err
	}
	for n > 0 {
		if err := r.fill(); err != nil {
			return inside(err)
		}
		chunk := int(min(n, int64(r.end-r.pos)))
		if _, err := dst.Write(r.buf[r.pos : r.pos+chunk]); err != nil {
			return &SinkError{Err: err}
		}
		r.pos += chunk
		n -= int64(chunk)
	}
	return nil
}

// copyStrings passes n texts on, each a length and its bytes: as many in one go as lie whole in the buffer.
func (r *Reader) copyStrings(dst *bufio.Writer, n int64) error {
	for n > 0 {
		if err := r.fill(); err != nil {
			return inside(err)
		}
		window := r.buf[r.pos:r.end]
		whole := 0
		for n > 0 {
			// One byte is the length of nearly every text in telemetry; binary.Uvarint is not inlined.
			size, used := uint64(0), 1
			if whole < len(window) && window[whole] < 0x80 {
				size = uint64(window[whole])
			} else if size, used = binary.Uvarint(window[whole:]); used <= 0 {
				break
			}
			if size > uint64(len(window)-whole-used) {
				break
			}
			whole += used + int(size)
			n--
		}
		if err := r.copyN(dst, int64(whole)); err != nil {
			return err
		}
		if n == 0 {
			return nil
		}
		// The next text goes over the end of the buffer.
		size, err := r.Uvarint()
		if err != nil {
			return err
		}
		if err := putUvarint(dst, size); err != nil {
			return err
		}
		if size > uint64(r.left) {
			return &LimitError{What: r.what, Limit: r.max}
		}
		if err := r.copyN(dst, int64(size)); err != nil {
			return err
		}
		n--
	}
	return nil
}

// SinkError is an error of what a block was copied to; the source may be read on.
type SinkError struct{ Err error }

func (e *SinkError) Error() string { return e.Err.Error() }
func (e *SinkError) Unwrap() error { return e.Err }

func putUvarint(dst *bufio.Writer, x uint64) error {
	var b [binary.MaxVarintLen64]byte
	if _, err := dst.Write(b[:binary.PutUvarint(b[:], x)]); err != nil {
		return &SinkError{Err: err}
	}
	return nil
}

func putString(dst *bufio.Writer, s string) error {
	if err := putUvarint(dst, uint64(len(s))); err != nil {
		return err
	}
	if _, err := dst.WriteString(s); err != nil {
		return &SinkError{Err: err}
	}
	return nil
}
