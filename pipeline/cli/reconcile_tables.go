package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/tailrace/tailrace/connectors/clickhouse"
	"github.com/tailrace/tailrace/pipeline"
)

// books is the ClickHouse side of reconcile. It only reads.
type books struct {
	db       clickhouse.Conn
	pipeline string
	topic    string
	since    time.Time // zero: the whole ledger
	until    time.Time // of the newest line that was read; a pipeline that runs meanwhile adds others
}

// hour is what the ledger says of one partition in one hour.
type hour struct {
	TopicID   string
	Partition int32
	Hour      time.Time // of settling
	From, To  int64     // offsets
	Offsets   int64     // in the lines
	Messages  int64
	Gap       int64 // offsets before a line that no earlier one has
	Overlap   int64 // offsets of a line that an earlier one has too
	Settled   time.Time
	Rows      map[string]uint64
	Counters  map[string]int64
}

// lines is the condition of the ledger's lines that are looked at.
func (b *books) lines() (where string, args []any) {
	where, args = "pipeline = ? AND topic = ?", []any{b.pipeline, b.topic}
	if !b.since.IsZero() {
		where += " AND settled >= fromUnixTimestamp64Milli(?)"
		args = append(args, b.since.UnixMilli())
	}
	if !b.until.IsZero() {
		where += " AND settled <= fromUnixTimestamp64Milli(?)"
		args = append(args, b.until.UnixMilli())
	}
	return where, args
}

// topics are the ids under which the ledger knows the topic: one that is made anew has another, and the same offsets again.
func (b *books) topics(ctx context.Context) ([]string, error) {
	list, err := collectColumn[string](ctx, b.db, "SELECT DISTINCT CAST(topic_id, 'String') FROM checkpoints WHERE pipeline = ? AND topic = ?",
		b.pipeline, b.topic)
	if err != nil {
		return nil, fmt.Errorf("table checkpoints: %w", err)
	}
	return list, nil
}

// hours reads the ledger.
func (b *books) hours(ctx context.Context) ([]hour, error) {
	where, args := b.lines()
	// Gaps and overlaps are of neighbours in offset order: before is the highest end of all earlier lines.
	rows, err := b.db.Query(ctx, `SELECT toString(topic_id), partition, toStartOfHour(settled) AS hour, min(lo), max(hi), sum(hi - lo),
			toInt64(sum(messages)), sum(if(isNull(before), 0, greatest(lo - before, 0))),
			sum(if(isNull(before), 0, greatest(least(hi, before) - lo, 0))), max(settled), sumMap(rows), sumMap(counters)
		FROM (
			SELECT topic_id, partition, settled, messages, rows, counters, `+"`from` AS lo, `to` AS hi"+`,
				max(toNullable(hi)) OVER (PARTITION BY topic_id, partition ORDER BY lo, hi ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING) AS before
			FROM checkpoints WHERE `+where+`)
		GROUP BY topic_id, partition, hour
		ORDER BY partition, hour, topic_id`, args...)
	if err != nil {
		return nil, fmt.Errorf("table checkpoints: %w", err)
	}
	defer rows.Close()
	var list []hour
	for rows.Next() {
		var h hour
		var gap, overlap *int64
		err := rows.Scan(&h.TopicID, &h.Partition, &h.Hour, &h.From, &h.To, &h.Offsets, &h.Messages, &gap, &overlap, &h.Settled, &h.Rows, &h.Counters)
		if err != nil {
			return nil, fmt.Errorf("table checkpoints: %w", err)
		}
		if gap != nil && overlap != nil {
			h.Gap, h.Overlap = *gap, *overlap
		}
		h.Hour, h.Settled = h.Hour.UTC(), h.Settled.UTC()
		if h.Settled.After(b.until) {
			b.until = h.Settled
		}
		list = append(list, h)
	}
	return list, rows.Err()
}

// stretch is a range of offsets of a partition whose rows are counted.
type stretch struct {
	partition int32
	from, to  int64
}

// counted is what the table telemetry has of a stretch.
type counted struct {
	Rows    int64 // all
	Places  int64 // distinct offsets with their places in the message
	Offsets int64 // distinct
}

