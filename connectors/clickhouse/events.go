package clickhouse

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/ClickHouse/ch-go/proto"
	"github.com/apache/arrow/go/v15/arrow"
	"github.com/apache/arrow/go/v15/arrow/array"

	"github.com/tailrace/tailrace/pipeline"
	"github.com/tailrace/tailrace/schemas"
)

// eventRow is one row of anomaly_events.
type eventRow struct {
	schemas.Event
	json  string
	month int // of EventTS
	topic string
	part  int32
	rec   arrow.Record // that it came in, borrowed
	at    int          // its row
}

// eventTable is anomaly_events. Its rows are few and come as JSON, so that they are appended one by one.
type eventTable struct {
	blocks [][]eventRow
	loaded []eventRow // the loaded block
	block  block
}

func newEvents() *eventTable { return &eventTable{} }

func (*eventTable) name() pipeline.Table { return pipeline.EventsTable }
func (t *eventTable) release()           { *t = eventTable{} }

func (t *eventTable) plan(parts []pipeline.Part, rowsMax int) (int, error) {
	var rows []eventRow
	for _, p := range parts {
		for _, rec := range p.Batches {
			events, err := schemas.EventsOf(rec)
			if err != nil {
				return 0, fmt.Errorf("table %s: %w", t.name(), err)
			}
			texts := rec.Column(schemas.EventJSON).(*array.String) // EventsOf has read it as such
			for i, e := range events {
				at := e.EventTS.UTC()
				rows = append(rows, eventRow{
					Event: e, json: texts.Value(i), month: at.Year()*100 + int(at.Month()), topic: p.Topic, part: p.Partition,
					rec: rec, at: i,
				})
			}
		}
	}
	slices.SortStableFunc(rows, func(a, b eventRow) int { return cmp.Compare(a.month, b.month) })
	for len(rows) > 0 {
		n := 1
		for n < min(len(rows), rowsMax) && rows[n].month == rows[0].month {
			n++
		}
		t.blocks = append(t.blocks, rows[:n])
		rows = rows[n:]
	}
	return len(t.blocks), nil
}

func (t *eventTable) rows(i int) int { return len(t.blocks[i]) }

func (t *eventTable) load(n node, run [16]byte, seq uint64) *block {
	t.loaded = t.blocks[n.root][n.from:n.to]
	t.block = block{cut: cut{month: t.loaded[0].month, rows: len(t.loaded)}, run: run, seq: seq, num: n.number()}
	for _, r := range t.loaded {
		t.block.bytes += int64(len(r.json)) // the rest is about as much again; nobody steers by it
	}
	return &t.block
}

func (t *eventTable) span() (column string, first, last int64) {
	first, last = math.MaxInt64, math.MinInt64
	for i := range t.loaded {
		ns := nanos(t.loaded[i].EventTS)
		first, last = min(first, ns), max(last, ns)
	}
	return "event_ts", first, last
}

func (t *eventTable) row(n node) pipeline.RefusedRow {
	r := &t.blocks[n.root][n.from]
	return pipeline.RefusedRow{Topic: r.topic, Partition: r.part, Row: r.rec.NewSlice(int64(r.at), int64(r.at+1))}
}

// witness goes by asset and event: event_ts, between them in the order key, is of no help where an asset has few events.
func (t *eventTable) witness() string {
	r := t.last()
	return equalText("asset", []byte(r.Asset)) + " AND " + equalText("event_id", []byte(r.EventID))
}

func (t *eventTable) newest() string {
	r := t.last()
	return fmt.Sprintf("SELECT %s AS event_ts, %s AS detected_ts", timeText(nanos(r.EventTS)), timeText(nanos(r.DetectedTS)))
}

// last is the row of the loaded block that was detected last; of equals the first.
func (t *eventTable) last() *eventRow {
	last := &t.loaded[0]
	for i := range t.loaded {
		if t.loaded[i].DetectedTS.After(last.DetectedTS) {
			last = &t.loaded[i]
		}
	}
	return last
}

// fill appends one value of each row to c.
func fill[T any, C proto.ColumnOf[T]](rows []eventRow, c C, of func(*eventRow) T) C {
	for i := range rows {
		c.Append(of(&rows[i]))
	}
	return c
}

// ofContributions takes one value of each contribution of a row.
func ofContributions[T any](of func(schemas.Contribution) T) func(*eventRow) []T {
	return func(r *eventRow) []T {
		list := make([]T, len(r.Contributions))
		for i, c := range r.Contributions {
			list[i] = of(c)
		}
		return list
	}
}

