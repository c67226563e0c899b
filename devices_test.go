package main

import (
	"encoding/json"
	"fmt"
	"math"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/tailrace/tailrace/connectors/kafka"
	"github.com/tailrace/tailrace/pipeline"
)

// gateway writes the 52 tags of assets to a plant's topic, whatever its devices' clocks say.
type gateway struct {
	t        *testing.T
	topic    string
	producer *kafka.Producer
	messages int64
}

func newGateway(t *testing.T, p *plant) *gateway {
	t.Helper()
	c := kafka.DefaultProducerConfig()
	c.Brokers, c.Topics = p.Kafka, []string{p.name}
	g := &gateway{t: t, topic: p.name, producer: kafka.NewProducer(c)}
	if err := g.producer.Open(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := g.producer.Close(); err != nil {
			t.Error(err)
		}
	})
	return g
}

// write sends all tags of an asset with the time ts, as the messages of the moment at. A key for each half of the tags puts
// them on other partitions.
func (g *gateway) write(asset string, ts, at time.Time, keys ...string) {
	g.t.Helper()
	for i := range tags {
		tag := fmt.Sprintf("xmeas_%02d", i+1)
		if i >= 41 {
			tag = fmt.Sprintf("xmv_%02d", i-40)
		}
		key := asset
		if len(keys) > 0 {
			key = keys[i%len(keys)]
		}
		value := fmt.Appendf(nil, `{"ts":%d,"asset":%q,"tag":%q,"value":%d,"q":192}`, ts.UnixNano(), asset, tag, 50+i)
		if err := g.producer.Send(g.t.Context(), g.topic, []byte(key), value, at.UnixNano()); err != nil {
			g.t.Fatal(err)
		}
		g.messages++
	}
}

func (g *gateway) flush() {
	g.t.Helper()
	if err := g.producer.Flush(g.t.Context()); err != nil {
		g.t.Fatal(err)
	}
}

// Scenario: an hour of five devices that report every three minutes: one in order, one whose clock is an hour ahead, one whose
// clock jumps two hours back in the middle, one that is silent for half an hour, one whose tags lie on two partitions.
// Guarantees: the first has all its windows, whole, as soon as the watermark is there; what the others have is as their rows
// say; rows of clocks that are wrong are flagged, stored and in no window; the status names the devices.
func TestDevicesWithBadClocks(t *testing.T) {
	p := newPlant(t, embeddedServers(t), "watermark: {step: 3m}", "watermark: {step: 3m, idle_timeout: 10m}")
	p.makeTopic(t, 2, nil)
	g := newGateway(t, p)
	const steps = 20
	begin := time.Now().Add(-time.Hour).Truncate(3 * time.Minute)
	for i := range steps {
		now := begin.Add(time.Duration(i) * 3 * time.Minute)
		g.write("good", now, now)
		g.write("ahead", now.Add(time.Hour), now)
		if i < steps/2 {
			g.write("back", now, now)
		} else {
			g.write("back", now.Add(-2*time.Hour), now)
		}
		if i < 5 || i >= 15 {
			g.write("silent", now, now)
		}
		g.write("split", now, now, "good", "other")
	}
	g.flush()
	run := launch(t, "run", p.file)
	eventually(t, "all messages", time.Minute, func() bool { return p.committed(t) == g.messages })
	var status pipeline.Status
	eventually(t, "the devices by name", 10*time.Second, func() bool {
		code, text := p.answers("/status")
		if code != 200 {
			return false
		}
		if err := json.Unmarshal([]byte(text), &status); err != nil {
			t.Fatal(err)
		}
		names := map[string]string{}
		for _, f := range status.Findings {
			names[f.Device] = f.Kind
		}
		return names["ahead"] == "clock_ahead" && names["back"] == "clock_back" && names["split"] == "asset_on_partitions"
	})
	if slices.ContainsFunc(status.Findings, func(f pipeline.Finding) bool { return f.Device == "good" }) {
		t.Errorf("want nothing said against the good device, got %+v", status.Findings)
	}
	// The windows up to the last but one are closed by the watermark alone: the last needs a later row.
	for asset, want := range map[string]int64{"good": steps - 1, "ahead": 0, "silent": 9} {
		if n := p.query(t, "SELECT count() FROM predictions WHERE NOT backfill AND asset = '"+asset+"'"); n != want {
			t.Errorf("%s: want %d windows, got %d", asset, want, n)
		}
	}
	if n := p.query(t, "SELECT countIf(coverage < 1 OR score IS NULL) FROM predictions WHERE asset = 'good'"); n != 0 {
		t.Errorf("%d windows of the good device are not whole", n)
	}
	for what, c := range map[string]struct {
		sql  string
		want int64
	}{
		"stored rows":                      {"SELECT count() FROM telemetry", g.messages},
		"suspect rows of ahead":            {"SELECT countIf(asset = 'ahead' AND bitAnd(flags, 512) != 0) FROM telemetry", steps * tags},
		"suspect rows of others":           {"SELECT countIf(asset != 'ahead' AND bitAnd(flags, 512) != 0) FROM telemetry", 0},
		"historical rows of back":          {"SELECT countIf(asset = 'back' AND bitAnd(flags, 1) != 0) FROM telemetry", steps / 2 * tags},
		"late rows of good, silent, split": {"SELECT countIf(asset IN ('good', 'silent', 'split') AND bitAnd(flags, 256) != 0) FROM telemetry", 0},
		"windows of split that are whole":  {"SELECT countIf(asset = 'split' AND coverage > 0.6) FROM predictions", 0},
	} {
		if n := p.query(t, c.sql); n != c.want {
			t.Errorf("%s: want %d, got %d", what, c.want, n)
		}
	}
	run.signal(t, syscall.SIGINT)
	if code := run.within(t, 5*time.Second); code != 0 {
		t.Errorf("exit code %d\n%s", code, run.err.String())
	}
}

