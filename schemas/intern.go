package schemas

import (
	"encoding/binary"

	"github.com/apache/arrow/go/v15/arrow"
	"github.com/apache/arrow/go/v15/arrow/array"
	"github.com/apache/arrow/go/v15/arrow/memory"
)

// Interner gives each distinct text a dense id, from 0 in the order of first sight, and keeps it for life. A task keeps
// one for each dictionary column, so that an id means the same text in every batch of the task and operators can index
// slices by it instead of looking texts up.
//
// It grows with the number of distinct texts; whoever fills it bounds them. It is for one goroutine.
type Interner struct {
	ids   map[string]int32
	texts []string
	// recent remembers the ids of texts seen lately under a cheap hash, since a plant's rows repeat a few hundred texts.
	recent [1 << recentBits]int32
	dict   arrow.Array
	mem    memory.Allocator
}

// recentBits holds the distinct tags of a large machine with few of them sharing a slot.
const recentBits = 10

// NewInterner returns an empty interner that builds its dictionaries with mem.
func NewInterner(mem memory.Allocator) *Interner {
	in := &Interner{ids: map[string]int32{}, mem: mem}
	for i := range in.recent {
		in.recent[i] = -1
	}
	return in
}

// ID returns the id of text, making one if it is new. It keeps a copy, never text itself.
func (in *Interner) ID(text []byte) int32 {
	slot := hash(text)
	if id := in.recent[slot]; id >= 0 && in.texts[id] == string(text) {
		return id
	}
	id, ok := in.ids[string(text)]
	if !ok {
		id = int32(len(in.texts))
		owned := string(text)
		in.ids[owned] = id
		in.texts = append(in.texts, owned)
	}
	in.recent[slot] = id
	return id
}

// Find returns the id of text if it has one, and makes none.
func (in *Interner) Find(text []byte) (int32, bool) {
	id, ok := in.ids[string(text)]
	return id, ok
}

// hash mixes the length and the last sixteen bytes: plant names differ at their ends. The factors are the first two
// primes of xxHash64.
func hash(text []byte) uint32 {
	n := len(text)
	h := uint64(n)
	switch {
	case n >= 16:
		h ^= binary.LittleEndian.Uint64(text[n-16:]) * 0xC2B2AE3D27D4EB4F
		fallthrough
	case n >= 8:
		h ^= binary.LittleEndian.Uint64(text[n-8:])
	default:
		for _, c := range text {
			h = h<<8 ^ uint64(c)
		}
	}
	h *= 0x9E3779B185EBCA87
	h ^= h >> 32
	h *= 0xC2B2AE3D27D4EB4F
	return uint32(h >> (64 - recentBits))
}

// Len returns the number of distinct texts.
func (in *Interner) Len() int { return len(in.texts) }

// Text returns the text of an id that ID gave.
func (in *Interner) Text(id int32) string { return in.texts[id] }

// Dictionary returns the texts as an Arrow array whose index i is id i. It is the same array until a text is added, so
// that readers can tell by the identity of its Data that nothing changed. The interner owns it; Retain it to keep it.
func (in *Interner) Dictionary() arrow.Array {
	if in.dict != nil && in.dict.Len() == len(in.texts) {
		return in.dict
	}
	if in.dict != nil {
		in.dict.Release()
	}
	b := array.NewStringBuilder(in.mem)
	defer b.Release()
	b.AppendValues(in.texts, nil)
	in.dict = b.NewArray()
	return in.dict
}

// Release gives the dictionary back. The interner is empty of memory afterwards and must not be used.
func (in *Interner) Release() {
	if in.dict != nil {
		in.dict.Release()
		in.dict = nil
	}
}
