//go:build kafka

package main

import (
	"testing"
	"time"

	"github.com/tailrace/tailrace/connectors/kafka/kafkatest"
)

// Scenario: the program on Apache Kafka and the embedded ClickHouse: four runs until the end, bad input, kills of the
// pipeline, a restart of the broker.
// Guarantees: what the tests of the same names say of the embedded broker.
func TestRunOnApacheKafka(t *testing.T) {
	broker := kafkatest.New(t, kafkatest.Config{})
	at := embeddedServers(t)
	at.Kafka = []string{broker.Addr()}
	t.Run("stores everything", func(t *testing.T) { runStoresEverything(t, at) })
	t.Run("bad input", func(t *testing.T) { badInput(t, at) })
	t.Run("kill loses nothing", func(t *testing.T) { killLosesNothing(t, at) })
	t.Run("what is stored adds up after kills", func(t *testing.T) { reconcileAfterKills(t, at) })
	t.Run("broker restart", func(t *testing.T) { brokerRestart(t, broker, at) })
}

// Scenario: the broker is restarted while the pipeline reads.
// Guarantees: the pipeline goes on by itself to the end, no message is missing from telemetry, and all are committed.
func brokerRestart(t *testing.T, broker *kafkatest.Broker, at addresses) {
	p := newPlant(t, at, append(untilEnd, "interval: 500ms", "interval: 50ms")...)
	p.makeTopic(t, 2, nil)
	p.replay(t, []string{"--start", "2026-01-05T00:00:00Z"}, "d00_te", "d01_te", "d05_te", "d06_te")
	run := launch(t, "run", p.file)
	eventually(t, "the first rows", time.Minute, func() bool {
		code, _ := p.answers("/readyz")
		return code == 200 && p.query(t, "SELECT count() FROM telemetry") > 0
	})
	broker.Stop(t)
	broker.Start(t)
	if code := run.within(t, 2*time.Minute); code != 0 {
		t.Fatalf("exit code %d\n%s", code, run.err.String())
	}
	const produced = 4 * samples * tags
	if n := p.query(t, "SELECT uniqExact(k_part, k_offset, k_idx) FROM telemetry"); n != produced {
		t.Errorf("%d distinct messages, want %d", n, produced)
	}
	if n := p.query(t, "SELECT uniqExact(asset, tag, ts) FROM telemetry"); n != produced {
		t.Errorf("%d distinct values, want %d", n, produced)
	}
	if n := p.committed(t); n != produced {
		t.Errorf("committed %d, want %d", n, produced)
	}
}
