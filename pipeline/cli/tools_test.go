package cli

import (
	"maps"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tailrace/tailrace/pipeline"
	"github.com/tailrace/tailrace/pipeline/state"
)

// Scenario: what an hour of the ledger and the table telemetry may say of each other, with messages of one row and of several.
// Guarantees: the sums are those by hand, and everything that does not add up is a fault that names what is wrong.
func TestHoursAddUp(t *testing.T) {
	settled := time.Now().Add(-time.Hour).UTC()
	for _, c := range []struct {
		name  string
		hour  hour
		found counted
		young int64 // first offset that TTL has not reached
		want  sums
		fault string // "" for none
	}{
		{
			"whole", hour{From: 100, To: 110, Offsets: 10, Messages: 10, Rows: map[string]uint64{"telemetry": 10}},
			counted{10, 10, 10}, 0, sums{Messages: 10, Stored: 10, Rows: 10}, "",
		},
		{
			"dead letters, duplicates, a refused row and control records",
			hour{
				From: 0, To: 20, Offsets: 20, Messages: 18, Rows: map[string]uint64{"telemetry": 12},
				Counters: map[string]int64{"dead.invalid_json": 2, "dead.too_large": 1, "rows.duplicate": 2, "refused.telemetry": 1, "rows.late": 4, "step.align.late": 4},
			},
			counted{12, 12, 12}, 0,
			sums{Messages: 18, Stored: 12, DeadLetters: 3, Dropped: 3, Holes: 2, Late: 4, Rows: 12}, "",
		},
		{
			"a message lost", hour{From: 0, To: 10, Offsets: 10, Messages: 10, Rows: map[string]uint64{"telemetry": 9}},
			counted{9, 9, 9}, 0, sums{Messages: 10, Stored: 9, Unaccounted: 1, Rows: 9}, "1 messages are neither stored nor counted",
		},
		{
			"a row lost of a message of three", hour{From: 0, To: 10, Offsets: 10, Messages: 10, Rows: map[string]uint64{"telemetry": 30}},
			counted{29, 29, 10}, 0, sums{Messages: 10, Stored: 10, Rows: 29, Missing: 1}, "1 rows that were stored are not there",
		},
		{
			"messages of two rows, with duplicates: one message is gone, and one row of another",
			hour{From: 0, To: 10, Offsets: 10, Messages: 10, Rows: map[string]uint64{"telemetry": 17}, Counters: map[string]int64{"rows.duplicate": 3}},
			counted{17, 17, 9}, 0, sums{Messages: 10, Stored: 9, Dropped: 1, Rows: 17}, "",
		},
		{
			"doubled", hour{From: 0, To: 10, Offsets: 10, Messages: 10, Rows: map[string]uint64{"telemetry": 10}},
			counted{13, 10, 10}, 0, sums{Messages: 10, Stored: 10, Rows: 13, Doubled: 3}, "3 rows are doubled",
		},
		{
			"more stored than read", hour{From: 0, To: 10, Offsets: 10, Messages: 8, Rows: map[string]uint64{"telemetry": 8}},
			counted{10, 10, 10}, 0, sums{Messages: 8, Stored: 10, Holes: 2, Unaccounted: -2, Rows: 10}, "2 messages more are stored than were read",
		},
		{
			"expired in part", hour{From: 0, To: 10, Offsets: 10, Messages: 10, Rows: map[string]uint64{"telemetry": 10}},
			counted{4, 4, 4}, 6, sums{Messages: 10, Stored: 4, Expired: 6, Rows: 4}, "",
		},
		{
			"expired and lost", hour{From: 0, To: 10, Offsets: 10, Messages: 10, Rows: map[string]uint64{"telemetry": 10}},
			counted{3, 3, 3}, 6, sums{Messages: 10, Stored: 3, Expired: 6, Unaccounted: 1, Missing: 1, Rows: 3}, "1 messages are neither",
		},
		{
			"a sink without the table, and rows that a format left out",
			hour{From: 0, To: 10, Offsets: 10, Messages: 10, Counters: map[string]int64{"left_out.telemetry": 7, "rows.seen": 3, "left_out.predictions": 4}},
			counted{}, 0, sums{Messages: 10, Dropped: 10}, "",
		},
		{
			"a gap", hour{From: 5, To: 6, Offsets: 1, Messages: 1, Gap: 4, Rows: map[string]uint64{"telemetry": 1}},
			counted{1, 1, 1}, 0, sums{Messages: 1, Stored: 1, Rows: 1}, "4 offsets before them are in no checkpoint",
		},
		{
			"a gap that retention made",
			hour{From: 5, To: 6, Offsets: 1, Messages: 1, Gap: 4, Rows: map[string]uint64{"telemetry": 1}, Counters: map[string]int64{"offsets.expired": 4}},
			counted{1, 1, 1}, 0, sums{Messages: 1, Stored: 1, Rows: 1}, "",
		},
		{
			"read twice", hour{From: 0, To: 10, Offsets: 15, Messages: 15, Overlap: 5, Rows: map[string]uint64{"telemetry": 15}},
			counted{15, 10, 10}, 0, sums{Messages: 15, Stored: 10, Rows: 15, Doubled: 5}, "5 offsets are in more than one checkpoint",
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := reconciled{Total: sums{Reasons: map[string]int64{}}}
			c.hour.Settled, c.hour.Hour = settled, settled.Truncate(time.Hour)
			r.judge(&c.hour, &age{keeps: 90 * 24 * time.Hour, young: map[int32]int64{0: c.young}}, c.found)
			got := r.Hours[0].sums
			got.Reasons, c.want.Reasons = nil, nil
			if !sameSums(&got, &c.want) {
				t.Errorf("got %+v, want %+v", got, c.want)
			}
			if all := strings.Join(r.Faults, "\n"); (c.fault == "") != (all == "") || !strings.Contains(all, c.fault) {
				t.Errorf("got faults %q, want %q", all, c.fault)
			}
		})
	}
}

