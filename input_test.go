package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strconv"
	"testing"
	"time"

	"github.com/tailrace/tailrace/schemas"
	"github.com/twmb/franz-go/pkg/kgo"
)

// Scenario: what plants send when something is wrong, among messages that are right: broken JSON, a wrong type, null, NaN,
// a time in 1970, an unknown tag, and a message of 20 MB on a topic that takes it. It comes before the messages that
// make windows close.
// Guarantees: what can't be decoded is a dead letter with its bytes, its headers, its place and the reason, the 20 MB in
// short form; everything else is in telemetry, null and flagged as it should be; the time in 1970 moves no watermark, the
// unknown tag is counted, and the stream goes on to a score.
func TestBadInput(t *testing.T) { badInput(t, embeddedServers(t)) }

func badInput(t *testing.T, at addresses) {
	p := newPlant(t, at)
	p.makeTopic(t, 1, map[string]string{"max.message.bytes": "33554432"})
	client, err := kgo.NewClient(kgo.SeedBrokers(p.Kafka...), kgo.DefaultProduceTopic(p.name), kgo.ProducerBatchMaxBytes(32<<20),
		kgo.MaxBufferedBytes(128<<20), kgo.ConsumeTopics(p.name+"."+schemas.TopicDeadLetters), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()),
		kgo.ProducerBatchCompression(kgo.NoCompression()))
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	start := time.Now().Add(-time.Hour).Truncate(3 * time.Minute).UnixNano()
	message := func(ts int64, tag, value string) string {
		return fmt.Sprintf(`{"ts":%d,"asset":"a","tag":%q,"value":%s,"q":192}`, ts, tag, value)
	}
	large := bytes.Repeat([]byte("x"), 20<<20)
	first := []string{
		message(start, "xmeas_01", "0.25"),
		`{"ts":` + strconv.FormatInt(start, 10) + `,"asset":"a","tag":`,
		message(start, "xmeas_02", `"fast"`),
		message(start, "xmeas_03", "null"),
		message(start, "xmeas_04", "NaN"),
		message(86_400_000_000_000, "xmeas_05", "1"),
		message(start, "vibration", "3.5"),
		string(large),
	}
	for i, value := range first {
		record := &kgo.Record{Key: []byte("a"), Value: []byte(value), Headers: []kgo.RecordHeader{{Key: "line", Value: []byte(strconv.Itoa(i))}}}
		if err := client.ProduceSync(t.Context(), record).FirstErr(); err != nil {
			t.Fatal(err)
		}
	}
	// Two whole samples: the first window closes when the second comes.
	for sample := range 2 {
		for tag := range tags {
			name := fmt.Sprintf("xmeas_%02d", tag+1)
			if tag >= 41 {
				name = fmt.Sprintf("xmv_%02d", tag-40)
			}
			at := start + int64(sample+1)*int64(3*time.Minute)
			if err := client.ProduceSync(t.Context(), &kgo.Record{Key: []byte("a"), Value: []byte(message(at, name, "1"))}).FirstErr(); err != nil {
				t.Fatal(err)
			}
		}
	}
	launch(t, "run", p.file)
	const rows, dead = 5 + 2*tags, 3
	eventually(t, "every message stored or refused", time.Minute, func() bool {
		ready, _ := p.answers("/readyz")
		return ready == 200 && p.committed(t) == rows+dead
	})
	for sql, want := range map[string]int64{
		"SELECT count() FROM telemetry": rows,
		"SELECT count() FROM telemetry WHERE tag = 'xmeas_03' AND value IS NULL AND flags = 0":          1,
		"SELECT count() FROM telemetry WHERE tag = 'xmeas_04' AND value IS NULL AND flags = 8192":       1,
		"SELECT count() FROM telemetry WHERE tag = 'xmeas_05' AND bitAnd(flags, 512) > 0 AND value = 1": 1,
		"SELECT count() FROM telemetry WHERE tag = 'vibration' AND value = 3.5 AND flags = 0":           1,
		"SELECT count() FROM telemetry WHERE bitAnd(flags, 256) > 0":                                    0, // none is late
		"SELECT count() FROM predictions WHERE score IS NOT NULL":                                       1,
	} {
		if n := p.query(t, sql); n != want {
			t.Errorf("%s: got %d, want %d", sql, n, want)
		}
	}
	if _, metrics := p.answers("/metrics"); !bytes.Contains([]byte(metrics), []byte(`tailrace_dropped_rows_total{reason="unknown_tag",step="align"} 1`)) {
		t.Errorf("the unknown tag is not counted:\n%s", metrics)
	}

	// The dead letters, in the order of their messages.
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	var letters []*kgo.Record
	for len(letters) < dead {
		fetched := client.PollFetches(ctx)
		if err := fetched.Err(); err != nil {
			t.Fatal(err)
		}
		letters = append(letters, fetched.Records()...)
	}
	sum := sha256.Sum256(large)
	for i, want := range []struct {
		offset int
		value  []byte
		code   string
	}{{1, []byte(first[1]), schemas.DeadInvalidJSON}, {2, []byte(first[2]), schemas.DeadWrongType}, {7, large[:64<<10], schemas.DeadTooLarge}} {
		headers := map[string]string{}
		for _, h := range letters[i].Headers {
			headers[h.Key] = string(h.Value)
		}
		if !bytes.Equal(letters[i].Value, want.value) || string(letters[i].Key) != "a" {
			t.Errorf("dead letter %d: %d bytes %.60q, want %d bytes %.60q", i, len(letters[i].Value), letters[i].Value, len(want.value), want.value)
		}
		for key, value := range map[string]string{
			"line": strconv.Itoa(want.offset), schemas.HeaderErrorCode: want.code, schemas.HeaderSrcTopic: p.name,
			schemas.HeaderSrcPartition: "0", schemas.HeaderSrcOffset: strconv.Itoa(want.offset),
		} {
			if headers[key] != value {
				t.Errorf("dead letter %d: header %s: got %q, want %q", i, key, headers[key], value)
			}
		}
		if headers[schemas.HeaderError] == "" {
			t.Errorf("dead letter %d has no reason", i)
		}
		if want.offset == 7 && (headers[schemas.HeaderTruncated] != "true" || headers[schemas.HeaderSrcLength] != strconv.Itoa(len(large)) ||
			headers[schemas.HeaderSrcSHA256] != hex.EncodeToString(sum[:])) {
			t.Errorf("short form: headers %v", headers)
		}
	}
}
