package window

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"sort"
	"strings"
	"testing"
	"time"

	"github.com/apache/arrow/go/v15/arrow/memory"
	"pgregory.net/rapid"

	"github.com/tailrace/tailrace/pipeline"
	"github.com/tailrace/tailrace/pipeline/pipelinetest"
	"github.com/tailrace/tailrace/pipeline/state"
)

// kindsUnderTest has one config of each kind, over a channel v that is 0 to 8.
func kindsUnderTest() map[string]Config {
	configs := map[string]Config{}
	for _, kind := range kindNames {
		c := defaults()
		c.Kind, c.MaxBatch = kind, 64
		switch kind {
		case Tumbling:
			c.Size = 3 * time.Second
		case Hopping:
			c.Size, c.Hop = 4*time.Second, 2*time.Second
		case Session:
			c.Gap, c.MaxDuration = 2*time.Second, 5*time.Second
		case Count:
			c.Rows, c.Every = 4, "3"
		case Trigger:
			c.Start, c.Stop = "v > 4", `tag["v"] < 3`
			c.Pre, c.Post, c.MinDuration, c.MaxDuration = 2*time.Second, 3*time.Second, 2*time.Second, 4*time.Second
		case Calendar:
			c.Every, c.Zone = everyShift, "Europe/Berlin"
			c.Shifts = []string{"00:00", "03:00", "05:00", "10:00", "14:00", "18:00", "22:00"}
		}
		configs[kind] = c
	}
	return configs
}

// gridOf is the grid that a kind is tried on: what the tests call a second is that long.
func gridOf(kind string) time.Duration {
	if kind == Calendar {
		return time.Hour
	}
	return time.Second
}

// Scenario: The contract's checks over three assets, one without a name, with gaps, disorder, late rows and rows that are replaced, for each
// kind, with and without a lateness. Guarantees: Cuts and restores change nothing, nothing lent is kept, nothing leaks,
// errors come back, damage is refused.
func TestContractOfKinds(t *testing.T) {
	for kind, c := range kindsUnderTest() {
		grid := gridOf(kind)
		schema := wide(t, grid, "v")
		for _, lateness := range []time.Duration{0, 6} {
			t.Run(fmt.Sprintf("%s, lateness %d", kind, lateness), func(t *testing.T) {
				pipelinetest.CheckOperator(t, pipelinetest.OperatorCheck{
					New: func(s pipeline.Settings) (pipeline.Operator, error) {
						s.Lateness = lateness * grid
						return New(c, s), nil
					},
					Schema: schema,
					Input: func(mem memory.Allocator) []pipelinetest.Step {
						var steps []pipelinetest.Step
						random := rand.New(rand.NewPCG(1, 2))
						for part := range int64(8) {
							text := "asset ts coverage revision v\n"
							for range 12 {
								text += fmt.Sprintf("%s %v 0.5 %d %d\n", []string{"a", "b", `""`}[random.IntN(3)], time.Duration(part*4+random.Int64N(9)-4)*grid,
									random.IntN(2), random.IntN(9))
							}
							rec, err := pipelinetest.ReadTable(mem, schema, nil, text)
							if err != nil {
								t.Fatal(err)
							}
							steps = append(steps, pipelinetest.Step{Batch: rec}, pipelinetest.Step{Watermark: (part*4 + 2) * int64(grid)})
						}
						return steps
					},
				})
			})
		}
	}
}

// point is a row of the property.
type point struct {
	asset    string
	ts       int64 // in units of the grid
	revision int
	v        int
}

func pointsTable(points []point, grid time.Duration) string {
	text := "asset ts coverage k_first k_last revision v\n"
	for _, p := range points {
		text += fmt.Sprintf("%s %v 1 %d %d %d %d\n", p.asset, time.Duration(p.ts)*grid, p.v, p.v, p.revision, p.v)
	}
	return text
}

// latest reads windows as text by key, of the highest revision each, without revision and time of arrival. What is
// withdrawn is left out. It fails if a revision is not one more than that before.
func latest(t *rapid.T, out *pipelinetest.Collector) map[string]string {
	windows, revisions := map[string]string{}, map[string]string{}
	text := pipelinetest.WriteTable(out.Rows, "asset", "window_start", "window_end", "revision", "ts", "n", "coverage", "cut",
		"k_first", "k_last", "samples")
	for _, line := range strings.Split(strings.TrimSpace(text), "\n")[min(1, len(out.Rows)):] {
		words := strings.Fields(line)
		if len(words) == 0 {
			continue
		}
		key, revision := strings.Join(words[:3], " "), words[3]
		want := "0"
		if before, ok := revisions[key]; ok {
			var n int
			fmt.Sscan(before, &n)
			want = fmt.Sprint(n + 1)
		}
		if revision != want {
			t.Fatalf("%s: want revision %s, got %s", key, want, revision)
		}
		revisions[key] = revision
		windows[key] = strings.Join(words[4:], " ")
		if words[7] == "withdrawn" {
			delete(windows, key)
		}
	}
	return windows
}

