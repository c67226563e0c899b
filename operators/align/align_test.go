package align

import (
	"cmp"
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/apache/arrow/go/v15/arrow"
	"github.com/apache/arrow/go/v15/arrow/array"
	"github.com/apache/arrow/go/v15/arrow/memory"
	"github.com/goccy/go-yaml"
	"pgregory.net/rapid"

	"github.com/tailrace/tailrace/pipeline"
	"github.com/tailrace/tailrace/pipeline/pipelinetest"
	"github.com/tailrace/tailrace/schemas"
)

var twoChannels = Channels{{Tag: "t", Unit: "degC"}, {Tag: "p", Unit: "kPa"}}

// Scenario: The scripts in testdata: holding, gaps, silence, negative times, hostile samples, limits.
// Guarantees: Rows and counts are those worked out by hand.
func TestScripts(t *testing.T) {
	pipelinetest.OperatorScripts{
		New: func(s pipeline.Settings, text string) (pipeline.Operator, *arrow.Schema, error) {
			c := defaults()
			if err := yaml.UnmarshalWithOptions([]byte(text), &c, yaml.Strict()); err != nil {
				return nil, nil, err
			}
			c.Channels = twoChannels
			return New(c, s), schemas.Telemetry(), nil
		},
		Defaults: map[string]string{"quality": "2"},
	}.Run(t, "testdata/*.txt")
}

// in is a sample as tests write it.
type in struct {
	asset, tag string
	ts         int64
	value      float64
}

func records(mem memory.Allocator, b *schemas.TelemetryBuilder, list []in) arrow.Record {
	for i, s := range list {
		b.Append(&schemas.Row{TS: s.ts, Asset: []byte(s.asset), Tag: []byte(s.tag), VType: schemas.TypeFloat, HasValue: true,
			Value: s.value, Quality: schemas.Good}, int64(i), s.ts)
	}
	return b.NewRecord()
}

// Scenario: The contract's checks over samples with disorder, three assets and a growing dictionary, of which some come
// late: with and without a lateness, with means, and with room for few samples.
// Guarantees: Cuts and restarts change nothing, nothing lent is kept, nothing leaks, errors come back.
func TestContract(t *testing.T) {
	for name, with := range map[string]struct {
		lateness time.Duration
		change   func(*Config)
	}{
		"no lateness": {0, func(*Config) {}},
		"lateness":    {4 * time.Second, func(*Config) {}},
		"mean":        {4 * time.Second, func(c *Config) { c.Value = valueMean }},
		"little room": {10 * time.Second, func(c *Config) { c.MaxOpenSamples = 40 }},
	} {
		t.Run(name, func(t *testing.T) {
			pipelinetest.CheckOperator(t, pipelinetest.OperatorCheck{
				New: func(s pipeline.Settings) (pipeline.Operator, error) {
					c := defaults()
					c.Grid, c.Channels, c.BatchRows = time.Second, twoChannels, 4
					with.change(&c)
					s.Lateness = with.lateness
					return New(c, s), nil
				},
				Schema: schemas.Telemetry(),
				Input:  disorder,
			})
		})
	}
}

// disorder is twelve seconds of samples, a third of them up to six seconds late, of assets that are first seen in another
// order than that of their names, one of which is empty.
func disorder(mem memory.Allocator) []pipelinetest.Step {
	b := schemas.NewTelemetryBuilder(mem, "telemetry", 0)
	defer b.Release()
	var steps []pipelinetest.Step
	random := rand.New(rand.NewPCG(1, 2))
	for second := range int64(12) {
		var list []in
		for range 20 {
			ts := second*int64(time.Second) + random.Int64N(int64(2*time.Second))
			if random.IntN(3) == 0 {
				ts = (second*10 - random.Int64N(60)) * int64(time.Second/10)
			}
			list = append(list, in{
				asset: []string{"z", "", "a"}[random.IntN(1+int(min(second, 2)))], tag: []string{"t", "p", "x"}[random.IntN(3)],
				ts: ts, value: random.Float64(),
			})
		}
		steps = append(steps, pipelinetest.Step{Batch: records(mem, b, list)},
			pipelinetest.Step{Watermark: second * int64(time.Second)})
	}
	return steps
}

