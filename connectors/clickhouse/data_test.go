package clickhouse

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/apache/arrow/go/v15/arrow"
	"github.com/apache/arrow/go/v15/arrow/array"
	"github.com/apache/arrow/go/v15/arrow/memory"
	"pgregory.net/rapid"

	"github.com/tailrace/tailrace/pipeline"
	"github.com/tailrace/tailrace/schemas"
)

// allocator fails the test if it leaves Arrow memory behind.
func allocator(t testing.TB) *memory.CheckedAllocator {
	mem := memory.NewCheckedAllocator(memory.NewGoAllocator())
	t.Cleanup(func() { mem.AssertSize(t, 0) })
	return mem
}

// october is where most test rows begin.
var october = time.Date(2026, 10, 7, 12, 0, 0, 0, time.UTC)

// reading is row i of a batch in which every kind of value and every null comes up.
func reading(i int, at time.Time) schemas.Row {
	r := schemas.Row{
		TS: at.UnixNano() + int64(i)*1_000_123, TSKind: schemas.TimeSource(i % 5),
		Asset: fmt.Appendf(nil, "plant.line%d", i%3), Tag: fmt.Appendf(nil, "tag%d", i%7),
		VType: schemas.TypeFloat, Quality: schemas.Quality(i % 3), Status: uint32(i) * 0x10001, Flags: schemas.Flag(i % 16384),
		SrcSeq: uint64(i) << 33, Idx: int32(i % 4),
	}
	if i%4 != 0 {
		r.Value, r.HasValue = float64(i)/8, true
	}
	if i%3 == 0 {
		r.Int, r.HasInt = -int64(i)<<32, true
	}
	if i%5 == 0 {
		r.Str = []byte(fmt.Sprintf("state %d \n\n \x00 ä", i%11))
	}
	if i%6 != 0 {
		r.Unit = []byte("CEL")
	}
	return r
}

// telemetry builds a batch of n rows, starting with reading first, from a builder that may have built others.
func telemetry(b *schemas.TelemetryBuilder, first, n int, at time.Time) arrow.Record {
	for i := first; i < first+n; i++ {
		r := reading(i, at)
		b.Append(&r, int64(1000+i), at.UnixNano()+int64(i)*1_000_000+999_999)
	}
	return b.NewRecord()
}

// telemetryPart is one part of n rows in batches of at most 100, owned by the test.
func telemetryPart(t testing.TB, mem memory.Allocator, partition int32, n int, at time.Time) pipeline.Part {
	t.Helper()
	b := schemas.NewTelemetryBuilder(mem, "telemetry", partition)
	t.Cleanup(b.Release)
	part := pipeline.Part{Topic: "telemetry", Partition: partition}
	for i := 0; i < n; i += 100 {
		rec := telemetry(b, i, min(100, n-i), at)
		t.Cleanup(rec.Release)
		part.Batches = append(part.Batches, rec)
	}
	return part
}

// predictionsJSON has every null, an empty map and a map that is not.
const predictionsJSON = `[
 {"asset":"a1","window_start":"2026-10-07T12:00:00.000000001Z","window_end":"2026-10-07T12:05:00Z","ts":"2026-10-07T12:04:57Z","ts_ingest":"2026-10-07T12:05:01.234567Z","n":100,"coverage":1,"model":"pca","model_version":"1","score":12.5,"reason":"","score_smooth":11.25,"threshold":9,"is_anomaly":true,"outputs":[{"key":"q","value":3.5},{"key":"t2","value":12.5}],"contrib":[{"key":"temp","value":0.75}],"revision":0,"k_first":10,"k_last":110,"backfill":false},
 {"asset":"a2","window_start":"2026-10-07T12:00:00Z","window_end":"2026-10-07T12:05:00Z","ts":"2026-10-07T12:04:57Z","ts_ingest":"2026-10-07T12:05:01Z","n":3,"coverage":0.03,"model":"pca","model_version":"1","score":null,"reason":"insufficient_data","score_smooth":null,"threshold":null,"is_anomaly":false,"outputs":[],"contrib":[],"revision":0,"k_first":-1,"k_last":-1,"backfill":true},
 {"asset":"a2","window_start":"2026-10-07T12:00:00Z","window_end":"2026-10-07T12:05:00Z","ts":"2026-10-07T12:04:57Z","ts_ingest":"2026-10-07T12:06:01Z","n":90,"coverage":0.9,"model":"pca","model_version":"1","score":1.5,"reason":"","score_smooth":1.5,"threshold":9,"is_anomaly":false,"outputs":[{"key":"t2","value":1.5}],"contrib":[{"key":"temp","value":0.5},{"key":"flow","value":0.25}],"revision":1,"k_first":7,"k_last":99,"backfill":false}
]`

