package main

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/tailrace/tailrace/connectors/kafka"
	"github.com/tailrace/tailrace/schemas"
	"github.com/twmb/franz-go/pkg/kgo"
)

// Scenario: assets and tags with names made to break out of SQL, HTML, metrics, logs and terminals; one asset more than the
// format allows; a message of a million open brackets.
// Guarantees: names are stored as they came and nothing else happens; no output has a control character or a line of theirs;
// the asset too many and the brackets are dead letters.
func TestHostileNames(t *testing.T) {
	p := newPlant(t, embeddedServers(t), "json: {ts: ns}", "json: {ts: ns, max_assets: 2}")
	p.makeTopic(t, 1, nil)
	hostile := "a'\"`; DROP TABLE telemetry; --\n\x1b[31mlevel=ERROR\r\n<script>alert(1)</script>{}%s\\../../x"
	client, err := kgo.NewClient(kgo.SeedBrokers(p.Kafka...), kgo.DefaultProduceTopic(p.name))
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	start := time.Now().Add(-time.Hour).Truncate(time.Minute).UnixNano()
	var messages []string
	for _, m := range []struct{ asset, tag string }{{hostile, "xmeas_01"}, {"b", hostile}, {hostile + "2", "xmeas_01"}} {
		text, err := json.Marshal(map[string]any{"ts": start, "asset": m.asset, "tag": m.tag, "value": 1, "q": 192})
		if err != nil {
			t.Fatal(err)
		}
		messages = append(messages, string(text))
	}
	messages = append(messages, `{"x":`+strings.Repeat("[", 900_000))
	for _, m := range messages {
		if err := client.ProduceSync(t.Context(), &kgo.Record{Key: []byte(hostile), Value: []byte(m)}).FirstErr(); err != nil {
			t.Fatal(err)
		}
	}
	run := launch(t, "run", p.file)
	eventually(t, "every message stored or refused", time.Minute, func() bool {
		ready, _ := p.answers("/readyz")
		return ready == 200 && p.committed(t) == int64(len(messages))
	})
	quoted := strings.NewReplacer(`\`, `\\`, `'`, `\'`).Replace(hostile)
	for sql, want := range map[string]int64{
		"SELECT count() FROM telemetry":                                2,
		"SELECT count() FROM telemetry WHERE asset = '" + quoted + "'": 1,
		"SELECT count() FROM telemetry WHERE tag = '" + quoted + "'":   1,
	} {
		if n := p.query(t, sql); n != want {
			t.Errorf("%s: got %d, want %d", sql, n, want)
		}
	}
	if n, err := kafka.CountMessages(t.Context(), p.Kafka, p.name+"."+schemas.TopicDeadLetters); err != nil || n != 2 {
		t.Errorf("want 2 dead letters, got %d, %v", n, err)
	}
	_, metrics := p.answers("/metrics")
	for _, reason := range []string{schemas.DeadCardinality, schemas.DeadInvalidJSON} {
		if want := fmt.Sprintf("tailrace_dead_letters_total{reason=%q} 1\n", reason); !strings.Contains(metrics, want) {
			t.Errorf("want %s in\n%s", want, metrics)
		}
	}
	asked, _ := ended(t, "status", "--address", p.http)
	_, status := p.answers("/status")
	for where, text := range map[string]string{"metrics": metrics, "status": asked.out.String(), "/status": status, "log": run.err.String()} {
		if strings.ContainsAny(text, "\x1b\r") || strings.Contains(text, "<script>") && where == "/status" {
			t.Errorf("%s shows a name as it came: %q", where, text)
		}
		for line := range strings.Lines(text) {
			if strings.HasPrefix(line, "\x1b") || strings.HasPrefix(line, "<script>") || strings.HasPrefix(line, "level=ERROR") {
				t.Errorf("%s: a name made a line of its own: %q", where, line)
			}
		}
	}
}
