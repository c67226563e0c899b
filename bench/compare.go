package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
)

// scoreApart is how far scores of one window may lie apart, relative: batches of another size add in another order.
const scoreApart = "1e-5"

// comparison is what a disturbed run stored, against an undisturbed one over the same topic.
type comparison struct {
	TelemetryLost    int64 `json:"telemetry_lost"`
	TelemetryDoubled int64 `json:"telemetry_doubled"` // rows beyond the first of one (k_topic, k_part, k_offset, k_idx)
	TelemetryDiffer  int64 `json:"telemetry_differ"`  // rows with other contents, or that only the disturbed run has

	WindowsMissing     int64 `json:"windows_missing"`
	WindowsDiffer      int64 `json:"windows_differ"`      // in the highest revision, or that only the disturbed run has
	PredictionsDoubled int64 `json:"predictions_doubled"` // rows beyond the first of one window, model and revision

	EventsMissing int64 `json:"events_missing"` // openings and closings by (asset, detector, start)
	EventsDiffer  int64 `json:"events_differ"`  // with other contents, doubled, or that only the disturbed run has

	// What the ledgers say: messages that are not accounted for, and counters that the two runs have otherwise.
	LedgerMissing  int64            `json:"ledger_missing"`
	CountersDiffer int64            `json:"counters_differ"`
	Counters       map[string]int64 `json:"counters"` // of the disturbed run

	// What the undisturbed run stored: zeros compare equal and prove nothing.
	Rows    int64 `json:"rows"`
	Windows int64 `json:"windows"`
	Revised int64 `json:"revised"` // windows with a revision over 0
	Events  int64 `json:"events"`
}

// compare reads both databases, which one server holds.
func compare(ctx context.Context, q *queries, disturbed, undisturbed string) (c comparison, err error) {
	for _, sql := range []string{
		telemetrySQL(disturbed, undisturbed), predictionsSQL(disturbed, undisturbed), doubledSQL(disturbed),
		eventsSQL(disturbed, undisturbed),
	} {
		err = errors.Join(err, q.row(ctx, sql, &c))
	}
	var d, u ledger
	err = errors.Join(err, q.row(ctx, ledgerSQL(disturbed), &d), q.row(ctx, ledgerSQL(undisturbed), &u))
	c.Counters = d.Counters
	for key, n := range d.Counters {
		if u.Counters[key] != n {
			c.CountersDiffer++
		}
	}
	for key := range u.Counters {
		if _, ok := d.Counters[key]; !ok {
			c.CountersDiffer++
		}
	}
	c.LedgerMissing = d.missing(u)
	return c, err
}

// ledger is what all settled checkpoints of a run say together.
type ledger struct {
	Messages int64
	Rows     int64 // of telemetry
	Counters map[string]int64
}

// missing is how many messages are in no place: not stored as a row (each has one), no dead letter, no double; or not
// in the ledger, as the other run's has them.
func (l *ledger) missing(other ledger) int64 {
	elsewhere := l.Counters["rows.duplicate"]
	for key, n := range l.Counters {
		if strings.HasPrefix(key, "dead.") {
			elsewhere += n
		}
	}
	return max(other.Messages-l.Messages, l.Messages-other.Messages) +
		max(l.Messages-l.Rows-elsewhere, l.Rows+elsewhere-l.Messages)
}

func ledgerSQL(database string) string {
	return fmt.Sprintf("SELECT toInt64(sum(messages)) AS Messages, toInt64(sumMap(rows)['telemetry']) AS Rows, "+
		"sumMap(counters) AS Counters FROM %s.checkpoints",
		database)
}

// telemetrySQL compares by lineage. Columns of arrival and of the checkpoint are another run's own.
func telemetrySQL(disturbed, undisturbed string) string {
	const side = "SELECT k_topic, k_part, k_offset, k_idx, %d AS side, " +
		"cityHash64(toString((ts, ts_kind, asset, tag, vtype, value, value_int, value_str, quality, status, flags, unit, " +
		"src, src_seq))) AS h " +
		"FROM %s.telemetry"
	return fmt.Sprintf(`SELECT
    countIf(d = 0) AS telemetry_lost,
    sumIf(d - 1, d > 1) AS telemetry_doubled,
    countIf(u = 0 OR d > 0 AND low != high) AS telemetry_differ,
    countIf(u > 0) AS rows
FROM (
    SELECT countIf(side = 0) AS d, countIf(side = 1) AS u, min(h) AS low, max(h) AS high
    FROM (`+side+` UNION ALL `+side+`)
    GROUP BY k_topic, k_part, k_offset, k_idx
)`, 0, disturbed, 1, undisturbed)
}

// windowKey is what makes a window; with the revision, a row.
const windowKey = "asset, window_start, window_end, model, model_version"

