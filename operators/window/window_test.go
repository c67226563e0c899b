package window

import (
	"context"
	"fmt"
	"math"
	"math/rand/v2"
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
	"github.com/tailrace/tailrace/pipeline/state"
	"github.com/tailrace/tailrace/schemas"
)

func wide(t testing.TB, grid time.Duration, tags ...string) *arrow.Schema {
	t.Helper()
	layout, fields := schemas.Layout{Grid: grid}, schemas.WideFields()
	for _, tag := range tags {
		layout.Channels = append(layout.Channels, schemas.Channel{Tag: tag})
		fields = append(fields, arrow.Field{Name: tag, Type: arrow.PrimitiveTypes.Float64, Nullable: true})
	}
	schema, err := layout.With(fields)
	if err != nil {
		t.Fatal(err)
	}
	return schema
}

// Scenario: The scripts in testdata: both kinds, cut windows, silence, negative times, hostile rows.
// Guarantees: Windows and counts are those worked out by hand.
func TestScripts(t *testing.T) {
	pipelinetest.OperatorScripts{
		New: func(s pipeline.Settings, text string) (pipeline.Operator, *arrow.Schema, error) {
			c := defaults()
			if err := yaml.UnmarshalWithOptions([]byte(text), &c, yaml.Strict()); err != nil {
				return nil, nil, err
			}
			return New(c, s), wide(t, time.Second, "t", "p"), nil
		},
	}.Run(t, "testdata/*.txt")
}

// rowsTable writes rows of one channel for ReadTable.
func rowsTable(asset string, from, n int64) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, "%s %ds 1 %d\n", asset, from+i, i)
	}
	return b.String()
}

// Scenario: The contract's checks over two assets, one with gaps and disorder.
// Guarantees: Cuts change nothing, nothing lent is kept, nothing leaks, errors come back.
func TestContract(t *testing.T) {
	schema := wide(t, time.Second, "v")
	pipelinetest.CheckOperator(t, pipelinetest.OperatorCheck{
		New: func(s pipeline.Settings) (pipeline.Operator, error) {
			c := defaults()
			c.Kind, c.Size, c.Hop, c.MaxBatch = Hopping, 4*time.Second, 2*time.Second, 64
			return New(c, s), nil
		},
		Schema: schema,
		Input: func(mem memory.Allocator) []pipelinetest.Step {
			var steps []pipelinetest.Step
			random := rand.New(rand.NewPCG(1, 2))
			for part := range int64(5) {
				text := "asset ts coverage v\n" + rowsTable("whole", part*4, 4)
				for range 4 {
					text += fmt.Sprintf("gaps %ds 0.5 %d\n", part*4+random.Int64N(4), random.IntN(9))
				}
				rec, err := pipelinetest.ReadTable(mem, schema, nil, text)
				if err != nil {
					t.Fatal(err)
				}
				steps = append(steps, pipelinetest.Step{Batch: rec}, pipelinetest.Step{Watermark: (part*4 + 3) * int64(time.Second)})
			}
			return steps
		},
	})
}

