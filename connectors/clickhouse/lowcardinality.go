package clickhouse

import (
	"encoding/binary"
	"math"
	"slices"
	"unsafe"

	"github.com/ClickHouse/ch-go/proto"
	"github.com/apache/arrow/go/v15/arrow"
	"github.com/apache/arrow/go/v15/arrow/bitutil"
)

// texts gives the rows of a utf8 array without an allocation.
type texts struct {
	offsets []int32
	bytes   []byte
}

func textsOf(d arrow.ArrayData) texts {
	var t texts
	if d.Len() > 0 {
		t.offsets = values[int32](d, 0, d.Len()+1)
	}
	if b := d.Buffers()[2]; b != nil {
		t.bytes = b.Bytes()
	}
	return t
}

func (t texts) at(i int) []byte { return t.bytes[t.offsets[i]:t.offsets[i+1]] }

// dictionary is the one dictionary of a LowCardinality column in a block, made from those of its records. Only texts that
// a row has are in it: a task's dictionaries hold every tag that it ever saw.
type dictionary struct {
	ids   map[string]uint32
	texts proto.Buffer // encoded
	keys  []uint32     // per row
}

func (d *dictionary) reset(rows int) {
	if d.ids == nil {
		d.ids = map[string]uint32{}
	}
	clear(d.ids)
	d.texts.Reset()
	d.keys = slices.Grow(d.keys[:0], rows)
}

func (d *dictionary) id(text []byte) uint32 {
	if id, ok := d.ids[string(text)]; ok {
		return id
	}
	id := uint32(len(d.ids))
	d.ids[string(text)] = id
	d.texts.PutLen(len(text))
	d.texts.PutRaw(text)
	return id
}

// Flags of a block's LowCardinality: it brings its own dictionary, which replaces the one before.
const (
	hasAdditionalKeys    = 1 << 9
	needUpdateDictionary = 1 << 10
)

// encode sends the dictionary and the keys, these as narrow as the dictionary allows.
func (d *dictionary) encode(to *wire) {
	if len(d.keys) == 0 {
		return
	}
	width := proto.KeyUInt32
	switch n := len(d.ids); {
	case n <= math.MaxUint8+1:
		width = proto.KeyUInt8
	case n <= math.MaxUint16+1:
		width = proto.KeyUInt16
	}
	to.int64(int64(width) | hasAdditionalKeys | needUpdateDictionary)
	to.int64(int64(len(d.ids)))
	to.lend(d.texts.Buf)
	to.int64(int64(len(d.keys)))
	switch width {
	case proto.KeyUInt8:
		dst := to.room(len(d.keys))
		for i, k := range d.keys {
			dst[i] = byte(k)
		}
	case proto.KeyUInt16:
		dst := to.room(2 * len(d.keys))
		for i, k := range d.keys {
			binary.LittleEndian.PutUint16(dst[2*i:], uint16(k))
		}
	default:
		to.lend(unsafe.Slice((*byte)(unsafe.Pointer(unsafe.SliceData(d.keys))), 4*len(d.keys)))
	}
}

// lowCardinality sends dictionary<int32, utf8> as LowCardinality(String); null becomes the empty text.
type lowCardinality struct {
	col int
	dictionary
	remap []uint32 // from the record's ids to ours
}

// notYet marks an id of a record that no row of the block has used so far.
const notYet = math.MaxUint32

func (e *lowCardinality) encode(to *wire, b *block) {
	e.reset(b.rows)
	var last arrow.ArrayData
	var from texts
	for _, p := range b.pieces {
		d := p.column(e.col)
		// Records of one task share their dictionary until it grows.
		if dict := d.Dictionary(); dict != last {
			last, from = dict, textsOf(dict)
			e.remap = slices.Grow(e.remap[:0], dict.Len())[:dict.Len()]
			for i := range e.remap {
				e.remap[i] = notYet
			}
		}
		indices := values[int32](d, p.from, p.to)
		bits, at := validity(d)
		for i, index := range indices {
			if bits != nil && !bitutil.BitIsSet(bits, at+p.from+i) {
				e.keys = append(e.keys, e.id(nil))
				continue
			}
			key := e.remap[index]
			if key == notYet {
				key = e.id(from.at(int(index)))
				e.remap[index] = key
			}
			e.keys = append(e.keys, key)
		}
	}
	e.dictionary.encode(to)
}

// topicOf sends the topic that a row came from.
type topicOf struct{ dictionary }

func (e *topicOf) encode(to *wire, b *block) {
	e.reset(b.rows)
	for _, p := range b.pieces {
		key := e.id([]byte(p.topic))
		for range p.rows() {
			e.keys = append(e.keys, key)
		}
	}
	e.dictionary.encode(to)
}

// mapping sends map<utf8, float32> as Map(LowCardinality(String), Float32): the running count of entries after each row,
// the keys, the values. A null map is an empty one, a null value is NaN.
type mapping struct {
	col int
	dictionary
	values []float32
}

func (e *mapping) encode(to *wire, b *block) {
	e.reset(0)
	e.values = e.values[:0]
	for _, p := range b.pieces {
		d := p.column(e.col)
		entries := d.Children()[0]
		keys, numbers := entries.Children()[0], entries.Children()[1]
		names := textsOf(keys)
		valid, validAt := validity(d)
		set, setAt := validity(numbers)
		bounds := values[int32](d, 0, p.to+1)
		dst := to.room(8 * p.rows())
		for i := p.from; i < p.to; i++ {
			if valid == nil || bitutil.BitIsSet(valid, validAt+i) {
				for k := int(bounds[i]); k < int(bounds[i+1]); k++ {
					e.keys = append(e.keys, e.id(names.at(k)))
					number := float32(math.NaN())
					if set == nil || bitutil.BitIsSet(set, setAt+k) {
						number = values[float32](numbers, k, k+1)[0]
					}
					e.values = append(e.values, number)
				}
			}
			binary.LittleEndian.PutUint64(dst[8*(i-p.from):], uint64(len(e.keys)))
		}
	}
	e.dictionary.encode(to)
	to.lend(unsafe.Slice((*byte)(unsafe.Pointer(unsafe.SliceData(e.values))), 4*len(e.values)))
}
