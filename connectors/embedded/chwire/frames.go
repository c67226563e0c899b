package chwire

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"io"

	"github.com/ClickHouse/ch-go/compress"
)

// frameHeader is a frame's start: 16 bytes of checksum, then what the checksum covers: method, compressed size with
// these 9 bytes, size.
const (
	frameHeader     = 16 + 9
	frameCompressed = 17
	frameSize       = 21
)

// FrameBytes is the largest frame that NewFrameWriter makes: ClickHouse's max_compress_block_size.
const FrameBytes = 1 << 20

// NewFrameReader returns a Reader of what the compressed frames in r hold, each at most max bytes, compressed and not.
// ch-go sends a whole block as one frame, so max is about the size of a block.
func NewFrameReader(r *Reader, max int64) *Reader {
	return NewReader(compress.NewReader(&frames{src: r, max: max}), 64<<10)
}

// frames gives the decompressor the bytes of frames whose sizes have been looked at before: it allocates what they say.
type frames struct {
	src  *Reader
	max  int64
	head [frameHeader]byte
	n    int   // bytes of head that are still to give
	left int64 // bytes of the frame after its head
}

func (f *frames) Read(p []byte) (int, error) {
	if f.n == 0 && f.left == 0 {
		f.src.Budget("frame header", frameHeader)
		if _, err := f.src.Peek(); err != nil {
			return 0, err
		}
		if err := f.src.Full(f.head[:]); err != nil {
			return 0, err
		}
		compressed := int64(binary.LittleEndian.Uint32(f.head[frameCompressed:]))
		size := int64(binary.LittleEndian.Uint32(f.head[frameSize:]))
		if compressed < 9 || compressed > f.max || size > f.max {
			return 0, fmt.Errorf("compressed frame: want 9 to %d bytes, got %d compressed, %d not: %w", f.max, compressed, size,
				&LimitError{What: "compressed frame", Limit: f.max})
		}
		f.n, f.left = frameHeader, compressed-9
	}
	if f.n > 0 {
		n := copy(p, f.head[frameHeader-f.n:])
		f.n -= n
		return n, nil
	}
	n, err := f.src.Read(p[:min(int64(len(p)), f.left)])
	f.left -= int64(n)
	return n, inside(err)
}

// FrameWriter writes what it is given as LZ4 frames. Its error is the writer's.
type FrameWriter struct {
	dst *bufio.Writer
	lz4 *compress.Writer
}

// NewFrameWriter returns a FrameWriter. A client takes any method, whatever its own; LZ4 is a server's default.
func NewFrameWriter(dst *bufio.Writer) *FrameWriter {
	return &FrameWriter{dst: dst, lz4: compress.NewWriter(compress.LevelZero, compress.LZ4)}
}

var _ io.Writer = (*FrameWriter)(nil)

func (f *FrameWriter) Write(p []byte) (int, error) {
	total := len(p)
	for len(p) > 0 {
		chunk := p[:min(len(p), FrameBytes)]
		if err := f.lz4.Compress(chunk); err != nil {
			return total - len(p), err
		}
		if _, err := f.dst.Write(f.lz4.Data); err != nil {
			return total - len(p), err
		}
		p = p[len(chunk):]
	}
	return total, nil
}
