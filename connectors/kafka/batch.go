package kafka

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"math"

	"github.com/tailrace/tailrace/schemas/formats"
)

// The record batch of message format 2, https://kafka.apache.org/documentation/#recordbatch.
const (
	batchPrefix = 12 // base offset and length, which the length does not count
	batchHeader = 61 // up to the first record

	attrCodec         = 0x07
	attrLogAppendTime = 0x08
	attrTransactional = 0x10
	attrControl       = 0x20
)

var (
	errTruncated = errors.New("record batch is cut short")
	errCorrupt   = errors.New("record batch is corrupt")
	errOldFormat = errors.New("record batch is of message format 0 or 1; want 2, which Kafka writes since 0.11")
)

// batch is the header of one record batch and its records, still compressed.
type batch struct {
	first, last int64 // offsets, both inclusive
	attributes  int16
	baseTime    int64 // ms
	maxTime     int64 // ms
	producer    int64
	count       int32
	raw         []byte // the whole batch
	body        []byte // the records
}

func (b *batch) codec() int8         { return int8(b.attributes & attrCodec) }
func (b *batch) control() bool       { return b.attributes&attrControl != 0 }
func (b *batch) transactional() bool { return b.attributes&attrTransactional != 0 }

// batchSpan reads what is needed to step over the batch at the start of data: its size and the offset after it. ok is
// false if the batch is not whole.
func batchSpan(data []byte) (size int, next int64, ok bool) {
	if len(data) < batchHeader {
		return 0, 0, false
	}
	length := int32(binary.BigEndian.Uint32(data[8:]))
	if length < batchHeader-batchPrefix || int(length) > len(data)-batchPrefix || data[16] != 2 {
		return 0, 0, false
	}
	next = int64(binary.BigEndian.Uint64(data)) + int64(int32(binary.BigEndian.Uint32(data[23:]))) + 1
	return batchPrefix + int(length), next, true
}

// readBatch reads the batch at the start of data and checks its checksum. The batch lends from data. The error wraps
// errTruncated, errOldFormat or errCorrupt.
func readBatch(data []byte, castagnoli *crc32.Table) (b batch, rest []byte, err error) {
	// The magic byte has the same place in all formats, and the old ones are shorter.
	if len(data) < batchPrefix+5 {
		return b, nil, errTruncated
	}
	base := int64(binary.BigEndian.Uint64(data))
	length := int32(binary.BigEndian.Uint32(data[8:]))
	if magic := int8(data[16]); magic >= 0 && magic < 2 {
		return b, nil, fmt.Errorf("offset %d: %w", base, errOldFormat)
	} else if magic != 2 {
		return b, nil, fmt.Errorf("offset %d: %w: want magic 2, got %d", base, errCorrupt, magic)
	}
	if length < batchHeader-batchPrefix {
		return b, nil, fmt.Errorf("offset %d: %w: want a length of at least %d, got %d",
			base, errCorrupt, batchHeader-batchPrefix, length)
	}
	if int(length) > len(data)-batchPrefix {
		return b, nil, errTruncated
	}
	raw := data[:batchPrefix+int(length)]
	want, got := binary.BigEndian.Uint32(raw[17:]), crc32.Checksum(raw[21:], castagnoli)
	if want != got {
		return b, nil, fmt.Errorf("offset %d: %w: want CRC-32C %08x, got %08x", base, errCorrupt, want, got)
	}
	b = batch{
		first:      base,
		attributes: int16(binary.BigEndian.Uint16(raw[21:])),
		baseTime:   int64(binary.BigEndian.Uint64(raw[27:])),
		maxTime:    int64(binary.BigEndian.Uint64(raw[35:])),
		producer:   int64(binary.BigEndian.Uint64(raw[43:])),
		count:      int32(binary.BigEndian.Uint32(raw[57:])),
		raw:        raw,
		body:       raw[batchHeader:],
	}
	delta := int32(binary.BigEndian.Uint32(raw[23:]))
	if base < 0 || delta < 0 || base > math.MaxInt64-1-int64(delta) || b.count < 0 || int64(b.count) > int64(delta)+1 {
		return b, nil, fmt.Errorf("offset %d: %w: last offset delta %d with %d records", base, errCorrupt, delta, b.count)
	}
	b.last = base + int64(delta)
	return b, data[len(raw):], nil
}

