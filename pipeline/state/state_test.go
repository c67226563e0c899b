package state

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"reflect"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// Scenario: values of every kind at the ends of their ranges.
// Guarantees: they come back bit by bit, and nothing is left.
func TestCodec(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		i, u := rapid.Int64().Draw(t, "int"), rapid.Uint64().Draw(t, "uint")
		f := math.Float64frombits(rapid.Uint64().Draw(t, "float"))
		b, s, raw := rapid.Bool().Draw(t, "bool"), rapid.String().Draw(t, "text"), rapid.SliceOf(rapid.Byte()).Draw(t, "raw")
		var e Encoder
		e.Int(i)
		e.Uint(u)
		e.Float(f)
		e.Bool(b)
		e.Text(s)
		e.Raw(raw)
		d := NewDecoder(e.Bytes)
		if got := d.Int(); got != i {
			t.Errorf("int: want %d, got %d", i, got)
		}
		if got := d.Uint(); got != u {
			t.Errorf("uint: want %d, got %d", u, got)
		}
		if got := d.Float(); math.Float64bits(got) != math.Float64bits(f) {
			t.Errorf("float: want %x, got %x", math.Float64bits(f), math.Float64bits(got))
		}
		if got := d.Bool(); got != b {
			t.Errorf("bool: want %t, got %t", b, got)
		}
		if got := d.Text(); got != s {
			t.Errorf("text: want %q, got %q", s, got)
		}
		if got := d.Raw(); !slices.Equal(got, raw) {
			t.Errorf("raw: want %x, got %x", raw, got)
		}
		if d.More() || d.Err() != nil {
			t.Errorf("want the end without a fault, got more %t and %v", d.More(), d.Err())
		}
	})
}

// blobOf draws a blob.
func blobOf(t *rapid.T) *Blob {
	text := rapid.StringMatching(`[a-z.]{0,12}`)
	b := &Blob{Pipeline: "p", Seq: rapid.Uint64().Draw(t, "seq"), Time: rapid.Int64().Draw(t, "time"), BlockRows: rapid.IntRange(0, 1e6).Draw(t, "rows")}
	copy(b.Run[:], rapid.SliceOfN(rapid.Byte(), 16, 16).Draw(t, "run"))
	for p := range rapid.IntRange(0, 3).Draw(t, "parts") {
		part := Part{
			Topic: text.Draw(t, "topic"), TopicID: text.Draw(t, "id"), Partition: int32(p), From: rapid.Int64().Draw(t, "from"),
			To: rapid.Int64().Draw(t, "to"), Base: text.Draw(t, "base"), Counters: map[string]int64{},
			Raw:     Raw{Messages: 3, Rows: 2, Hash: rapid.Uint64().Draw(t, "hash"), Edits: []Edit{}, Decoder: []byte("before"), Refused: []Refusal{{Offset: 4, Reason: "full"}}},
			Decoder: []byte("after"), Steps: []Step{},
		}
		row := int64(0)
		for range rapid.IntRange(0, 5).Draw(t, "edits") {
			row += rapid.Int64Range(1, 1000).Draw(t, "gap")
			part.Raw.Edits = append(part.Raw.Edits, Edit{Row: row, Drop: rapid.Bool().Draw(t, "drop"), Flags: rapid.Uint32().Draw(t, "flags")})
		}
		maps.Copy(part.Counters, rapid.MapOf(text, rapid.Int64()).Draw(t, "counters"))
		for s := range rapid.IntRange(0, 3).Draw(t, "steps") {
			w := NewWriter()
			w.Version(rapid.Uint32().Draw(t, "version"))
			if rapid.Bool().Draw(t, "has common") {
				w.Common(rapid.SliceOf(rapid.Byte()).Draw(t, "common"))
			}
			for key, value := range rapid.MapOf(text, rapid.SliceOf(rapid.Byte())).Draw(t, "state") {
				w.Put(key, value)
			}
			for _, key := range rapid.SliceOf(text).Draw(t, "gone") {
				w.Delete(key)
			}
			part.Steps = append(part.Steps, Step{Name: fmt.Sprint("step", s), Fingerprint: text.Draw(t, "fingerprint"), State: w})
		}
		b.Parts = append(b.Parts, part)
	}
	for range rapid.IntRange(0, 3).Draw(t, "outbox") {
		b.Outbox = append(b.Outbox, Rows{Table: text.Draw(t, "table"), Topic: text.Draw(t, "topic"), Partition: 7, Stream: []byte(text.Draw(t, "stream"))})
	}
	return b
}