// reference is the definition of align word for word: it looks at all samples for every cell.
func reference(list []in, grid, gap, watermark int64) []string {
	first := map[string]in{} // the first of each (asset, tag, ts)
	var assets []string
	firstRow, bound := map[string]int64{}, int64(math.MinInt64)
	up := func(ts int64) int64 { return int64(math.Ceil(float64(ts)/float64(grid))) * grid }
	for _, s := range list {
		key := fmt.Sprint(s.asset, "/", s.tag, "/", s.ts)
		if _, twice := first[key]; !twice {
			first[key] = s
		}
		if _, known := firstRow[s.asset]; !known {
			assets = append(assets, s.asset)
			firstRow[s.asset] = up(s.ts)
		}
		firstRow[s.asset] = min(firstRow[s.asset], up(s.ts))
		bound = max(bound, up(s.ts))
	}
	var rows []string
	for g := up(list[0].ts) - 100*grid; g <= max(watermark, bound); g += grid {
		for _, asset := range assets {
			cells, any, newest := []string{}, false, int64(math.MinInt64)
			for _, s := range first {
				if s.asset == asset {
					newest = max(newest, s.ts)
				}
			}
			for _, tag := range []string{"t", "p"} {
				var held *in
				for _, s := range first {
					if s.asset == asset && s.tag == tag && s.ts <= g && s.ts > g-gap && (held == nil || s.ts > held.ts) {
						held = &s
					}
				}
				if held == nil {
					cells = append(cells, "-")
					continue
				}
				cells, any = append(cells, fmt.Sprint(held.value)), true
			}
			if any && g >= firstRow[asset] && (g <= watermark || g <= up(newest)) {
				rows = append(rows, fmt.Sprint(asset, " ", g, " ", strings.Join(cells, " ")))
			}
		}
	}
	return rows
}

// run aligns batches with a watermark after each and returns asset, time and cells of each row.
func run(t testing.TB, list []in, cut func(n int) int, watermarks []int64, grid, gap int64) ([]string, string) {
	mem := memory.NewCheckedAllocator(pipelinetest.Poison{Allocator: memory.NewGoAllocator()})
	defer mem.AssertSize(t, 0)
	drops := &pipelinetest.Drops{}
	c := defaults()
	c.Grid, c.MaxGap, c.Channels = time.Duration(grid), time.Duration(gap), twoChannels
	o := New(c, pipeline.Settings{Alloc: mem, Drops: drops})
	defer o.Close()
	if _, err := o.Bind(schemas.Telemetry()); err != nil {
		t.Fatal(err)
	}
	var out pipelinetest.Collector
	defer out.Release()
	ctx := context.Background()
	b := schemas.NewTelemetryBuilder(mem, "telemetry", 0)
	defer b.Release()
	for len(list) > 0 {
		n := cut(len(list))
		rec := records(mem, b, list[:n])
		if err := o.Process(ctx, rec, &out); err != nil {
			t.Fatal(err)
		}
		rec.Release()
		list = list[n:]
	}
	for _, w := range watermarks {
		if err := o.Advance(ctx, w, &out); err != nil {
			t.Fatal(err)
		}
	}
	if err := o.Finish(ctx, &out); err != nil {
		t.Fatal(err)
	}
	var rows []string
	for _, rec := range out.Rows {
		for i := range int(rec.NumRows()) {
			assets := rec.Column(0).(*array.Dictionary)
			row := fmt.Sprint(assets.Dictionary().ValueStr(assets.GetValueIndex(i)), " ", int64(rec.Column(1).(*array.Timestamp).Value(i)))
			for k := range 2 {
				cell := "-"
				if values := rec.Column(7 + k).(*array.Float64); values.IsValid(i) {
					cell = fmt.Sprint(values.Value(i))
				}
				row += " " + cell
			}
			rows = append(rows, row)
		}
	}
	return rows, drops.Take()
}

