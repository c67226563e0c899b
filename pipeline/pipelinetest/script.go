package pipelinetest

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/apache/arrow/go/v15/arrow"
	"github.com/tailrace/tailrace/pipeline"
	"github.com/tailrace/tailrace/pipeline/state"
	"github.com/tailrace/tailrace/schemas"
)

var update = flag.Bool("update", false, "write what the scripts gave into their expected parts")

// Command is one command of a script.
type Command struct {
	Name  string
	Args  []string
	Input string // the lines after the command's own
	Place string // file:line, for messages
}

// RunScript runs a script file: commands, each a line with its name and arguments, lines of input, a line "----", the
// expected lines, and an empty line. Lines that start with # before a command are comments. With -update the expected
// lines are rewritten; a file that is not there fails.
func RunScript(t *testing.T, path string, run func(t *testing.T, c Command) string) {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var rewritten strings.Builder
	lines := strings.Split(strings.TrimRight(string(text), "\n"), "\n")
	for i := 0; i < len(lines); {
		if lines[i] == "" || strings.HasPrefix(lines[i], "#") {
			rewritten.WriteString(lines[i] + "\n")
			i++
			continue
		}
		words := strings.Fields(lines[i])
		c := Command{Name: words[0], Args: words[1:], Place: fmt.Sprintf("%s:%d", path, i+1)}
		start := i
		for i++; i < len(lines) && lines[i] != "----"; i++ {
			c.Input += lines[i] + "\n"
		}
		if i == len(lines) {
			t.Fatalf("%s: command without a line ----", c.Place)
		}
		want := ""
		for i++; i < len(lines) && lines[i] != ""; i++ {
			want += lines[i] + "\n"
		}
		got := run(t, c)
		if got != "" && !strings.HasSuffix(got, "\n") {
			got += "\n"
		}
		if got != want && !*update {
			t.Errorf("%s: %s\n--- want\n%s--- got\n%s", c.Place, lines[start], want, got)
		}
		rewritten.WriteString(lines[start] + "\n" + c.Input + "----\n" + got)
	}
	if *update {
		if err := os.WriteFile(path, []byte(rewritten.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// OperatorScripts runs scripts over one kind of operator.
type OperatorScripts struct {
	// New makes an operator from the text under the command "new", and says which schema it is bound to.
	New func(settings pipeline.Settings, config string) (pipeline.Operator, *arrow.Schema, error)
	// Defaults are the words for columns that a script leaves out.
	Defaults map[string]string
	// Columns are what is shown of emitted rows; none means all.
	Columns []string
}

// Run runs every script that matches pattern. The commands are: new (the input is the config; the arguments lateness=DURATION
// and backfill set the settings), process (the input is a table), advance TIME, restore (a new operator goes on from a
// snapshot of the old one), finish, close. What an operator emits is written as a table, events as lines, late rows as
// lines "late asset tag time value offset", drops as "dropped reason=n".
func (s OperatorScripts) Run(t *testing.T, pattern string) {
	t.Helper()
	paths, err := filepath.Glob(pattern)
	if err != nil || len(paths) == 0 {
		t.Fatalf("%s: want scripts, got none (%v)", pattern, err)
	}
	for _, path := range paths {
		t.Run(filepath.Base(path), func(t *testing.T) {
			r := scriptRun{scripts: s, settings: Settings(t)}
			defer r.close()
			RunScript(t, path, r.command)
		})
	}
}

// Settings returns settings whose memory is checked and whose drops are a [Drops].
func Settings(t testing.TB) pipeline.Settings {
	return pipeline.Settings{
		Pipeline: "test", Step: "step", Topic: "telemetry", Partition: 3, Alloc: NewAllocator(t), Drops: &Drops{},
	}
}

type scriptRun struct {
	scripts  OperatorScripts
	settings pipeline.Settings
	config   string
	op       pipeline.Operator
	in       *arrow.Schema
}

func (r *scriptRun) close() error {
	if r.op == nil {
		return nil
	}
	err := r.op.Close()
	r.op = nil
	return err
}

func (r *scriptRun) command(t *testing.T, c Command) string {
	ctx := context.Background()
	var out Collector
	defer out.Release()
	var err error
	switch c.Name {
	case "new":
		if err = r.close(); err == nil {
			r.set(t, c)
			err = r.start()
		}
	case "restore":
		snapshot := state.NewWriter()
		if err = errors.Join(r.op.Snapshot(snapshot, true), r.close()); err != nil {
			break
		}
		if err = r.start(); err == nil {
			err = r.op.Restore(state.NewReader(snapshot))
		}
	case "process":
		var rec arrow.Record
		if rec, err = ReadTable(r.settings.Alloc, r.in, r.scripts.Defaults, c.Input); err != nil {
			t.Fatalf("%s: %v", c.Place, err)
		}
		err = r.op.Process(ctx, rec, &out)
		rec.Release()
	case "advance":
		watermark, bad := ParseTime(c.Args[0])
		if bad != nil {
			t.Fatalf("%s: %v", c.Place, bad)
		}
		err = r.op.Advance(ctx, watermark, &out)
	case "finish":
		err = r.op.Finish(ctx, &out)
	case "close":
		err = r.close()
	default:
		t.Fatalf("%s: unknown command %q", c.Place, c.Name)
	}
	return r.result(t, &out, err)
}

// set takes the settings and the config of a new operator.
func (r *scriptRun) set(t *testing.T, c Command) {
	r.config, r.settings.Lateness, r.settings.Backfill = c.Input, 0, false
	for _, arg := range c.Args {
		value, isLateness := strings.CutPrefix(arg, "lateness=")
		d, err := time.ParseDuration(value)
		switch {
		case isLateness && err == nil:
			r.settings.Lateness = d
		case arg == "backfill":
			r.settings.Backfill = true
		default:
			t.Fatalf("%s: want lateness=DURATION or backfill, got %q", c.Place, arg)
		}
	}
}

func (r *scriptRun) start() (err error) {
	if r.op, r.in, err = r.scripts.New(r.settings, r.config); err == nil {
		_, err = r.op.Bind(r.in)
	}
	return err
}

func (r *scriptRun) result(t *testing.T, out *Collector, err error) string {
	text := WriteTable(out.Rows, r.scripts.Columns...)
	for _, rec := range out.Events {
		list, bad := schemas.EventsOf(rec)
		if bad != nil {
			t.Fatal(bad)
		}
		for i := range list {
			text += eventLine(&list[i])
		}
	}
	for _, rec := range out.Late {
		for i := range int(rec.NumRows()) {
			text += "late"
			for _, column := range []int{schemas.ColAsset, schemas.ColTag, schemas.ColTS, schemas.ColValue, schemas.ColKOffset} {
				text += " " + word(rec.Column(column), i)
			}
			text += "\n"
		}
	}
	if dropped := r.settings.Drops.(*Drops).Take(); dropped != "" {
		text += "dropped " + dropped + "\n"
	}
	if err != nil {
		text += "error: " + err.Error() + "\n"
	}
	return text
}

// eventLine writes what a script checks of an event.
func eventLine(e *schemas.Event) string {
	since := func(ns int64) string { return time.Duration(ns).String() }
	line := fmt.Sprintf("event %s seq=%d asset=%s onset=%s event=%s", e.Status, e.EventSeq, e.Asset,
		since(e.OnsetTS.UnixNano()), since(e.EventTS.UnixNano()))
	if e.ClearedTS != nil {
		line += " cleared=" + since(e.ClearedTS.UnixNano())
	}
	line += fmt.Sprintf(" peak=%g@%s smoothed=%g threshold=%g", e.Score.Value, since(e.PeakTS.UnixNano()), e.Score.Smoothed,
		e.Score.Threshold)
	line += fmt.Sprintf(" offsets=%d..%d", e.Lineage.OffsetFirst, e.Lineage.OffsetLast)
	if e.Backfill {
		line += " backfill"
	}
	line += "\n"
	for _, c := range e.Contributions {
		line += fmt.Sprintf("  %s share=%.4g observed=%.6g expected=%.6g unit=%s\n", c.Tag, c.Share, c.Observed, c.Expected, c.Unit)
	}
	return line
}
