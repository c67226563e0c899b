package simulation

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tailrace/tailrace/pipeline"
	"github.com/tailrace/tailrace/schemas"
	"github.com/tailrace/tailrace/schemas/formats"
	"github.com/tailrace/tailrace/schemas/formats/jsontelemetry"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

var update = flag.Bool("update", false, "write what the golden pipelines gave; then check it by hand")

// recorded is one message of a file in testdata.
type recorded struct {
	arrival time.Duration // after zero
	device  int
	text    string
}

// zero is the time from which recorded arrivals and times count.
var zero = epoch.Add(24 * time.Hour)

// recording reads a file of messages. Their times, in ms, become times after zero.
func recording(t *testing.T, name string) []recorded {
	t.Helper()
	data, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	times := regexp.MustCompile(`"ts":(-?\d+)`)
	var list []recorded
	for line := range strings.Lines(string(data)) {
		line = strings.TrimSpace(line)
		if strings.HasPrefix(line, "#") || line == "" {
			continue
		}
		var arrival float64
		var r recorded
		if _, err := fmt.Sscan(line, &arrival, &r.device); err != nil {
			t.Fatalf("%s: %q: %v", name, line, err)
		}
		r.arrival = time.Duration(arrival * float64(time.Second)).Round(time.Millisecond)
		text := strings.SplitN(line, " ", 3)[2]
		r.text = times.ReplaceAllStringFunc(text, func(ts string) string {
			n, _ := strconv.Atoi(ts[len(`"ts":`):])
			return fmt.Sprintf(`"ts":%d`, zero.UnixMilli()+int64(n))
		})
		list = append(list, r)
	}
	return list
}

// cutting is how messages are cut on their way, which must not matter.
type cutting struct {
	name    string
	records int // of a batch in Kafka
	rows    int // of a batch of the decoder
	barrier int // rows between two barriers
	kills   int // how often the process is killed, each time at a random commit
	seed    uint64
}

// play sends a recording through a pipeline and returns what it leaves, table by table, and the topics out.
func play(t *testing.T, messages []recorded, partitions int, c cutting) string {
	var text string
	synctest.Test(t, func(t *testing.T) {
		time.Sleep(time.Until(epoch))
		w := newWorld(t, c.seed, partitions)
		w.steps = chains(t)[2]
		w.decoder = func() (formats.Decoder, error) {
			config := jsontelemetry.DefaultConfig()
			config.TS = jsontelemetry.Millis
			return jsontelemetry.New(config)
		}
		w.batchRows = c.rows
		w.change = func(p *pipeline.Plan) {
			p.Checkpoint.Interval, p.Checkpoint.Rows = time.Second, int64(c.barrier)
			p.State.FullEvery = 3
		}
		time.Sleep(time.Until(zero.Add(time.Hour)))
		client := w.producer()
		for batch := range slices.Chunk(messages, c.records) {
			var records []*kgo.Record
			for _, m := range batch {
				records = append(records, &kgo.Record{
					Topic: topic, Partition: int32(m.device % partitions), Value: []byte(m.text), Timestamp: zero.Add(m.arrival),
				})
			}
			if err := client.ProduceSync(t.Context(), records...).FirstErr(); err != nil {
				t.Fatal(err)
			}
		}
		client.Close()
		if err := w.restarts(c); err != nil {
			t.Errorf("%v\n%s", err, w.journal)
		}
		text = w.left()
		w.close()
		w.mem.AssertSize(t, 0)
	})
	return text
}

// restarts runs processes to the topic's end, each killed at one of its commits but for the last.
func (w *world) restarts(c cutting) error {
	rng := rand.New(rand.NewPCG(c.seed, 9))
	for i := range c.kills {
		name := fmt.Sprintf("p%d", i)
		left := 2 + rng.IntN(12)
		w.network.watch(func(host string, key kmsg.Key, arrived bool) {
			w.mu.Lock()
			p := w.processes[host]
			w.mu.Unlock()
			if p == nil || host != name || key != kmsg.OffsetCommit || !arrived {
				return
			}
			if left--; left == 0 {
				w.journal.add(name, "is killed")
				p.kill()
			}
		})
		p := w.start(name, pipelineEnd)
		<-p.done
		time.Sleep(20 * time.Second) // the group forgets it
	}
	w.network.watch(nil)
	return w.finish("last")
}

