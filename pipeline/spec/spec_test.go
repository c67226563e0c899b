package spec

import (
	"errors"
	"flag"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/tailrace/tailrace/pipeline"
	"github.com/tailrace/tailrace/schemas/formats"
)

var update = flag.Bool("update", false, "rewrite testdata/faults/*.txt; then check each line and column by hand")

// The configs of the tests have every kind of value that a config may have.

type kafkaConfig struct {
	Brokers []string       `yaml:"brokers" jsonschema:"required"`
	Topic   string         `yaml:"topic" jsonschema:"required"`
	Fetch   pipeline.Bytes `yaml:"fetch"`
}

type jsonConfig struct {
	TS      string     `yaml:"ts"`
	MinTime *time.Time `yaml:"min_time"`
}

func (c *jsonConfig) Faults() []formats.Fault {
	if c.TS != "ns" {
		return []formats.Fault{{Path: "ts", Message: "want ns, got " + c.TS}}
	}
	return nil
}

type channels []pipeline.Pair

func (c *channels) UnmarshalPairs(p []pipeline.Pair) error {
	if len(p) > 3 {
		return errors.New("want at most 3 channels")
	}
	*c = p
	return nil
}

type alignConfig struct {
	Grid     time.Duration `yaml:"grid" jsonschema:"required"`
	MaxGap   time.Duration `yaml:"max_gap"`
	Channels channels      `yaml:"channels"`
}

func (c *alignConfig) Validate() []pipeline.Fault {
	var faults []pipeline.Fault
	if c.Grid <= 0 {
		faults = append(faults, pipeline.Faultf("grid", "want more than 0s, got %v", c.Grid))
	}
	if c.MaxGap < c.Grid {
		faults = append(faults, pipeline.Faultf("max_gap", "want at least grid, got %v", c.MaxGap))
	}
	for i, p := range c.Channels {
		if p.Value == "?" {
			faults = append(faults, pipeline.Faultf("channels["+string(rune('0'+i))+"]", "want a unit"))
		}
	}
	return faults
}

type smoothing struct {
	Alpha float64 `yaml:"alpha"`
	Taps  []int8  `yaml:"taps"`
}

type detectConfig struct {
	Smooth  *smoothing         `yaml:"smooth"`
	On      bool               `yaml:"on"`
	Count   uint16             `yaml:"count"`
	Limits  map[string]float64 `yaml:"limits"`
	Nested  []smoothing        `yaml:"nested"`
	Program func()             `yaml:"-"`
	Common  common             `yaml:",inline"`
}

type common struct {
	Seed int64 `yaml:"seed"`
}

type storeConfig struct {
	Address string `yaml:"address"`
}

type trainConfig struct {
	Rows int `yaml:"rows"`
}

func (c *trainConfig) Validate() []pipeline.Fault {
	if c.Rows < 1 {
		return []pipeline.Fault{pipeline.Faultf("", "want rows to train on")}
	}
	return nil
}

func define[C, T any](defaults C) pipeline.Component[T] {
	return pipeline.Define("a component", defaults, func(C) (t T, err error) { return t, nil })
}

func testComponents() pipeline.Components {
	return pipeline.Components{
		Sources: map[string]pipeline.Component[pipeline.NewSource]{"kafka": define[kafkaConfig, pipeline.NewSource](kafkaConfig{Fetch: 1 << 20})},
		Formats: map[string]pipeline.Component[pipeline.NewDecoder]{"json": define[jsonConfig, pipeline.NewDecoder](jsonConfig{TS: "ns"})},
		Operators: map[string]pipeline.Component[pipeline.NewOperator]{
			"align":  define[alignConfig, pipeline.NewOperator](alignConfig{MaxGap: time.Hour}),
			"detect": define[detectConfig, pipeline.NewOperator](detectConfig{Smooth: &smoothing{Alpha: 0.5}}),
		},
		Sinks:      map[string]pipeline.Component[pipeline.NewSink]{"clickhouse": define[storeConfig, pipeline.NewSink](storeConfig{Address: "127.0.0.1:9000"})},
		Publishers: map[string]pipeline.Component[pipeline.NewPublisher]{"kafka": define[storeConfig, pipeline.NewPublisher](storeConfig{})},
	}
}

func testSections() map[string]func() any {
	return map[string]func() any{"train": func() any { return &trainConfig{Rows: 1} }}
}

func parseTest(name string, text []byte) (*File, error) {
	return Parse(name, text, testComponents(), testSections())
}

