package pipelinetest

import (
	"context"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/apache/arrow/go/v15/arrow"
	"github.com/apache/arrow/go/v15/arrow/array"

	"github.com/tailrace/tailrace/pipeline/state"
	"github.com/tailrace/tailrace/schemas"
)

// fullEvery is how many snapshots are taken for one that is full, on the average.
const fullEvery = 4

// checkRestore wants the output whole whatever the points at which a new operator goes on from snapshots of an old one,
// and damaged state refused.
func (c OperatorCheck) checkRestore(t *testing.T, whole string) {
	t.Helper()
	same := func(name string, seed uint64, again int, cut func(*rand.Rand, arrow.Record) []int64) {
		t.Run(name, func(t *testing.T) {
			r := restoring{check: c, random: rand.New(rand.NewPCG(seed, 1)), again: again}
			if got := r.output(t, cut); got != whole {
				t.Errorf("seed %d: the output depends on restarts\n--- undisturbed\n%s--- restored\n%s", seed, whole, got)
			}
		})
	}
	wholes := func(_ *rand.Rand, rec arrow.Record) []int64 { return wholeBatch(rec) }
	same("restore after every call", 0, 1, wholes)
	same("snapshots without a restart", 0, 0, wholes)
	for seed := range uint64(cutSeeds) {
		same("restore at random cuts", seed, 1+int(seed%3), randomCut)
	}
	t.Run("restore refuses damaged state", c.damaged)
}

// restoring runs operators one after the other, each from the state that the one before left.
type restoring struct {
	check     OperatorCheck
	random    *rand.Rand
	again     int // one of so many calls is followed by a restart; 0 is none
	run       *operatorRun
	names     []*schemas.Interner // by column: the dictionaries of this life, nil for other columns
	snapshots []*state.Writer     // the last full one and those since
}

func (r *restoring) output(t *testing.T, cut func(*rand.Rand, arrow.Record) []int64) string {
	t.Helper()
	first := r.check.start(t, true)
	defer func() { r.end(t) }()
	r.begin(first)
	var out Collector
	defer out.Release()
	ctx := context.Background()
	for _, step := range r.check.Input(first.settings.Alloc) {
		if step.Batch == nil {
			if err := r.run.op.Advance(ctx, step.Watermark, &out); err != nil {
				t.Fatal(err)
			}
			r.barrier(t)
			continue
		}
		defer step.Batch.Release()
		var at int64
		for _, n := range cut(r.random, step.Batch) {
			slice := step.Batch.NewSlice(at, at+n)
			at += n
			piece := r.rename(slice)
			slice.Release()
			if err := r.run.processAndFree(ctx, piece, &out); err != nil {
				t.Fatal(err)
			}
			r.barrier(t)
		}
	}
	if err := r.run.op.Finish(ctx, &out); err != nil {
		t.Fatalf("finish: %v", err)
	}
	return r.run.text(t, &out)
}

// begin starts a life with dictionaries of its own.
func (r *restoring) begin(run *operatorRun) {
	r.run, r.names = run, nil
	for _, field := range r.check.Schema.Fields() {
		var names *schemas.Interner
		if arrow.TypeEqual(field.Type, schemas.Dict) {
			names = schemas.NewInterner(run.settings.Alloc)
		}
		r.names = append(r.names, names)
	}
}

func (r *restoring) end(t *testing.T) {
	t.Helper()
	r.run.close(t)
	for _, names := range r.names {
		if names != nil {
			names.Release()
		}
	}
}

// rename copies rows, with the dictionary indexes of this life: a decoder that starts anew numbers texts as it meets them.
func (r *restoring) rename(rec arrow.Record) arrow.Record {
	columns := make([]arrow.Array, rec.NumCols())
	for i, column := range rec.Columns() {
		dict, ok := column.(*array.Dictionary)
		if !ok {
			columns[i] = column
			continue
		}
		b := array.NewInt32Builder(r.run.settings.Alloc)
		texts := dict.Dictionary().(*array.String)
		for row := range dict.Len() {
			if dict.IsNull(row) {
				b.AppendNull()
				continue
			}
			b.Append(r.names[i].ID([]byte(texts.Value(dict.GetValueIndex(row)))))
		}
		indexes := b.NewArray()
		b.Release()
		columns[i] = array.NewDictionaryArray(schemas.Dict, indexes, r.names[i].Dictionary())
		indexes.Release()
		defer columns[i].Release()
	}
	return array.NewRecord(rec.Schema(), columns, rec.NumRows())
}

