package detect

import (
	"context"
	"encoding/json"
	"fmt"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/apache/arrow/go/v15/arrow"
	"github.com/apache/arrow/go/v15/arrow/memory"
	"github.com/goccy/go-yaml"
	"pgregory.net/rapid"

	"github.com/tailrace/tailrace/pipeline"
	"github.com/tailrace/tailrace/pipeline/pipelinetest"
	"github.com/tailrace/tailrace/pipeline/state"
	"github.com/tailrace/tailrace/schemas"
)

// scored is the schema of windows of two rows of three channels, every second, scored by a model with known statistics.
func scored(t testing.TB) *arrow.Schema {
	t.Helper()
	layout := schemas.Layout{
		Channels: []schemas.Channel{{Tag: "a", Unit: "degC"}, {Tag: "b", Unit: "kPa"}, {Tag: "c"}},
		Grid:     time.Second, Size: 2, Hop: 1,
		Model: &schemas.ModelInfo{
			Name: "pca", Version: "1.0.0", Mean: []float64{10, 20, 30}, Std: []float64{1, 2, 4},
			Thresholds: map[string]float64{"0.95": 1, "0.99": 1.5},
		},
	}
	schema, err := layout.With(append(schemas.WindowFields(2, 3), schemas.ScoreFields(3)...))
	if err != nil {
		t.Fatal(err)
	}
	return schema
}

// words are the columns that scripts leave out.
var words = map[string]string{
	"contrib": "[0,0,0]", "expected": "[0,0,0]", "samples": "[0,0,0,0,0,0]", "outputs": "{q=1.5}",
}

// Scenario: The scripts in testdata: opening and closing, hysteresis, delays, cooldown, silence, faults.
// Guarantees: Predictions and events are those worked out by hand.
func TestScripts(t *testing.T) {
	pipelinetest.OperatorScripts{
		New: func(s pipeline.Settings, text string) (pipeline.Operator, *arrow.Schema, error) {
			c := defaults()
			if err := yaml.UnmarshalWithOptions([]byte(text), &c, yaml.Strict()); err != nil {
				return nil, nil, err
			}
			return New(c, s), scored(t), nil
		},
		Defaults: words,
		Columns:  []string{"asset", "window_start", "window_end", "model", "model_version", "score", "is_anomaly"},
	}.Run(t, "testdata/*.txt")
}

func fixed(threshold float64) Config {
	c := defaults()
	c.Threshold.Fixed = &threshold
	return c
}

// run gives what an operator makes of the rows of a table.
func run(t testing.TB, c Config, table string) *pipelinetest.Collector {
	t.Helper()
	return runWith(t, c, pipelinetest.Settings(t), table)
}