// Scenario: a file that uses every kind of value, an anchor, an alias, a list in block and in flow form, and CRLF line ends.
// Guarantees: every value arrives, what is not given keeps its default, the order of a mapping of pairs is the file's, and
// the defaults of the components are not written to.
func TestParse(t *testing.T) {
	text, err := os.ReadFile("testdata/good.yaml")
	if err != nil {
		t.Fatal(err)
	}
	components := testComponents()
	for _, form := range []string{"\n", "\r\n"} {
		for range 2 { // the second time finds the defaults as they were
			f, err := Parse("good.yaml", []byte(strings.ReplaceAll(string(text), "\n", form)), components, testSections())
			if err != nil {
				t.Fatal(err)
			}
			checkGood(t, f)
		}
	}
}

func checkGood(t *testing.T, f *File) {
	t.Helper()
	minTime := time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)
	equal := func(what string, got, want any) {
		t.Helper()
		if !reflect.DeepEqual(got, want) {
			t.Errorf("%s: got %+v, want %+v", what, got, want)
		}
	}
	equal("name", f.Name, "a plant: north")
	equal("id", f.ID, "north-1")
	equal("source", f.Source.Name+" "+f.Source.Kind+" "+f.Source.Path, "plant kafka sources.plant.kafka")
	equal("source config", f.Source.Config, &kafkaConfig{Brokers: []string{"127.0.0.1:9092", "h:1"}, Topic: "5", Fetch: 2 << 20})
	equal("format", f.Source.Format.Kind, "json")
	equal("format config", f.Source.Format.Config, &jsonConfig{TS: "ns", MinTime: &minTime})
	if len(f.Steps) != 3 {
		t.Fatalf("got %d steps, want 3", len(f.Steps))
	}
	equal("step names", []string{f.Steps[0].Name, f.Steps[1].Name, f.Steps[2].Name}, []string{"align", "fast", "detect"})
	equal("align", f.Steps[0].Config, &alignConfig{Grid: 3 * time.Minute, MaxGap: time.Hour,
		Channels: channels{
			{Key: "xmeas_02", Value: "kg/h"}, {Key: "xmeas_01"}, {Key: "12", Value: "%"},
		}})
	equal("detect", f.Steps[1].Config, &detectConfig{
		Smooth: &smoothing{Alpha: 0.5, Taps: []int8{-1, 2}}, On: true, Count: 65535,
		Limits: map[string]float64{"a b": 1e3, "b": -0.5}, Nested: []smoothing{{Alpha: 1}, {Taps: []int8{}}},
		Common: common{Seed: -7},
	})
	equal("detect with defaults", f.Steps[2].Config, &detectConfig{Smooth: &smoothing{Alpha: 0.5}})
	equal("sink", f.Sink.Config, &storeConfig{Address: "127.0.0.1:9000"})
	equal("publisher", f.Publisher.Config, &storeConfig{Address: "north"})
	watermark := pipeline.DefaultWatermark()
	watermark.OutOfOrder = 1500 * time.Millisecond
	equal("watermark", f.Watermark, watermark)
	equal("checkpoint", f.Checkpoint, pipeline.DefaultCheckpoint())
	equal("limits", f.Limits.Memory, pipeline.Bytes(64<<20))
	equal("http", f.HTTP.Address, "")
	equal("sections", f.Sections, map[string]any{"train": &trainConfig{Rows: 7}})
	equal("place of a value", f.Pos("steps[0].align.grid"), Position{"good.yaml", 13, 19})
	equal("place of a mapping", f.Pos("steps[1].detect.limits"), Position{"good.yaml", 21, 7})
	equal("place of what is not there", f.Pos("steps[0].align.max_gap"), Position{"good.yaml", 13, 5})
	equal("fault", f.Fault("steps[1].detect", "no scores").Error(), "good.yaml:15:5: steps[1].detect: no scores")
}