// disjoint cuts stretches that overlap, so that each offset is in one, and none has more offsets than most.
func disjoint(list []stretch, most int64) []stretch {
	type edge struct {
		partition int32
		at        int64
		opens     int
	}
	var edges []edge
	for _, s := range list {
		if s.from < s.to {
			edges = append(edges, edge{s.partition, s.from, 1}, edge{s.partition, s.to, -1})
		}
	}
	slices.SortFunc(edges, func(a, b edge) int {
		return cmp.Or(cmp.Compare(a.partition, b.partition), cmp.Compare(a.at, b.at))
	})
	var cut []stretch
	open := 0
	for i, e := range edges {
		if open > 0 {
			for from := edges[i-1].at; from < e.at; from += most {
				cut = append(cut, stretch{e.partition, from, min(from+most, e.at)})
			}
		}
		open += e.opens
	}
	return cut
}

// stretchSums finds what disjoint stretches have together.
type stretchSums map[int32][]tallied // by from

type tallied struct {
	stretch
	counted
}

func newStretchSums(counts map[stretch]counted) stretchSums {
	t := stretchSums{}
	for s, c := range counts {
		t[s.partition] = append(t[s.partition], tallied{s, c})
	}
	for _, list := range t {
		slices.SortFunc(list, func(a, b tallied) int { return cmp.Compare(a.from, b.from) })
	}
	return t
}

// over sums up all within a stretch.
func (t stretchSums) over(s stretch) (sum counted) {
	list := t[s.partition]
	at, _ := slices.BinarySearchFunc(list, s.from, func(x tallied, from int64) int { return cmp.Compare(x.from, from) })
	for ; at < len(list) && list[at].to <= s.to; at++ {
		sum.Rows += list[at].Rows
		sum.Places += list[at].Places
		sum.Offsets += list[at].Offsets
	}
	return sum
}

// The bounds of one query over the table telemetry: what it must remember, which is some 32 bytes an offset, and the length of its
// text.
const (
	passOffsets   = 5_000_000
	passStretches = 2_000
)

// telemetry counts the rows of stretches, which are in the order of partitions. ours is the condition of the runs that wrote them.
func (b *books) telemetry(ctx context.Context, stretches []stretch, ours string, args []any) (map[stretch]counted, error) {
	found := map[stretch]counted{}
	for len(stretches) > 0 {
		n, offsets := 0, int64(0)
		for n < len(stretches) && n < passStretches && (n == 0 || offsets+stretches[n].to-stretches[n].from <= passOffsets) {
			offsets += stretches[n].to - stretches[n].from
			n++
		}
		if err := b.pass(ctx, stretches[:n], ours, args, found); err != nil {
			return nil, fmt.Errorf("table telemetry: %w", err)
		}
		stretches = stretches[n:]
	}
	return found, nil
}

func (b *books) pass(ctx context.Context, stretches []stretch, ours string, args []any, found map[stretch]counted) error {
	var list strings.Builder
	first, end := stretches[0].from, stretches[0].to
	for i, s := range stretches {
		if i > 0 {
			list.WriteByte(',')
		}
		fmt.Fprintf(&list, "(toInt32(%d),toInt64(%d),toInt64(%d))", s.partition, s.from, s.to)
		first, end = min(first, s.from), max(end, s.to)
	}
	rows, err := b.db.Query(ctx, `SELECT p, lo, hi, toInt64(count()), toInt64(uniqExact(k_offset, k_idx)), toInt64(uniqExact(k_offset))
		FROM (SELECT k_part AS p, k_offset, k_idx FROM telemetry
			WHERE k_topic = ? AND k_part BETWEEN ? AND ? AND k_offset >= ? AND k_offset < ? AND `+ours+`) AS t
		ASOF INNER JOIN (SELECT r.1 AS p, r.2 AS lo, r.3 AS hi FROM (SELECT arrayJoin([`+list.String()+`]) AS r)) AS s
			ON t.p = s.p AND t.k_offset >= s.lo
		WHERE k_offset < hi
		GROUP BY p, lo, hi`, append([]any{b.topic, stretches[0].partition, stretches[len(stretches)-1].partition, first, end}, args...)...)
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		var s stretch
		var c counted
		if err := rows.Scan(&s.partition, &s.from, &s.to, &c.Rows, &c.Places, &c.Offsets); err != nil {
			return err
		}
		found[s] = c
	}
	return rows.Err()
}

// notOthers is the condition that leaves out rows of other pipelines, such as re-runs into the same tables.
const notOthers = "run NOT IN (SELECT run FROM checkpoints WHERE pipeline != ?)"

