package align

import (
	"context"
	"fmt"
	"math"
	"slices"
	"sort"
	"strings"
	"testing"
	"time"

	"github.com/apache/arrow/go/v15/arrow/array"
	"github.com/apache/arrow/go/v15/arrow/memory"
	"pgregory.net/rapid"

	"github.com/tailrace/tailrace/pipeline"
	"github.com/tailrace/tailrace/pipeline/pipelinetest"
	"github.com/tailrace/tailrace/pipeline/state"
	"github.com/tailrace/tailrace/schemas"
)

// life is an operator under a property, with memory that is checked.
type life struct {
	t      rapid.TB
	c      Config
	mem    *memory.CheckedAllocator
	drops  *pipelinetest.Drops
	op     *Operator
	input  *schemas.TelemetryBuilder
	offset int64
	out    pipelinetest.Collector
	late   time.Duration
	skip   map[int64]bool // offsets of samples that are not fed
}

func newLife(t rapid.TB, c Config, lateness time.Duration) *life {
	l := &life{
		t: t, c: c, late: lateness, drops: &pipelinetest.Drops{},
		mem: memory.NewCheckedAllocator(pipelinetest.Poison{Allocator: memory.NewGoAllocator()}),
	}
	l.input = schemas.NewTelemetryBuilder(l.mem, "telemetry", 0)
	l.start()
	return l
}

func (l *life) start() {
	l.op = New(l.c, pipeline.Settings{Alloc: l.mem, Drops: l.drops, Lateness: l.late})
	_, err := l.op.Bind(schemas.Telemetry())
	l.must(err)
}

func (l *life) must(err error) {
	if err != nil {
		l.t.Fatal(err)
	}
}

func (l *life) process(list []in) {
	for _, s := range list {
		if l.skip[l.offset] {
			l.offset++
			continue
		}
		l.input.Append(&schemas.Row{TS: s.ts, Asset: []byte(s.asset), Tag: []byte(s.tag), VType: schemas.TypeFloat, HasValue: true,
			Value: s.value, Quality: schemas.Good}, l.offset, 0)
		l.offset++
	}
	rec := l.input.NewRecord()
	defer rec.Release()
	l.must(l.op.Process(context.Background(), rec, &l.out))
}

func (l *life) advance(watermark int64) {
	l.must(l.op.Advance(context.Background(), watermark, &l.out))
}

func (l *life) restore() {
	w := state.NewWriter()
	l.must(l.op.Snapshot(w, true))
	l.must(l.op.Close())
	l.start()
	l.must(l.op.Restore(state.NewReader(w)))
}

// wide is a row without its arrival.
type wide struct {
	asset       string
	ts          int64
	revision    uint32
	coverage    float32
	first, last int64
	cells       [2]float64 // NaN for none
}

// end finishes, frees everything and returns the rows.
func (l *life) end() []wide {
	l.must(l.op.Finish(context.Background(), &l.out))
	l.must(l.op.Close())
	var rows []wide
	for _, rec := range l.out.Rows {
		assets := rec.Column(0).(*array.Dictionary)
		for i := range int(rec.NumRows()) {
			row := wide{
				asset: strings.Clone(assets.Dictionary().ValueStr(assets.GetValueIndex(i))), ts: int64(rec.Column(1).(*array.Timestamp).Value(i)),
				coverage: rec.Column(3).(*array.Float32).Value(i), first: rec.Column(4).(*array.Int64).Value(i),
				last: rec.Column(5).(*array.Int64).Value(i), revision: rec.Column(6).(*array.Uint32).Value(i),
			}
			for k := range row.cells {
				row.cells[k] = math.NaN()
				if values := rec.Column(7 + k).(*array.Float64); values.IsValid(i) {
					row.cells[k] = values.Value(i)
				}
			}
			rows = append(rows, row)
		}
	}
	l.out.Release()
	l.input.Release()
	if n := l.mem.CurrentAlloc(); n != 0 {
		l.t.Fatalf("want no memory held at the end, got %d bytes", n)
	}
	return rows
}

// refused returns the offsets of the samples that were too late.
func (l *life) refused() map[int64]bool {
	offsets := map[int64]bool{}
	for _, rec := range l.out.Late {
		for _, offset := range rec.Column(schemas.ColKOffset).(*array.Int64).Int64Values() {
			offsets[offset] = true
		}
	}
	return offsets
}

// text writes rows without revision, by asset and time.
func text(rows []wide) string {
	var lines []string
	for _, r := range rows {
		lines = append(lines, fmt.Sprintf("%s %4d coverage=%g offsets=%d..%d %v", r.asset, r.ts, r.coverage, r.first, r.last, r.cells))
	}
	sort.Strings(lines)
	return strings.Join(lines, "\n")
}

