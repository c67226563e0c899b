package clickhouse

import (
	"fmt"
	"math/big"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/apache/arrow/go/v15/arrow"

	"github.com/tailrace/tailrace/pipeline"
	"github.com/tailrace/tailrace/schemas"
)

var testRun = [16]byte{0x01, 0x23, 0x45, 0x67, 0x89, 0xab, 0xcd, 0xef, 0xfe, 0xdc, 0xba, 0x98, 0x76, 0x54, 0x32, 0x10}

// Scenario: two partitions' telemetry, in several batches with dictionaries of their own, is written and read back.
// Guarantees: every column of every row has the value that was appended, times rounded down, lineage included.
func TestTelemetryReadsBack(t *testing.T) {
	mem := allocator(t)
	c := serve(t)
	s := openSink(t, c)
	parts := []pipeline.Part{telemetryPart(t, mem, 0, 250, october), telemetryPart(t, mem, 1, 120, october)}
	ck := &pipeline.Checkpoint{Run: testRun, Seq: 7, Parts: map[pipeline.Table][]pipeline.Part{pipeline.Telemetry: parts}}
	if err := write(t.Context(), s, ck); err != nil {
		t.Fatal(err)
	}
	rows, err := query(t, c).Query(t.Context(), `SELECT ts, ts_ingest, ts_kind, asset, tag, vtype, value, value_int, value_str,
		quality, status, flags, unit, src, src_seq, k_topic, k_part, k_offset, k_idx, run, seq, block
		FROM telemetry ORDER BY k_part, k_offset`)
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	run := new(big.Int).SetBytes(testRun[:])
	got := 0
	for _, part := range []struct {
		id int32
		n  int
	}{{0, 250}, {1, 120}} {
		for i := range part.n {
			if !rows.Next() {
				t.Fatalf("want 370 rows, got %d: %v", got, rows.Err())
			}
			got++
			var ts, ingest time.Time
			var asset, tag, unit, src, topic string
			var kind, vtype, quality uint8
			var value *float64
			var integer *int64
			var text *string
			var status, flags, idx, block uint32
			var srcSeq, seq uint64
			var kpart int32
			var offset int64
			var gotRun big.Int
			err := rows.Scan(&ts, &ingest, &kind, &asset, &tag, &vtype, &value, &integer, &text, &quality, &status, &flags, &unit,
				&src, &srcSeq, &topic, &kpart, &offset, &idx, &gotRun, &seq, &block)
			if err != nil {
				t.Fatal(err)
			}
			w := reading(i, october)
			wantTS := time.Unix(0, w.TS).UTC().Truncate(time.Microsecond)
			wantIngest := october.Add(time.Duration(i) * time.Millisecond)
			if !ts.Equal(wantTS) || !ingest.Equal(wantIngest) || kind != uint8(w.TSKind) {
				t.Errorf("row %d: times: want %v %v %d, got %v %v %d", got, wantTS, wantIngest, w.TSKind, ts, ingest, kind)
			}
			if asset != string(w.Asset) || tag != string(w.Tag) || unit != string(w.Unit) || src != "" {
				t.Errorf("row %d: names: want %s %s %q, got %s %s %q %q", got, w.Asset, w.Tag, w.Unit, asset, tag, unit, src)
			}
			if (value != nil) != w.HasValue || value != nil && *value != w.Value {
				t.Errorf("row %d: value: want %v %v, got %v", got, w.HasValue, w.Value, value)
			}
			if (integer != nil) != w.HasInt || integer != nil && *integer != w.Int {
				t.Errorf("row %d: value_int: want %v %v, got %v", got, w.HasInt, w.Int, integer)
			}
			if (text != nil) != (w.Str != nil) || text != nil && *text != string(w.Str) {
				t.Errorf("row %d: value_str: want %q, got %v", got, w.Str, text)
			}
			if vtype != uint8(w.VType) || quality != uint8(w.Quality) || status != w.Status || flags != uint32(w.Flags) || srcSeq != w.SrcSeq {
				t.Errorf("row %d: want %+v, got %d %d %d %d %d", got, w, vtype, quality, status, flags, srcSeq)
			}
			if topic != "telemetry" || kpart != part.id || offset != int64(1000+i) || idx != uint32(w.Idx) {
				t.Errorf("row %d: lineage: got %s %d %d %d", got, topic, kpart, offset, idx)
			}
			if gotRun.Cmp(run) != 0 || seq != 7 || block != 0 {
				t.Errorf("row %d: want run %x, got %x; seq %d, block %d", got, run, &gotRun, seq, block)
			}
		}
	}
	if rows.Next() {
		t.Error("more rows than written")
	}
}

