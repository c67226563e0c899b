package kafka

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/snappy"
	"github.com/klauspost/compress/zstd"
	"github.com/pierrec/lz4/v4"
)

// The compression of a record batch, as in its attributes.
const (
	codecNone   = 0
	codecGzip   = 1
	codecSnappy = 2
	codecLZ4    = 3
	codecZstd   = 4
)

var errTooLarge = errors.New("decompresses to more than the limit")

// decompressor decompresses into one buffer, up to a limit. It is for one goroutine.
type decompressor struct {
	limit int
	keep  int // a larger buffer is given back after use
	buf   []byte
	src   bytes.Reader
	gzip  *gzip.Reader
	lz4   *lz4.Reader
	zstd  *zstd.Decoder
}

// open returns src decompressed, in memory that is good until the next call. What would be over the limit gives an
// error that wraps errTooLarge, before more than the limit is held.
func (d *decompressor) open(codec int8, src []byte) ([]byte, error) {
	if cap(d.buf) > d.keep {
		d.buf = nil
	}
	var err error
	switch codec {
	case codecNone:
		return src, nil
	case codecGzip:
		d.src.Reset(src)
		if d.gzip == nil {
			d.gzip, err = gzip.NewReader(&d.src)
		} else {
			err = d.gzip.Reset(&d.src)
		}
		if err == nil {
			err = d.readAll(d.gzip)
		}
	case codecSnappy:
		err = d.snappy(src)
	case codecLZ4:
		d.src.Reset(src)
		if d.lz4 == nil {
			d.lz4 = lz4.NewReader(&d.src)
		} else {
			d.lz4.Reset(&d.src)
		}
		err = d.readAll(d.lz4)
	case codecZstd:
		err = d.readZstd(src)
	default:
		return nil, fmt.Errorf("want compression 0 to 4, got %d", codec)
	}
	if err != nil {
		return nil, err
	}
	return d.buf, nil
}

func (d *decompressor) readAll(r io.Reader) error {
	d.buf = d.buf[:0]
	for {
		if len(d.buf) == cap(d.buf) {
			if len(d.buf) > d.limit {
				return d.tooLarge()
			}
			d.buf = append(d.buf, 0)[:len(d.buf)] // grows by a share of itself
		}
		n, err := r.Read(d.buf[len(d.buf):cap(d.buf)])
		d.buf = d.buf[:len(d.buf)+n]
		if len(d.buf) > d.limit {
			return d.tooLarge()
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

func (d *decompressor) tooLarge() error {
	return fmt.Errorf("%w of %d bytes", errTooLarge, d.limit)
}

// zstdWindow is a window that producers may announce for batches of any size: 8 MiB is what usual levels do. The
// library refuses a window over the memory it is allowed, so the limit can't be lower.
const zstdWindow = 16 << 20

func (d *decompressor) readZstd(src []byte) error {
	if d.zstd == nil {
		var err error
		d.zstd, err = zstd.NewReader(nil, zstd.WithDecoderConcurrency(1),
			zstd.WithDecoderMaxMemory(uint64(max(d.limit, zstdWindow))))
		if err != nil {
			return err
		}
	}
	out, err := d.zstd.DecodeAll(src, d.buf[:0])
	if errors.Is(err, zstd.ErrDecoderSizeExceeded) || errors.Is(err, zstd.ErrWindowSizeExceeded) {
		return d.tooLarge()
	}
	if err != nil {
		return err
	}
	d.buf = out
	if len(out) > d.limit {
		return d.tooLarge()
	}
	return nil
}

// The frame that snappy-java puts around blocks, and with it most clients: a magic, two versions, then blocks with
// their length before them.
const (
	xerialMagic  = "\x82SNAPPY\x00"
	xerialHeader = 16
)

func (d *decompressor) snappy(src []byte) error {
	d.buf = d.buf[:0]
	if !bytes.HasPrefix(src, []byte(xerialMagic)) {
		return d.snappyBlock(src)
	}
	if len(src) < xerialHeader {
		return io.ErrUnexpectedEOF
	}
	for src = src[xerialHeader:]; len(src) > 0; {
		if len(src) < 4 {
			return io.ErrUnexpectedEOF
		}
		n := binary.BigEndian.Uint32(src)
		if n > math.MaxInt32 || int(n) > len(src)-4 {
			return io.ErrUnexpectedEOF
		}
		if err := d.snappyBlock(src[4 : 4+n]); err != nil {
			return err
		}
		src = src[4+n:]
	}
	return nil
}

func (d *decompressor) snappyBlock(src []byte) error {
	n, err := snappy.DecodedLen(src)
	if err != nil {
		return err
	}
	have := len(d.buf)
	if n > d.limit-have {
		return d.tooLarge()
	}
	// A block states its length; one byte makes at most 64/3 (a copy of 64 bytes takes three), so a longer one is a lie
	// that must not be allocated.
	if n > 32*len(src)+64 {
		return snappy.ErrCorrupt
	}
	if cap(d.buf)-have < n {
		grown := make([]byte, have, max(have+n, 2*cap(d.buf)))
		copy(grown, d.buf)
		d.buf = grown
	}
	out, err := snappy.Decode(d.buf[have:have+n], src)
	if err != nil {
		return err
	}
	d.buf = d.buf[:have+len(out)]
	return nil
}

func (d *decompressor) close() {
	if d.zstd != nil {
		d.zstd.Close()
	}
}
