package cli

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/tailrace/tailrace/connectors/clickhouse"
	"github.com/tailrace/tailrace/connectors/kafka"
	"github.com/tailrace/tailrace/operators/ort"
	"github.com/tailrace/tailrace/schemas"
)

// summary is the JSON of demo. All but produced, dead_letters and the figures of speed are read back from ClickHouse.
type summary struct {
	Produced            int64              `json:"produced"`
	TelemetryRows       int64              `json:"telemetry_rows"`
	Predictions         int64              `json:"predictions"`          // with a score
	PredictionsUnscored map[string]int64   `json:"predictions_unscored"` // by reason
	Events              int64              `json:"events"`               // distinct
	DeadLetters         int64              `json:"dead_letters"`
	RecordsPerSecond    float64            `json:"records_per_second"`
	PacedRate           float64            `json:"paced_records_per_second"`
	LatencyMS           quantiles          `json:"latency_ms"`       // message time in Kafka to acknowledged insert, paced phase
	EventLatencyMS      quantiles          `json:"event_latency_ms"` // message time of the newest sample to the event on the topic
	Detection           map[string]float64 `json:"detection"`        // fault to share of windows 161 to 960 over the threshold
	FalseAlarmRate      float64            `json:"false_alarm_rate"` // share of d00_te's windows over the threshold
	FirstDetection      map[string]float64 `json:"first_detection_minutes"`
	EventsPerFault      map[string]int64   `json:"events_per_fault"`
	ClickHouseVersion   string             `json:"clickhouse_version"`
	ONNXRuntimeVersion  string             `json:"onnxruntime_version"`
	Backend             string             `json:"backend"`
	Provider            string             `json:"provider"`
	Autoencoder         *secondModel       `json:"autoencoder"` // of the same runs, read from their files
	Classifier          *labeller          `json:"classifier,omitempty"`
}

type quantiles struct {
	P50 float64 `json:"p50"`
	P99 float64 `json:"p99"`
}

// sampleOf is the SQL that gives a prediction's sample number, 1 to 960, from its run's first window. The runs start
// with their first sample, so the earliest window of an asset is sample 1.
const sampleOf = `1 + intDiv(toUnixTimestamp(p.ts) - toUnixTimestamp(min(p.ts) OVER (PARTITION BY p.asset)), 180)`

// summarize reads the tables back.
func (d *demo) summarize(ctx context.Context) (*summary, error) {
	c := clickhouse.DefaultConfig()
	c.Address, c.User, c.PasswordFile = d.servers.clickhouse.NativeAddr(), "default", ""
	db, err := clickhouse.Connect(ctx, c)
	if err != nil {
		return nil, err
	}
	defer db.Close()
	s := &summary{
		Produced: d.produced, PredictionsUnscored: map[string]int64{}, Detection: map[string]float64{},
		FirstDetection: map[string]float64{}, EventsPerFault: map[string]int64{},
		RecordsPerSecond: round(float64(d.full.messages)/d.full.took.Seconds(), 0),
		PacedRate:        d.options.rate,
		LatencyMS:        quantiles{milliseconds(d.paced.p50), milliseconds(d.paced.p99)},
		EventLatencyMS: quantiles{
			float64(d.eventLatency.ValueAtQuantile(50)), float64(d.eventLatency.ValueAtQuantile(99)),
		},
	}
	s.ONNXRuntimeVersion = "none" // as where the program was built without a C compiler
	for _, info := range d.full.scorers {
		s.Backend, s.Provider = info.Backend, info.Provider
		if info.Backend == ort.Backend {
			s.ONNXRuntimeVersion = info.Version
		}
	}
	if s.DeadLetters, err = kafka.CountMessages(ctx, d.brokers, schemas.TopicDeadLetters); err != nil {
		return nil, err
	}
	for query, to := range map[string]any{
		"SELECT version()":                                                 &s.ClickHouseVersion,
		"SELECT toInt64(count()) FROM telemetry":                           &s.TelemetryRows,
		"SELECT toInt64(count()) FROM predictions WHERE score IS NOT NULL": &s.Predictions,
		"SELECT toInt64(uniqExact(event_id)) FROM anomaly_events":          &s.Events,
		"SELECT countIf(score > threshold) / count() FROM predictions WHERE asset = '" + fullPrefix + "d00_te'": &s.FalseAlarmRate,
	} {
		if err := db.QueryRow(ctx, query).Scan(to); err != nil {
			return nil, fmt.Errorf("%s: %w", query, err)
		}
	}
	s.FalseAlarmRate = round(s.FalseAlarmRate, 4)
	if err := collect(ctx, db, `SELECT toString(reason), toInt64(count()) FROM predictions WHERE score IS NULL GROUP BY reason`,
		s.PredictionsUnscored); err != nil {
		return nil, err
	}
	rates := map[string]float64{}
	if err := collect(ctx, db, fmt.Sprintf(`SELECT asset, countIf(score > threshold) / count() FROM (
		SELECT toString(p.asset) AS asset, p.score AS score, p.threshold AS threshold, %s AS sample FROM predictions AS p
		WHERE startsWith(p.asset, '%s')) WHERE sample > %d GROUP BY asset`, sampleOf, fullPrefix, demoFaultSample), rates); err != nil {
		return nil, err
	}
	delays := map[string]float64{}
	if err := collect(ctx, db, fmt.Sprintf(`SELECT toString(e.asset), min(dateDiff('second', f.fault, e.onset_ts)) / 60 FROM anomaly_events AS e
		INNER JOIN (SELECT asset, min(ts) + INTERVAL %d SECOND AS fault FROM predictions GROUP BY asset) AS f ON f.asset = e.asset
		WHERE startsWith(e.asset, '%s') AND e.event_seq = 0 AND e.onset_ts > f.fault GROUP BY e.asset`,
		demoFaultSample*int(demoPeriod.Seconds()), fullPrefix), delays); err != nil {
		return nil, err
	}
	counts := map[string]int64{}
	if err := collect(ctx, db, fmt.Sprintf(`SELECT toString(asset), toInt64(uniqExact(event_id)) FROM anomaly_events
		WHERE startsWith(asset, '%s') GROUP BY asset`, fullPrefix), counts); err != nil {
		return nil, err
	}
	for asset, rate := range rates {
		fault, err := faultOf(asset)
		if err != nil {
			return nil, err
		}
		s.EventsPerFault[fault] = counts[asset]
		if fault == "0" {
			continue // normal operation: what it detects are false alarms
		}
		s.Detection[fault] = round(rate, 4)
		if delay, ok := delays[asset]; ok {
			s.FirstDetection[fault] = round(delay, 1)
		}
	}
	return s, nil
}

