package spec

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"regexp"
	"slices"
	"testing"

	"github.com/goccy/go-yaml"
)

// Scenario: the schema of the test's components, and files that Parse takes and refuses.
// Guarantees: the schema is the same each time, it takes what Parse takes, and it refuses unknown keys, wrong types, two kinds in
// one step, missing keys and other versions, as an editor would.
func TestSchema(t *testing.T) {
	text, err := Schema(testComponents(), testSections())
	if err != nil {
		t.Fatal(err)
	}
	again, err := Schema(testComponents(), testSections())
	if err != nil || !bytes.Equal(text, again) {
		t.Fatal("two schemas of one set of components differ", err)
	}
	var schema map[string]any
	if err := json.Unmarshal(text, &schema); err != nil {
		t.Fatal(err)
	}
	if schema["$schema"] != "https://json-schema.org/draft/2020-12/schema" {
		t.Errorf("got $schema %v", schema["$schema"])
	}
	good, err := os.ReadFile("testdata/good.yaml")
	if err != nil {
		t.Fatal(err)
	}
	// A key without a value is Parse's own; everything else of the good file is the schema's too.
	good = bytes.ReplaceAll(good, []byte("clickhouse:\n"), []byte("clickhouse: {}\n"))
	good = bytes.ReplaceAll(good, []byte("- detect:\nsinks"), []byte("- detect: {}\nsinks"))
	good = bytes.ReplaceAll(good, []byte("1e3"), []byte("1000")) // a text to this test's reader, of YAML 1.1
	if err := conforms(schema, document(t, good)); err != nil {
		t.Errorf("good file: %v", err)
	}
	for _, edit := range []struct{ old, new string }{
		{"version: 1", "version: 2"},
		{"version: 1", "versio: 1"},
		{"grid: 3m", "gird: 3m"},
		{"grid: 3m", "grid: 3"},
		{"grid: 3m", "grid: soon"},
		{"count: 65535", "count: many"},
		{"on: true", "on: 1"},
		{"kafka: {address: north}", "s3: {}"},
		{"- name: fast", "- name: fast\n    align: {grid: 3m}"},
		{"north-1", "North 1"},
		{"format: {json", "format: {avro"},
		{"topic: \"5\"", ""},
	} {
		faulty := bytes.Replace(good, []byte(edit.old), []byte(edit.new), 1)
		if bytes.Equal(faulty, good) {
			t.Fatalf("%q is not in the good file", edit.old)
		}
		if conforms(schema, document(t, faulty)) == nil {
			t.Errorf("%q for %q: the schema takes it", edit.new, edit.old)
		}
		if _, err := parseTest("f", faulty); err == nil {
			t.Errorf("%q for %q: Parse takes it", edit.new, edit.old)
		}
	}
}

// document reads YAML as the JSON that an editor sees.
func document(t *testing.T, text []byte) any {
	t.Helper()
	var out any
	converted, err := yaml.YAMLToJSON(text)
	if err == nil {
		err = json.Unmarshal(converted, &out)
	}
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// conforms judges a document by the words of JSON Schema that our schema uses, and refuses a schema with others.
func conforms(schema, doc any) error {
	if allowed, ok := schema.(bool); ok {
		if !allowed {
			return fmt.Errorf("nothing is allowed here")
		}
		return nil
	}
	s := schema.(map[string]any)
	object, _ := doc.(map[string]any)
	for _, word := range slices.Sorted(maps.Keys(s)) {
		if err := conformsTo(word, s, doc, object); err != nil {
			return err
		}
	}
	return nil
}

func conformsTo(word string, s map[string]any, doc any, object map[string]any) error {
	fault := func() error { return fmt.Errorf("%s %v: got %v", word, s[word], doc) }
	switch value := s[word]; word {
	case "$schema", "title", "description", "default", "examples":
	case "type":
		ok := false
		switch doc := doc.(type) {
		case map[string]any:
			ok = value == "object"
		case []any:
			ok = value == "array"
		case string:
			ok = value == "string"
		case bool:
			ok = value == "boolean"
		case float64:
			ok = value == "number" || value == "integer" && doc == float64(int64(doc))
		}
		if !ok {
			return fault()
		}
	case "const":
		if value != doc {
			return fault()
		}
	case "enum":
		if !slices.Contains(value.([]any), doc) {
			return fault()
		}
	case "pattern":
		if text, ok := doc.(string); ok && !regexp.MustCompile(value.(string)).MatchString(text) {
			return fault()
		}
	case "required":
		for _, key := range value.([]any) {
			if _, ok := object[key.(string)]; !ok && object != nil {
				return fault()
			}
		}
	case "minProperties", "maxProperties":
		if n := float64(len(object)); object != nil && (word[1] == 'i' && n < value.(float64) || word[1] == 'a' && n > value.(float64)) {
			return fault()
		}
	case "minItems":
		if list, ok := doc.([]any); ok && float64(len(list)) < value.(float64) {
			return fault()
		}
	case "items":
		list, _ := doc.([]any)
		for _, item := range list {
			if err := conforms(value, item); err != nil {
				return err
			}
		}
	case "properties":
		for key, of := range value.(map[string]any) {
			if item, ok := object[key]; ok {
				if err := conforms(of, item); err != nil {
					return fmt.Errorf("%s: %w", key, err)
				}
			}
		}
	case "additionalProperties":
		known, _ := s["properties"].(map[string]any)
		for key, item := range object {
			if _, ok := known[key]; !ok {
				if err := conforms(value, item); err != nil {
					return fmt.Errorf("%s: %w", key, err)
				}
			}
		}
	case "allOf", "anyOf", "oneOf":
		options := value.([]any)
		matched := 0
		for _, option := range options {
			if conforms(option, doc) == nil {
				matched++
			}
		}
		if word == "allOf" && matched < len(options) || word == "anyOf" && matched == 0 || word == "oneOf" && matched != 1 {
			return fmt.Errorf("%s: %d of %d match %v", word, matched, len(options), doc)
		}
	default:
		return fmt.Errorf("the test does not know the word %s", word)
	}
	return nil
}
