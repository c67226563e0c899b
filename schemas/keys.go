package schemas

import (
	"github.com/apache/arrow/go/v15/arrow"
	"github.com/apache/arrow/go/v15/arrow/array"
	"github.com/apache/arrow/go/v15/arrow/memory"
)

// What stands in a table of [Keys] in place of an id.
const (
	KeyNew     int32 = -1 // the text has no id yet: call Add
	KeyRefused int32 = -2 // the limit was reached before the text was seen
)

// Keys reads the dictionary columns that an [Interner] somewhere upstream writes: it gives the texts dense ids of its
// own, from 0 in the order of Add, that stay when a column comes with another dictionary. Rows are looked up in a table
// by their dictionary index; texts are compared only when the dictionary changes. It is for one goroutine.
type Keys struct {
	*Interner // the texts by id: Text, Len, Dictionary, Release
	limit     int
	// seen is the dictionary that table belongs to. Holding the pointer keeps its address from being used again, so
	// identity is proof; its memory is not read.
	seen  arrow.ArrayData
	table []int32
}

// NewKeys returns Keys that give out at most limit ids.
func NewKeys(mem memory.Allocator, limit int) *Keys {
	return &Keys{Interner: NewInterner(mem), limit: limit}
}

// Table returns the id, KeyNew or KeyRefused for each index of column's dictionary. It is good until the next call.
func (k *Keys) Table(column *array.Dictionary) []int32 {
	data := column.Dictionary().Data()
	if data == k.seen {
		return k.table
	}
	texts := column.Dictionary().(*array.String)
	k.seen, k.table = data, k.table[:0]
	for i := range texts.Len() {
		id, ok := k.ids[texts.Value(i)]
		if !ok {
			id = KeyNew
		}
		k.table = append(k.table, id)
	}
	return k.table
}

// Add gives the text at an index of column's dictionary an id, notes it in the table and returns it, or KeyRefused.
// Table must have been called with the same column.
func (k *Keys) Add(column *array.Dictionary, index int32) int32 {
	text := column.Dictionary().(*array.String).Value(int(index))
	id, ok := k.ids[text]
	switch {
	case ok:
	case k.Len() >= k.limit:
		id = KeyRefused
	default:
		id = k.ID([]byte(text))
	}
	k.table[index] = id
	return id
}
