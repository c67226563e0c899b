package window

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/tailrace/tailrace/pipeline/pipelinetest"
	"github.com/tailrace/tailrace/pipeline/state"
)

// Scenario: Rows for more than max_state bytes; then their windows close and further rows come.
// Guarantees: Rows beyond the limit are counted, and closing windows makes room again.
func TestMaxState(t *testing.T) {
	settings := pipelinetest.Settings(t)
	c := defaults()
	c.Size, c.MaxState = 10*time.Second, 3*(rowOverhead+8)
	o := New(c, settings)
	defer o.Close()
	schema := wide(t, time.Second, "v")
	if _, err := o.Bind(schema); err != nil {
		t.Fatal(err)
	}
	var out pipelinetest.Collector
	defer out.Release()
	ctx := context.Background()
	for part := range int64(2) {
		rec, err := pipelinetest.ReadTable(settings.Alloc, schema, nil, "asset ts coverage v\n"+rowsTable("a", part*10, 5))
		if err != nil {
			t.Fatal(err)
		}
		if err := o.Process(ctx, rec, &out); err != nil {
			t.Fatal(err)
		}
		rec.Release()
		if err := o.Advance(ctx, (part*10+9)*int64(time.Second), &out); err != nil {
			t.Fatal(err)
		}
	}
	if got, want := settings.Drops.(*pipelinetest.Drops).Take(), "max_state=4"; got != want {
		t.Errorf("want %s, got %s", want, got)
	}
	if got, want := pipelinetest.WriteTable(out.Rows, "n"), "n\n3\n3\n"; got != want {
		t.Errorf("want\n%sgot\n%s", want, got)
	}
	if o.state != 0 {
		t.Errorf("want no state after all windows closed, got %d bytes", o.state)
	}
}

// Scenario: With a lateness, windows are kept for corrections up to max_state; new rows come; then late rows for a
// window that was let go and for one that was not. Guarantees: New rows have the room, the oldest windows are let go; a
// late row for those is counted, the other is corrected.
func TestMaxStateLateness(t *testing.T) {
	settings := pipelinetest.Settings(t)
	settings.Lateness = time.Hour
	c := defaults()
	c.Size, c.MaxState = 2*time.Second, 4*(rowOverhead+8)+2*resultBytes
	o := New(c, settings)
	defer o.Close()
	schema := wide(t, time.Second, "v")
	if _, err := o.Bind(schema); err != nil {
		t.Fatal(err)
	}
	var out pipelinetest.Collector
	defer out.Release()
	ctx := context.Background()
	for _, step := range []struct {
		rows      string
		watermark int64
		drops     string
	}{
		{"a 0s 1 0 0\na 1s 1 0 1\na 2s 1 0 2\na 3s 1 0 3", 3, ""}, // two windows kept, no room left
		{"a 4s 1 0 4\na 5s 1 0 5", 5, ""},                         // the room of the first, which is let go
		{"a 1s 1 1 9\na 3s 1 1 9", 6, "max_state=1"},
	} {
		rec, err := pipelinetest.ReadTable(settings.Alloc, schema, nil, "asset ts coverage revision v\n"+step.rows)
		if err != nil {
			t.Fatal(err)
		}
		if err := o.Process(ctx, rec, &out); err != nil {
			t.Fatal(err)
		}
		rec.Release()
		if got := settings.Drops.(*pipelinetest.Drops).Take(); got != step.drops {
			t.Errorf("up to %ds: want drops %q, got %q", step.watermark, step.drops, got)
		}
		if err := o.Advance(ctx, step.watermark*int64(time.Second), &out); err != nil {
			t.Fatal(err)
		}
	}
	want := "window_start revision samples\n0s           0        [0,1]\n2s           0        [2,3]\n4s           0        [4,5]\n" +
		"2s           1        [2,9]\n"
	if got := pipelinetest.WriteTable(out.Rows, "window_start", "revision", "samples"); got != want {
		t.Errorf("want\n%sgot\n%s", want, got)
	}
}