// Scenario: each file in testdata/faults has faults of one sort.
// Guarantees: all of them are reported, in the order of the file, with the places and words of the .txt beside it.
func TestFaults(t *testing.T) {
	files, err := filepath.Glob("testdata/faults/*.yaml")
	if err != nil || len(files) == 0 {
		t.Fatal("no files", err)
	}
	for _, name := range files {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		got := faultsOf(t, filepath.Base(name), text)
		golden := strings.TrimSuffix(name, ".yaml") + ".txt"
		if *update {
			if err := os.WriteFile(golden, []byte(got+"\n"), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(golden)
		if err != nil {
			t.Fatal(err)
		}
		if got+"\n" != string(want) {
			t.Errorf("%s:\ngot\n%s\nwant\n%s", name, got, want)
		}
	}
}

// faultsOf parses a faulty text.
func faultsOf(t *testing.T, name string, text []byte) string {
	t.Helper()
	f, err := parseTest(name, text)
	var faults Faults
	if f != nil || !errors.As(err, &faults) {
		t.Fatalf("%s: got %v, %v, want Faults", name, f, err)
	}
	return faults.Error()
}

// Scenario: texts that are no YAML, no UTF-8, or larger, deeper or more self-similar than a pipeline file may be.
// Guarantees: a fault that names the bound or the place.
func TestHostileText(t *testing.T) {
	for _, c := range []struct{ name, text, want string }{
		{"empty", "", "f:1:1: want a pipeline, got an empty file"},
		{"comments", "# only\n", "f:1:1: want a pipeline, got an empty file"},
		{"marker", "---\n", "f:1:1: want a pipeline, got an empty file"},
		{"scalar", "hello\n", "f:1:1: want a mapping with the keys version, name, sources, steps and sinks, got \"hello\""},
		{"list", "- 1\n", "f:1:1: want a mapping with the keys version, name, sources, steps and sinks, got a list"},
		{"bytes", "version: 1\nname: \u00e9\xff\n", "f:2:8: want UTF-8, got the byte 0xff"},
		{"two documents", "version: 1\n---\nversion: 1\n", "f:2:1: want one document, got 2"},
		{"tab", "a:\n\tb: 1\n", `f:2:1: not YAML: found character '\t' that cannot start any token`},
		{"open bracket", "version: 1\nsteps: [1,\n", "f:2:8: not YAML: sequence end token ']' not found"},
		{"version 2", "version: 2\nwhat: ever\n", "f:1:1: version: want 1, the only version of this program, got the number 2"},
		{"version text", "version: \"1\"\n", "f:1:1: version: want 1, the only version of this program, got the text \"1\""},
		{"no version", "name: x\n", "f:1:1: version: key is missing, want version: 1"},
		{"large", strings.Repeat("#", maxBytes+1), "f:1:1: want at most 1048576 bytes, got 1048577"},
		{"brackets", "version: " + strings.Repeat("[", 1000), "f:1:42: want values nested at most 32 deep"},
		{"dashes", strings.Repeat("- ", 100_000), "f:1:120001: want at most 60000 YAML tokens, got 100000"},
		{"dashes in a row", strings.Repeat("- ", 1000), "f:1:65: want values nested at most 32 deep"},
		{"alias to nothing", "version: 1\nname: *n\n", "f:2:7: name: no anchor \"&n\" stands before this alias"},
		{"alias to itself", "version: 1\ntrain: &a [*a]\n", "f:2:12: train[0]: no anchor \"&a\" stands before this alias"},
		{"indentation", deepMapping(1000), "want values nested at most 32 deep"},
		{"bomb", aliasBomb(), "want at most 100000 values, aliases counted where they are used"},
	} {
		got := faultsOf(t, "f", []byte(c.text))
		if !strings.Contains(got+"\n", c.want+"\n") {
			t.Errorf("%s:\ngot  %.300s\nwant %s", c.name, got, c.want)
		}
	}
}

func deepMapping(n int) string {
	var b strings.Builder
	for i := range n {
		b.WriteString(strings.Repeat(" ", i) + "a:\n")
	}
	return b.String()
}

// aliasBomb is 4000 values that stand for 200000.
func aliasBomb() string {
	return "version: 1\nsteps:\n  - detect:\n      smooth: {taps: &t [" + strings.Repeat("1,", 1000) + "]}\n" +
		"      nested:\n" + strings.Repeat("        - taps: *t\n", 200)
}

// Scenario: a byte order mark, and an anchor used before, in and after a list.
// Guarantees: the mark is no part of the first key, and an alias has its anchor's value.
func TestMarkAndAliases(t *testing.T) {
	text, err := os.ReadFile("testdata/good.yaml")
	if err != nil {
		t.Fatal(err)
	}
	f, err := parseTest("good.yaml", append([]byte("\ufeff"), text...))
	if err != nil {
		t.Fatal(err)
	}
	checkGood(t, f)
}

// Scenario: more faults than a report holds.
// Guarantees: the report is cut, and says so.
func TestManyFaults(t *testing.T) {
	var b strings.Builder
	b.WriteString("version: 1\n")
	for i := range 5000 {
		b.WriteString("zzzz" + strings.Repeat("q", i%7) + string(rune('a'+i%26)) + strings.Repeat("w", i/26%200) + ": 1\n")
	}
	lines := strings.Split(faultsOf(t, "f", []byte(b.String())), "\n")
	if len(lines) != maxFaults+1 || !strings.HasSuffix(lines[maxFaults], "more faults are not shown") {
		t.Errorf("got %d lines, the last %q", len(lines), lines[len(lines)-1])
	}
}