// Scenario: Any samples around 1970 in any order, with any watermarks after them.
// Guarantees: The rows are those of the definition, which looks at all samples for every cell; a permutation of samples
// with distinct times changes no row.
func TestAgainstDefinition(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		grid := int64(rapid.IntRange(1, 5).Draw(rt, "grid"))
		gap := grid * int64(rapid.IntRange(1, 4).Draw(rt, "gap"))
		list := rapid.SliceOfN(rapid.Custom(func(rt *rapid.T) in {
			return in{
				asset: rapid.SampledFrom([]string{"a", "b", "c"}).Draw(rt, "asset"), tag: rapid.SampledFrom([]string{"t", "p"}).Draw(rt, "tag"),
				ts: int64(rapid.IntRange(-40, 40).Draw(rt, "ts")), value: float64(rapid.IntRange(0, 99).Draw(rt, "value")),
			}
		}), 1, 40).Draw(rt, "samples")
		watermark := int64(rapid.IntRange(-50, 60).Draw(rt, "watermark"))
		middle := int64(rapid.IntRange(-50, int(watermark)).Draw(rt, "earlier watermark"))
		cut := func(n int) int { return rapid.IntRange(1, n).Draw(rt, "cut") }

		want := reference(list, grid, gap, watermark)
		got, _ := run(t, list, cut, []int64{middle, watermark}, grid, gap)
		if !slices.Equal(got, want) {
			rt.Fatalf("want\n%s\ngot\n%s", strings.Join(want, "\n"), strings.Join(got, "\n"))
		}

		shuffled := slices.Clone(list)
		slices.SortStableFunc(shuffled, func(a, b in) int { return cmp.Compare(a.ts*31%17, b.ts*31%17) })
		again, _ := run(t, shuffled, cut, []int64{watermark}, grid, gap)
		slices.Sort(again)
		slices.Sort(got)
		if !slices.Equal(got, again) {
			rt.Fatalf("permuted: want\n%s\ngot\n%s", strings.Join(got, "\n"), strings.Join(again, "\n"))
		}
	})
}

// Scenario: The second batch comes with a dictionary in which the same assets and tags stand in another order.
// Guarantees: Samples go to the assets and channels of their texts, not of their indexes.
func TestOtherDictionary(t *testing.T) {
	settings := pipelinetest.Settings(t)
	c := defaults()
	c.Grid, c.Channels = time.Second, twoChannels
	o := New(c, settings)
	defer o.Close()
	if _, err := o.Bind(schemas.Telemetry()); err != nil {
		t.Fatal(err)
	}
	var out pipelinetest.Collector
	defer out.Release()
	for _, list := range [][]in{
		{{"a", "t", 1, 1}, {"b", "p", 1, 2}},
		{{"b", "t", 1, 3}, {"a", "p", 1, 4}},
	} {
		b := schemas.NewTelemetryBuilder(settings.Alloc, "telemetry", 0)
		rec := records(settings.Alloc, b, list)
		b.Release()
		if err := o.Process(context.Background(), rec, &out); err != nil {
			t.Fatal(err)
		}
		rec.Release()
	}
	if err := o.Finish(context.Background(), &out); err != nil {
		t.Fatal(err)
	}
	want := "asset t p\na     1 4\nb     3 2\n"
	if got := pipelinetest.WriteTable(out.Rows, "asset", "t", "p"); got != want {
		t.Errorf("want\n%sgot\n%s", want, got)
	}
}

// Scenario: Times at the ends of int64 and around zero.
// Guarantees: floor and ceil are multiples of the grid on the right side of the time, worked out with big steps apart.
func TestRounding(t *testing.T) {
	for _, c := range []struct{ t, grid, floor, ceil int64 }{
		{0, 3, 0, 0}, {1, 3, 0, 3}, {-1, 3, -3, 0}, {3, 3, 3, 3}, {-3, 3, -3, -3}, {-4, 3, -6, -3}, {5, 3, 3, 6},
		{math.MaxInt64, 1, math.MaxInt64, math.MaxInt64}, {math.MinInt64, 1, math.MinInt64, math.MinInt64},
	} {
		if got := floor(c.t, c.grid); got != c.floor {
			t.Errorf("floor(%d, %d): want %d, got %d", c.t, c.grid, c.floor, got)
		}
		if got := ceil(c.t, c.grid); got != c.ceil {
			t.Errorf("ceil(%d, %d): want %d, got %d", c.t, c.grid, c.ceil, got)
		}
	}
}

// Scenario: A config in which everything is wrong, and channels that are written twice.
// Guarantees: Every fault is reported at once, with its key.
func TestValidate(t *testing.T) {
	c := Config{Grid: time.Second, MaxGap: time.Millisecond}
	var paths []string
	for _, f := range c.Validate() {
		paths = append(paths, f.Path)
	}
	if want := []string{"max_gap", "value", "channels", "max_assets", "max_open_samples", "batch_rows"}; !slices.Equal(paths, want) {
		t.Errorf("want faults at %v, got %v", want, paths)
	}
	if err := new(Channels).UnmarshalPairs([]pipeline.Pair{{Key: "t", Value: "K"}, {Key: "t", Value: "K"}}); err == nil {
		t.Error("a tag twice: want an error, got none")
	}
	if err := new(Channels).UnmarshalPairs([]pipeline.Pair{{Value: "K"}}); err == nil {
		t.Error("an empty tag: want an error, got none")
	}
}
