package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/tailrace/tailrace/connectors/kafka"
	"github.com/twmb/franz-go/pkg/kgo"
)

// object runs a command with --json and reads the one object that it prints.
func object(t *testing.T, to any, args ...string) {
	t.Helper()
	p, code := ended(t, append(args, "--json")...)
	if code != 0 {
		t.Fatalf("%v: exit code %d\n%s", args, code, p.err.String())
	}
	if err := json.Unmarshal([]byte(p.out.String()), to); err != nil {
		t.Fatalf("%v: not one JSON object: %v\n%s", args, err, p.out.String())
	}
}

// Scenario: schema show on a server that has nothing, apply, show, apply.
// Guarantees: everything is pending, then applied once, in order, and a second apply does nothing.
func TestSchemaCommands(t *testing.T) {
	p := newPlant(t, embeddedServers(t))
	type migrations struct {
		Migrations []struct {
			Version   int
			Name      string
			AppliedAt string `json:"applied_at"`
		}
	}
	var before, applied, after, again migrations
	object(t, &before, "schema", "show", p.file)
	object(t, &applied, "schema", "apply", p.file)
	object(t, &after, "schema", "show", p.file)
	object(t, &again, "schema", "apply", p.file)
	if len(before.Migrations) == 0 || len(applied.Migrations) != len(before.Migrations) || len(after.Migrations) != len(before.Migrations) || len(again.Migrations) != 0 {
		t.Fatalf("shown %d, applied %d, shown %d, applied again %d", len(before.Migrations), len(applied.Migrations), len(after.Migrations), len(again.Migrations))
	}
	for i, m := range after.Migrations {
		if m.Version != i+1 || m.AppliedAt == "" || before.Migrations[i].AppliedAt != "" {
			t.Errorf("migration %d: before %+v, after %+v", i+1, before.Migrations[i], m)
		}
	}
	if n := p.query(t, "SELECT count() FROM telemetry"); n != 0 {
		t.Errorf("%d rows in a new table", n)
	}
	shown, code := ended(t, "schema", "show", "--sql", p.file)
	if code != 0 || !strings.Contains(shown.out.String(), "ENGINE = MergeTree") {
		t.Errorf("show --sql: exit code %d\n%s", code, shown.out.String())
	}
}

// Scenario: version, and version --verify, on a machine whose tests have fetched the libraries.
// Guarantees: both libraries are listed with version, licence and place, and their hashes hold.
func TestVersion(t *testing.T) {
	embeddedServers(t)
	var v struct {
		Tailrace  string
		Libraries []struct {
			Name, Version, Licence, Path string
			Verified                     *bool
		}
	}
	object(t, &v, "version", "--verify")
	want := map[string]string{"onnxruntime": "1.29.0", "libchdb": "26.7.3"}
	for _, l := range v.Libraries {
		if want[l.Name] != l.Version || l.Licence == "" {
			t.Errorf("library %+v, want version %s", l, want[l.Name])
		}
		if l.Name == "libchdb" && (l.Verified == nil || !*l.Verified) {
			t.Errorf("libchdb is there and its hash is not verified: %+v", l)
		}
	}
	if len(v.Libraries) != len(want) || v.Tailrace == "" {
		t.Errorf("%+v", v)
	}
}

// Scenario: a CSV of three rows with two tags, one cell empty, replayed to a topic that does not exist yet.
// Guarantees: the topic is made, five messages are sent, and the JSON says so.
func TestReplayCSV(t *testing.T) {
	at := embeddedServers(t)
	csv := filepath.Join(t.TempDir(), "press.csv")
	text := "ts;force;temp;label\n2026-01-05 00:00:00;1.5;20;0\n2026-01-05 00:00:01;2.5;;0\n2026-01-05 00:00:02;3.5;22;1\n"
	if err := os.WriteFile(csv, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	var r struct {
		Sent        int64
		First, Last string
	}
	object(t, &r, "replay", "--brokers", at.Kafka[0], "--topic", "testreplaycsv", "--partitions", "3", "--separator", ";",
		"--time-column", "ts", "--time", "2006-01-02 15:04:05", "--ignore", "label", csv)
	if r.Sent != 5 || r.First != "2026-01-05T00:00:00Z" || r.Last != "2026-01-05T00:00:02Z" {
		t.Errorf("got %+v", r)
	}
	n, err := kafka.CountMessages(t.Context(), at.Kafka, "testreplaycsv")
	if err != nil || n != 5 {
		t.Errorf("%d messages in the topic, %v, want 5", n, err)
	}
}

// Scenario: a gateway whose clock is an hour ahead, a controller without a clock, and an asset whose messages come on two
// partitions, among one that is right.
// Guarantees: status names the three, and what is wrong with each, and not the fourth.
func TestStatusFindings(t *testing.T) {
	p := newPlant(t, embeddedServers(t))
	p.makeTopic(t, 2, nil)
	client, err := kgo.NewClient(kgo.SeedBrokers(p.Kafka...), kgo.DefaultProduceTopic(p.name), kgo.RecordPartitioner(kgo.ManualPartitioner()))
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	now := time.Now().Truncate(time.Second)
	for _, m := range []struct {
		partition int32
		asset     string
		at        time.Time
	}{{0, "ahead", now.Add(time.Hour)}, {0, "unset", time.Unix(0, 0)}, {0, "split", now}, {1, "split", now}, {1, "sound", now}} {
		value := fmt.Sprintf(`{"ts":%d,"asset":%q,"tag":"xmeas_01","value":1,"q":192}`, m.at.UnixNano(), m.asset)
		if err := client.ProduceSync(t.Context(), &kgo.Record{Partition: m.partition, Value: []byte(value), Timestamp: now}).FirstErr(); err != nil {
			t.Fatal(err)
		}
	}
	launch(t, "run", p.file)
	eventually(t, "every message stored", time.Minute, func() bool { return p.committed(t) == 5 })
	asked, code := ended(t, "status", "--address", p.http)
	said := asked.out.String()
	for _, words := range []string{
		`finding: device "ahead" on partition 0: its clock is 1h0m0s ahead`, `finding: device "unset" on partition 0: its clock is not set`,
		`finding: asset "split" comes on partitions [0 1]`,
	} {
		if !strings.Contains(said, words) {
			t.Errorf("exit code %d, want %q, got\n%s%s", code, words, said, asked.err.String())
		}
	}
	if n := strings.Count(said, "finding: "); n != 3 {
		t.Errorf("want 3 findings, got %d:\n%s", n, said)
	}
}