func drawConfig(t *rapid.T) Config {
	c := defaults()
	c.Grid = time.Duration(rapid.IntRange(1, 5).Draw(t, "grid"))
	c.MaxGap = c.Grid * time.Duration(rapid.IntRange(1, 4).Draw(t, "gap"))
	c.Value = rapid.SampledFrom([]string{valueHold, valueMean}).Draw(t, "value")
	c.Channels, c.BatchRows = twoChannels, rapid.IntRange(1, 9).Draw(t, "batch rows")
	return c
}

func drawSamples(t *rapid.T, n int) []in {
	return rapid.SliceOfN(rapid.Custom(func(t *rapid.T) in {
		return in{
			asset: rapid.SampledFrom([]string{"a", "b", "c"}).Draw(t, "asset"), tag: rapid.SampledFrom([]string{"t", "p"}).Draw(t, "tag"),
			ts: int64(rapid.IntRange(-40, 40).Draw(t, "ts")), value: float64(rapid.IntRange(0, 99).Draw(t, "value")),
		}
	}), 1, n).Draw(t, "samples")
}

// Scenario: Samples in disorder whose time goes on, with watermarks that follow it, restarts between them and any lateness.
// Guarantees: The highest revision of each row is the row of a run that waited for all samples that were not too late.
// Revisions of a row count up from 0 by one.
func TestCorrectionsConverge(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		c, list := drawConfig(rt), drawSamples(rt, 100)
		lateness := time.Duration(rapid.IntRange(0, 20).Draw(rt, "lateness"))
		corrected := newLife(rt, c, lateness)
		watermark := int64(0)
		for i := 0; i < len(list); {
			n := min(rapid.IntRange(1, 12).Draw(rt, "cut"), len(list)-i)
			for k := i; k < i+n; k++ {
				list[k].ts = 2*int64(k) + list[k].ts/4 // within ten of its place
			}
			corrected.process(list[i : i+n])
			i += n
			if rapid.IntRange(0, 3).Draw(rt, "restart") == 0 {
				corrected.restore()
			}
			watermark = max(watermark, 2*int64(i)+int64(rapid.IntRange(-6, 4).Draw(rt, "watermark")))
			corrected.advance(watermark)
		}
		waiting := newLife(rt, c, 0)
		waiting.skip = corrected.refused()
		waiting.process(list)
		waiting.advance(watermark)

		rows, revision := corrected.end(), map[string]uint32{}
		for i, r := range rows {
			key := fmt.Sprint(r.asset, "/", r.ts)
			if last, again := revision[key]; again && r.revision != last+1 || !again && r.revision != 0 {
				rt.Fatalf("row %d, %s: want revision 0 at first and then one more each, got %d after %d", i, key, r.revision, last)
			}
			revision[key] = r.revision
		}
		newest := slices.DeleteFunc(rows, func(r wide) bool { return revision[fmt.Sprint(r.asset, "/", r.ts)] != r.revision })
		if got, want := text(newest), text(waiting.end()); got != want {
			rt.Fatalf("want\n%s\ngot\n%s", want, got)
		}
		if got, want := corrected.drops.Count("late"), len(waiting.skip); got != want {
			rt.Fatalf("late: want the %d samples of the output, got %d", want, got)
		}
		if got, want := corrected.drops.Count("duplicate"), waiting.drops.Count("duplicate"); got != want {
			rt.Fatalf("duplicates: want %d, got %d", want, got)
		}
	})
}

// Scenario: Samples that come out of order by less than the watermark stays behind.
// Guarantees: The rows are those of the same samples in order.
func TestOrderWithinBound(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		c, list := drawConfig(rt), drawSamples(rt, 60)
		slices.SortStableFunc(list, func(a, b in) int { return int(a.ts - b.ts) })
		list = slices.CompactFunc(list, func(a, b in) bool { return a.ts == b.ts })
		const bound = 7
		sorted, shuffled := newLife(rt, c, 0), newLife(rt, c, 0)
		feed := func(l *life, list []in) string {
			newest := int64(-1000)
			for i := range list {
				l.process(list[i : i+1])
				newest = max(newest, list[i].ts)
				l.advance(newest - bound - 1)
			}
			rows := l.end()
			for i := range rows {
				rows[i].first, rows[i].last = 0, 0 // offsets follow the order
			}
			return text(rows) + "\n" + l.drops.Take()
		}
		want := feed(sorted, list)
		delayed := slices.Clone(list)
		delay := make(map[int64]int64)
		for _, s := range list {
			delay[s.ts] = int64(rapid.IntRange(0, bound).Draw(rt, "delay"))
		}
		slices.SortStableFunc(delayed, func(a, b in) int { return int(a.ts + delay[a.ts] - b.ts - delay[b.ts]) })
		if got := feed(shuffled, delayed); got != want {
			rt.Fatalf("want\n%s\ngot\n%s", want, got)
		}
	})
}

