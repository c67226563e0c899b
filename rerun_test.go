package main

import (
	"os"
	"strings"
	"testing"
	"time"

	"github.com/tailrace/tailrace/connectors/kafka"
	"github.com/tailrace/tailrace/schemas"
)

// again is what run --once says, as far as the tests look at it.
type again struct {
	Rerun, Database string
	Ranges          []struct{ From, To int64 }
	Telemetry       int64 `json:"telemetry_rows"`
	Predictions     int64
	Diff            struct {
		Windows struct {
			Both             int64
			OnlyBefore       int64    `json:"only_before"`
			OnlyNow          int64    `json:"only_now"`
			Edge             int64    `json:"over_an_edge"`
			Flips            int64    `json:"anomaly_flips"`
			OtherModel       int64    `json:"other_model"`
			LargestScoreDiff *float64 `json:"largest_score_diff"`
			Changes          []struct {
				Asset       string
				Before, Now bool
			}
		}
		Events struct {
			Both       int64
			OnlyBefore int64 `json:"only_before"`
			OnlyNow    int64 `json:"only_now"`
			Listed     []struct{ In, Asset string }
		}
	}
}

// Scenario: two runs of the demo's data, one after the other, are stored; the second is read again by its time, once as it was and
// once with a threshold so low that nearly every window is over it, into side tables; then into the pipeline's own.
// Guarantees: the same file decides the same, to the last digit; the edit shows as flips and as events of other times; the
// pipeline's group, its own tables, its topics and its ledger are as they were, and rows in its own tables by the last are told
// apart from its own.
func TestRunOnce(t *testing.T) {
	p := newPlant(t, embeddedServers(t), untilEnd...)
	p.makeTopic(t, 2, nil)
	p.replay(t, []string{"--start", "2026-01-05T00:00:00Z"}, "d00_te")
	between := time.Now().Add(time.Millisecond)
	eventually(t, "the clock's next millisecond", time.Second, func() bool { return time.Now().After(between.Add(time.Millisecond)) })
	p.replay(t, []string{"--start", "2026-01-05T00:00:00Z"}, "d06_te")
	if run, code := ended(t, "run", p.file); code != 0 {
		t.Fatalf("run: exit code %d\n%s", code, run.err.String())
	}
	published := func() int64 {
		n, err := kafka.CountMessages(t.Context(), p.Kafka, p.name+"."+schemas.TopicEvents)
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	committed, rows, events := p.committed(t), p.query(t, "SELECT count() FROM telemetry"), published()
	from := []string{"run", "--once", "--from", between.UTC().Format(time.RFC3339Nano)}

	var same again
	object(t, &same, append(from, p.file)...)
	w := same.Diff.Windows
	if same.Telemetry != samples*tags || same.Database != p.name+"_rerun" || w.Both != samples || w.OnlyBefore+w.OnlyNow+w.Edge+w.Flips != 0 ||
		w.LargestScoreDiff == nil || *w.LargestScoreDiff != 0 || same.Diff.Events.Both == 0 || same.Diff.Events.OnlyBefore+same.Diff.Events.OnlyNow != 0 {
		t.Errorf("the same file: got %+v", same)
	}

	text, err := os.ReadFile(p.file)
	if err != nil {
		t.Fatal(err)
	}
	edited := strings.TrimSuffix(p.file, ".yaml") + "-edited.yaml"
	if err := os.WriteFile(edited, []byte(strings.Replace(string(text), "threshold: {quantile: 0.99}", "threshold: {fixed: 0.001}", 1)), 0o600); err != nil {
		t.Fatal(err)
	}
	var other again
	object(t, &other, append(from, edited)...)
	w = other.Diff.Windows
	if w.Both != samples || w.Flips == 0 || len(w.Changes) == 0 || w.Changes[0].Asset != "d06_te" || !w.Changes[0].Now || *w.LargestScoreDiff != 0 ||
		other.Diff.Events.OnlyNow != 1 || len(other.Diff.Events.Listed) == 0 || other.Rerun == same.Rerun {
		t.Errorf("a lower threshold: got %+v", other)
	}
	if c, r, e := p.committed(t), p.query(t, "SELECT count() FROM telemetry"), published(); c != committed || r != rows || e != events {
		t.Errorf("committed %d, rows %d, events on the topic %d, want %d, %d and %d as before", c, r, e, committed, rows, events)
	}

	var inside again
	object(t, &inside, append(from, "--into", "same", p.file)...)
	if inside.Database != p.name || inside.Diff.Windows.Both != samples || inside.Diff.Windows.Flips != 0 {
		t.Errorf("into the same tables: got %+v", inside)
	}
	if n := p.query(t, "SELECT count() FROM telemetry"); n != rows+samples*tags {
		t.Errorf("%d rows of telemetry, want %d", n, rows+samples*tags)
	}
	var sound account
	object(t, &sound, "reconcile", "--user", "default", p.file)
	if sound.Total.Stored != rows {
		t.Errorf("reconcile: %+v", sound)
	}
}