// predictionsSQL compares the highest revision of each window, scores within scoreApart and all else exactly.
func predictionsSQL(disturbed, undisturbed string) string {
	// A map of the newest row would have no order of its keys.
	newest := func(database string) string {
		return "SELECT " + windowKey + ", max(revision) AS revised, " +
			"argMax((ts, n, coverage, reason, threshold, is_anomaly, backfill, " +
			"k_topic, k_part, k_first, k_last), revision) AS exact, argMax((score, score_smooth), revision) AS scores, " +
			"argMax(mapSort(outputs), revision) AS outs, argMax(mapSort(contrib), revision) AS shares, 1 AS present " +
			"FROM " + database + ".predictions GROUP BY " + windowKey
	}
	near := func(a, b string) string {
		return fmt.Sprintf("abs(%s - %s) <= %s * greatest(abs(%s), abs(%s))", a, b, scoreApart, a, b)
	}
	score := func(i int) string {
		a, b := fmt.Sprintf("d.scores.%d", i), fmt.Sprintf("u.scores.%d", i)
		return fmt.Sprintf("(isNull(%s) AND isNull(%s) OR ifNull(%s, 0))", a, b, near(a, b))
	}
	floats := func(column string) string {
		return fmt.Sprintf("mapKeys(d.%s) = mapKeys(u.%s) AND arrayAll((a, b) -> %s, mapValues(d.%s), "+
			"if(mapKeys(d.%s) = mapKeys(u.%s), mapValues(u.%s), mapValues(d.%s)))",
			column, column, near("a", "b"), column, column, column, column, column)
	}
	// Tuples with a null are equal to nothing, their texts are.
	same := strings.Join([]string{
		"toString(d.exact) = toString(u.exact)", score(1), score(2), floats("outs"), floats("shares"),
	}, " AND ")
	return fmt.Sprintf(`SELECT
    countIf(d.present = 0) AS windows_missing,
    countIf(u.present = 0 OR d.present = 1 AND NOT (%s)) AS windows_differ,
    countIf(u.present = 1) AS windows,
    countIf(u.revised > 0) AS revised
FROM (%s) AS d FULL OUTER JOIN (%s) AS u USING (%s)`, same, newest(disturbed), newest(undisturbed), windowKey)
}

// doubledSQL counts rows that are there again.
func doubledSQL(database string) string {
	return fmt.Sprintf("SELECT toInt64(sum(n - 1)) AS predictions_doubled FROM (SELECT toInt64(count()) AS n FROM "+
		"%s.predictions GROUP BY %s, revision)",
		database, windowKey)
}

// eventsSQL compares openings and closings. The pipeline's id is in event_id and in the JSON, so those differ; so do
// scores by a little. What an event says of time and place is exact.
func eventsSQL(disturbed, undisturbed string) string {
	const side = "SELECT asset, detector, onset_ts, event_seq, %d AS side, " +
		"cityHash64(toString((status, signal, class, event_ts, cleared_ts, peak_ts, score_kind, model, model_version, " +
		"model_sha256, window_start, window_end, window_n, backfill, test, " +
		"k_topic, k_part, k_first, k_last))) AS h FROM %s.anomaly_events"
	return fmt.Sprintf(`SELECT
    countIf(d = 0) AS events_missing,
    countIf(u = 0 OR d > 1 OR d > 0 AND low != high) AS events_differ,
    countIf(u > 0) AS events
FROM (
    SELECT countIf(side = 0) AS d, countIf(side = 1) AS u, min(h) AS low, max(h) AS high
    FROM (`+side+` UNION ALL `+side+`)
    GROUP BY asset, detector, onset_ts, event_seq
)`, 0, disturbed, 1, undisturbed)
}

// numbersSQL counts the distinct numbers that the values carry, as numberOf reads them.
func numbersSQL(database string) string {
	return fmt.Sprintf("SELECT uniqExact(toInt64(round((value / %[1]g - floor(value / %[1]g)) * %[1]g / %[2]g))) AS N "+
		"FROM %[3]s.telemetry",
		valueGrain, numberGrain, database)
}

// gates are the sentences of what is not as it must be.
func (c *comparison) gates() []string {
	var faults []string
	for _, g := range []struct {
		what string
		n    int64
	}{
		{"rows of telemetry lost", c.TelemetryLost}, {"rows of telemetry doubled", c.TelemetryDoubled},
		{"rows of telemetry that differ", c.TelemetryDiffer}, {"windows missing", c.WindowsMissing},
		{"windows that differ", c.WindowsDiffer}, {"predictions doubled", c.PredictionsDoubled},
		{"events missing", c.EventsMissing}, {"events that differ", c.EventsDiffer},
		{"messages that the ledger can't place", c.LedgerMissing}, {"counters that differ", c.CountersDiffer},
	} {
		if g.n != 0 {
			faults = append(faults, fmt.Sprintf("want no %s, got %d", g.what, g.n))
		}
	}
	for _, g := range []struct {
		what string
		n    int64
	}{{"rows", c.Rows}, {"windows", c.Windows}, {"corrected windows", c.Revised}, {"events", c.Events}} {
		if g.n == 0 {
			faults = append(faults, "want some "+g.what+" in the undisturbed run, got none: the comparison proves nothing")
		}
	}
	return faults
}