// dull are the columns and fields that say nothing in the golden pipelines.
var dull = regexp.MustCompile(` (ts_kind|vtype|value_int|value_str|quality|status|unit|src|src_seq|k_topic|k_idx)=\S*` +
	`| (model|model_version|outputs)=\S*|"[a-z_]+":null,`)

// left is what there is in the end, in an order that does not depend on when it came.
func (w *world) left() string {
	var out bytes.Buffer
	section := func(name string, rows []string) {
		fmt.Fprintf(&out, "== %s: %d\n", name, len(rows))
		for _, row := range rows {
			fmt.Fprintln(&out, dull.ReplaceAllString(row, ""))
		}
	}
	for _, table := range []pipeline.Table{pipeline.Telemetry, pipeline.Predictions, pipeline.EventsTable} {
		section(string(table), w.clickhouse.rows(table))
	}
	section(schemas.TopicLate, w.sentOnce(schemas.TopicLate, valueOf))
	section(schemas.TopicDeadLetters, w.sentOnce(schemas.TopicDeadLetters, letterOf))
	sums, err := w.ledger()
	if err != nil {
		w.t.Error(err)
	}
	var rows []string
	for what, n := range sums {
		rows = append(rows, fmt.Sprintf("%s %d", what, n))
	}
	slices.Sort(rows)
	section("counted by the ledger", rows)
	return out.String()
}

// golden compares a text with a file of testdata.
func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatalf("%v: -update writes it", err)
	}
	same(t, name, string(want), got)
}

// same tells the first lines in which texts differ.
func same(t *testing.T, name, want, got string) {
	t.Helper()
	if want == got {
		return
	}
	lines := strings.Split(got, "\n")
	for i, line := range strings.Split(want, "\n") {
		if i == len(lines) || lines[i] != line {
			other := strings.Join(lines[min(i, len(lines)):min(i+1, len(lines))], "")
			t.Fatalf("%s, line %d: want\n%s\ngot\n%s", name, i+1, line, other)
		}
	}
	t.Fatalf("%s: want %d lines, got %d", name, strings.Count(want, "\n"), strings.Count(got, "\n"))
}

// whole is one process that reads large batches and has one barrier.
var whole = cutting{name: "whole", records: 10_000, rows: 10_000, barrier: 1 << 30}

// otherwise are other ways to cut the same messages.
var otherwise = []cutting{
	{name: "single rows", records: 1, rows: 1, barrier: 40},
	{name: "small batches", records: 7, rows: 3, barrier: 25, seed: 1},
	{name: "restored once", records: 5, rows: 4, barrier: 20, kills: 1, seed: 2},
	{name: "restored often", records: 3, rows: 2, barrier: 10, kills: 5, seed: 3},
	{name: "restored often, otherwise", records: 4, rows: 50, barrier: 15, kills: 5, seed: 4},
	{name: "restored often, still otherwise", records: 11, rows: 6, barrier: 5, kills: 8, seed: 5},
}

// Scenario: messages with late rows, corrections, history, repeats and malformed ones, in two partitions, are read
// whole, cut otherwise, and by processes that are killed at random commits.
// Guarantees: tables, late rows, dead letters and what the ledger counts are those of the golden file, to the letter.
func TestGoldenLate(t *testing.T) {
	messages := recording(t, "late.txt")
	for _, c := range append([]cutting{whole}, otherwise...) {
		t.Run(c.name, func(t *testing.T) { golden(t, "late.golden", play(t, messages, 2, c)) })
	}
}

// lineage is what depends on where in Kafka a message lies.
var lineage = regexp.MustCompile(`k_(part|offset|first|last)=-?\d+|"lineage":\{[^}]*\}`)

// placeless leaves the lineage out.
func placeless(text string) string {
	lines := strings.Split(lineage.ReplaceAllString(text, ""), "\n")
	// A section's rows are in another order without it.
	for from := 0; from < len(lines); {
		to := from + 1
		for to < len(lines) && !strings.HasPrefix(lines[to], "==") {
			to++
		}
		slices.Sort(lines[from+1 : to])
		from = to
	}
	return strings.Join(lines, "\n")
}