// dump is a blob as text, with its snapshots in order.
func dump(b *Blob) string {
	var s strings.Builder
	fmt.Fprintf(&s, "%s %x %d %d %d\n", b.Pipeline, b.Run, b.Seq, b.Time, b.BlockRows)
	for _, p := range b.Parts {
		fmt.Fprintf(&s, "%s %s %d %d %d %s %v %v\n", p.Topic, p.TopicID, p.Partition, p.From, p.To, p.Base, p.Raw, p.Counters)
		fmt.Fprintf(&s, "%s\n", p.Decoder)
		for _, step := range p.Steps {
			fmt.Fprintf(&s, "%s %s %d %v %x %t %x\n", step.Name, step.Fingerprint, step.State.version, step.State.deletes, step.State.puts,
				step.State.common != nil, step.State.common)
		}
	}
	for _, r := range b.Outbox {
		fmt.Fprintf(&s, "%s %s %d %s\n", r.Table, r.Topic, r.Partition, r.Stream)
	}
	return s.String()
}

// Scenario: blobs with anything in them, and the same with one byte changed, cut off or added.
// Guarantees: the blob comes back as it was, equal blobs have equal names, and one that is damaged is refused.
func TestBlob(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		b := blobOf(t)
		name, data := b.Encode()
		again, _ := b.Encode()
		if name != again || !strings.HasPrefix(name, fmt.Sprintf("p/%x/%d-", b.Run, b.Seq)) {
			t.Fatalf("names: want the same twice, of pipeline, run and seq, got %s and %s", name, again)
		}
		got, err := Decode(name, data)
		if err != nil {
			t.Fatal(err)
		}
		if dump(got) != dump(b) {
			t.Fatalf("want\n%s\ngot\n%s", dump(b), dump(got))
		}
		spoilt := slices.Clone(data)
		spoilt[rapid.IntRange(0, len(data)-1).Draw(t, "at")] ^= byte(rapid.IntRange(1, 255).Draw(t, "by"))
		for _, bad := range [][]byte{spoilt, data[:len(data)-1], append(slices.Clone(data), 0)} {
			if _, err := Decode(name, bad); !errors.Is(err, ErrCorrupt) {
				t.Fatalf("want %v, got %v", ErrCorrupt, err)
			}
		}
	})
}

// Scenario: what an Encoder never wrote is decoded, under a name that fits it.
// Guarantees: it is refused, without a panic and without asking for memory that it does not fill.
func FuzzBlob(f *testing.F) {
	b := Blob{Pipeline: "p", Parts: []Part{{Topic: "t", Steps: []Step{{Name: "s", State: NewWriter()}}}}}
	_, data := b.Encode()
	f.Add(data[len(magic):])
	f.Add([]byte{1, 0xff, 0xff, 0xff, 0xff, 0x7f})
	f.Fuzz(func(t *testing.T, rest []byte) {
		d := NewDecoder(rest)
		var p Part
		p.decode(d)
		if d.Err() == nil && len(rest) == 0 {
			t.Error("want nothing refused as a part, got it taken")
		}
	})
}

// store keeps blobs for the tests.
type store struct {
	Store
	blobs map[string][]byte
}

func (s *store) Get(_ context.Context, name string) ([]byte, error) {
	if data, ok := s.blobs[name]; ok {
		return data, nil
	}
	return nil, ErrNotFound
}