func runWith(t testing.TB, c Config, settings pipeline.Settings, table string) *pipelinetest.Collector {
	t.Helper()
	o := New(c, settings)
	t.Cleanup(func() { o.Close() })
	schema := scored(t)
	if _, err := o.Bind(schema); err != nil {
		t.Fatal(err)
	}
	rec, err := pipelinetest.ReadTable(settings.Alloc, schema, words, table)
	if err != nil {
		t.Fatal(err)
	}
	out := &pipelinetest.Collector{}
	t.Cleanup(out.Release)
	err = o.Process(context.Background(), rec, out)
	rec.Release()
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// Scenario: The contract's checks over two assets with events, nulls, cut windows and corrections.
// Guarantees: Cuts and restarts change nothing, nothing lent is kept, nothing leaks, errors come back.
func TestContract(t *testing.T) {
	schema := scored(t)
	pipelinetest.CheckOperator(t, pipelinetest.OperatorCheck{
		New: func(s pipeline.Settings) (pipeline.Operator, error) {
			c := fixed(2)
			c.Smooth, c.OnDelay = 2*time.Second, time.Second
			return New(c, s), nil
		},
		Schema: schema,
		Input: func(mem memory.Allocator) []pipelinetest.Step {
			var steps []pipelinetest.Step
			for part := range 4 {
				text := "asset window_end score reason contrib expected samples revision\n"
				for i := range 5 {
					at := part*5 + i
					text += fmt.Sprintf("z %ds %d \"\" [0.5,%g,0.2] [1,1,1] [1,2,-,%d,-,-] 0\n", at, at%9, float64(at)/20, at)
					text += fmt.Sprintf("\"\" %ds - cut_start - - [-,-,-,-,-,-] 0\n", at)
					text += fmt.Sprintf("z %ds %d \"\" [0.5,0.2,0.2] [1,1,1] [1,2,-,%d,-,-] %d\n", at-2, 8-at%9, at, 1+i)
				}
				rec, err := pipelinetest.ReadTable(mem, schema, words, text)
				if err != nil {
					t.Fatal(err)
				}
				steps = append(steps, pipelinetest.Step{Batch: rec}, pipelinetest.Step{Watermark: int64(part * 5)})
			}
			return steps
		},
	})
}

// Scenario: One window over the threshold.
// Guarantees: The prediction has every column of the contract, and the event's JSON every field, with times and lineage
// from the window and an id that an independent SHA-256 (sha256sum over the bytes that eventID's comment names) gives.
func TestWholeRecords(t *testing.T) {
	out := run(t, fixed(2), "asset window_start window_end ts ts_ingest n coverage k_first k_last score contrib expected samples outputs\n"+
		"m 1s 3s 2s 101s 2 0.75 3 8 2.5 [0.1,0.6,0.3] [1,-1,0.5] [11,23,31,12,-,32] {q=7,t2=8}\n")
	want := "" +
		"asset window_start window_end ts ts_ingest n coverage model model_version score reason score_smooth threshold is_anomaly outputs    contrib             revision k_first k_last backfill\n" +
		"m     1s           3s         2s 1m41s     2 0.75     pca   1.0.0         2.5   \"\"     2.5          2         true       {q=7,t2=8} {b=0.6,c=0.3,a=0.1} 0        3       8      false\n"
	if got := pipelinetest.WriteTable(out.Rows); got != want {
		t.Errorf("want\n%sgot\n%s", want, got)
	}
	list, err := schemas.EventsOf(out.Events[0])
	if err != nil {
		t.Fatal(err)
	}
	text, err := json.Marshal(list[0])
	if err != nil {
		t.Fatal(err)
	}
	wantJSON := `{"schema":"anomaly.v1","event_id":"fb1ee9d908eef535fb9d159cdbedd2a0","event_seq":0,"alarm_id":null,"occurrence":null,` +
		`"state":null,"prev_state":null,"status":"firing","pipeline":"test","detector":"detect","asset":"m","signal":"detect",` +
		`"class":"process","onset_ts":"1970-01-01T00:00:03Z","event_ts":"1970-01-01T00:00:03Z","detected_ts":"1970-01-01T00:01:41Z",` +
		`"cleared_ts":null,"peak_ts":"1970-01-01T00:00:03Z","score":{"value":2.5,"smoothed":2.5,"threshold":2,"kind":"model"},` +
		`"model":{"name":"pca","version":"1.0.0","sha256":""},"contributions":[` +
		`{"tag":"b","share":0.6000000238418579,"observed":23,"expected":18,"unit":"kPa"},` +
		`{"tag":"c","share":0.30000001192092896,"observed":32,"expected":32,"unit":""},` +
		`{"tag":"a","share":0.10000000149011612,"observed":12,"expected":11,"unit":"degC"}],` +
		`"window":{"start":"1970-01-01T00:00:01Z","end":"1970-01-01T00:00:03Z","n":2,"coverage":0.75},"backfill":false,"test":false,` +
		`"lineage":{"topic":"telemetry","partition":3,"offset_first":3,"offset_last":8}}`
	if string(text) != wantJSON {
		t.Errorf("want\n%s\ngot\n%s", wantJSON, text)
	}
}

// Scenario: A window, a newer one, a correction of the first, and a first result that comes late, in a historical burst.
// Guarantees: The revision passes; late ones have a threshold and no smoothed score; every prediction says backfill.
func TestLateColumns(t *testing.T) {
	settings := pipelinetest.Settings(t)
	settings.Backfill = true
	out := runWith(t, fixed(2), settings, "asset window_end score revision\nm 2s 1 0\nm 4s 1 0\nm 2s 3 2\nm 3s 3 0\n")
	want := "" +
		"window_end score score_smooth threshold is_anomaly revision backfill\n" +
		"2s         1     1            2         false      0        true\n" +
		"4s         1     1            2         false      0        true\n" +
		"2s         3     -            2         true       2        true\n" +
		"3s         3     -            2         true       0        true\n"
	got := pipelinetest.WriteTable(out.Rows, "window_end", "score", "score_smooth", "threshold", "is_anomaly", "revision", "backfill")
	if got != want || len(out.Events) != 0 {
		t.Errorf("want no events and\n%sgot %d and\n%s", want, len(out.Events), got)
	}
}

// Scenario: State of another model's channels.
// Guarantees: It is refused with both in the message.
func TestRestoreOtherChannels(t *testing.T) {
	o := New(fixed(2), pipelinetest.Settings(t))
	defer o.Close()
	if _, err := o.Bind(scored(t)); err != nil {
		t.Fatal(err)
	}
	var e state.Encoder
	e.Uint(1)
	e.Text("other")
	w := state.NewWriter()
	w.Version(stateVersion)
	w.Common(e.Bytes)
	const want = "state of detect: channels: want 3 (a, b, c), as configured, got 1 (other)"
	if err := o.Restore(state.NewReader(w)); err == nil || err.Error() != want {
		t.Errorf("want %q, got %v", want, err)
	}
}

// Scenario: A constant score of 4 after 0, smoothed with a half-life of 2 s, windows every second, then one 4 s later.
// Guarantees: The smoothed score closes half of what is left in two seconds, whatever the distance of the windows.
func TestSmooth(t *testing.T) {
	c := fixed(100)
	c.Smooth = 2 * time.Second
	out := run(t, c, "asset window_end score\nm 0s 0\nm 1s 4\nm 2s 4\nm 4s 4\nm 5s -\nm 8s 4\n")
	// 4 - 4 * 2^(-t/2) at t = 1, 2, 4, 8.
	want := "score_smooth\n0\n1.1715729\n2\n3\n-\n3.75\n"
	if got := pipelinetest.WriteTable(out.Rows, "score_smooth"); got != want {
		t.Errorf("want\n%sgot\n%s", want, got)
	}
}

// Scenario: Hostile numbers: shares and expectations that are not finite, a score of the largest float32, and times at
// the ends of int64.
// Guarantees: Events are made all the same, with finite numbers only.
func TestHostileNumbers(t *testing.T) {
	out := run(t, fixed(2), "asset window_end score contrib expected samples\n"+
		"m min 3.4e38 [NaN,+Inf,0.5] [NaN,NaN,+Inf] [NaN,NaN,NaN,NaN,NaN,+Inf]\n"+
		"m max 0 [0,0,0] [0,0,0] [0,0,0,0,0,0]\n")
	var list []schemas.Event
	for _, rec := range out.Events {
		events, err := schemas.EventsOf(rec)
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, events...)
	}
	if len(list) != 2 || list[0].EventID != list[1].EventID {
		t.Fatalf("want an opening and a closing of one event, got %+v", list)
	}
	for _, e := range list {
		want := schemas.Contribution{Tag: "c", Share: 0.5, Observed: 30, Expected: 30}
		if len(e.Contributions) != 1 || e.Contributions[0] != want {
			t.Errorf("want %+v alone, got %+v", want, e.Contributions)
		}
	}
}