// barrier takes a snapshot, and maybe lets a new operator go on from it.
func (r *restoring) barrier(t *testing.T) {
	t.Helper()
	full := len(r.snapshots) == 0 || r.random.IntN(fullEvery) == 0
	w := state.NewWriter()
	if err := r.run.op.Snapshot(w, full); err != nil {
		t.Fatalf("snapshot: %v", err)
	}
	if full {
		r.snapshots = nil
	}
	r.snapshots = append(r.snapshots, w)
	if r.again == 0 || r.random.IntN(r.again) > 0 {
		return
	}
	settings := Settings(t)
	settings.Drops = r.run.settings.Drops
	r.end(t)
	r.begin(r.check.startWith(t, settings, true))
	stored, data := reread(t, r.snapshots)
	if err := r.run.op.Restore(state.NewReader(stored...)); err != nil {
		t.Fatalf("restore: %v", err)
	}
	for i := range data {
		data[i] = poisonByte // what the reader gave was lent
	}
}

// reread sends snapshots through a blob, as a restart does. The values lie in data.
func reread(t *testing.T, snapshots []*state.Writer) (stored []*state.Writer, data []byte) {
	t.Helper()
	var b state.Blob
	for _, w := range snapshots {
		b.Parts = append(b.Parts, state.Part{Steps: []state.Step{{State: w}}})
	}
	name, data := b.Encode()
	read, err := state.Decode(name, data)
	if err != nil {
		t.Fatal(err)
	}
	for i := range read.Parts {
		stored = append(stored, read.Parts[i].Steps[0].State)
	}
	return stored, data
}

// damaged takes the state of an operator that has seen all of the input, and spoils it.
func (c OperatorCheck) damaged(t *testing.T) {
	r := c.start(t, true)
	defer r.close(t)
	var out Collector
	defer out.Release()
	for _, s := range c.Input(r.settings.Alloc) {
		if err := r.step(context.Background(), s, wholeBatch, &out); err != nil {
			t.Fatal(err)
		}
	}
	good := state.NewWriter()
	if err := r.op.Snapshot(good, true); err != nil {
		t.Fatalf("snapshot: %v", err)
	}
	all := state.NewReader(good)
	// same leaves values as they are; nobody is the key of what is of no one key.
	same := func(_ string, value []byte) []byte { return value }
	const nobody = "\x00"
	refused := func(what string, version uint32, spoil func(key string, value []byte) []byte) {
		w := state.NewWriter()
		w.Version(version)
		if common := all.Common(); common != nil {
			w.Common(spoil(nobody, common))
		}
		for key, value := range all.All() {
			w.Put(key, spoil(key, value))
		}
		next := c.start(t, true)
		defer next.close(t)
		if err := next.op.Restore(state.NewReader(w)); err == nil {
			t.Errorf("%s: want an error, got none", what)
		}
	}
	if all.Version() == 0 {
		return
	}
	refused("a version of the future", all.Version()+1, same)
	values := map[string][]byte{}
	if common := all.Common(); len(common) > 0 {
		values[nobody] = common
	}
	maps.Insert(values, all.All())
	for spoiled, whole := range values {
		for _, cut := range []int{0, len(whole) / 2, len(whole) - 1} {
			refused("a value cut short", all.Version(), func(key string, value []byte) []byte {
				if key == spoiled {
					return value[:cut]
				}
				return value
			})
		}
		refused("a value with more behind it", all.Version(), func(key string, value []byte) []byte {
			if key == spoiled {
				return append(slices.Clone(value), 0)
			}
			return value
		})
	}
}
