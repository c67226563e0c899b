package main

import (
	"strings"
	"testing"
	"time"

	"github.com/tailrace/tailrace/connectors/kafka"
)

// Scenario: three messages that can't be decoded, one of them too large to be kept whole, are listed with filters; they are sent
// back, first in pretence; the pipeline reads them again.
// Guarantees: the list has the bytes, the place and the reason of each; a dry run sends nothing; the two that are whole go back,
// byte for byte, and the third is named, with exit code 1; filters hold for both commands.
func TestDeadLetterCommands(t *testing.T) {
	p := newPlant(t, embeddedServers(t), "    format:\n",
		"      until: end\n      max_decode_bytes: 4KiB\n      dead_letter_max_value: 4KiB\n    format:\n")
	p.makeTopic(t, 1, map[string]string{"max.message.bytes": "1048576"})
	p.send(t, "press", "{", strings.Repeat("x", 100<<10), `{"asset": 1}`)
	run := func() {
		t.Helper()
		if run, code := ended(t, "run", p.file); code != 0 {
			t.Fatalf("run: exit code %d\n%s", code, run.err.String())
		}
	}
	run()
	type letters struct {
		Count   int
		Letters []struct {
			Code, Reason, Stage, Key, Value string
			SrcOffset                       int64 `json:"src_offset"`
			Truncated                       bool
			Length                          int64 `json:"src_length"`
		}
	}
	var all, one, none letters
	object(t, &all, "dlq", "list", p.file)
	if all.Count != 3 || len(all.Letters) != 3 || all.Letters[0].Value != "{" || all.Letters[0].Code != "invalid_json" || all.Letters[0].Key != "press" ||
		all.Letters[0].SrcOffset != 0 || all.Letters[0].Reason == "" || all.Letters[0].Stage != "decode" || !all.Letters[1].Truncated ||
		all.Letters[1].Length != 100<<10 || all.Letters[2].SrcOffset != 2 {
		t.Errorf("got %+v", all)
	}
	object(t, &one, "dlq", "list", "--code", "too_large", "--partition", "0", "--since", "1h", p.file)
	object(t, &none, "dlq", "list", "--until", "1h", p.file)
	if one.Count != 1 || one.Letters[0].SrcOffset != 1 || none.Count != 0 {
		t.Errorf("got %+v and %+v", one, none)
	}
	table, code := ended(t, "dlq", "list", p.file)
	if said := table.out.String(); code != 0 || !strings.Contains(said, "too_large") || !strings.Contains(said, "3 letters") {
		t.Errorf("exit code %d\n%s", code, said)
	}

	end := func() int64 {
		n, err := kafka.CountMessages(t.Context(), p.Kafka, p.name)
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	pretended, code := ended(t, "dlq", "replay", "--dry-run", p.file)
	if said := pretended.out.String(); code != 1 || !strings.Contains(said, "2 would be sent") || end() != 3 {
		t.Errorf("dry run: exit code %d, %d messages\n%s", code, end(), said)
	}
	sent, code := ended(t, "dlq", "replay", p.file)
	if said := sent.out.String(); code != 1 || !strings.Contains(said, "2 sent to topic") || !strings.Contains(said, "102400 bytes") || end() != 5 {
		t.Errorf("exit code %d, %d messages\n%s%s", code, end(), said, sent.err.String())
	}
	before := time.Now()
	run()
	var back letters
	object(t, &back, "dlq", "list", "--since", before.UTC().Format(time.RFC3339Nano), p.file)
	if back.Count != 2 || back.Letters[0].Value != "{" || back.Letters[0].SrcOffset != 3 || back.Letters[1].Value != `{"asset": 1}` ||
		back.Letters[1].SrcOffset != 4 {
		t.Errorf("got %+v", back)
	}
	var sound account
	object(t, &sound, "reconcile", "--user", "default", p.file)
	if sound.Total.Messages != 5 || sound.Total.DeadLetters != 5 {
		t.Errorf("got %+v", sound)
	}
}