// nanos turns a record's milliseconds into nanoseconds. What does not fit becomes the nearest that does.
func nanos(ms int64) int64 {
	const factor = 1_000_000
	switch {
	case ms > math.MaxInt64/factor:
		return math.MaxInt64
	case ms < math.MinInt64/factor:
		return math.MinInt64
	}
	return ms * factor
}

// records reads the records of one batch, one after the other. It reuses what it gives out.
type records struct {
	batch   batch
	body    []byte // what is left of the records, decompressed
	left    int32
	prev    int64 // offset of the record before
	headers []formats.Header
	names   map[string]string // header keys seen, so that each is allocated once
}

// maxNames bounds the header keys that are kept.
const maxNames = 1024

// open starts on b, whose records are body.
func (r *records) open(b batch, body []byte) {
	r.batch, r.body, r.left, r.prev = b, body, b.count, b.first-1
}

var errRecord = errors.New("record is malformed")

// next reads one record into m, which lends from the body. left must be positive.
func (r *records) next(m *formats.Message) error {
	size, n := varint(r.body)
	if n <= 0 || size < 0 || size > int64(len(r.body)-n) {
		return fmt.Errorf("%w: after offset %d: want a length that the batch's %d bytes hold, got %d",
			errRecord, r.prev, len(r.body), size)
	}
	d := recordBytes{b: r.body[n : n+int(size)]}
	r.body = r.body[n+int(size):]
	r.left--

	d.skip(1) // attributes, unused
	timeDelta := d.varint()
	offsetDelta := d.varint()
	m.Key = d.bytes()
	m.Value = d.bytes()
	count := d.varint()
	if d.bad || count < 0 || count > int64(len(d.b)) {
		return fmt.Errorf("%w: after offset %d: it ends early", errRecord, r.prev)
	}
	m.Headers = nil
	if count > 0 {
		if err := r.readHeaders(&d, int(count)); err != nil {
			return err
		}
		m.Headers = r.headers
	}
	m.Offset = r.batch.first + offsetDelta
	if offsetDelta < 0 || m.Offset <= r.prev || m.Offset > r.batch.last {
		return fmt.Errorf("%w: want an offset in (%d, %d], got %d", errRecord, r.prev, r.batch.last, m.Offset)
	}
	r.prev = m.Offset
	if r.batch.attributes&attrLogAppendTime != 0 {
		m.Time = nanos(r.batch.maxTime)
	} else {
		m.Time = nanos(r.batch.baseTime + timeDelta)
	}
	return nil
}

func (r *records) readHeaders(d *recordBytes, count int) error {
	r.headers = r.headers[:0]
	for range count {
		key, value := d.bytes(), d.bytes()
		if d.bad {
			return fmt.Errorf("%w: after offset %d: it ends in its headers", errRecord, r.prev)
		}
		name, ok := r.names[string(key)]
		if !ok {
			name = string(key)
			if r.names == nil || len(r.names) >= maxNames {
				r.names = make(map[string]string)
			}
			r.names[name] = name
		}
		r.headers = append(r.headers, formats.Header{Key: name, Value: value})
	}
	return nil
}

// recordBytes reads the fields of one record. After a field that does not fit, bad is set and all that follows is
// empty.
type recordBytes struct {
	b   []byte
	bad bool
}

func (d *recordBytes) skip(n int) {
	if len(d.b) < n {
		d.fail()
		return
	}
	d.b = d.b[n:]
}

func (d *recordBytes) fail() { d.b, d.bad = nil, true }

func (d *recordBytes) varint() int64 {
	if len(d.b) > 0 && d.b[0] < 0x80 { // most are one byte
		v := uint64(d.b[0])
		d.b = d.b[1:]
		return int64(v>>1) ^ -int64(v&1)
	}
	v, n := binary.Varint(d.b)
	if n <= 0 {
		d.fail()
		return 0
	}
	d.b = d.b[n:]
	return v
}

// bytes reads a length and as many bytes; nil for the length -1.
func (d *recordBytes) bytes() []byte {
	n := d.varint()
	if n < 0 {
		if n != -1 {
			d.fail()
		}
		return nil
	}
	if n > int64(len(d.b)) {
		d.fail()
		return nil
	}
	v := d.b[:n:n]
	d.b = d.b[n:]
	return v
}

// varint is [binary.Varint], zigzag as in Kafka, with the short case inline.
func varint(b []byte) (int64, int) {
	if len(b) > 0 && b[0] < 0x80 {
		v := uint64(b[0])
		return int64(v>>1) ^ -int64(v&1), 1
	}
	return binary.Varint(b)
}