// Scenario: Any scores, nulls among them, with any delays, hysteresis and cooldown.
// Guarantees: Openings and closings alternate; is_anomaly says in every window whether the last message was an opening; no
// event opens without a score over the threshold at its onset; every prediction keeps its score; a closing has its
// opening's id.
func TestEventsAndPredictionsAgree(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		c := fixed(2)
		c.Leave = rapid.Float64Range(0.1, 1).Draw(rt, "leave")
		c.OnDelay = time.Duration(rapid.IntRange(0, 3).Draw(rt, "on")) * time.Second
		c.OffDelay = time.Duration(rapid.IntRange(0, 3).Draw(rt, "off")) * time.Second
		c.Cooldown = time.Duration(rapid.IntRange(0, 4).Draw(rt, "cooldown")) * time.Second
		scores := rapid.SliceOfN(rapid.IntRange(-1, 4), 1, 60).Draw(rt, "scores")
		table := "asset window_end score\n"
		for i, v := range scores {
			score := fmt.Sprint(v)
			if v < 0 {
				score = "-"
			}
			table += fmt.Sprintf("m %ds %s\n", i, score)
		}
		out := run(t, c, table)
		anomaly := strings.Fields(pipelinetest.WriteTable(out.Rows, "is_anomaly"))[1:]
		open, at, id := false, 0, ""
		var closedAt = math.Inf(-1)
		expect := func(upTo int) {
			for ; at < upTo; at++ {
				if anomaly[at] != fmt.Sprint(open) {
					rt.Fatalf("window %d: want is_anomaly %v, got %s", at, open, anomaly[at])
				}
			}
		}
		for _, rec := range out.Events {
			list, err := schemas.EventsOf(rec)
			if err != nil {
				rt.Fatal(err)
			}
			for _, e := range list {
				end := int(e.EventTS.Unix())
				expect(end)
				switch {
				case open == (e.EventSeq == 0):
					rt.Fatalf("two messages %q in a row", e.Status)
				case e.EventSeq == 0 && (scores[e.OnsetTS.Unix()] <= 2 || e.EventTS.Sub(e.OnsetTS) < c.OnDelay):
					rt.Fatalf("opened at %d with onset %v", end, e.OnsetTS)
				case e.EventSeq == 0 && float64(e.OnsetTS.Unix()) < closedAt+c.Cooldown.Seconds():
					rt.Fatalf("opened at %d within the cooldown after %v", end, closedAt)
				case e.EventSeq == 1 && (float64(scores[end]) >= c.Leave*2 || e.EventID != id):
					rt.Fatalf("closed at %d with score %d", end, scores[end])
				}
				open, id = e.EventSeq == 0, e.EventID
				if !open {
					closedAt = float64(end)
				}
			}
		}
		expect(len(scores))
	})
}

