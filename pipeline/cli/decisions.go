package cli

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/tailrace/tailrace/connectors/clickhouse"
	"github.com/tailrace/tailrace/pipeline"
)

// decisions says how the decisions of a re-run differ from those that were taken before, over the windows whose samples all lie
// in the range.
type decisions struct {
	Windows windowDiff `json:"windows"`
	Events  eventDiff  `json:"events"`
}

type windowDiff struct {
	Both       int64 `json:"both"`
	OnlyBefore int64 `json:"only_before"`
	OnlyNow    int64 `json:"only_now"`
	Edge       int64 `json:"over_an_edge"`  // with samples outside of the range, or cut where it begins or ends: not compared
	Flips      int64 `json:"anomaly_flips"` // is_anomaly differs
	ScoreInOne int64 `json:"score_in_one"`  // the other has a reason instead
	OtherModel int64 `json:"other_model"`   // scores can't be compared
	// LargestScoreDiff is of scores of one model; null if there are none.
	LargestScoreDiff *float64       `json:"largest_score_diff"`
	Changes          []windowChange `json:"changes"` // of anomaly_flips the first few
}

type windowChange struct {
	Asset       string    `json:"asset"`
	WindowStart time.Time `json:"window_start"`
	WindowEnd   time.Time `json:"window_end"`
	Before      bool      `json:"before"`
	Now         bool      `json:"now"`
	ScoreBefore *float32  `json:"score_before"`
	ScoreNow    *float32  `json:"score_now"`
}

type eventDiff struct {
	Both       int64         `json:"both"`
	OnlyBefore int64         `json:"only_before"`
	OnlyNow    int64         `json:"only_now"`
	Listed     []eventChange `json:"listed"` // of those in one only the first few
}

type eventChange struct {
	In       string    `json:"in"` // before or now
	Asset    string    `json:"asset"`
	Detector string    `json:"detector"`
	Onset    time.Time `json:"onset"`
}

// listedChanges is how many changes are named: enough to look into, few enough to read.
const listedChanges = 20

// comparison is of a re-run's tables with the pipeline's own. Names of databases are plain (clickhouse.Config.Validate).
type comparison struct {
	own, other      string // databases
	pipeline, rerun string
	topic           string
	ranges          []rangeJSON
}

// run compares. It returns nil if the pipeline has no tables.
func (c *comparison) run(ctx context.Context, config clickhouse.Config) (d *decisions, err error) {
	db, err := clickhouse.Connect(ctx, config)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	var tables uint64
	err = db.QueryRow(ctx, "SELECT count() FROM system.tables WHERE database = ? AND name IN ('predictions', 'anomaly_events', 'checkpoints')",
		c.own).Scan(&tables)
	if err != nil || tables < 3 {
		return nil, err
	}
	d = &decisions{Windows: windowDiff{Changes: []windowChange{}}, Events: eventDiff{Listed: []eventChange{}}}
	if err := c.windows(ctx, db, &d.Windows); err != nil {
		return nil, fmt.Errorf("comparing %s: %w", pipeline.Predictions, err)
	}
	if err := c.events(ctx, db, &d.Events); err != nil {
		return nil, fmt.Errorf("comparing %s: %w", pipeline.EventsTable, err)
	}
	return d, nil
}

// bounds are SQL for the offsets [lo, hi) of a row's partition: none for partitions that were not read.
func (c *comparison) bounds() (lo, hi string) {
	var ids, los, his []string
	for _, r := range c.ranges {
		ids = append(ids, fmt.Sprint(r.Partition))
		los = append(los, fmt.Sprint(r.From))
		his = append(his, fmt.Sprint(r.To))
	}
	pick := func(values []string) string {
		return fmt.Sprintf("transform(k_part, [%s]::Array(Int32), [%s]::Array(Int64), toInt64(-1))", strings.Join(ids, ","), strings.Join(values, ","))
	}
	return pick(los), pick(his)
}

