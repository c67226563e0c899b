package schemas

import (
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
	recent [256]int32
	dict   arrow.Array
	mem    memory.Allocator
}

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

// hash mixes the length and the last eight bytes: plant names differ at their ends.
func hash(text []byte) uint8 {
	h := uint32(len(text))
	for i := max(0, len(text)-8); i < len(text); i++ {
		h = (h ^ uint32(text[i])) * 16777619
	}
	return uint8(h ^ h>>8 ^ h>>16)
}

// Len returns the number of distinct texts.
func (in *Interner) Len() int { return len(in.texts) }

// Text returns the text of an id that ID gave.
func (in *Interner) Text(id int32) string { return in.texts[id] }

// Dictionary returns the texts as an Arrow array whose index i is id i. It is the same array until a text is added, so
// that readers can tell by identity that nothing changed. The interner owns it; Retain it to keep it.
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