// Scenario: Shares with ties, negative ones and what is no number.
// Guarantees: The k largest come in order, of equal ones the first channel first.
func TestRank(t *testing.T) {
	nan := float32(math.NaN())
	for _, c := range []struct {
		shares []float32
		k      int
		want   string
	}{
		{[]float32{1, 3, 2}, 2, "[1 2]"}, {[]float32{1, 1, 1}, 2, "[0 1]"}, {[]float32{nan, -1, 0}, 3, "[2 1]"},
		{[]float32{1, 2}, 0, "[]"}, {nil, 3, "[]"},
	} {
		if got := fmt.Sprint(rank(nil, c.shares, c.k)); got != c.want {
			t.Errorf("rank(%v, %d): want %s, got %s", c.shares, c.k, c.want, got)
		}
	}
}

// Scenario: A config in which everything is wrong, and rows that were never scored.
// Guarantees: Every fault is reported at once, with its key; a missing score step is named.
func TestFaults(t *testing.T) {
	c := Config{Smooth: -1, OnDelay: -1, OffDelay: -1, Cooldown: -1, Contributions: -1}
	var paths []string
	for _, f := range c.Validate() {
		paths = append(paths, f.Path)
	}
	if want := "name threshold leave smooth on_delay off_delay cooldown contributions max_assets"; strings.Join(paths, " ") != want {
		t.Errorf("want faults at %s, got %v", want, paths)
	}
	for _, bad := range []float64{0, -1, math.NaN(), math.Inf(1)} {
		c := fixed(bad)
		if faults := c.Validate(); len(faults) != 1 || faults[0].Path != "threshold.fixed" {
			t.Errorf("threshold %v: want one fault at threshold.fixed, got %v", bad, faults)
		}
	}
	o := New(fixed(1), pipelinetest.Settings(t))
	defer o.Close()
	unscored, err := schemas.Layout{Channels: []schemas.Channel{{Tag: "a"}}, Grid: 1, Size: 1, Hop: 1}.With(schemas.WindowFields(1, 1))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := o.Bind(unscored); err == nil || !strings.Contains(err.Error(), "score") {
		t.Errorf("want an error that names score, got %v", err)
	}
}

// BenchmarkDetect takes 1000 assets' windows with 50 channels, none of them anomalous.
func BenchmarkDetect(b *testing.B) {
	layout := schemas.Layout{Grid: time.Second, Size: 10, Hop: 10, Model: &schemas.ModelInfo{Name: "m", Version: "1"}}
	const channels, assets = 50, 1000
	for i := range channels {
		layout.Channels = append(layout.Channels, schemas.Channel{Tag: fmt.Sprint("tag", i)})
		layout.Model.Mean, layout.Model.Std = append(layout.Model.Mean, 1), append(layout.Model.Std, 1)
	}
	schema, err := layout.With(append(schemas.WindowFields(10, channels), schemas.ScoreFields(channels)...))
	if err != nil {
		b.Fatal(err)
	}
	list := func(n int) string { return "[" + strings.Repeat("0.1,", n-1) + "0.1]" }
	text := strings.Builder{}
	text.WriteString("asset window_end score\n")
	for a := range assets {
		fmt.Fprintf(&text, "asset%d 10s 1\n", a)
	}
	defaultsOf := map[string]string{"contrib": list(channels), "expected": list(channels), "samples": list(10 * channels)}
	rec, err := pipelinetest.ReadTable(memory.DefaultAllocator, schema, defaultsOf, text.String())
	if err != nil {
		b.Fatal(err)
	}
	defer rec.Release()
	o := New(fixed(2), pipeline.Settings{Alloc: memory.DefaultAllocator})
	defer o.Close()
	if _, err := o.Bind(schema); err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		var out pipelinetest.Collector
		if err := o.Process(context.Background(), rec, &out); err != nil {
			b.Fatal(err)
		}
		out.Release()
	}
	b.ReportMetric(float64(assets*b.N)/b.Elapsed().Seconds(), "windows/s")
}