// input builds the columns of the loaded block, or of no row.
func (t *eventTable) input() proto.Input {
	low := func(of func(*eventRow) string) proto.ColInput {
		return fill(t.loaded, new(proto.ColStr).LowCardinality(), of)
	}
	text := func(of func(*eventRow) string) proto.ColInput { return fill(t.loaded, new(proto.ColStr), of) }
	number := func(of func(*eventRow) float64) proto.ColInput { return fill(t.loaded, new(proto.ColFloat64), of) }
	flag := func(of func(*eventRow) bool) proto.ColInput { return fill(t.loaded, new(proto.ColBool), of) }
	moments := func() *proto.ColDateTime64 {
		return new(proto.ColDateTime64).WithPrecision(proto.PrecisionMicro).WithLocation(time.UTC)
	}
	moment := func(of func(*eventRow) time.Time) proto.ColInput { return fill(t.loaded, moments(), of) }
	names := func(of func(schemas.Contribution) string) proto.ColInput {
		return fill(t.loaded, new(proto.ColStr).LowCardinality().Array(), ofContributions(of))
	}
	shares := func(of func(schemas.Contribution) float64) proto.ColInput {
		return fill(t.loaded, new(proto.ColFloat64).Array(), ofContributions(of))
	}
	run := proto.UInt128{
		High: binary.BigEndian.Uint64(t.block.run[:8]), Low: binary.BigEndian.Uint64(t.block.run[8:]),
	}
	return proto.Input{
		{Name: "event_id", Data: text(func(r *eventRow) string { return r.EventID })},
		{Name: "event_seq", Data: fill(t.loaded, new(proto.ColUInt8), func(r *eventRow) uint8 { return uint8(r.EventSeq) })},
		{Name: "status", Data: low(func(r *eventRow) string { return r.Status })},
		{Name: "pipeline", Data: low(func(r *eventRow) string { return r.Pipeline })},
		{Name: "detector", Data: low(func(r *eventRow) string { return r.Detector })},
		{Name: "asset", Data: low(func(r *eventRow) string { return r.Asset })},
		{Name: "signal", Data: low(func(r *eventRow) string { return r.Signal })},
		{Name: "class", Data: low(func(r *eventRow) string { return r.Class })},
		{Name: "onset_ts", Data: moment(func(r *eventRow) time.Time { return r.OnsetTS })},
		{Name: "event_ts", Data: moment(func(r *eventRow) time.Time { return r.EventTS })},
		{Name: "detected_ts", Data: moment(func(r *eventRow) time.Time { return r.DetectedTS })},
		{Name: "cleared_ts", Data: fill(t.loaded, proto.NewColNullable(moments()), func(r *eventRow) proto.Nullable[time.Time] {
			if r.ClearedTS == nil {
				return proto.Null[time.Time]()
			}
			return proto.NewNullable(*r.ClearedTS)
		})},
		{Name: "peak_ts", Data: moment(func(r *eventRow) time.Time { return r.PeakTS })},
		{Name: "score", Data: number(func(r *eventRow) float64 { return r.Score.Value })},
		{Name: "smoothed", Data: number(func(r *eventRow) float64 { return r.Score.Smoothed })},
		{Name: "threshold", Data: number(func(r *eventRow) float64 { return r.Score.Threshold })},
		{Name: "score_kind", Data: low(func(r *eventRow) string { return r.Score.Kind })},
		{Name: "model", Data: low(func(r *eventRow) string { return r.Model.Name })},
		{Name: "model_version", Data: low(func(r *eventRow) string { return r.Model.Version })},
		{Name: "model_sha256", Data: low(func(r *eventRow) string { return r.Model.SHA256 })},
		{Name: "contributions.tag", Data: names(func(c schemas.Contribution) string { return c.Tag })},
		{Name: "contributions.share", Data: shares(func(c schemas.Contribution) float64 { return c.Share })},
		{Name: "contributions.observed", Data: shares(func(c schemas.Contribution) float64 { return c.Observed })},
		{Name: "contributions.expected", Data: shares(func(c schemas.Contribution) float64 { return c.Expected })},
		{Name: "contributions.unit", Data: names(func(c schemas.Contribution) string { return c.Unit })},
		{Name: "window_start", Data: moment(func(r *eventRow) time.Time { return r.Window.Start })},
		{Name: "window_end", Data: moment(func(r *eventRow) time.Time { return r.Window.End })},
		{Name: "window_n", Data: fill(t.loaded, new(proto.ColUInt32), func(r *eventRow) uint32 { return uint32(r.Window.N) })},
		{Name: "window_coverage", Data: number(func(r *eventRow) float64 { return r.Window.Coverage })},
		{Name: "backfill", Data: flag(func(r *eventRow) bool { return r.Backfill })},
		{Name: "test", Data: flag(func(r *eventRow) bool { return r.Test })},
		{Name: "k_topic", Data: low(func(r *eventRow) string { return r.topic })},
		{Name: "k_part", Data: fill(t.loaded, new(proto.ColInt32), func(r *eventRow) int32 { return r.part })},
		{Name: "k_first", Data: fill(t.loaded, new(proto.ColInt64), func(r *eventRow) int64 { return r.Lineage.OffsetFirst })},
		{Name: "k_last", Data: fill(t.loaded, new(proto.ColInt64), func(r *eventRow) int64 { return r.Lineage.OffsetLast })},
		{Name: "run", Data: fill(t.loaded, new(proto.ColUInt128), func(*eventRow) proto.UInt128 { return run })},
		{Name: "seq", Data: fill(t.loaded, new(proto.ColUInt64), func(*eventRow) uint64 { return t.block.seq })},
		{Name: "block", Data: fill(t.loaded, new(proto.ColUInt32), func(*eventRow) uint32 { return t.block.num })},
		{Name: "event", Data: text(func(r *eventRow) string { return r.json })},
	}
}