// Scenario: predictions with and without a score, with maps empty and not, one of them a correction.
// Guarantees: every column reads back; the view predictions_latest has each window once, the correction for the corrected.
func TestPredictionsReadBack(t *testing.T) {
	mem := allocator(t)
	c := serve(t)
	s := openSink(t, c)
	parts := []pipeline.Part{{Topic: "in", Partition: 5, Batches: []arrow.Record{predictions(t, mem)}}}
	ck := &pipeline.Checkpoint{Run: testRun, Seq: 1, Parts: map[pipeline.Table][]pipeline.Part{pipeline.Predictions: parts}}
	if err := write(t.Context(), s, ck); err != nil {
		t.Fatal(err)
	}
	conn := query(t, c)
	want := []string{
		"a1|2026-10-07 12:00:00.000000|2026-10-07 12:05:00.000000|2026-10-07 12:04:57.000000|2026-10-07 12:05:01.234|100|1|pca|1|12.5||11.25|9|true|{'q':3.5,'t2':12.5}|{'temp':0.75}|0|in|5|10|110|false|1|0",
		"a2|2026-10-07 12:00:00.000000|2026-10-07 12:05:00.000000|2026-10-07 12:04:57.000000|2026-10-07 12:05:01.000|3|0.03|pca|1|-|insufficient_data|-|-|false|{}|{}|0|in|5|-1|-1|true|1|0",
		"a2|2026-10-07 12:00:00.000000|2026-10-07 12:05:00.000000|2026-10-07 12:04:57.000000|2026-10-07 12:06:01.000|90|0.9|pca|1|1.5||1.5|9|false|{'t2':1.5}|{'temp':0.5,'flow':0.25}|1|in|5|7|99|false|1|0",
	}
	columns := `asset, window_start, window_end, ts, ts_ingest, n, coverage, model, model_version, score, reason, score_smooth, threshold,
		is_anomaly, outputs, contrib, revision, k_topic, k_part, k_first, k_last, backfill, seq, block`
	if got := lines(t, c, columns, "predictions ORDER BY asset, revision"); !reflect.DeepEqual(got, want) {
		t.Errorf("predictions:\nwant %s\ngot  %s", strings.Join(want, "\n     "), strings.Join(got, "\n     "))
	}
	if got := lines(t, c, columns, "predictions_latest ORDER BY asset"); !reflect.DeepEqual(got, []string{want[0], want[2]}) {
		t.Errorf("predictions_latest: got %s", strings.Join(got, "\n     "))
	}
	if n := number(t, conn, "SELECT count() FROM predictions WHERE hex(run) = '0123456789ABCDEFFEDCBA9876543210'"); n != 3 {
		t.Errorf("rows of the run: want 3, got %d", n)
	}
}

// lines reads columns as text, one line a row, null as "-".
func lines(t *testing.T, c Config, columns, from string) []string {
	t.Helper()
	var each []string
	for _, name := range strings.Split(columns, ",") {
		each = append(each, fmt.Sprintf("ifNull(toString(%s), '-')", strings.TrimSpace(name)))
	}
	rows, err := query(t, c).Query(t.Context(), "SELECT concat("+strings.Join(each, ", '|', ")+") FROM "+from)
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	var list []string
	for rows.Next() {
		var line string
		if err := rows.Scan(&line); err != nil {
			t.Fatal(err)
		}
		list = append(list, line)
	}
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
	return list
}