func predictions(t testing.TB, mem memory.Allocator) arrow.Record {
	t.Helper()
	return fromJSON(t, mem, schemas.Predictions(), predictionsJSON)
}

func fromJSON(t testing.TB, mem memory.Allocator, schema *arrow.Schema, text string) arrow.Record {
	t.Helper()
	rec, _, err := array.RecordFromJSON(mem, schema, strings.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(rec.Release)
	return rec
}

// anomaly is an event that opened at at; it has closed if cleared.
func anomaly(id string, at time.Time, cleared bool) schemas.Event {
	e := schemas.Event{
		Schema: schemas.EventSchema, EventID: id, Status: schemas.StatusFiring, Pipeline: "test", Detector: "detect",
		Asset: "a1", Signal: "t2", Class: "deviation",
		OnsetTS: at.Add(-time.Minute), EventTS: at, DetectedTS: at.Add(1500 * time.Millisecond), PeakTS: at.Add(-time.Second),
		Score: schemas.EventScore{Value: 12.5, Smoothed: 11.25, Threshold: 9, Kind: "t2"},
		Model: schemas.EventModel{Name: "pca", Version: "1", SHA256: "abc"},
		Contributions: []schemas.Contribution{
			{Tag: "temp", Share: 0.75, Observed: 121.5, Expected: 120, Unit: "CEL"}, {Tag: "flow", Share: 0.25, Observed: 1, Expected: 2},
		},
		Window:  schemas.EventWindow{Start: at.Add(-5 * time.Minute), End: at, N: 100, Coverage: 0.5},
		Lineage: schemas.EventLineage{Topic: "telemetry", Partition: 3, OffsetFirst: 10, OffsetLast: 110},
	}
	if cleared {
		e.EventSeq, e.Status, e.ClearedTS = 1, schemas.StatusResolved, &at
		e.Contributions = nil
	}
	return e
}

func events(t testing.TB, mem memory.Allocator, list ...schemas.Event) arrow.Record {
	t.Helper()
	rec, err := schemas.NewEvents(mem, list)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(rec.Release)
	return rec
}

func arrowHeap() memory.Allocator { return memory.NewGoAllocator() }

// rapidAllocator is allocator for one run of a property, whose releases are deferred.
func rapidAllocator(t *rapid.T) memory.Allocator {
	mem := memory.NewCheckedAllocator(memory.NewGoAllocator())
	t.Cleanup(func() { mem.AssertSize(t, 0) })
	return mem
}

// wantError checks that err says each part.
func wantError(t testing.TB, err error, parts ...string) {
	t.Helper()
	if err == nil {
		t.Fatalf("want an error with %q, got none", parts)
	}
	for _, part := range parts {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("want %q in the error, got: %v", part, err)
		}
	}
}

// telemetryCheckpoint has n rows of one partition and month.
func telemetryCheckpoint(t testing.TB, mem memory.Allocator, seq uint64, n int) *pipeline.Checkpoint {
	t.Helper()
	parts := []pipeline.Part{telemetryPart(t, mem, 0, n, october)}
	return &pipeline.Checkpoint{Run: testRun, Seq: seq, Parts: map[pipeline.Table][]pipeline.Part{pipeline.Telemetry: parts}}
}
