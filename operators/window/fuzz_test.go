package window

import (
	"context"
	"maps"
	"slices"
	"testing"
	"time"

	"github.com/tailrace/tailrace/pipeline/pipelinetest"
	"github.com/tailrace/tailrace/pipeline/state"
)

// FuzzRestore spoils one asset's state.
//
// Scenario: The state of an asset in the middle of its rows, for each kind, with any bytes in its place. Guarantees:
// Restore refuses it or the operator goes on from it to the end: no panic, no memory that the bytes do not fill.
func FuzzRestore(f *testing.F) {
	configs := kindsUnderTest()
	kinds := slices.Sorted(maps.Keys(configs))
	bound := func(t testing.TB, kind string) *Operator {
		settings := pipelinetest.Settings(t)
		settings.Lateness = 5 * gridOf(kind)
		o := New(configs[kind], settings)
		if _, err := o.Bind(wide(t, gridOf(kind), "v")); err != nil {
			t.Fatal(err)
		}
		return o
	}
	ctx := context.Background()
	commons := map[string][]byte{}
	for i, kind := range kinds {
		o := bound(f, kind)
		grid := gridOf(kind)
		points := []point{{"a", 0, 0, 5}, {"a", 1, 0, 6}, {"a", 2, 0, 7}, {"a", 4, 0, 1}, {"a", 9, 0, 5}, {"a", 10, 0, 2}, {"a", 3, 0, 8}}
		rec, err := pipelinetest.ReadTable(o.settings.Alloc, wide(f, grid, "v"), nil, pointsTable(points, grid))
		if err != nil {
			f.Fatal(err)
		}
		var out pipelinetest.Collector
		w := state.NewWriter()
		for _, err := range []error{
			o.Process(ctx, rec, &out), o.Advance(ctx, 6*int64(grid), &out), o.Process(ctx, rec, &out), o.Snapshot(w, true), o.Close(),
		} {
			if err != nil {
				f.Fatal(err)
			}
		}
		rec.Release()
		out.Release()
		r := state.NewReader(w)
		commons[kind] = r.Common()
		f.Add(uint8(i), r.Get("a"))
	}
	f.Fuzz(func(t *testing.T, i uint8, value []byte) {
		kind := kinds[int(i)%len(kinds)]
		o := bound(t, kind)
		defer o.Close()
		w := state.NewWriter()
		w.Version(stateVersion)
		w.Common(commons[kind])
		w.Put("a", value)
		if o.Restore(state.NewReader(w)) != nil {
			return
		}
		var out pipelinetest.Collector
		defer out.Release()
		for _, at := range []time.Duration{7, 1000} {
			if err := o.Advance(ctx, int64(at*gridOf(kind)), &out); err != nil {
				t.Fatal(err)
			}
		}
		if err := o.Finish(ctx, &out); err != nil {
			t.Fatal(err)
		}
	})
}