// Scenario: an event opens in one month and closes in the next.
// Guarantees: two rows in two blocks, each column as in the record, the record itself beside them.
func TestEventsReadBack(t *testing.T) {
	mem := allocator(t)
	c := serve(t)
	s := openSink(t, c)
	opened := time.Date(2026, 10, 31, 23, 59, 59, 500_000_000, time.UTC)
	closed := time.Date(2026, 11, 1, 0, 10, 0, 0, time.UTC)
	rec := events(t, mem, anomaly("e1", closed, true), anomaly("e1", opened, false))
	ck := &pipeline.Checkpoint{Run: testRun, Seq: 2, Parts: map[pipeline.Table][]pipeline.Part{
		pipeline.EventsTable: {{Topic: "in", Partition: 5, Batches: []arrow.Record{rec}}},
	}}
	if err := write(t.Context(), s, ck); err != nil {
		t.Fatal(err)
	}
	want := []string{
		"e1|0|firing|test|detect|a1|t2|deviation|2026-10-31 23:58:59.500000|2026-10-31 23:59:59.500000|2026-11-01 00:00:01.000000|-|2026-10-31 23:59:58.500000|12.5|11.25|9|t2|pca|1|abc|['temp','flow']|[0.75,0.25]|[121.5,1]|[120,2]|['CEL','']|2026-10-31 23:54:59.500000|2026-10-31 23:59:59.500000|100|0.5|false|false|in|5|10|110|2|0",
		"e1|1|resolved|test|detect|a1|t2|deviation|2026-11-01 00:09:00.000000|2026-11-01 00:10:00.000000|2026-11-01 00:10:01.500000|2026-11-01 00:10:00.000000|2026-11-01 00:09:59.000000|12.5|11.25|9|t2|pca|1|abc|[]|[]|[]|[]|[]|2026-11-01 00:05:00.000000|2026-11-01 00:10:00.000000|100|0.5|false|false|in|5|10|110|2|1",
	}
	got := lines(t, c, `event_id, event_seq, status, pipeline, detector, asset, signal, class, onset_ts, event_ts, detected_ts, cleared_ts,
		peak_ts, score, smoothed, threshold, score_kind, model, model_version, model_sha256, contributions.tag, contributions.share,
		contributions.observed, contributions.expected, contributions.unit, window_start, window_end, window_n, window_coverage,
		backfill, test, k_topic, k_part, k_first, k_last, seq, block`, "anomaly_events ORDER BY event_seq")
	if !reflect.DeepEqual(got, want) {
		t.Errorf("want %s\ngot  %s", strings.Join(want, "\n     "), strings.Join(got, "\n     "))
	}
	conn := query(t, c)
	if n := number(t, conn, "SELECT count() FROM anomaly_events WHERE hex(run) = '0123456789ABCDEFFEDCBA9876543210'"); n != 2 {
		t.Errorf("rows of the run: want 2, got %d", n)
	}
	var text string
	if err := conn.QueryRow(t.Context(), "SELECT event FROM anomaly_events WHERE event_seq = 1").Scan(&text); err != nil {
		t.Fatal(err)
	}
	e, err := schemas.ParseEvent([]byte(text))
	if err != nil || !reflect.DeepEqual(e, anomaly("e1", closed, true)) {
		t.Errorf("event: got %s (%v)", text, err)
	}
}

// Scenario: telemetry of three months, one of them beyond insert_rows_max, one before 1970, with compression.
// Guarantees: each INSERT is one part of one partition; blocks are numbered in the order of months; nothing is lost.
func TestBlocksAreParts(t *testing.T) {
	mem := allocator(t)
	c := serve(t)
	c.InsertRowsMax, c.Compression = 100, CompressionLZ4
	s := openSink(t, c)
	parts := []pipeline.Part{
		telemetryPart(t, mem, 0, 250, october),
		telemetryPart(t, mem, 1, 30, october.AddDate(0, 1, 0)),
		telemetryPart(t, mem, 2, 10, time.Date(1969, 12, 31, 23, 0, 0, 0, time.UTC)),
	}
	ck := &pipeline.Checkpoint{Run: testRun, Seq: 3, Parts: map[pipeline.Table][]pipeline.Part{pipeline.Telemetry: parts}}
	if err := write(t.Context(), s, ck); err != nil {
		t.Fatal(err)
	}
	got := lines(t, c, "block, uniqExact(_part), uniqExact(_partition_id), any(_partition_id), count()", "telemetry GROUP BY block ORDER BY block")
	want := []string{"0|1|1|196912|10", "1|1|1|202610|100", "2|1|1|202610|100", "3|1|1|202610|50", "4|1|1|202611|30"}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("block, parts, partitions, partition, rows:\nwant %v\ngot  %v", want, got)
	}
	if st := s.Stats().Tables[pipeline.Telemetry]; st.Rows != 290 || st.Blocks != 5 || st.Retries != 0 || st.Bytes == 0 {
		t.Errorf("stats: got %+v", st)
	}
}