func sameSums(a, b *sums) bool {
	x, y := *a, *b
	same := maps.Equal(x.Reasons, y.Reasons)
	x.Reasons, y.Reasons = nil, nil
	return same && x.Messages == y.Messages && x.Stored == y.Stored && x.DeadLetters == y.DeadLetters && x.Dropped == y.Dropped &&
		x.Expired == y.Expired && x.Unaccounted == y.Unaccounted && x.Holes == y.Holes && x.Late == y.Late && x.Rows == y.Rows &&
		x.Doubled == y.Doubled && x.Missing == y.Missing
}

// Scenario: stretches that touch, overlap, repeat and lie apart, on two partitions.
// Guarantees: the cuts cover each offset once, none is longer than allowed, and a stretch has the sum of its cuts.
func TestDisjointStretches(t *testing.T) {
	list := []stretch{{0, 0, 100}, {0, 90, 120}, {0, 120, 130}, {0, 0, 100}, {0, 200, 210}, {1, 50, 60}, {1, 70, 70}}
	cut := disjoint(list, 80)
	want := []stretch{{0, 0, 80}, {0, 80, 90}, {0, 90, 100}, {0, 100, 120}, {0, 120, 130}, {0, 200, 210}, {1, 50, 60}}
	if !slices.Equal(cut, want) {
		t.Fatalf("got %v, want %v", cut, want)
	}
	counts := map[stretch]counted{}
	for _, s := range cut {
		counts[s] = counted{Rows: 2 * (s.to - s.from), Places: s.to - s.from, Offsets: s.to - s.from}
	}
	of := newStretchSums(counts)
	for _, s := range list {
		if got, n := of.over(s), s.to-s.from; got != (counted{2 * n, n, n}) {
			t.Errorf("%v: got %+v, want %d offsets", s, got, n)
		}
	}
}

// Scenario: an hour that was settled longer ago than the table keeps rows, of a topic that was made anew since.
// Guarantees: what is absent has expired; an hour of the same topic that was settled later has not.
func TestAge(t *testing.T) {
	a := age{keeps: time.Hour, young: map[int32]int64{1: 1000}, topic: "new"}
	for _, c := range []struct {
		hour hour
		want int64
	}{
		{hour{TopicID: "old", Settled: time.Now().Add(-2 * time.Hour), From: 10, To: 20}, 10},
		{hour{TopicID: "old", Settled: time.Now(), From: 10, To: 20}, 0},
		{hour{TopicID: "new", Settled: time.Now(), Partition: 1, From: 990, To: 1010}, 10},
		{hour{TopicID: "new", Settled: time.Now(), Partition: 1, From: 1000, To: 1010}, 0},
		{hour{TopicID: "new", Settled: time.Now(), Partition: 2, From: 0, To: 1010}, 0},
	} {
		if got := a.of(&c.hour); got != c.want {
			t.Errorf("%+v: got %d, want %d", c.hour, got, c.want)
		}
	}
	if got := (&age{}).of(&hour{To: 10}); got != 0 {
		t.Errorf("a table without TTL: got %d", got)
	}
}

