package pipeline

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math"
	"math/bits"
	"slices"

	"github.com/apache/arrow/go/v15/arrow"
	"github.com/apache/arrow/go/v15/arrow/array"
	"github.com/apache/arrow/go/v15/arrow/ipc"
	"github.com/apache/arrow/go/v15/arrow/memory"
	"github.com/tailrace/tailrace/pipeline/state"
	"github.com/tailrace/tailrace/schemas"
)

// lateRows is what the outbox calls the rows for the late topic. It is no table of the sink.
const lateRows Table = "late"

// rekeyedRows is what the outbox calls the rows for the topic keyed by asset. It has none: they are those of the table telemetry,
// whose messages are read again.
const rekeyedRows Table = "rekeyed"

// leftOut is what stands before a table's name in the ledger's counters, for rows that the sink does not store.
const leftOut = "left_out."

// encodeRows writes records of one schema as an Arrow IPC stream.
func encodeRows(mem memory.Allocator, batches []arrow.Record) ([]byte, error) {
	var out bytes.Buffer
	w := ipc.NewWriter(&out, ipc.WithSchema(batches[0].Schema()), ipc.WithAllocator(mem))
	for _, b := range batches {
		if err := w.Write(b); err != nil {
			return nil, errors.Join(err, w.Close())
		}
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return out.Bytes(), nil
}

// decodeRows reads them back. The caller owns the records. The stream is from a blob whose hash was right.
func decodeRows(mem memory.Allocator, stream []byte) (batches []arrow.Record, err error) {
	r, err := ipc.NewReader(bytes.NewReader(stream), ipc.WithAllocator(mem))
	if err != nil {
		return nil, err
	}
	defer r.Release()
	for r.Next() {
		b := r.Record()
		b.Retain()
		batches = append(batches, b)
	}
	if err := r.Err(); err != nil && !errors.Is(err, io.EOF) {
		releaseAll(batches)
		return nil, err
	}
	return batches, nil
}

func releaseAll(batches []arrow.Record) {
	for _, b := range batches {
		b.Release()
	}
}

// edited returns a decoded batch with the flags that edits give its rows. base is the number of its first row, edits are those
// of its rows. The caller owns the record.
func edited(mem memory.Allocator, batch arrow.Record, base int64, edits []state.Edit) arrow.Record {
	if len(edits) == 0 {
		batch.Retain()
		return batch
	}
	values := slices.Clone(batch.Column(schemas.ColFlags).(*array.Uint32).Uint32Values())
	for _, e := range edits {
		values[e.Row-base] = e.Flags
	}
	b := array.NewUint32Builder(mem)
	defer b.Release()
	b.AppendValues(values, nil)
	flags := b.NewArray()
	defer flags.Release()
	cols := slices.Clone(batch.Columns())
	cols[schemas.ColFlags] = flags
	return array.NewRecord(batch.Schema(), cols, batch.NumRows())
}

// kept returns the rows of batch that edits do not drop, in pieces. The caller owns them.
func kept(batch arrow.Record, base int64, edits []state.Edit) []arrow.Record {
	var pieces []arrow.Record
	from := int64(0)
	piece := func(to int64) {
		if to > from {
			pieces = append(pieces, batch.NewSlice(from, to))
		}
	}
	for _, e := range edits {
		if e.Drop {
			piece(e.Row - base)
			from = e.Row - base + 1
		}
	}
	piece(batch.NumRows())
	return pieces
}

// rowHash is a running hash over rows of telemetry, the same however they are cut into batches and whatever the dictionaries
// look like. It tells an accident, not an attack: each word is mixed in as xxHash64 mixes a lane.
type rowHash struct {
	sum          uint64
	assets, tags []uint64 // of the texts in the dictionaries, which only grow
}

const (
	prime1 = 0x9E3779B185EBCA87
	prime2 = 0xC2B2AE3D27D4EB4F
)

func mix(h, v uint64) uint64 { return bits.RotateLeft64(h+v*prime2, 31) * prime1 }

// textHashes brings hashes up to a dictionary's length.
func textHashes(hashes []uint64, column *array.Dictionary) []uint64 {
	texts := column.Dictionary().(*array.String)
	for i := len(hashes); i < texts.Len(); i++ {
		text := texts.Value(i)
		h := mix(0, uint64(len(text)))
		for k := range len(text) {
			h = mix(h, uint64(text[k]))
		}
		hashes = append(hashes, h)
	}
	return hashes
}

// add mixes in a batch of the task that the hash is for.
func (r *rowHash) add(batch arrow.Record) {
	asset, tag := batch.Column(schemas.ColAsset).(*array.Dictionary), batch.Column(schemas.ColTag).(*array.Dictionary)
	r.assets, r.tags = textHashes(r.assets, asset), textHashes(r.tags, tag)
	assets, tags := asset.Indices().(*array.Int32).Int32Values(), tag.Indices().(*array.Int32).Int32Values()
	values := batch.Column(schemas.ColValue).(*array.Float64)
	numbers := values.Float64Values()
	ts := batch.Column(schemas.ColTS).(*array.Timestamp).TimestampValues()
	flags := batch.Column(schemas.ColFlags).(*array.Uint32).Uint32Values()
	offsets := batch.Column(schemas.ColKOffset).(*array.Int64).Int64Values()
	index := batch.Column(schemas.ColKIdx).(*array.Int32).Int32Values()
	nulls := values.NullN() > 0
	h := r.sum
	for i := range ts {
		value := uint64(0)
		if !nulls || values.IsValid(i) {
			value = math.Float64bits(numbers[i])
		}
		// Products of two different primes keep what is mixed in together apart.
		h = mix(h, uint64(ts[i])^value*prime1)
		h = mix(h, uint64(offsets[i])^(uint64(flags[i])<<32|uint64(uint32(index[i])))*prime1)
		h = mix(h, r.assets[assets[i]]^bits.RotateLeft64(r.tags[tags[i]], 32))
	}
	r.sum = h
}

// take returns the hash and starts anew, with the same dictionaries.
func (r *rowHash) take() uint64 {
	sum := r.sum
	r.sum = 0
	return sum
}

// hashMismatch says that rows read again are not those that a checkpoint was made of.
func hashMismatch(p *state.Part, rows int64, hash uint64) error {
	return fmt.Errorf("topic %q, partition %d, offsets %d to %d: %w: want %d rows with hash %016x as the checkpoint has them, "+
		"got %d with hash %016x: the topic or the decoder's config has changed since",
		p.Topic, p.Partition, p.From, p.To-1, state.ErrCorrupt, p.Raw.Rows, p.Raw.Hash, rows, hash)
}