// joined is SQL for a row of each thing that is in one or both of the tables: the columns of key, b and n with what the pipeline had
// before and what there is now, in_b, inside_b and in_n. A row is inside if the offsets under it all lie in the range.
func (c *comparison) joined(table, key, value, order, where string) (query string, args []any) {
	lo, hi := c.bounds()
	of := func(database, columns string) string {
		return fmt.Sprintf(`SELECT %s, 1 AS here, %s FROM %s.%s
			WHERE k_topic = ? AND k_first >= 0 AND k_last >= %s AND k_first < %s AND %s
				AND run IN (SELECT run FROM %s.checkpoints WHERE pipeline = ?)
			GROUP BY %s`, key, columns, database, table, lo, hi, where, database, key)
	}
	inside := fmt.Sprintf("k_first >= %s AND k_last < %s", lo, hi)
	before := of(c.own, fmt.Sprintf("countIf(%s) AS inside, argMaxIf(%s, %s, %s) AS v", inside, value, order, inside))
	now := of(c.other, fmt.Sprintf("argMax(%s, %s) AS v", value, order))
	return fmt.Sprintf(`SELECT %s, b.here AS in_b, b.inside AS inside_b, n.here AS in_n, b.v AS b, n.v AS n
		FROM (%s) AS b FULL OUTER JOIN (%s) AS n USING (%s)`, key, before, now, key), []any{c.topic, c.pipeline, c.topic, c.rerun}
}

// compared is SQL for what becomes of a row of joined.
const (
	inBoth     = "in_n = 1 AND inside_b > 0"
	onlyBefore = "in_n = 0 AND inside_b > 0"
)

func (c *comparison) windows(ctx context.Context, db clickhouse.Conn, d *windowDiff) error {
	query, args := c.joined("predictions", "asset, window_start, window_end",
		"tuple(score, is_anomaly, toString(reason), concat(model, '/', model_version))", "revision", "1")
	const cut = "n.3 IN ('cut_start', 'cut_end')"
	var largest *float64
	err := db.QueryRow(ctx, `SELECT toInt64(countIf(`+inBoth+`)), toInt64(countIf(`+onlyBefore+`)),
			toInt64(countIf(in_b = 0 AND NOT `+cut+`)), toInt64(countIf(in_n = 1 AND (in_b = 1 AND inside_b = 0 OR in_b = 0 AND `+cut+`))),
			toInt64(countIf(`+inBoth+` AND b.2 != n.2)), toInt64(countIf(`+inBoth+` AND isNull(b.1) != isNull(n.1))),
			toInt64(countIf(`+inBoth+` AND b.4 != n.4)), maxIf(abs(toFloat64(b.1) - toFloat64(n.1)), `+inBoth+` AND b.4 = n.4)
		FROM (`+query+`)`, args...).Scan(&d.Both, &d.OnlyBefore, &d.OnlyNow, &d.Edge, &d.Flips, &d.ScoreInOne, &d.OtherModel, &largest)
	if err != nil {
		return err
	}
	d.LargestScoreDiff = largest
	rows, err := db.Query(ctx, fmt.Sprintf(`SELECT CAST(asset, 'String'), window_start, window_end, b.2, n.2, b.1, n.1 FROM (%s)
		WHERE %s AND b.2 != n.2 ORDER BY window_end, asset LIMIT %d`, query, inBoth, listedChanges), args...)
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		var w windowChange
		if err := rows.Scan(&w.Asset, &w.WindowStart, &w.WindowEnd, &w.Before, &w.Now, &w.ScoreBefore, &w.ScoreNow); err != nil {
			return err
		}
		d.Changes = append(d.Changes, w)
	}
	return rows.Err()
}

func (c *comparison) events(ctx context.Context, db clickhouse.Conn, d *eventDiff) error {
	query, args := c.joined("anomaly_events", "asset, detector, onset_ts", "event_id", "event_seq", "event_seq = 0")
	err := db.QueryRow(ctx, `SELECT toInt64(countIf(`+inBoth+`)), toInt64(countIf(`+onlyBefore+`)), toInt64(countIf(in_b = 0)) FROM (`+query+`)`,
		args...).Scan(&d.Both, &d.OnlyBefore, &d.OnlyNow)
	if err != nil {
		return err
	}
	rows, err := db.Query(ctx, fmt.Sprintf(`SELECT if(in_n = 1, 'now', 'before'), CAST(asset, 'String'), CAST(detector, 'String'), onset_ts FROM (%s)
		WHERE %s OR in_b = 0 ORDER BY onset_ts, asset LIMIT %d`, query, onlyBefore, listedChanges), args...)
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		var x eventChange
		if err := rows.Scan(&x.In, &x.Asset, &x.Detector, &x.Onset); err != nil {
			return err
		}
		d.Listed = append(d.Listed, x)
	}
	return rows.Err()
}
