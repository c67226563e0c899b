package main

import (
	"os"
	"strings"
	"syscall"
	"testing"
	"time"
)

// Scenario: the plan of a file before anything is stored, and of the same file, of two edits and of another group once a run of
// data is stored.
// Guarantees: state is kept as long as neither a step nor one before it has changed, and lost from the edited step on; steps
// without state are said to have none; a group that has committed nothing is compared with the newest state in the store; state
// does not outlive the end of the input.
func TestPlanDiff(t *testing.T) {
	p := newPlant(t, embeddedServers(t))
	p.makeTopic(t, 1, nil)
	type plan struct {
		Group  string
		Store  string `json:"state_store"`
		Steps  []struct{ Name, Kind, Fingerprint string }
		Stored []struct {
			Offset       int64
			Blob, Source string
			Fault        string
			Ended        bool
			Steps        []struct {
				Name, State string
				Keys, Bytes int
			}
		}
	}
	var empty plan
	object(t, &empty, "plan", "--diff", p.file)
	if len(empty.Stored) != 0 || len(empty.Steps) != 5 || empty.Group != p.name || !strings.HasPrefix(empty.Store, "file://") {
		t.Errorf("before the first run: got %+v", empty)
	}
	p.replay(t, []string{"--start", "2026-01-05T00:00:00Z"}, "d06_te")
	run := launch(t, "run", p.file)
	eventually(t, "every message stored", time.Minute, func() bool { return p.committed(t) == samples*tags })
	run.signal(t, syscall.SIGINT)
	if code := run.within(t, time.Minute); code != 0 {
		t.Fatalf("run: exit code %d\n%s", code, run.err.String())
	}
	text, err := os.ReadFile(p.file)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ name, old, new, source, want string }{
		{"the same", "", "", "group", "event-time kept, align kept, window kept, normalize empty, score empty, detect kept"},
		{"the last step", "quantile: 0.99", "quantile: 0.999", "group", "event-time kept, align kept, window kept, normalize empty, score empty, detect lost"},
		{"the first step", "max_gap: 3m", "max_gap: 6m", "group", "event-time kept, align lost, window lost, normalize empty, score empty, detect lost"},
		{"another group", "group: " + p.name, "group: " + p.name + "-other", "store", "event-time kept, align kept, window kept, normalize empty, score empty, detect kept"},
	} {
		t.Run(c.name, func(t *testing.T) {
			file := strings.TrimSuffix(p.file, ".yaml") + "-edited.yaml"
			if err := os.WriteFile(file, []byte(strings.Replace(string(text), c.old, c.new, 1)), 0o600); err != nil {
				t.Fatal(err)
			}
			var edited plan
			object(t, &edited, "plan", "--diff", file)
			if len(edited.Stored) != 1 {
				t.Fatalf("got %+v, want one partition", edited)
			}
			at := edited.Stored[0]
			var fates []string
			for _, s := range at.Steps {
				fates = append(fates, s.Name+" "+s.State)
			}
			if got := strings.Join(fates, ", "); got != c.want || at.Source != c.source || at.Offset != samples*tags || at.Blob == "" || at.Fault != "" {
				t.Errorf("got %s of %+v, want %s from the %s", got, at, c.want, c.source)
			}
		})
	}
	table, code := ended(t, "plan", "--diff", p.file)
	if said := table.out.String(); code != 0 || !strings.Contains(said, "detect") || !strings.Contains(said, "kept") {
		t.Errorf("exit code %d\n%s%s", code, said, table.err.String())
	}

	bounded := strings.TrimSuffix(p.file, ".yaml") + "-bounded.yaml"
	if err := os.WriteFile(bounded, []byte(strings.Replace(string(text), untilEnd[0], untilEnd[1], 1)), 0o600); err != nil {
		t.Fatal(err)
	}
	p.send(t, "x", "{")
	if run, code := ended(t, "run", bounded); code != 0 {
		t.Fatalf("run to the end: exit code %d\n%s", code, run.err.String())
	}
	var over plan
	object(t, &over, "plan", "--diff", p.file)
	if len(over.Stored) != 1 || !over.Stored[0].Ended || over.Stored[0].Offset != samples*tags+1 || over.Stored[0].Steps[0].State != "new" {
		t.Errorf("after the end of the input: got %+v", over)
	}
}