// Scenario: a gateway that is live sends the buffer of an outage: 200,000 rows over 150 days, while it goes on reporting.
// Guarantees: every row is stored once, flagged historical, none is late; every moment of the buffer has its window, scored and
// marked as backfill, and opens no event; the live windows are whole; the ledger says the same.
func TestStoreAndForwardBurst(t *testing.T) {
	p := newPlant(t, embeddedServers(t), "interval: 500ms", "interval: 200ms", "user: tailrace", "inserts_per_second: 200, user: tailrace")
	p.makeTopic(t, 1, nil)
	g := newGateway(t, p)
	const moments = 3847 // of 52 rows: 200,044 rows
	now := time.Now().Truncate(3 * time.Minute)
	live := func(i int) { g.write("gateway", now.Add(time.Duration(i-10)*3*time.Minute), time.Now()) }
	for i := range 5 {
		live(i)
	}
	step := time.Duration(math.Floor(float64(150*24*time.Hour)/moments/float64(3*time.Minute))) * 3 * time.Minute
	for i := range moments {
		g.write("gateway", now.Add(-150*24*time.Hour).Add(time.Duration(i)*step), time.Now())
		if i%1000 == 500 {
			live(5 + i/1000)
		}
	}
	live(9)
	g.flush()
	run := launch(t, "run", p.file)
	eventually(t, "all messages", 2*time.Minute, func() bool { return p.committed(t) == g.messages })
	for what, c := range map[string]struct {
		sql  string
		want int64
	}{
		"stored rows":                   {"SELECT uniqExact(k_offset, k_idx) FROM telemetry", g.messages},
		"rows stored twice":             {"SELECT count() - uniqExact(k_offset, k_idx) FROM telemetry", 0},
		"historical rows":               {"SELECT countIf(bitAnd(flags, 1) != 0) FROM telemetry", moments * tags},
		"late rows":                     {"SELECT countIf(bitAnd(flags, 256) != 0) FROM telemetry", 0},
		"live windows":                  {"SELECT countIf(NOT backfill AND coverage = 1) FROM predictions", 9},
		"events of history":             {"SELECT countIf(backfill) FROM anomaly_events", 0},
		"historical rows in the ledger": {"SELECT sum(counters['rows.historical']) FROM checkpoints", moments * tags},
	} {
		if n := p.query(t, c.sql); n != c.want {
			t.Errorf("%s: want %d, got %d", what, c.want, n)
		}
	}
	// The last moments may wait for the lane's clock; none of the others may be missing.
	if n := p.query(t, "SELECT countIf(backfill AND coverage = 1 AND score IS NOT NULL) FROM predictions"); n < moments-2 || n > moments {
		t.Errorf("want a window for each of %d moments, got %d", moments, n)
	}
	run.signal(t, syscall.SIGINT)
	if code := run.within(t, 5*time.Second); code != 0 {
		t.Errorf("exit code %d\n%s", code, run.err.String())
	}
}
