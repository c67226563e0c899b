package pipeline

import (
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
	"github.com/apache/arrow/go/v15/arrow/array"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/tailrace/tailrace/pipeline/eventtime"
	"github.com/tailrace/tailrace/schemas"
)

// Metrics are the engine's counters, in a Prometheus registry of their own.
type Metrics struct {
	Registry *prometheus.Registry

	messages    *prometheus.CounterVec
	bytes       *prometheus.CounterVec
	lag         *prometheus.GaugeVec
	eventTime   *prometheus.GaugeVec
	lateRows    prometheus.Counter
	judgedRows  *prometheus.CounterVec
	blobs       prometheus.Counter
	blobBytes   prometheus.Counter
	storeFaults prometheus.Counter
	sinkFaults  prometheus.Counter
	restores    prometheus.Counter
	recoveries  prometheus.Counter
	drops       *prometheus.CounterVec
	deadLetters *prometheus.CounterVec
	eventCount  prometheus.Counter
	storedRows  *prometheus.CounterVec
	checkpoints prometheus.Histogram
	appendToIns prometheus.Histogram
	stepTime    *prometheus.CounterVec
	stepRows    *prometheus.CounterVec
	stages      *prometheus.HistogramVec

	budget atomic.Pointer[budget]

	mu      sync.Mutex
	latency *hdrhistogram.Histogram
	rows    map[Table]int64
}

// latencyMax is the largest append-to-insert latency that is told apart, in microseconds: an hour, which only a backlog
// reaches.
const latencyMax = int64(time.Hour / time.Microsecond)

// newMetrics makes them; ready is asked at every scrape.
func newMetrics(ready func() float64) *Metrics {
	m := &Metrics{
		Registry: prometheus.NewRegistry(),
		messages: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "tailrace_messages_total", Help: "Kafka messages read."}, []string{"partition"}),
		bytes: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "tailrace_read_bytes_total", Help: "Bytes of rows and dead letters read, as held in memory."}, []string{"partition"}),
		lag: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "tailrace_lag_messages", Help: "Messages between the last one read and the partition's end."}, []string{"partition"}),
		eventTime: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "tailrace_watermark_timestamp_seconds", Help: "Event time up to which a partition's windows are closed."}, []string{"partition"}),
		lateRows: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "tailrace_late_rows_total", Help: "Rows at or behind the watermark. They are stored with the flag late."}),
		judgedRows: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "tailrace_judged_rows_total", Help: "Rows that the event-time clock flagged, or dropped as duplicates, by what."}, []string{"what"}),
		blobs: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "tailrace_state_blobs_total", Help: "Blobs written to the state store, one for each checkpoint."}),
		blobBytes: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "tailrace_state_bytes_total", Help: "Bytes of these blobs."}),
		storeFaults: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "tailrace_state_faults_total", Help: "Attempts at the state store that failed and were tried again."}),
		sinkFaults: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "tailrace_stuck_checkpoints_total", Help: "Attempts at a checkpoint that the sink gave up and the engine tried again."}),
		restores: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "tailrace_state_restores_total", Help: "Partitions that went on with the state of a blob."}),
		recoveries: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "tailrace_recovered_checkpoints_total", Help: "Checkpoints left open by another owner that were settled."}),
		drops: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "tailrace_dropped_rows_total", Help: "Rows that a step takes no further. They are stored in telemetry all the same."}, []string{"step", "reason"}),
		deadLetters: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "tailrace_dead_letters_total", Help: "Messages refused and sent to the dead-letter topic."}, []string{"reason"}),
		eventCount: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "tailrace_events_total", Help: "Event messages: openings and closings."}),
		storedRows: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "tailrace_stored_rows_total", Help: "Rows that the sink acknowledged."}, []string{"table"}),
		checkpoints: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "tailrace_checkpoint_seconds", Help: "Time from a barrier to the commit of its offsets.",
			Buckets: prometheus.ExponentialBuckets(0.005, 2, 14)}),
		appendToIns: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "tailrace_append_to_insert_seconds", Help: "Time from an append in Kafka to the acknowledged insert, once for each append time of a batch.",
			Buckets: prometheus.ExponentialBuckets(0.005, 2, 16)}),
		stepTime: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "tailrace_step_seconds_total", Help: "Time that a step used itself, without the steps it emits to."}, []string{"step"}),
		stepRows: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "tailrace_step_rows_total", Help: "Rows that a step was given."}, []string{"step"}),
		stages: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "tailrace_stage_seconds", Help: "Time of the stages around the steps: decode a delivery; blob, plan, insert, flush, ledger and commit of a checkpoint.",
			Buckets: prometheus.ExponentialBuckets(0.0005, 2, 18)}, []string{"stage"}),
		latency: hdrhistogram.New(1, latencyMax, 3),
		rows:    map[Table]int64{},
	}
	held := prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "tailrace_held_bytes", Help: "Bytes read and not yet stored, bounded by limits.memory."},
		func() float64 { return m.ofBudget(func(b *budget) int64 { return b.inUse.Load() }) })
	waits := prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "tailrace_memory_limit_waits", Help: "Reads of this group generation that waited because limits.memory was reached."},
		func() float64 { return m.ofBudget(func(b *budget) int64 { return b.waited.Load() }) })
	works := prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "tailrace_ready", Help: "1 while the pipeline works, as /readyz says, else 0."}, ready)
	m.Registry.MustRegister(works, held, waits, m.messages, m.bytes, m.lag, m.eventTime, m.lateRows, m.judgedRows, m.blobs,
		m.blobBytes, m.storeFaults, m.sinkFaults, m.restores, m.recoveries, m.drops, m.deadLetters, m.eventCount,
		m.storedRows, m.checkpoints, m.appendToIns, m.stepTime, m.stepRows, m.stages, collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return m
}