// run gives what an operator makes of rows of a table, with a watermark at each of the given times and then the end.
func run(t testing.TB, c Config, schema *arrow.Schema, table string, watermarks ...int64) *pipelinetest.Collector {
	settings := pipelinetest.Settings(t)
	o := New(c, settings)
	t.Cleanup(func() { o.Close() })
	if _, err := o.Bind(schema); err != nil {
		t.Fatal(err)
	}
	out := &pipelinetest.Collector{}
	t.Cleanup(out.Release)
	rec, err := pipelinetest.ReadTable(settings.Alloc, schema, nil, table)
	if err != nil {
		t.Fatal(err)
	}
	ctx := context.Background()
	err = o.Process(ctx, rec, out)
	rec.Release()
	for _, w := range watermarks {
		if err == nil {
			err = o.Advance(ctx, w*int64(time.Second), out)
		}
	}
	if err == nil {
		err = o.Finish(ctx, out)
	}
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// Scenario: A run of n rows without a gap from any hop boundary, before and after 1970, any window and hop, watermarks
// anywhere up to its last row. Guarantees: floor((n - size) / hop) + 1 windows are whole and the others have a reason;
// every window of the formula is there once, in order, with the rows of its times.
func TestCount(t *testing.T) {
	schema := wide(t, time.Second, "v")
	rapid.Check(t, func(rt *rapid.T) {
		size := rapid.Int64Range(1, 12).Draw(rt, "size")
		hop := rapid.Int64Range(1, size).Draw(rt, "hop")
		n := rapid.Int64Range(1, 60).Draw(rt, "rows")
		from := hop * rapid.Int64Range(-30, 30).Draw(rt, "from")
		w := rapid.Int64Range(from-5, from+n-1).Draw(rt, "watermark")
		c := defaults()
		c.Kind, c.Size, c.Hop = Hopping, time.Duration(size)*time.Second, time.Duration(hop)*time.Second
		out := run(t, c, schema, "asset ts coverage v\n"+rowsTable("a", from, n), w-1, w)

		var whole int64
		lastStart := int64(math.MinInt64)
		for _, rec := range out.Rows {
			cut := rec.Column(7).(*array.Dictionary)
			samples := rec.Column(11).(*array.FixedSizeList)
			values := samples.ListValues().(*array.Float64)
			for i := range int(rec.NumRows()) {
				start := int64(rec.Column(1).(*array.Timestamp).Value(i)) / int64(time.Second)
				if start <= lastStart || start%hop != 0 {
					rt.Fatalf("window at %d after %d: want rising multiples of %d", start, lastStart, hop)
				}
				lastStart = start
				reason := cut.Dictionary().(*array.String).Value(cut.GetValueIndex(i))
				inside := start >= from && start+size <= from+n
				if inside != (reason == "") {
					rt.Fatalf("window at %d: inside the run: %v, cut %q", start, inside, reason)
				}
				if inside {
					whole++
				}
				for k := range size {
					at := int(int64(i)*size + k)
					row := start + k - from
					if present := row >= 0 && row < n; present != values.IsValid(at) || present && values.Value(at) != float64(row) {
						rt.Fatalf("window at %d, row %d: got %v (valid %v)", start, k, values.Value(at), values.IsValid(at))
					}
				}
			}
		}
		want := int64(0)
		if n >= size {
			want = (n-size)/hop + 1
		}
		if whole != want {
			rt.Fatalf("want %d whole windows, got %d", want, whole)
		}
	})
}

// BenchmarkWindow takes 100 assets with 50 channels through windows of 60 rows every 10.
func BenchmarkWindow(b *testing.B) {
	tags := make([]string, 50)
	for i := range tags {
		tags[i] = fmt.Sprint("tag", i)
	}
	schema := wide(b, time.Second, tags...)
	c := defaults()
	c.Kind, c.Size, c.Hop = Hopping, 60*time.Second, 10*time.Second
	o := New(c, pipeline.Settings{Alloc: memory.DefaultAllocator})
	defer o.Close()
	if _, err := o.Bind(schema); err != nil {
		b.Fatal(err)
	}
	ctx := context.Background()
	const seconds = 10
	rows, windows := 0, 0
	b.ReportAllocs()
	for round := range int64(b.N) {
		b.StopTimer()
		builder := array.NewRecordBuilder(memory.DefaultAllocator, schema)
		for s := range int64(seconds) {
			for a := range 100 {
				if err := builder.Field(0).(*array.BinaryDictionaryBuilder).AppendString(fmt.Sprint("asset", a)); err != nil {
					b.Fatal(err)
				}
				ts := arrow.Timestamp((round*seconds + s) * int64(time.Second))
				builder.Field(1).(*array.TimestampBuilder).Append(ts)
				builder.Field(2).(*array.TimestampBuilder).Append(ts)
				builder.Field(3).(*array.Float32Builder).Append(1)
				builder.Field(4).(*array.Int64Builder).Append(1)
				builder.Field(5).(*array.Int64Builder).Append(1)
				builder.Field(6).(*array.Uint32Builder).Append(0)
				for k := range tags {
					builder.Field(inColumns + k).(*array.Float64Builder).Append(1.5)
				}
			}
		}
		rec := builder.NewRecord()
		builder.Release()
		b.StartTimer()
		var out pipelinetest.Collector
		if err := o.Process(ctx, rec, &out); err != nil {
			b.Fatal(err)
		}
		if err := o.Advance(ctx, (round*seconds+seconds-1)*int64(time.Second), &out); err != nil {
			b.Fatal(err)
		}
		b.StopTimer()
		rows += int(rec.NumRows())
		for _, r := range out.Rows {
			windows += int(r.NumRows())
		}
		rec.Release()
		out.Release()
		b.StartTimer()
	}
	b.ReportMetric(float64(rows)/b.Elapsed().Seconds(), "rows/s")
	b.ReportMetric(float64(windows)/b.Elapsed().Seconds(), "windows/s")
}

// BenchmarkAdvanceIdle moves the watermark on while 100,000 assets wait for the ends of their windows.
func BenchmarkAdvanceIdle(b *testing.B) {
	c := defaults()
	c.Size, c.MaxAssets = 300*24*time.Hour, 100_000
	o := New(c, pipeline.Settings{Alloc: memory.DefaultAllocator})
	defer o.Close()
	schema := wide(b, time.Hour, "v")
	if _, err := o.Bind(schema); err != nil {
		b.Fatal(err)
	}
	var table strings.Builder
	table.WriteString("asset ts coverage v\n")
	for i := range 100_000 {
		fmt.Fprintf(&table, "asset%d 0h 1 1\n", i)
	}
	rec, err := pipelinetest.ReadTable(memory.DefaultAllocator, schema, nil, table.String())
	if err != nil {
		b.Fatal(err)
	}
	defer rec.Release()
	ctx := context.Background()
	if err := o.Process(ctx, rec, nil); err != nil {
		b.Fatal(err)
	}
	watermark := int64(0)
	for b.Loop() {
		watermark++
		if err := o.Advance(ctx, watermark, nil); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkSnapshot writes 1000 assets with 60 rows of 10 channels each.
func BenchmarkSnapshot(b *testing.B) {
	c := defaults()
	c.Size = time.Minute
	tags := []string{"c0", "c1", "c2", "c3", "c4", "c5", "c6", "c7", "c8", "c9"}
	schema := wide(b, time.Second, tags...)
	o := New(c, pipeline.Settings{Alloc: memory.DefaultAllocator})
	defer o.Close()
	if _, err := o.Bind(schema); err != nil {
		b.Fatal(err)
	}
	var table strings.Builder
	table.WriteString("asset ts coverage " + strings.Join(tags, " ") + "\n")
	for asset := range 1000 {
		for ts := range 60 {
			fmt.Fprintf(&table, "asset%d %ds 1%s\n", asset, ts, strings.Repeat(" 1.5", len(tags)))
		}
	}
	rec, err := pipelinetest.ReadTable(memory.DefaultAllocator, schema, nil, table.String())
	if err != nil {
		b.Fatal(err)
	}
	defer rec.Release()
	if err := o.Process(context.Background(), rec, nil); err != nil {
		b.Fatal(err)
	}
	written := 0
	for b.Loop() {
		w := state.NewWriter()
		if err := o.Snapshot(w, true); err != nil {
			b.Fatal(err)
		}
		written = w.Bytes()
	}
	b.SetBytes(int64(written))
	b.ReportMetric(float64(written), "bytes/snapshot")
}