// ofTopic is the condition of the runs that read one topic of this name: one that was made anew has the same offsets again.
func (b *books) ofTopic(id string, newest, alone bool) (where string, args []any) {
	switch {
	case alone:
		return notOthers, []any{b.pipeline}
	case newest:
		return notOthers + " AND run NOT IN (SELECT run FROM checkpoints WHERE pipeline = ? AND topic = ? AND topic_id != ?)",
			[]any{b.pipeline, b.pipeline, b.topic, id}
	}
	return "run IN (SELECT run FROM checkpoints WHERE pipeline = ? AND topic = ? AND topic_id = ?)", []any{b.pipeline, b.topic, id}
}

// derived is what a table of derived rows has, by partition.
type derived struct {
	Settled int64 // rows of the checkpoints that the ledger has
	Doubled int64 // rows with the key of another
}

// keyOf is what makes a row of a derived table one, and the month that the table is partitioned by.
func keyOf(table pipeline.Table) (key, month string) {
	if table == pipeline.EventsTable {
		return "event_id, event_seq", "toYYYYMM(event_ts)"
	}
	return "asset, window_start, window_end, model, model_version, revision, backfill", "toYYYYMM(ts)"
}

// derived counts the rows of a derived table, month by month, so that what a query must remember is bounded.
func (b *books) derived(ctx context.Context, table pipeline.Table) (map[int32]derived, error) {
	key, byMonth := keyOf(table)
	fail := func(err error) (map[int32]derived, error) { return nil, fmt.Errorf("table %s: %w", table, err) }
	months, err := collectColumn[uint32](ctx, b.db, fmt.Sprintf("SELECT DISTINCT %s FROM %s WHERE k_topic = ?", byMonth, table), b.topic)
	if err != nil {
		return fail(err)
	}
	where, args := b.lines()
	args = append(append(args, b.topic), b.pipeline)
	found := map[int32]derived{}
	for _, month := range months {
		rows, err := b.db.Query(ctx, fmt.Sprintf(`SELECT k_part, toInt64(countIf((run, seq) IN (SELECT run, seq FROM checkpoints WHERE %s))),
				toInt64(count() - uniqExact(%s))
			FROM %s WHERE k_topic = ? AND %s AND %s = %d GROUP BY k_part`, where, key, table, notOthers, byMonth, month), args...)
		if err != nil {
			return fail(err)
		}
		for rows.Next() {
			var partition int32
			var settled, doubled int64
			if err = rows.Scan(&partition, &settled, &doubled); err != nil {
				break
			}
			d := found[partition]
			found[partition] = derived{d.Settled + settled, d.Doubled + doubled}
		}
		if err = errors.Join(err, rows.Close(), rows.Err()); err != nil {
			return fail(err)
		}
	}
	return found, nil
}

// collectColumn reads the one column of a query.
func collectColumn[T any](ctx context.Context, db clickhouse.Conn, query string, args ...any) ([]T, error) {
	rows, err := db.Query(ctx, query, args...)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var list []T
	for rows.Next() {
		var v T
		if err := rows.Scan(&v); err != nil {
			return nil, err
		}
		list = append(list, v)
	}
	return list, rows.Err()
}

var ttlText = regexp.MustCompile(` TTL ([^,]+?)(?: SETTINGS .*)?$`)

// kept is how long a table keeps rows, counted from their arrival; 0 if it keeps them for ever or its TTL counts otherwise.
func (b *books) kept(ctx context.Context, table pipeline.Table, arrived string) (time.Duration, error) {
	full, err := collectColumn[string](ctx, b.db, "SELECT engine_full FROM system.tables WHERE database = currentDatabase() AND name = ?", string(table))
	if err != nil {
		return 0, fmt.Errorf("system.tables: %w", err)
	}
	if len(full) == 0 {
		return 0, fmt.Errorf("%w: want the table %s, got none", pipeline.ErrConfig, table)
	}
	m := ttlText.FindStringSubmatch(full[0])
	if m == nil {
		return 0, nil
	}
	seconds, err := collectColumn[int64](ctx, b.db,
		fmt.Sprintf("SELECT toInt64(dateDiff('second', %s, %s)) FROM (SELECT now64(3, 'UTC') AS %s)", arrived, m[1], arrived))
	if err != nil || len(seconds) == 0 {
		return 0, nil // of other columns
	}
	return time.Duration(seconds[0]) * time.Second, nil
}
