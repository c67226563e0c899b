package state

import (
	"iter"
	"maps"
	"slices"
)

// Writer takes the state of one operator, key by key. A key is an asset, or "" for what is not of any one asset.
type Writer struct {
	version uint32
	puts    map[string][]byte
	deletes []string
	bytes   int
}

// NewWriter returns an empty Writer.
func NewWriter() *Writer { return &Writer{puts: map[string][]byte{}} }

// Version says in which format the values are; the operator numbers its own, from 1. 0 is an operator without state.
func (w *Writer) Version(v uint32) { w.version = v }

// Put stores a copy of value under key, in place of what was there.
func (w *Writer) Put(key string, value []byte) {
	w.bytes += len(key) + len(value)
	w.puts[key] = slices.Clone(value)
}

// Delete forgets a key that an earlier snapshot had.
func (w *Writer) Delete(key string) {
	delete(w.puts, key)
	w.deletes = append(w.deletes, key)
}

// Bytes is how much was put.
func (w *Writer) Bytes() int { return w.bytes }

// Reader gives back what a Writer took, over as many snapshots as there were since a full one.
type Reader struct {
	version uint32
	values  map[string][]byte
}

// NewReader returns what snapshots of one operator hold together, a full one and those since, in the order they were
// taken.
func NewReader(snapshots ...*Writer) *Reader {
	r := &Reader{}
	for _, w := range snapshots {
		r.apply(w)
	}
	return r
}

// Apply adds a later snapshot of the same operator.
func (r *Reader) apply(w *Writer) {
	if r.values == nil {
		r.values = map[string][]byte{}
	}
	r.version = w.version
	for _, key := range w.deletes {
		delete(r.values, key)
	}
	maps.Copy(r.values, w.puts)
}

// Version is that of the values; 0 if there are none.
func (r *Reader) Version() uint32 { return r.version }

// Len is the number of keys.
func (r *Reader) Len() int { return len(r.values) }

// Get returns a key's value, nil if there is none.
func (r *Reader) Get(key string) []byte { return r.values[key] }

// All gives keys and values in the order of keys. Values are lent.
func (r *Reader) All() iter.Seq2[string, []byte] {
	return func(yield func(string, []byte) bool) {
		for _, key := range slices.Sorted(maps.Keys(r.values)) {
			if !yield(key, r.values[key]) {
				return
			}
		}
	}
}