// Scenario: messages no more out of order than out_of_order lie in one, two or four partitions, and are read whole, cut
// otherwise, and by processes that are killed at random commits.
// Guarantees: apart from lineage all is as in the golden file.
func TestGoldenPartitions(t *testing.T) {
	messages := recording(t, "within.txt")
	for _, partitions := range []int{1, 2, 4} {
		for _, c := range append([]cutting{whole}, otherwise[1:5]...) {
			t.Run(fmt.Sprintf("%d partitions, %s", partitions, c.name), func(t *testing.T) {
				golden(t, "within.golden", placeless(play(t, messages, partitions, c)))
			})
		}
	}
}

// Scenario: the golden file of the messages that are in time, against a computation by the definitions of align and
// window: the newest value of the last three seconds at each second, windows of five such seconds, the mean of the
// absolute values.
// Guarantees: the file has exactly the windows that the definitions give, with their rows, coverage and score.
func TestGoldenByDefinition(t *testing.T) {
	type value struct {
		at    time.Time
		value float64
	}
	values := map[string][]value{} // by asset and tag
	first, last := map[string]time.Time{}, map[string]time.Time{}
	for _, m := range recording(t, "within.txt") {
		var row struct {
			TS         int64
			Asset, Tag string
			Value      float64
		}
		if err := json.Unmarshal([]byte(m.text), &row); err != nil {
			t.Fatal(err)
		}
		v := value{time.UnixMilli(row.TS).UTC(), row.Value}
		values[row.Asset+" "+row.Tag] = append(values[row.Asset+" "+row.Tag], v)
		if at := first[row.Asset]; at.IsZero() || v.at.Before(at) {
			first[row.Asset] = v.at
		}
		if v.at.After(last[row.Asset]) {
			last[row.Asset] = v.at
		}
	}
	// held is the newest value at a second, if it is not older than three.
	held := func(asset, tag string, at time.Time) (float64, bool) {
		var newest value
		for _, v := range values[asset+" "+tag] {
			if !v.at.After(at) && v.at.After(at.Add(-3*time.Second)) && v.at.After(newest.at) {
				newest = v
			}
		}
		return newest.value, !newest.at.IsZero()
	}
	var want []string
	for asset := range first {
		end := last[asset].Add(time.Second - 1).Truncate(time.Second) // the last second that a value counts in
		start := first[asset].Add(-6 * time.Second).Truncate(2 * time.Second)
		for ; !start.After(end); start = start.Add(2 * time.Second) {
			n, cells, score := 0, 0, float32(0)
			sums, counts := map[string]float64{}, map[string]int{}
			for s := range 5 {
				at := start.Add(time.Duration(s) * time.Second)
				if at.After(end) {
					break
				}
				there := false
				for _, tag := range []string{"x", "y"} {
					if v, ok := held(asset, tag, at); ok {
						there = true
						cells++
						counts[tag]++
						sums[tag] += math.Abs(v)
					}
				}
				if there {
					n++
				}
			}
			if n == 0 {
				continue
			}
			for tag, sum := range sums {
				score = max(score, float32(sum/float64(counts[tag])))
			}
			want = append(want, fmt.Sprintf("asset=%s window_start=%s n=%d coverage=%v score=%v",
				asset, start.Format(time.RFC3339), n, float32(cells)/10, score))
		}
	}
	slices.Sort(want)
	data, err := os.ReadFile(filepath.Join("testdata", "within.golden"))
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	row := regexp.MustCompile(`^(asset=\S+) window_start=(\S+) (\S+) .* (n=\d+) (coverage=\S+) (score=\S+) `)
	for line := range strings.Lines(string(data)) {
		if m := row.FindStringSubmatch(line); m != nil {
			got = append(got, fmt.Sprintf("%s window_start=%sT%s %s %s %s", m[1], m[2], m[3], m[4], m[5], m[6]))
		}
	}
	if err := compare("windows", want, got); err != nil {
		t.Error(err)
	}
}