// Scenario: a full snapshot and two that build on it: a key changes, one goes, one comes back, and a step begins.
// Guarantees: what is restored at each is what stood there; without one of the blobs, or with another partition, it is an
// error.
func TestRestore(t *testing.T) {
	s := &store{blobs: map[string][]byte{}}
	put := func(seq uint64, base string, steps ...Step) string {
		b := Blob{Pipeline: "p", Seq: seq, Parts: []Part{{Topic: "t", Partition: 1, Base: base, Steps: steps}}}
		name, data := b.Encode()
		s.blobs[name] = data
		return name
	}
	snapshot := func(name string, deletes []string, puts ...string) Step {
		w := NewWriter()
		w.Version(3)
		for _, key := range deletes {
			w.Delete(key)
		}
		for i := 0; i < len(puts); i += 2 {
			w.Put(puts[i], []byte(puts[i+1]))
		}
		return Step{Name: name, State: w}
	}
	full := put(1, "", snapshot("sum", nil, "a", "1", "b", "2"))
	second := put(2, full, snapshot("sum", []string{"b"}, "a", "10"))
	third := put(3, second, snapshot("sum", nil, "b", "20"), snapshot("new", nil, "c", "3"))
	for _, c := range []struct {
		name string
		want map[string]string
		down int // blobs read
	}{{full, map[string]string{"a": "1", "b": "2"}, 1}, {second, map[string]string{"a": "10"}, 2}, {third, map[string]string{"a": "10", "b": "20"}, 3}} {
		r, err := Restore(t.Context(), s, c.name, "t", 1, map[string]*Blob{})
		if err != nil {
			t.Fatal(err)
		}
		got := map[string]string{}
		for key, value := range r.Steps[0].State.All() {
			got[key] = string(value)
		}
		if !reflect.DeepEqual(got, c.want) || len(r.Chain) != c.down || r.Steps[0].State.Version() != 3 {
			t.Errorf("%s: want %v over %d blobs, got %v over %v", c.name, c.want, c.down, got, r.Chain)
		}
	}
	if _, err := Restore(t.Context(), s, third, "t", 2, map[string]*Blob{}); !errors.Is(err, ErrCorrupt) {
		t.Errorf("another partition: want %v, got %v", ErrCorrupt, err)
	}
	delete(s.blobs, second)
	if _, err := Restore(t.Context(), s, third, "t", 1, map[string]*Blob{}); !errors.Is(err, ErrNotFound) {
		t.Errorf("a blob that is gone: want %v, got %v", ErrNotFound, err)
	}
}

// Scenario: assets with places, one of them without a name, and what is of no asset, over two snapshots.
// Guarantees: each is told apart, in the order of places, and what a later snapshot leaves out is as it was.
func TestInOrder(t *testing.T) {
	value := func(place uint64, text string) []byte {
		var e Encoder
		e.Uint(place)
		e.Text(text)
		return e.Bytes
	}
	full, later := NewWriter(), NewWriter()
	full.Common([]byte("all"))
	full.Put("b", value(0, "first"))
	full.Put("", value(1, "unnamed"))
	full.Put("a", value(2, "last"))
	later.Put("a", value(2, "changed"))
	r := NewReader(full, later)
	var got []string
	for _, p := range r.InOrder() {
		got = append(got, fmt.Sprintf("%s=%d:%s", p.Key, p.Place, p.Rest.Text()))
	}
	if want := []string{"b=0:first", "=1:unnamed", "a=2:changed"}; !slices.Equal(got, want) || string(r.Common()) != "all" || r.Len() != 3 {
		t.Errorf("want %v and what is of all, got %v and %q", want, got, r.Common())
	}
}

// Scenario: the metadata of plans and settled checkpoints, and texts that others wrote.
// Guarantees: ours comes back and stays under its limit; the others are refused as foreign.
func TestMeta(t *testing.T) {
	for _, open := range []bool{true, false} {
		m := Meta{Run: [16]byte{0xab, 15: 1}, Seq: 1 << 60, Blob: strings.Repeat("x", 160), Open: open, TopicID: strings.Repeat("0", 32), Width: 4096}
		got, err := ParseMeta(m.String())
		if err != nil || got != m || len(m.String()) > MaxMeta {
			t.Errorf("want %+v within %d bytes, got %+v in %d, %v", m, MaxMeta, got, len(m.String()), err)
		}
	}
	for _, text := range []string{
		"", "offset 12", "{}", `{"v":2,"run":"00000000000000000000000000000001","seq":1,"state":"done"}`,
		`{"v":1,"run":"00","seq":1,"state":"done"}`, `{"v":1,"run":"00000000000000000000000000000001","seq":1,"state":"maybe"}`,
		strings.Repeat(" ", 2000),
	} {
		if _, err := ParseMeta(text); !errors.Is(err, ErrForeign) {
			t.Errorf("%.40q: want %v, got %v", text, ErrForeign, err)
		}
	}
}
