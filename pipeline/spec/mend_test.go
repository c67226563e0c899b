package spec

import "testing"

// Scenario: addresses in flow sequences inside flow mappings, beside texts and mappings that only look like them.
// Guarantees: a colon without a space behind it belongs to the text, one with a space makes a mapping.
func TestColonsInFlowSequences(t *testing.T) {
	for text, want := range map[string]string{
		`a: {b: [127.0.0.1:9092]}`:                "127.0.0.1:9092",
		`a: {b: [127.0.0.1:9092, other:1], c: d}`: "127.0.0.1:9092",
		`a: {b: [host:9092:x]}`:                   "host:9092:x",
		"a: {b: [\n  127.0.0.1:9092]}":            "127.0.0.1:9092",
		`a: {b: ["127.0.0.1:9092"]}`:              "127.0.0.1:9092",
		"a:\n  b: [127.0.0.1:9092] # a comment":   "127.0.0.1:9092",
	} {
		var faults faultList
		root := parseTree("f.yaml", []byte(text), &faults)
		if root == nil || len(faults.faults) > 0 {
			t.Errorf("%s: %v", text, faults.faults)
			continue
		}
		first := root.entries[0].value.entries[0].value.items[0]
		if first.text != want {
			t.Errorf("%s: got %q, want %q", text, first.text, want)
		}
	}
	var faults faultList
	root := parseTree("f.yaml", []byte(`a: {b: [x: 1]}`), &faults)
	if got := root.entries[0].value.entries[0].value.items[0]; len(got.entries) != 1 {
		t.Errorf("x: 1 with a space: got %s, want a mapping", got.describe())
	}
}
