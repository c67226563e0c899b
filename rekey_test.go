package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/tailrace/tailrace/pipeline/failpoint"
)

// Scenario: two assets, each with half of its tags on one partition and half on the other, go through a pipeline with the step rekey,
// which is killed after each part of the day, by itself at a step of the protocol and then from outside; a second pipeline reads the
// topic keyed by asset, and is killed as well.
// Guarantees: every window of the second is there once and whole; every message is in telemetry once, written by the first; rows
// that the first has sent again are counted and nowhere else; reconcile finds nothing wrong with either.
func TestRekeyedWindowsAreWhole(t *testing.T) {
	// One partition is never further ahead of the other than a part of the day.
	p := newPlant(t, embeddedServers(t), append(untilEnd, "watermark: {step: 3m}", "watermark: {step: 3m, out_of_order: 4h, late_after: 8h}",
		"interval: 500ms", "interval: 100ms, rows: 1000", "user: tailrace", "inserts_per_second: 200, user: tailrace", "memory: 256MiB", "memory: 1MiB")...)
	p.makeTopic(t, 2, nil)
	byAsset := p.file
	replaceIn(t, byAsset, "topic: "+p.name+"\n      group: "+p.name, "topic: "+p.name+".telemetry.rekeyed.v1\n      group: "+p.name+".by-asset\n      batch_rows: 500",
		"json: {ts: ns}", "rekeyed: {}", "database: "+p.name, "database: "+p.name+", tables: [predictions, anomaly_events]")
	rekey := filepath.Join(p.dir, "rekey.yaml")
	text := fmt.Sprintf(`
version: 1
name: By asset
id: rekey
sources: {plant: {kafka: {brokers: [%q], topic: %q, group: %q, batch_rows: 500}, format: {json: {ts: ns}}}}
steps: [{rekey: {}}]
sinks:
  clickhouse: {address: %q, user: tailrace, password_file: %q, database: %q, inserts_per_second: 200}
  kafka: {brokers: [%q], prefix: %q, rekeyed_partitions: 3}
checkpoint: {interval: 100ms, rows: 1000}
limits: {memory: 1MiB}
http: {address: %q}
state: {store: %q}
`, p.Kafka[0], p.name, p.name, p.Native, p.PasswordFile, p.name, p.Kafka[0], p.name+".", p.http, "file://"+p.dir+"/state")
	if err := os.WriteFile(rekey, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}

	const parts, steps = 4, 60 // of three hours each
	g := newGateway(t, p)
	begin := time.Now().Add(-24 * time.Hour).Truncate(3 * time.Minute)
	for part, step := range []string{"blob:2", "plan:2", "sent:2", "flushed:2"} {
		for i := part * steps; i < (part+1)*steps; i++ {
			at := begin.Add(time.Duration(i) * 3 * time.Minute)
			for _, asset := range []string{"press 1", "press 2"} {
				g.write(asset, at, time.Now(), "left", "right two")
			}
		}
		g.flush()
		killedAt(t, step, rekey)
		run := launch(t, "run", rekey)
		eventually(t, "the part of the day", 30*time.Second, func() bool { return p.committed(t) == g.messages })
		if _, said := p.answers("/status"); !strings.Contains(said, "the pipeline that reads it scores them") || strings.Contains(said, "asset_on_partitions") {
			t.Errorf("want the status to say where the assets are scored, and no fault with their partitions, got %s", said)
		}
		run.signal(t, syscall.SIGKILL)
		<-run.done
	}
	for _, step := range []string{"plan:2", "recover-sent", "commit:2"} {
		killedAt(t, step, byAsset)
	}
	if run, code := ended(t, "run", byAsset); code != 0 {
		t.Fatalf("exit code %d\n%s", code, run.err.String())
	}

	const windows = 2 * parts * steps
	for _, c := range []struct {
		what, sql string
		want      int64
	}{
		{"rows of telemetry", "SELECT count() FROM telemetry", g.messages},
		{"distinct messages", "SELECT uniqExact(k_topic, k_part, k_offset, k_idx) FROM telemetry WHERE k_topic = '" + p.name + "'", g.messages},
		{"partitions of an asset", "SELECT max(n) FROM (SELECT uniqExact(k_part) AS n FROM telemetry GROUP BY asset)", 2},
		{"predictions", "SELECT count() FROM predictions", windows},
		{"windows", "SELECT uniqExact(asset, window_start) FROM predictions", windows},
		{"whole windows", "SELECT countIf(n = 1 AND coverage = 1 AND isNotNull(score) AND reason = '' AND NOT backfill) FROM predictions", windows},
		{"event messages that are there twice", "SELECT count() - uniqExact(event_id, event_seq) FROM anomaly_events", 0},
		{"rows that are left out", "SELECT sum(counters['left_out.telemetry']) FROM checkpoints WHERE pipeline = 'tep'", g.messages},
		{"was a row sent again?", "SELECT toUInt8(sum(counters['rows.resent']) > 0) FROM checkpoints WHERE pipeline = 'tep'", 1},
	} {
		if n := p.query(t, c.sql); n != c.want {
			t.Errorf("%s: want %d, got %d", c.what, c.want, n)
		}
	}
	for _, file := range []string{rekey, byAsset} {
		if said, code := ended(t, "reconcile", "--user", "default", file); code != 0 {
			t.Errorf("reconcile: exit code %d\n%s%s", code, said.out.String(), said.err.String())
		}
	}
}

// killedAt runs a pipeline that is killed at a step of the protocol.
func killedAt(t *testing.T, step, file string) {
	t.Helper()
	run, err := start([]string{failpoint.Env + "=" + step}, "run", file)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(run.end)
	select {
	case <-run.done:
	case <-time.After(30 * time.Second):
		t.Fatalf("%s: it was not reached within 30 s\n%s", step, run.err.String())
	}
	if code := run.code(); code != -1 { // by a signal
		t.Fatalf("%s: want it killed there, got exit code %d\n%s", step, code, run.err.String())
	}
}

// replaceIn replaces texts of a file, old and new in turn, each of which must be there.
func replaceIn(t *testing.T, file string, texts ...string) {
	t.Helper()
	content, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	text := string(content)
	for i := 0; i < len(texts); i += 2 {
		if !strings.Contains(text, texts[i]) {
			t.Fatalf("%s: want %q in it", file, texts[i])
		}
		text = strings.ReplaceAll(text, texts[i], texts[i+1])
	}
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}