// Scenario: State of one lateness goes on with another: longer, shorter and none. Then rows come late.
// Guarantees: What is settled stays so, what is not yet is corrected as far as the shorter lateness allows.
func TestOtherLateness(t *testing.T) {
	schema := wide(t, time.Second, "v")
	ctx := context.Background()
	for _, c := range []struct {
		before, after time.Duration
		want          string // windows given after the restart, by revision and start
		drops         string
	}{
		{10 * time.Second, 10 * time.Second, "1 2s\n1 8s\n", "late=1"},
		{10 * time.Second, time.Hour, "1 2s\n1 8s\n", "late=1"},
		{10 * time.Second, 4 * time.Second, "1 8s\n", "late=2"},
		{10 * time.Second, 0, "", "late=3"},
		{0, time.Hour, "", "late=3"},
	} {
		settings := pipelinetest.Settings(t)
		life := func(lateness time.Duration) *Operator {
			s := settings
			s.Lateness = lateness
			config := defaults()
			config.Size = 2 * time.Second
			o := New(config, s)
			if _, err := o.Bind(schema); err != nil {
				t.Fatal(err)
			}
			return o
		}
		var first, second pipelinetest.Collector
		feed := func(o *Operator, rows string, watermark int64, out *pipelinetest.Collector) {
			t.Helper()
			rec, err := pipelinetest.ReadTable(settings.Alloc, schema, nil, "asset ts coverage revision v\n"+rows)
			if err != nil {
				t.Fatal(err)
			}
			defer rec.Release()
			if err := o.Process(ctx, rec, out); err != nil {
				t.Fatal(err)
			}
			if err := o.Advance(ctx, watermark*int64(time.Second), out); err != nil {
				t.Fatal(err)
			}
		}
		old := life(c.before)
		feed(old, rowsTableOf("a", 0, 10), 11, &first)
		w := state.NewWriter()
		if err := old.Snapshot(w, true); err != nil {
			t.Fatal(err)
		}
		old.Close()
		o := life(c.after)
		if err := o.Restore(state.NewReader(w)); err != nil {
			t.Fatal(err)
		}
		if err := o.Advance(ctx, 12*int64(time.Second), &second); err != nil {
			t.Fatal(err)
		}
		feed(o, "a 0s 1 1 100\na 3s 1 1 103\na 9s 1 1 109", 13, &second) // the horizon of 10s lies at 2s
		got := pipelinetest.WriteTable(second.Rows, "revision", "window_start")
		got = strings.ReplaceAll(strings.TrimPrefix(got, "revision window_start\n"), "        ", " ")
		if drops := settings.Drops.(*pipelinetest.Drops).Take(); got != c.want || drops != c.drops {
			t.Errorf("%v to %v: want windows %q and drops %s, got %q and %s", c.before, c.after, c.want, c.drops, got, drops)
		}
		o.Close()
		first.Release()
		second.Release()
	}
}

// rowsTableOf writes rows without a header.
func rowsTableOf(asset string, from, n int64) string {
	text := rowsTable(asset, from, n)
	text = strings.ReplaceAll(text[strings.Index(text, "\n")+1:], "s 1 ", "s 1 0 ")
	return strings.TrimSuffix(text, "\n")
}

// Scenario: A config in which everything is wrong, a layout that has no channels, and a window too large to be.
// Guarantees: Every fault is reported at once.
func TestFaults(t *testing.T) {
	c := Config{Kind: "sliding"}
	var paths []string
	for _, f := range c.Validate() {
		paths = append(paths, f.Path)
	}
	if want := "kind max_assets max_state max_batch"; strings.Join(paths, " ") != want {
		t.Errorf("want faults at %s, got %v", want, paths)
	}
	c = defaults()
	c.Kind, c.Size, c.Hop = Hopping, time.Second, 2*time.Second
	if faults := c.Validate(); len(faults) != 1 || faults[0].Path != "hop" {
		t.Errorf("hop over size: want one fault at hop, got %v", faults)
	}
	c.Hop, c.Size = time.Second, 100*time.Hour
	o := New(c, pipelinetest.Settings(t))
	defer o.Close()
	if _, err := o.Bind(wide(t, time.Microsecond, "v")); err == nil || !strings.Contains(err.Error(), "want at most") {
		t.Errorf("3.6e11 rows a window: want a limit named, got %v", err)
	}
	if _, err := o.Bind(wide(t, time.Second)); err == nil {
		t.Error("no channels: want an error, got none")
	}
}

