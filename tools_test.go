package main

import (
	"strings"
	"testing"
)

// Scenario: what keeps the commands that look back from starting, each on its own: servers that are away, a topic or tables that are
// not there, flags that say nothing or nonsense.
// Guarantees: exit code 2 at once, and one message that names what is wrong.
func TestToolFaults(t *testing.T) {
	at := embeddedServers(t)
	fresh := newPlant(t, at)
	fresh.makeTopic(t, 1, nil)
	missing := newPlant(t, at)
	noKafka := newPlant(t, at, "kafka: {brokers: [127.0.0.1:9092]}", "kafka: {brokers: [127.0.0.1:1]}", "brokers: [127.0.0.1:9092]", "brokers: [127.0.0.1:1]")
	noClickHouse := newPlant(t, at, "127.0.0.1:9000", "127.0.0.1:1")
	noClickHouse.makeTopic(t, 1, nil)
	for _, c := range []struct {
		name  string
		args  []string
		words []string
	}{
		{"no letters yet", []string{"dlq", "list", fresh.file}, []string{"pipeline.dlq.v1"}},
		{"no broker for letters", []string{"dlq", "list", noKafka.file}, []string{"127.0.0.1:1"}},
		{"no broker to send back to", []string{"dlq", "replay", noKafka.file}, []string{"127.0.0.1:1"}},
		{"a partition of words", []string{"dlq", "list", "--partition", "first", fresh.file}, []string{"--partition", "first"}},
		{"a negative limit", []string{"dlq", "list", "--limit", "-1", fresh.file}, []string{"--limit"}},
		{"no time", []string{"dlq", "replay", "--since", "yesterday", fresh.file}, []string{"--since", "yesterday"}},
		{"dlq of nothing", []string{"dlq", "list"}, []string{"dlq list FILE"}},
		{"no broker to compare with", []string{"plan", "--diff", noKafka.file}, []string{"127.0.0.1:1"}},
		{"no topic to compare with", []string{"plan", "--diff", missing.file}, []string{missing.name}},
		{"no ClickHouse to reconcile", []string{"reconcile", noClickHouse.file}, []string{"127.0.0.1:1"}},
		{"no database to reconcile", []string{"reconcile", "--user", "default", fresh.file}, []string{fresh.name}},
		{"a wrong time to reconcile", []string{"reconcile", "--since", "-5m", fresh.file}, []string{"--since"}},
		{"a range without once", []string{"run", "--from", "1h", fresh.file}, []string{"--from", "--once"}},
		{"tables nowhere", []string{"run", "--once", "--into", "elsewhere", fresh.file}, []string{"--into", "elsewhere"}},
		{"a range that ends before it begins", []string{"run", "--once", "--from", "1h", "--to", "2h", fresh.file}, []string{"--to"}},
		{"a topic that is not there", []string{"run", "--once", missing.file}, []string{missing.name}},
	} {
		t.Run(c.name, func(t *testing.T) {
			p, code := ended(t, c.args...)
			said := p.out.String() + p.err.String()
			if code != 2 {
				t.Errorf("exit code %d, want 2\n%s", code, said)
			}
			for _, word := range c.words {
				if !strings.Contains(said, word) {
					t.Errorf("want a message with %q, got\n%s", word, said)
				}
			}
			if strings.Contains(said, "goroutine ") {
				t.Errorf("a stack trace:\n%s", said)
			}
		})
	}
}
