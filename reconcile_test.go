package main

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/tailrace/tailrace/connectors/clickhouse"
	"github.com/tailrace/tailrace/pipeline/failpoint"
	"github.com/twmb/franz-go/pkg/kgo"
)

// account is what reconcile says, as far as the tests look at it.
type account struct {
	OK     bool
	Faults []string
	Total  struct {
		Messages, Stored, Dropped, Expired, Unaccounted, Rows int64
		DeadLetters                                           int64 `json:"dead_letters"`
		Doubled                                               int64 `json:"doubled_rows"`
		Missing                                               int64 `json:"missing_rows"`
		Reasons                                               map[string]int64
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

// Scenario: a run of the demo's data with messages that can't be decoded; then, by hand, a row is doubled, another is taken away,
// and lines come into the ledger that leave offsets out and have others twice; at last the table's TTL takes all rows.
// Guarantees: reconcile, as a user that may only SELECT, finds that everything adds up, then each fault with exit code 1; rows that
// TTL took are no fault.
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
	faults := func(what string, want ...string) {
		t.Helper()
		asked, code := ended(t, "reconcile", "--user", "default", p.file)
		said := asked.out.String()
		if code != 1 || strings.Count(said, "fault:") != len(want) {
			t.Errorf("%s: exit code %d, want 1 and %d faults\n%s%s", what, code, len(want), said, asked.err.String())
		}
		for _, words := range want {
			if !strings.Contains(said, words) {
				t.Errorf("%s: want a fault with %q, got\n%s", what, words, said)
			}
		}
	}
	const lost, gone = "1 messages are neither stored nor counted", "1 rows that were stored are not there"
	p.exec(t, "INSERT INTO telemetry SELECT * FROM telemetry ORDER BY k_part, k_offset LIMIT 1")
	faults("a row twice", "1 rows are doubled")
	p.exec(t, "DELETE FROM telemetry WHERE (k_part, k_offset) = (SELECT k_part, k_offset FROM telemetry ORDER BY k_part, k_offset LIMIT 1)")
	faults("a row gone", lost, gone)
	p.exec(t, "DELETE FROM predictions WHERE ts = (SELECT max(ts) FROM predictions)")
	faults("a prediction gone", lost, gone, "the ledger has 960 rows of predictions, and the table 959")

	line := "INSERT INTO checkpoints (pipeline, run, seq, topic, topic_id, partition, `from`, `to`, messages) SELECT pipeline, 1, 1, topic, topic_id, partition, "
	p.exec(t, line+"`to` - 1, `to`, 1 FROM checkpoints ORDER BY messages DESC, seq DESC LIMIT 1")
	faults("an offset twice", lost, gone, "960 rows", "1 offsets are in more than one checkpoint")
	p.exec(t, line+"`to` + 5, `to` + 7, 0 FROM checkpoints ORDER BY `to` DESC LIMIT 1")
	faults("offsets in no line", lost, gone, "960 rows", "1 offsets are in more", "5 offsets before them are in no checkpoint",
		"the ledger ends at offset 49927 and the topic at 49920")

	p.exec(t, "DELETE FROM checkpoints WHERE run = 1")
	p.exec(t, "ALTER TABLE telemetry MODIFY TTL ts_ingest + INTERVAL 1 SECOND")
	p.exec(t, "OPTIMIZE TABLE telemetry FINAL")
	faults("expired", "960 rows")
	var old account
	if asked, code := ended(t, "reconcile", "--json", "--user", "default", p.file); code != 1 || json.Unmarshal([]byte(asked.out.String()), &old) != nil ||
		old.Total.Stored != 0 || old.Total.Expired != samples*tags || old.Total.Messages != sound.Total.Messages {
		t.Errorf("exit code %d, got %+v", code, old)
	}
}

// Scenario: messages that are late, come twice or can't be decoded, among others; the program is killed by itself after it has sent a
// checkpoint, and again in the recovery, after the ledger's line is written.
// Guarantees: reconcile finds everything, once, with each message that has no row counted under its reason, as by hand.
func TestReconcileAfterKills(t *testing.T) { reconcileAfterKills(t, embeddedServers(t)) }

func reconcileAfterKills(t *testing.T, at addresses) {
	p := newPlant(t, at, append(untilEnd, "watermark: {step: 3m}", "watermark: {step: 3m, out_of_order: 6m, allowed_lateness: 30m}")...)
	p.makeTopic(t, 2, nil)
	first := time.Date(2026, 1, 5, 0, 0, 0, 0, time.UTC)
	message := func(tag string, sample int) string {
		return fmt.Sprintf(`{"ts":%d,"asset":"press","tag":%q,"value":1,"q":192}`, first.Add(time.Duration(sample)*3*time.Minute).UnixNano(), tag)
	}
	var texts []string
	for sample := range 100 {
		texts = append(texts, message("xmeas_01", sample))
	}
	// The watermark is two samples and a bit behind the 100th: the 95th of another tag is late. Two messages come again.
	texts = append(texts, message("xmeas_02", 95), message("xmeas_01", 99), message("xmeas_01", 98), "{", "no")
	p.send(t, "press", texts...)
	for _, step := range []string{"sent", "recover-ledger"} {
		run, err := start([]string{failpoint.Env + "=" + step}, "run", p.file)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(run.end)
		if code := run.within(t, time.Minute); code != -1 {
			t.Fatalf("%s: want it killed there, got exit code %d\n%s", step, code, run.err.String())
		}
	}
	if run, code := ended(t, "run", p.file); code != 0 {
		t.Fatalf("run: exit code %d\n%s", code, run.err.String())
	}
	var sound account
	object(t, &sound, "reconcile", "--user", "default", p.file)
	total := sound.Total
	if !sound.OK || total.Messages != 105 || total.Stored != 101 || total.Dropped != 2 || total.DeadLetters != 2 || total.Doubled != 0 {
		t.Errorf("want 101 + 2 + 2 = 105, got %+v", sound)
	}
	for reason, want := range map[string]int64{"rows.late": 1, "rows.duplicate": 2, "dead.invalid_json": 2} {
		if total.Reasons[reason] != want {
			t.Errorf("%s: got %d, want %d", reason, total.Reasons[reason], want)
		}
	}
}