// Counted is a Source, Sink or Publisher that counts what it does and the limits that it hits. Counters may be called at
// any time; its keys are lower_snake_case, and its values only grow.
type Counted interface {
	Counters() map[string]int64
}

// watch has the counters of a component asked at every scrape, as tailrace_COMPONENT_total with the label what.
func (m *Metrics) watch(component string, of any) {
	if counted, ok := of.(Counted); ok {
		m.Registry.MustRegister(counters{counted, prometheus.NewDesc("tailrace_"+component+"_total",
			"What the "+component+" did, and the limits that it hit, by what.", []string{"what"}, nil)})
	}
}

// counters asks a component at a scrape.
type counters struct {
	of   Counted
	desc *prometheus.Desc
}

func (c counters) Describe(to chan<- *prometheus.Desc) { to <- c.desc }

func (c counters) Collect(to chan<- prometheus.Metric) {
	for what, n := range c.of.Counters() {
		to <- prometheus.MustNewConstMetric(c.desc, prometheus.CounterValue, float64(n), what)
	}
}

func (m *Metrics) steps(spent []stepTime) {
	for _, s := range spent {
		m.stepTime.WithLabelValues(s.step).Add(s.took.Seconds())
		m.stepRows.WithLabelValues(s.step).Add(float64(s.rows))
	}
}

func (m *Metrics) stage(name string, took time.Duration) {
	m.stages.WithLabelValues(name).Observe(took.Seconds())
}

func (m *Metrics) watchBudget(b *budget) { m.budget.Store(b) }

func (m *Metrics) ofBudget(get func(*budget) int64) float64 {
	if b := m.budget.Load(); b != nil {
		return float64(get(b))
	}
	return 0
}

func (m *Metrics) read(partition int32, d Delivery, watermark int64) {
	label := strconv.Itoa(int(partition))
	m.messages.WithLabelValues(label).Add(float64(d.Messages))
	m.bytes.WithLabelValues(label).Add(float64(d.Bytes))
	m.lag.WithLabelValues(label).Set(float64(d.Lag))
	m.eventTime.WithLabelValues(label).Set(float64(watermark) / 1e9)
	if d.Messages > 0 {
		m.stage("decode", d.Decode)
	}
}

// judged counts what the clock says of a batch.
func (m *Metrics) judged(v eventtime.Verdict) {
	m.lateRows.Add(float64(v.Late))
	for flag, rows := range map[string]int{"clock_suspect": v.Suspect, "historical": v.Historical, "duplicate": v.Duplicates} {
		if rows > 0 {
			m.judgedRows.WithLabelValues(flag).Add(float64(rows))
		}
	}
}

func (m *Metrics) blob(bytes int) {
	m.blobs.Inc()
	m.blobBytes.Add(float64(bytes))
}

func (m *Metrics) storeFault() { m.storeFaults.Inc() }
func (m *Metrics) sinkFault()  { m.sinkFaults.Inc() }
func (m *Metrics) restored()   { m.restores.Inc() }
func (m *Metrics) recovered()  { m.recoveries.Inc() }

// Drop implements Drops.
func (m *Metrics) Drop(step, reason string, rows int) {
	m.drops.WithLabelValues(step, reason).Add(float64(rows))
}

func (m *Metrics) dead(letters []DeadLetter) {
	for i := range letters {
		m.deadLetters.WithLabelValues(letters[i].Reject.Code).Inc()
	}
}

func (m *Metrics) events(n int64) { m.eventCount.Add(float64(n)) }

func (m *Metrics) checkpoint(took time.Duration) { m.checkpoints.Observe(took.Seconds()) }

// stored counts the rows of a checkpoint that the sink acknowledged at now, and how long each had been on its way.
func (m *Metrics) stored(cp *Checkpoint, now time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for table := range cp.Parts {
		n := cp.Rows(table)
		m.storedRows.WithLabelValues(string(table)).Add(float64(n))
		m.rows[table] += n
	}
	for _, part := range cp.Parts[Telemetry] {
		for _, batch := range part.Batches {
			arrivals := batch.Column(schemas.ColTSIngest).(*array.Timestamp).TimestampValues()
			for i := 0; i < len(arrivals); {
				run := i + 1
				for run < len(arrivals) && arrivals[run] == arrivals[i] {
					run++
				}
				took := max(0, now.Sub(time.Unix(0, int64(arrivals[i]))))
				us := min(latencyMax, max(1, took.Microseconds()))
				_ = m.latency.RecordValues(us, int64(run-i)) // the value is in range by the line above
				m.appendToIns.Observe(took.Seconds())
				i = run
			}
		}
	}
}

// Stored gives the rows that the sink has acknowledged so far.
func (m *Metrics) Stored(t Table) int64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.rows[t]
}

// AppendToInsert gives a quantile (0 to 1) of the time from a message's append in Kafka to the acknowledged insert of
// its rows, over all rows so far; 0 before the first.
func (m *Metrics) AppendToInsert(quantile float64) time.Duration {
	m.mu.Lock()
	defer m.mu.Unlock()
	return time.Duration(m.latency.ValueAtQuantile(quantile*100)) * time.Microsecond
}
