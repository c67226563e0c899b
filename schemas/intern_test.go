package schemas

import (
	"testing"

	"github.com/apache/arrow/go/v15/arrow/array"
	"pgregory.net/rapid"
)

// Scenario: texts of every length, few of them distinct, many that share their ends, looked up again and again.
// Guarantees: ids are dense and in the order of first sight, a text keeps its id, Find gives it and makes none, and the
// dictionary has the text at its id. The model is a map.
func TestInterner(t *testing.T) {
	mem := newChecked(t)
	rapid.Check(t, func(r *rapid.T) {
		in := NewInterner(mem)
		defer in.Release()
		ids := map[string]int32{}
		text := rapid.OneOf(rapid.String(), rapid.StringMatching(`plant\.line[0-9]\.temperature`))
		pool := rapid.SliceOfN(text, 1, 300).Draw(r, "pool")
		for _, text := range append(pool, pool...) {
			_, known := ids[text]
			if id, ok := in.Find([]byte(text)); ok != known || ok && id != ids[text] {
				r.Fatalf("Find %q: got %d, %v", text, id, ok)
			}
			if !known {
				ids[text] = int32(len(ids))
			}
			lent := []byte(text)
			if id := in.ID(lent); id != ids[text] || in.Text(id) != text || in.Len() != len(ids) {
				r.Fatalf("%q: want id %d of %d, got %d of %d", text, ids[text], len(ids), id, in.Len())
			}
			clear(lent) // it was only lent
		}
		dict := in.Dictionary().(*array.String)
		if dict.Len() != len(ids) || in.Dictionary() != dict {
			r.Fatalf("want a dictionary of %d that stays, got %d", len(ids), dict.Len())
		}
		for text, id := range ids {
			if dict.Value(int(id)) != text {
				r.Fatalf("id %d: want %q, got %q", id, text, dict.Value(int(id)))
			}
		}
	})
}