// Scenario: For each kind a config that lacks what the kind needs, and one with a key that the kind does not know.
// Guarantees: Each fault is named by its key; a config as it should be has none.
func TestFaultsOfKinds(t *testing.T) {
	paths := func(c Config) string {
		var all []string
		for _, f := range c.Validate() {
			all = append(all, f.Path)
		}
		return strings.Join(all, " ")
	}
	for kind, c := range kindsUnderTest() {
		if got := paths(c); got != "" {
			t.Errorf("%s: want no faults, got %s", kind, got)
		}
	}
	for _, c := range []struct {
		name string
		edit func(*Config)
		want string
	}{
		{"tumbling", func(c *Config) { c.Size, c.Gap, c.Every = time.Second, time.Second, "3" }, "gap every"},
		{"hopping", func(c *Config) { c.Kind, c.Size = Hopping, time.Second }, "hop"},
		{"hopping", func(c *Config) { c.Kind, c.MaxDuration = Hopping, time.Second }, "max_duration size hop"},
		{"session", func(c *Config) { c.Kind = Session }, "gap max_duration"},
		{"session", func(c *Config) { c.Kind, c.Gap, c.MaxDuration, c.Pre = Session, 1, maxSize+1, 1 }, "pre max_duration"},
		{"count", func(c *Config) { c.Kind = Count }, "rows every"},
		{"count", func(c *Config) { c.Kind, c.Rows, c.Every = Count, 3, "4" }, "every"},
		{"count", func(c *Config) { c.Kind, c.Rows, c.Every = Count, 3, "day" }, "every"},
		{"count", func(c *Config) { c.Kind, c.Rows, c.Zone = Count, 3, "UTC" }, "zone"},
		{"trigger", func(c *Config) { c.Kind = Trigger }, "start stop max_duration"},
		{"trigger", func(c *Config) {
			c.Kind, c.Start, c.Stop, c.MaxDuration, c.MinDuration = Trigger, "v > 1", " ", 5, 6
			c.Pre, c.Post, c.MaxCost = -1, maxSize+1, 0
		}, "stop pre post min_duration max_cost"},
		{"calendar", func(c *Config) { c.Kind = Calendar }, "every"},
		{"calendar", func(c *Config) { c.Kind, c.Every, c.Zone = Calendar, everyDay, "Europe/Atlantis" }, "zone"},
		{"calendar", func(c *Config) { c.Kind, c.Every, c.Zone = Calendar, everyDay, "Local" }, "zone"},
		{"calendar", func(c *Config) { c.Kind, c.Every, c.Shifts = Calendar, everyDay, []string{"06:00"} }, "shifts"},
		{"calendar", func(c *Config) { c.Kind, c.Every = Calendar, everyShift }, "shifts"},
		{"calendar", func(c *Config) { c.Kind, c.Every, c.Shifts = Calendar, everyShift, []string{"06:00", "6pm"} }, "shifts[1]"},
		{"calendar", func(c *Config) { c.Kind, c.Every, c.Shifts = Calendar, everyShift, []string{"06:00", "06:00"} }, "shifts[1]"},
		{"calendar", func(c *Config) { c.Kind, c.Every, c.Start = Calendar, everyDay, "v > 1" }, "start"},
	} {
		config := defaults()
		c.edit(&config)
		if got := paths(config); got != c.want {
			t.Errorf("%s %+v: want faults at %q, got %q", c.name, config, c.want, got)
		}
	}
}

// Scenario: State of another shape: another size, other channels, another condition.
// Guarantees: Restore refuses it, and says what was wanted and what came.
func TestOtherShape(t *testing.T) {
	settings := pipelinetest.Settings(t)
	one := defaults()
	one.Size = 2 * time.Second
	saved := state.NewWriter()
	o := New(one, settings)
	if _, err := o.Bind(wide(t, time.Second, "v")); err != nil {
		t.Fatal(err)
	}
	if err := o.Snapshot(saved, true); err != nil {
		t.Fatal(err)
	}
	o.Close()
	other := one
	other.Size = 3 * time.Second
	for want, c := range map[string]struct {
		config Config
		grid   time.Duration
		tags   []string
	}{
		"size=3s":        {other, time.Second, []string{"v"}},
		"grid=500ms":     {one, time.Second / 2, []string{"v"}},
		`channels="w"`:   {one, time.Second, []string{"w"}},
		"gap=2s":         {kindsUnderTest()[Session], time.Second, []string{"v"}},
		`start="v > 4"`:  {kindsUnderTest()[Trigger], time.Second, []string{"v"}},
		`zone=Europe/Be`: {kindsUnderTest()[Calendar], time.Hour, []string{"v"}},
	} {
		next := New(c.config, settings)
		if _, err := next.Bind(wide(t, c.grid, c.tags...)); err != nil {
			t.Fatal(err)
		}
		err := next.Restore(state.NewReader(saved))
		if err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "got that of tumbling grid=1s size=2s") {
			t.Errorf("want an error that names %s, got %v", want, err)
		}
		next.Close()
	}
}
