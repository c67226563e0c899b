package state

import (
	"cmp"
	"iter"
	"maps"
	"slices"
)

// Writer takes the state of one operator: what is of no one key, and a value for each key, which is an asset.
type Writer struct {
	version uint32
	common  []byte // nil: as it was
	puts    map[string][]byte
	deletes []string
	bytes   int
}

// NewWriter returns an empty Writer.
func NewWriter() *Writer { return &Writer{puts: map[string][]byte{}} }

// Version says in which format the values are; the operator numbers its own, from 1. 0 is an operator without state.
func (w *Writer) Version(v uint32) { w.version = v }

// Common stores a copy of what is of no one key, in place of what was there.
func (w *Writer) Common(value []byte) {
	w.bytes += len(value)
	w.common = append([]byte{}, value...)
}

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
	common  []byte
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
	if w.common != nil {
		r.common = w.common
	}
	for _, key := range w.deletes {
		delete(r.values, key)
	}
	maps.Copy(r.values, w.puts)
}

// Version is that of the values; 0 if there are none.
func (r *Reader) Version() uint32 { return r.version }

// Len is the number of keys.
func (r *Reader) Len() int { return len(r.values) }

// Common is what is of no one key, nil if there is nothing.
func (r *Reader) Common() []byte { return r.common }

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

// Placed is a key whose value begins with its place, a Uint: operators number assets in the order of first sight, on which
// the order of their output depends.
type Placed struct {
	Key   string
	Place uint64
	Rest  *Decoder // of what follows the place
}

// InOrder gives the keys by the places that their values begin with.
func (r *Reader) InOrder() []Placed {
	list := make([]Placed, 0, len(r.values))
	for key, value := range r.All() {
		d := NewDecoder(value)
		list = append(list, Placed{Key: key, Place: d.Uint(), Rest: d})
	}
	slices.SortStableFunc(list, func(a, b Placed) int { return cmp.Compare(a.Place, b.Place) })
	return list
}
