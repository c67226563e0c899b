package eventtime

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/apache/arrow/go/v15/arrow"
	"github.com/apache/arrow/go/v15/arrow/memory"
	"github.com/tailrace/tailrace/pipeline/state"
	"github.com/tailrace/tailrace/schemas"
)

// in is a row as tests write it. Times are in seconds after noon of 2026-01-01 unless a test says otherwise.
type in struct {
	asset, tag, src string
	ts, arrived     int64 // ns
	flags           schemas.Flag
}

// noon is where the tests' seconds count from.
var noon = time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC).UnixNano()

const second = int64(time.Second)

func at(seconds float64) int64 { return noon + int64(seconds*1e9) }

// sent is a row that arrives 100 ms after its time.
func sent(asset, tag string, seconds float64) in {
	return in{asset: asset, tag: tag, ts: at(seconds), arrived: at(seconds + 0.1)}
}

// came is a row of tag x that arrives when it is said.
func came(asset string, seconds, arrived float64) in {
	return in{asset: asset, tag: "x", ts: at(seconds), arrived: at(arrived)}
}

func defaults() Config {
	return Config{
		Step: time.Second, IdleTimeout: 30 * time.Second, MaxSkew: 5 * time.Minute, LateAfter: time.Hour, MaxDevices: 100,
		MinTime: time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC).UnixNano(),
	}
}

func record(b *schemas.TelemetryBuilder, rows []in) arrow.Record {
	for i, r := range rows {
		b.Append(&schemas.Row{
			TS: r.ts, Asset: []byte(r.asset), Tag: []byte(r.tag), Src: []byte(r.src), Flags: r.flags,
		}, int64(i), r.arrived)
	}
	return b.NewRecord()
}

// tick is a barrier before the row of that number.
type tick struct {
	row      int
	now      int64
	caughtUp bool
}

// judged is all that came of a run: what each lane was given, in order, the edits by row, the counts and the
// findings.
type judged struct {
	lanes    [2][]string // "12" is row 12, "=-1" a move to -1 ns after noon
	edits    []string
	counts   [4]int
	findings []Finding
}

func (j *judged) spans(t testing.TB, first int, spans []Span) {
	for _, s := range spans {
		if s.To < s.From || s.From == s.To && !s.Moved {
			t.Fatalf("a span of nothing: %+v", s)
		}
		for i := s.From; i < s.To; i++ {
			j.lanes[s.Lane] = append(j.lanes[s.Lane], fmt.Sprint(first+i))
		}
		if s.Moved {
			j.lanes[s.Lane] = append(j.lanes[s.Lane], fmt.Sprint("=", s.Watermark-noon))
		}
	}
}

// run gives rows to a clock in batches that end before the rows in cuts, with a restart before those in restores: the
// state goes through blobs, each of which has what changed since the one before, the first all.
func run(t testing.TB, c Config, rows []in, ticks []tick, cuts, restores []int) judged {
	t.Helper()
	mem := memory.NewCheckedAllocator(memory.NewGoAllocator())
	defer mem.AssertSize(t, 0)
	builder := schemas.NewTelemetryBuilder(mem, "telemetry", 0)
	defer func() { builder.Release() }()
	clock := New(c, mem)
	defer func() { clock.Release() }()
	var out judged
	store, base := memStore{}, ""
	from := 0
	for to := range len(rows) + 1 {
		ticking := slices.ContainsFunc(ticks, func(k tick) bool { return k.row == to })
		restoring := slices.Contains(restores, to)
		if to < len(rows) && !ticking && !restoring && !slices.Contains(cuts, to) {
			continue
		}
		if to > from {
			batch := record(builder, rows[from:to])
			v := clock.Judge(batch)
			covered := 0
			for _, s := range v.Spans {
				covered += s.To - s.From
			}
			if covered+v.Duplicates != to-from {
				t.Fatalf("rows %d to %d: want each in a span or dropped, got %d and %d", from, to, covered, v.Duplicates)
			}
			out.spans(t, from, v.Spans)
			for _, e := range v.Edits {
				out.edits = append(out.edits, fmt.Sprintf("%d %t %d", from+e.Row, e.Drop, e.Flags))
			}
			for i, n := range []int{v.Late, v.Suspect, v.Historical, v.Duplicates} {
				out.counts[i] += n
			}
			batch.Release()
		}
		from = to
		for _, k := range ticks {
			if k.row == to {
				out.spans(t, to, clock.Tick(k.now, k.caughtUp))
			}
		}
		if ticking && len(restores) > 0 {
			base = store.checkpoint(t, clock, base) // one more link of the chain
		}
		if restoring {
			base = store.checkpoint(t, clock, base)
			clock.Release()
			// A new process decodes into dictionaries of its own.
			builder.Release()
			builder = schemas.NewTelemetryBuilder(mem, "telemetry", 0)
			builder.Assets.ID([]byte("another asset first"))
			clock = New(c, mem)
			restored, err := state.Restore(context.Background(), store, base, "telemetry", 0, map[string]*state.Blob{})
			if err != nil {
				t.Fatal(err)
			}
			if err := clock.Restore(restored.Steps[0].State); err != nil {
				t.Fatal(err)
			}
		}
	}
	out.findings = clock.Findings()
	return out
}

// memStore is a store of blobs in memory.
type memStore map[string][]byte

// checkpoint stores what has changed since the blob base, and returns the name of the new one.
func (m memStore) checkpoint(t testing.TB, c *Clock, base string) string {
	w := state.NewWriter()
	if err := c.Snapshot(w, base == ""); err != nil {
		t.Fatal(err)
	}
	name, data := (&state.Blob{Pipeline: "p", Seq: uint64(len(m)), Parts: []state.Part{{
		Topic: "telemetry", Base: base, Steps: []state.Step{{Name: "clock", State: w}},
	}}}).Encode()
	m[name] = data
	return name
}

func (m memStore) Open(context.Context) error { return nil }
func (m memStore) Put(_ context.Context, name string, data []byte) error {
	m[name] = data
	return nil
}
func (m memStore) Get(_ context.Context, name string) ([]byte, error) { return m[name], nil }
func (m memStore) List(context.Context, string) ([]state.Info, error) { return nil, nil }
func (m memStore) Delete(context.Context, string) error               { return nil }
func (m memStore) Close() error                                       { return nil }

// wantLane compares what a lane was given with rows and moves in one line.
func wantLane(t *testing.T, j judged, lane Lane, want string) {
	t.Helper()
	if got := strings.Join(j.lanes[lane], " "); got != want {
		t.Errorf("lane %d: want %q, got %q", lane, want, got)
	}
}

func wantEdits(t *testing.T, j judged, want ...string) {
	t.Helper()
	if !slices.Equal(j.edits, want) {
		t.Errorf("edits: want %q, got %q", want, j.edits)
	}
}
