package kafka

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"

	kafka "github.com/segmentio/kafka-go"
	"github.com/tailrace/tailrace/schemas/formats"
)

// open reads a response up to its record batches.
func (f *fetcher) open(b []byte) error {
	r := wire{b: b}
	correlation := r.i32()
	r.tags()
	r.i32() // throttle time: the broker itself holds the connection back
	code := r.i16()
	r.i32() // session
	topics := r.length()
	var id topicID
	partitions := 0
	if topics == 1 {
		copy(id[:], r.take(len(id)))
		partitions = r.length()
	}
	switch {
	case r.short:
		return fmt.Errorf("response of %d bytes is cut short", len(b))
	case correlation != f.correlation:
		return fmt.Errorf("response: want correlation id %d, got %d", f.correlation, correlation)
	case code != 0:
		return kafka.Error(code)
	case topics != 1 || id != f.id || partitions != 1:
		return fmt.Errorf("response: want 1 topic %x with 1 partition, got %d topics, %x with %d", f.id, topics, id, partitions)
	}
	partition := r.i32()
	code = r.i16()
	r.i64() // high watermark
	end := r.i64()
	logStart := r.i64()
	f.aborted = f.aborted[:0]
	clear(f.aborting)
	for n := r.length(); n > 0 && !r.short; n-- {
		f.aborted = append(f.aborted, abortedTransaction{r.i64(), r.i64()})
		r.tags()
	}
	r.i32() // preferred read replica: none, as no rack is named
	batches := r.bytes(r.length())
	switch {
	case r.short:
		return fmt.Errorf("response of %d bytes is cut short", len(b))
	case partition != f.partition:
		return fmt.Errorf("response: want partition %d, got %d", f.partition, partition)
	case kafka.Error(code) == kafka.OffsetOutOfRange:
		return errOutOfRange
	case code != 0:
		return kafka.Error(code)
	}
	f.end, f.logStart, f.batches = end, logStart, batches
	if _, _, whole := batchSpan(batches); len(batches) >= batchHeader && !whole && batches[16] == 2 {
		// Since Kafka 0.10.1 the first batch always comes whole.
		return fmt.Errorf("offset %d: first %w: %d bytes", f.next, errTruncated, len(batches))
	}
	return nil
}

// wire reads the fields of a response. After the end it gives zeros and short is set.
type wire struct {
	b     []byte
	short bool
}

func (w *wire) take(n int) []byte {
	if n < 0 || n > len(w.b) {
		w.b, w.short = nil, true
		return nil
	}
	v := w.b[:n]
	w.b = w.b[n:]
	return v
}

func (w *wire) i16() int16 {
	if v := w.take(2); v != nil {
		return int16(binary.BigEndian.Uint16(v))
	}
	return 0
}

func (w *wire) i32() int32 {
	if v := w.take(4); v != nil {
		return int32(binary.BigEndian.Uint32(v))
	}
	return 0
}

func (w *wire) i64() int64 {
	if v := w.take(8); v != nil {
		return int64(binary.BigEndian.Uint64(v))
	}
	return 0
}

// uvarint reads a number of 31 bits.
func (w *wire) uvarint() int {
	v, n := binary.Uvarint(w.b)
	if n <= 0 || v > math.MaxInt32 {
		w.take(-1)
		return 0
	}
	w.take(n)
	return int(v)
}

// length reads the length of a list or of bytes, which is written as one more; a null, 0, is -1.
func (w *wire) length() int { return w.uvarint() - 1 }

// bytes reads n bytes; a null, -1, is empty.
func (w *wire) bytes(n int) []byte {
	if n == -1 {
		return nil
	}
	return w.take(n)
}

// tags steps over fields that this version of a request may have more.
func (w *wire) tags() {
	for n := w.uvarint(); n > 0 && !w.short; n-- {
		w.uvarint()
		w.take(w.uvarint())
	}
}

// message gives the next message of the response, lent until the next call. The error is errDrained after the last one,
// io.EOF at the bound, a *refusedBatch for records that can't be read and are stepped over, or wraps errCorrupt or
// errOldFormat; after those two the connection is closed and the offset stays.
func (f *fetcher) message(m *formats.Message) error {
	for {
		for f.records.left > 0 {
			if err := f.records.next(m); err != nil {
				if err := f.refuse(f.records.batch, f.records.prev+1, err); err != nil {
					return err
				}
				break
			}
			if m.Offset >= f.bound {
				f.next = f.bound
				f.drop()
				return io.EOF
			}
			wanted := m.Offset >= f.next && !f.skip
			if m.Offset >= f.next {
				f.next = m.Offset + 1
			}
			if f.records.left == 0 {
				f.next = max(f.next, f.records.batch.last+1)
			}
			if wanted {
				return nil
			}
		}
		if f.next >= f.bound {
			f.drop()
			return io.EOF
		}
		if len(f.batches) == 0 {
			return errDrained
		}
		if err := f.openBatch(); err != nil {
			return err
		}
	}
}

// openBatch starts on the next batch of the response.
func (f *fetcher) openBatch() error {
	b, rest, err := readBatch(f.batches, f.castagnoli)
	if errors.Is(err, errTruncated) {
		f.batches = nil // the rest comes with the next response
		return nil
	}
	if err != nil {
		f.drop()
		if errors.Is(err, errCorrupt) {
			f.stats.CorruptBatches.Add(1)
		}
		return err
	}
	f.batches = rest
	f.skip = false
	for len(f.aborted) > 0 && f.aborted[0].first <= b.last {
		f.aborting[f.aborted[0].producer] = struct{}{}
		f.aborted = f.aborted[1:]
	}
	switch _, aborted := f.aborting[b.producer]; {
	case b.control():
		// The marker that ends the transaction.
		delete(f.aborting, b.producer)
		f.stats.ControlBatches.Add(1)
		f.next = max(f.next, b.last+1)
		return nil
	case b.transactional() && aborted:
		f.stats.AbortedMessages.Add(int64(b.count))
		f.next = max(f.next, b.last+1)
		return nil
	case b.last < f.next || b.count == 0: // compaction leaves empty batches
		f.next = max(f.next, b.last+1)
		return nil
	}
	body, err := f.unpack.open(b.codec(), b.body)
	if err != nil {
		return f.refuse(b, b.first, err)
	}
	f.records.open(b, body)
	return nil
}

// refusedBatch is the records of a batch from first on: they can't be read, though the batch is as its producer sent
// it.
type refusedBatch struct {
	first, last int64
	count       int32 // what the batch says it has
	time        int64 // ns
	raw         []byte
	err         error
}

func (r *refusedBatch) Error() string {
	return fmt.Sprintf("record batch with offsets %d to %d (%d records): %v", r.first, r.last, r.count, r.err)
}

func (r *refusedBatch) Unwrap() error { return r.err }

// refuse steps over what is left of b.
func (f *fetcher) refuse(b batch, first int64, err error) error {
	r := &refusedBatch{
		first: max(first, f.next), last: b.last, count: b.count, time: nanos(b.baseTime), raw: b.raw, err: err,
	}
	f.records.left = 0
	if b.last < f.next {
		return nil // it was given out before; only this reading of it is broken
	}
	f.next = b.last + 1
	f.stats.RefusedBatches.Add(1)
	f.stats.RefusedRecords.Add(int64(b.count))
	return r
}