// Scenario: a blob with a step that the file has no more, one whose fingerprint is another, one without state, both lanes, and a
// file with a step of its own.
// Guarantees: gone, lost, empty, kept and new, each lane for itself.
func TestFates(t *testing.T) {
	withKeys := func(keys ...string) *state.Reader {
		w := state.NewWriter()
		w.Version(1)
		for _, key := range keys {
			w.Put(key, []byte("value"))
		}
		return state.NewReader(w)
	}
	stored := []state.RestoredStep{
		{Name: state.ClockStep, State: withKeys("d")},
		{Name: "align", Fingerprint: "a", State: withKeys("x", "yy")},
		{Name: "smooth", Fingerprint: "b", State: withKeys("x")},
		{Name: "score", Fingerprint: "c", State: state.NewReader(state.NewWriter())},
		{Name: "detect", Fingerprint: "d", State: withKeys("x")},
		{Name: state.HistoryPrefix + "align", Fingerprint: "a", State: withKeys()},
	}
	steps := []pipeline.Step{{Name: "align", Fingerprint: "a"}, {Name: "score", Fingerprint: "c2"}, {Name: "detect", Fingerprint: "d2"}, {Name: "more", Fingerprint: "e"}}
	got := fates(steps, stored)
	want := []stepFate{
		{Name: state.ClockStep, State: stateKept, Keys: 1, Bytes: 6, Version: 1},
		{Name: "align", State: stateKept, Keys: 2, Bytes: 13, Version: 1},
		{Name: "smooth", State: stateGone, Keys: 1, Bytes: 6, Version: 1},
		{Name: "score", State: stateEmpty},
		{Name: "detect", State: stateLost, Was: "d", Keys: 1, Bytes: 6, Version: 1},
		{Name: state.HistoryPrefix + "align", State: stateKept, Version: 1},
		{Name: "more", State: stateNew},
	}
	if !slices.Equal(got, want) {
		t.Errorf("got %+v\nwant %+v", got, want)
	}
}

// Scenario: times as flags give them.
// Guarantees: a time, a time so long ago, none, or a fault of usage that names the flag.
func TestMoment(t *testing.T) {
	now := time.Date(2026, 1, 5, 12, 0, 0, 0, time.UTC)
	for text, want := range map[string]time.Time{
		"": {}, "2026-01-05T00:00:00Z": time.Date(2026, 1, 5, 0, 0, 0, 0, time.UTC), "90m": now.Add(-90 * time.Minute),
		"2026-01-05T01:00:00.5+01:00": time.Date(2026, 1, 5, 0, 0, 0, 500_000_000, time.UTC),
	} {
		if got, err := moment("--since", text, now); err != nil || !got.Equal(want) {
			t.Errorf("%q: got %s, %v, want %s", text, got, err, want)
		}
	}
	for _, text := range []string{"yesterday", "-1h", "2026-01-05", "24"} {
		if _, err := moment("--since", text, now); exitCode(err) != exitStart || !strings.Contains(err.Error(), "--since") {
			t.Errorf("%q: got %v, want a fault of usage that names the flag", text, err)
		}
	}
}

// Scenario: ids of re-runs of pipelines with short and long ids.
// Guarantees: an id of a pipeline file in form, and another each time.
func TestRerunID(t *testing.T) {
	form := regexp.MustCompile(`^[a-z0-9-]{1,64}$`)
	for _, id := range []string{"tep", strings.Repeat("a", 64)} {
		first, err := rerunID(id)
		if err != nil {
			t.Fatal(err)
		}
		second, err := rerunID(id)
		if err != nil || first == second || !form.MatchString(first) || !strings.HasPrefix(first, id[:min(len(id), 40)]) {
			t.Errorf("%s: got %q and %q, %v", id, first, second, err)
		}
	}
}

// Scenario: findings of every kind, with a name that is hostile to a terminal, and many silent devices.
// Guarantees: each is one line that names the device; the silent ones share one that names the first few.
func TestFindingLines(t *testing.T) {
	const hostile = "gate\n\x1b[2Jway"
	var list []pipeline.Finding
	for _, kind := range []string{"clock_ahead", "clock_back", "before_min_time", "asset_on_partitions", "of another release"} {
		list = append(list, pipeline.Finding{Kind: kind, Device: hostile, Partitions: []int32{3}, Seconds: 3600, Rows: 7})
	}
	for range 12 {
		list = append(list, pipeline.Finding{Kind: "idle", Device: hostile, Partitions: []int32{3}})
	}
	lines := findingLines(list)
	if len(lines) != 6 || !strings.HasPrefix(lines[5], "12 devices are silent") || !strings.HasSuffix(lines[5], " and 2 more") {
		t.Errorf("got %q", lines)
	}
	for _, line := range lines {
		if !strings.Contains(line, `"gate\n\x1b[2Jway"`) || strings.ContainsAny(line, "\n\x1b") {
			t.Errorf("got %q", line)
		}
	}
	if !strings.Contains(lines[0], "1h0m0s ahead") || findingLines(nil) != nil {
		t.Errorf("got %q", lines[0])
	}
}
