package main

import (
	"strings"
	"testing"

	"github.com/tailrace/tailrace/connectors/clickhouse"
	"github.com/twmb/franz-go/pkg/kgo"
)

// account is what reconcile says, as far as the tests look at it.
type account struct {
	OK     bool
	Faults []string
	Total  struct {
		Messages, Stored, Dropped, Unaccounted, Rows int64
		DeadLetters                                  int64 `json:"dead_letters"`
		Doubled                                      int64 `json:"doubled_rows"`
		Missing                                      int64 `json:"missing_rows"`
		Reasons                                      map[string]int64
	}
	Hours      []struct{ Partition, From, To, Messages int64 }
	Partitions []struct {
		Partition, End, Settled, Committed, Predictions int64
		ToRead                                          int64 `json:"to_read"`
	}
}

// exec runs a statement as the user that may write.
func (p *plant) exec(t *testing.T, sql string) {
	t.Helper()
	c := clickhouse.DefaultConfig()
	c.Address, c.Database, c.PasswordFile = p.Native, p.name, p.PasswordFile
	db, err := clickhouse.Connect(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if err := db.Exec(t.Context(), sql); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
}

// send sends texts to the plant's topic, with one key.
func (p *plant) send(t *testing.T, key string, texts ...string) {
	t.Helper()
	client, err := kgo.NewClient(kgo.SeedBrokers(p.Kafka...), kgo.DefaultProduceTopic(p.name))
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	for _, text := range texts {
		if err := client.ProduceSync(t.Context(), &kgo.Record{Key: []byte(key), Value: []byte(text)}).FirstErr(); err != nil {
			t.Fatal(err)
		}
	}
}

// Scenario: a run of the demo's data with messages that can't be decoded and one that comes twice; then a row is doubled, and then
// another is taken away, by hand.
// Guarantees: reconcile, as a user that may only SELECT, finds that everything adds up, then the doubled row and the absent one,
// each with exit code 1.
func TestReconcile(t *testing.T) {
	p := newPlant(t, embeddedServers(t), untilEnd...)
	p.makeTopic(t, 2, nil)
	p.replay(t, []string{"--start", "2026-01-05T00:00:00Z"}, "d00_te")
	p.send(t, "x", "{", "no", `{"asset": 1}`)
	if run, code := ended(t, "run", p.file); code != 0 {
		t.Fatalf("run: exit code %d\n%s", code, run.err.String())
	}
	var sound account
	object(t, &sound, "reconcile", "--user", "default", p.file)
	if !sound.OK || len(sound.Faults) != 0 || sound.Total.Messages != samples*tags+3 || sound.Total.Stored != samples*tags ||
		sound.Total.DeadLetters != 3 || sound.Total.Unaccounted != 0 || sound.Total.Doubled != 0 || len(sound.Partitions) != 2 {
		t.Errorf("want everything in its place, got %+v", sound)
	}
	for _, part := range sound.Partitions {
		if part.Settled != part.End || part.Committed != part.End || part.ToRead != 0 {
			t.Errorf("want a partition that is read to its end, got %+v", part)
		}
	}
	p.exec(t, "INSERT INTO telemetry SELECT * FROM telemetry ORDER BY k_part, k_offset LIMIT 1")
	doubled, code := ended(t, "reconcile", "--user", "default", p.file)
	if said := doubled.out.String(); code != 1 || !strings.Contains(said, "1 rows are doubled") || strings.Count(said, "fault:") != 1 {
		t.Errorf("exit code %d\n%s%s", code, said, doubled.err.String())
	}
	p.exec(t, "DELETE FROM telemetry WHERE (k_part, k_offset) = (SELECT k_part, k_offset FROM telemetry ORDER BY k_part, k_offset LIMIT 1)")
	absent, code := ended(t, "reconcile", "--user", "default", p.file)
	if said := absent.out.String(); code != 1 || !strings.Contains(said, "1 messages are neither stored nor counted") ||
		!strings.Contains(said, "1 rows that were stored are not there") || strings.Count(said, "fault:") != 2 {
		t.Errorf("exit code %d\n%s%s", code, said, absent.err.String())
	}
}