// faultOf reads the fault's number out of an asset such as demo.tep.full.d04_te; 0 is normal operation.
func faultOf(asset string) (string, error) {
	var fault int
	if _, err := fmt.Sscanf(asset, fullPrefix+"d%d_te", &fault); err != nil {
		return "", fmt.Errorf("asset %q: want %sdNN_te: %w", asset, fullPrefix, err)
	}
	return strconv.Itoa(fault), nil
}

// collect reads rows of a name and a value into a map.
func collect[V any](ctx context.Context, db clickhouse.Conn, query string, into map[string]V) error {
	rows, err := db.Query(ctx, query)
	if err != nil {
		return fmt.Errorf("%s: %w", query, err)
	}
	defer rows.Close()
	for rows.Next() {
		var name string
		var value V
		if err := rows.Scan(&name, &value); err != nil {
			return fmt.Errorf("%s: %w", query, err)
		}
		into[name] = value
	}
	return rows.Err()
}

// sortedFaults are the keys of by, in the order of their numbers.
func sortedFaults(by map[string]float64) []string {
	return slices.SortedFunc(maps.Keys(by), func(a, b string) int {
		if len(a) != len(b) {
			return len(a) - len(b)
		}
		return strings.Compare(a, b)
	})
}

// show prints the summary, for people or as JSON.
func (d *demo) show(s *summary) error {
	d.progress("\nRead back from ClickHouse %s", s.ClickHouseVersion)
	d.progress("  produced %d = telemetry %d + dead letters %d", s.Produced, s.TelemetryRows, s.DeadLetters)
	d.progress("  predictions %d scored, %v without a score; events %d", s.Predictions, s.PredictionsUnscored, s.Events)
	d.progress("  scored by %s on %s (ONNX Runtime %s)", s.Backend, s.Provider, s.ONNXRuntimeVersion)
	d.progress("\n  fault  detected  first event after  events  autoencoder")
	for _, fault := range sortedFaults(s.Detection) {
		delay := "never"
		if minutes, ok := s.FirstDetection[fault]; ok {
			delay = (time.Duration(minutes * float64(time.Minute))).String()
		}
		d.progress("  %5s  %6.1f %%  %17s  %6d  %9.1f %%", fault, 100*s.Detection[fault], delay, s.EventsPerFault[fault],
			100*s.Autoencoder.Detection[fault])
	}
	d.progress("  false alarms on the normal run: %.1f %% of windows; of the autoencoder, whose windows last a quarter of an hour, %.1f %%",
		100*s.FalseAlarmRate, 100*s.Autoencoder.FalseAlarmRate)
	if s.Classifier != nil {
		d.progress("  classifier, trained just now on the runs dNN.dat and shown these dNN_te.dat: %s", s.Classifier)
	}
	d.progress("\n  full speed: %.0f records/s", s.RecordsPerSecond)
	d.progress("  at %.0f records/s: append to insert p50 %.0f ms, p99 %.0f ms; append to event p50 %.0f ms, p99 %.0f ms",
		s.PacedRate, s.LatencyMS.P50, s.LatencyMS.P99, s.EventLatencyMS.P50, s.EventLatencyMS.P99)
	d.progress("\nTo paste (with --keep):")
	for _, query := range []string{
		"SELECT asset, onset_ts, peak_ts, score, contributions.tag FROM anomaly_events WHERE event_seq = 0 ORDER BY score DESC LIMIT 10",
		"SELECT asset, countIf(score > threshold) AS over, count() AS windows FROM predictions GROUP BY asset ORDER BY over DESC",
		"SELECT toStartOfInterval(ts, INTERVAL 3 HOUR) AS t, avg(value) FROM telemetry WHERE tag = 'xmeas_09' AND asset LIKE '%d04_te' GROUP BY t ORDER BY t",
	} {
		d.progress(`  curl -s 'http://%s/?database=tailrace' --data-binary "%s FORMAT PrettyCompact"`, d.servers.clickhouse.HTTPAddr(), query)
	}
	if !d.json {
		return nil
	}
	return d.print(s)
}