// Scenario: Rows of two assets in any disorder within the lateness, some of them replaced, with watermarks and restores
// anywhere, also with another lateness or none, for every kind. Beside it the rows that count in the end, in order,
// without a lateness. Guarantees: The highest revision of each window is the window of the ordered rows; no window is
// missing or too many; revisions of a window rise one by one.
func TestDisorder(t *testing.T) {
	configs := kindsUnderTest()
	rapid.Check(t, func(rt *rapid.T) {
		c := configs[rapid.SampledFrom(kindNames).Draw(rt, "kind")]
		grid := gridOf(c.Kind)
		schema := wide(t, grid, "v")
		lateness := rapid.Int64Range(1, 15).Draw(rt, "lateness")
		settings := pipelinetest.Settings(t)
		settings.Lateness = time.Duration(lateness) * grid
		ctx := context.Background()
		must := func(err error) {
			if err != nil {
				rt.Fatal(err)
			}
		}
		bound := func(s pipeline.Settings) *Operator {
			o := New(c, s)
			_, err := o.Bind(schema)
			must(err)
			return o
		}
		process := func(o *Operator, points []point, out *pipelinetest.Collector) {
			rec, err := pipelinetest.ReadTable(settings.Alloc, schema, nil, pointsTable(points, grid))
			must(err)
			defer rec.Release()
			must(o.Process(ctx, rec, out))
		}
		var disordered, ordered pipelinetest.Collector
		defer disordered.Release()
		defer ordered.Release()

		o := bound(settings)
		defer func() { o.Close() }()
		final := map[string]point{}
		watermark := int64(-10)
		settled := watermark - lateness // times at or before it are late
		for range rapid.IntRange(1, 8).Draw(rt, "rounds") {
			var points []point
			for range rapid.IntRange(0, 8).Draw(rt, "rows") {
				p := point{
					asset:    rapid.SampledFrom([]string{"a", "b"}).Draw(rt, "asset"),
					ts:       rapid.Int64Range(settled+1, watermark+8).Draw(rt, "ts"),
					revision: rapid.IntRange(0, 1).Draw(rt, "revision"),
					v:        rapid.IntRange(0, 8).Draw(rt, "v"),
				}
				points = append(points, p)
				key := fmt.Sprintf("%s %d", p.asset, p.ts)
				if _, taken := final[key]; !taken || p.revision > 0 {
					final[key] = p
				}
			}
			process(o, points, &disordered)
			if rapid.Bool().Draw(rt, "restore") {
				w := state.NewWriter()
				must(o.Snapshot(w, true))
				must(o.Close())
				lateness = rapid.SampledFrom([]int64{0, lateness, lateness + 2}).Draw(rt, "new lateness")
				settings.Lateness = time.Duration(lateness) * grid
				o = bound(settings)
				must(o.Restore(state.NewReader(w)))
				if lateness == 0 {
					settled = watermark
				}
			}
			watermark += rapid.Int64Range(0, 6).Draw(rt, "step")
			settled = max(settled, watermark-lateness)
			must(o.Advance(ctx, watermark*int64(grid), &disordered))
		}
		if got := settings.Drops.(*pipelinetest.Drops).Take(); strings.Contains(got, "late") {
			rt.Fatalf("want no row late, got %s", got)
		}
		must(o.Finish(ctx, &disordered))

		settings.Lateness = 0
		reference := bound(settings)
		defer reference.Close()
		var points []point
		for _, p := range final {
			points = append(points, p)
		}
		sort.Slice(points, func(i, k int) bool {
			return points[i].ts < points[k].ts || points[i].ts == points[k].ts && points[i].asset < points[k].asset
		})
		process(reference, points, &ordered)
		must(reference.Advance(ctx, watermark*int64(grid), &ordered))
		must(reference.Finish(ctx, &ordered))

		got, want := latest(rt, &disordered), latest(rt, &ordered)
		for _, key := range slices.Sorted(func(yield func(string) bool) {
			for k := range got {
				if want[k] != got[k] && !yield(k) {
					return
				}
			}
			for k := range want {
				if _, ok := got[k]; !ok && !yield(k) {
					return
				}
			}
		}) {
			rt.Errorf("%s: want %q, got %q", key, want[key], got[key])
		}
	})
}