// Scenario: Any samples at whole nanoseconds.
// Guarantees: A mean is the mean over the cell's nanoseconds of the value that holds in each, to 1e-9, and is missing where
// no nanosecond has one.
func TestMeanAgainstDefinition(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		c, list := drawConfig(rt), drawSamples(rt, 40)
		c.Value = valueMean
		l := newLife(rt, c, 0)
		l.process(list)
		l.advance(60)
		for _, row := range l.end() {
			for k, tag := range []string{"t", "p"} {
				sum, n := 0.0, 0.0
				for at := row.ts - int64(c.Grid); at < row.ts; at++ {
					var held *in
					for i := range list {
						s := &list[i]
						if s.asset == row.asset && s.tag == tag && s.ts <= at && s.ts+int64(c.MaxGap) > at && (held == nil || s.ts > held.ts) {
							held = s
						}
					}
					if held != nil {
						sum, n = sum+held.value, n+1
					}
				}
				if want, got := sum/n, row.cells[k]; !(math.Abs(want-got) < 1e-9) && !(n == 0 && math.IsNaN(got)) {
					rt.Fatalf("%s of %s at %d: want %v, got %v", tag, row.asset, row.ts, want, got)
				}
			}
		}
	})
}

// Scenario: State of an operator with other channels, another grid and another kind of value, and one with more assets than
// are allowed.
// Guarantees: It is refused, and the message says all that differs, with what was wanted and what came.
func TestRestoreMustFit(t *testing.T) {
	settings := pipelinetest.Settings(t)
	start := func(c Config) *Operator {
		o := New(c, settings)
		if _, err := o.Bind(schemas.Telemetry()); err != nil {
			t.Fatal(err)
		}
		return o
	}
	c := defaults()
	c.Grid, c.Channels = time.Second, twoChannels
	old := start(c)
	defer old.Close()
	b := schemas.NewTelemetryBuilder(settings.Alloc, "telemetry", 0)
	defer b.Release()
	rec := records(settings.Alloc, b, []in{{"a", "t", 1, 1}, {"b", "t", 1, 1}})
	defer rec.Release()
	if err := old.Process(context.Background(), rec, nil); err != nil {
		t.Fatal(err)
	}
	w := state.NewWriter()
	if err := old.Snapshot(w, true); err != nil {
		t.Fatal(err)
	}
	other := c
	other.Grid, other.Value, other.Channels = 2*time.Second, valueMean, twoChannels[:1]
	few := c
	few.MaxAssets = 1
	for _, c := range []struct {
		config Config
		want   []string
	}{
		{other, []string{"grid in ns: want 2000000000, as configured, got 1000000000",
			"max_gap in ns: want 6000000000, as configured, got 3000000000", "value: mean: want true, as configured, got false",
			"number of channels: want 1, as configured, got 2", "channels: want t, as configured, got t, p"}},
		{few, []string{"want at most 1 assets (max_assets), got 2"}},
	} {
		o := start(c.config)
		defer o.Close()
		err := o.Restore(state.NewReader(w))
		if err == nil || err.Error() != "state of align: "+strings.Join(c.want, "\n") {
			t.Errorf("want %q, got %v", c.want, err)
		}
	}
}

// Scenario: The lateness is longer after a restart, or none.
// Guarantees: What was kept serves corrections, also one that was due when the restart came, and what was not kept corrects
// nothing; without a lateness nothing is kept on.
func TestRestoreWithOtherLateness(t *testing.T) {
	c := defaults()
	c.Grid, c.MaxGap, c.Channels = 1, 1, twoChannels
	for _, lateness := range []time.Duration{0, 2, 9} {
		l := newLife(t, c, 3)
		l.process([]in{{"a", "t", 1, 1}, {"a", "t", 5, 5}, {"a", "t", 9, 9}, {"a", "t", 10, 10}})
		l.advance(10)
		l.process([]in{{"a", "p", 10, 1}}) // late, and still to be corrected when the restart comes
		l.late = lateness
		l.restore()
		l.process([]in{{"a", "p", 1, 1}, {"a", "p", 5, 5}, {"a", "p", 8, 8}, {"a", "p", 9, 9}})
		l.advance(10)
		l.process([]in{{"a", "t", 11, 11}})
		l.advance(11)
		kept := l.op.kept
		refused := map[time.Duration]string{0: "late=4", 2: "late=3", 9: "late=2"}[lateness]
		rows := l.end()
		corrected := slices.ContainsFunc(rows, func(r wide) bool { return r.ts == 10 && r.revision == 1 && r.cells[1] == 1 })
		if got := l.drops.Take(); got != refused || !corrected || (kept == 0) != (lateness == 0) {
			t.Fatalf("lateness %d: want %q and the row at 10 corrected, got %q, %d samples kept\n%s", lateness, refused, got, kept,
				text(rows))
		}
	}
}
