package window

import (
	"math"
	"strings"
	"testing"

	"github.com/tailrace/tailrace/schemas"
)

var languageTags = []schemas.Channel{{Tag: "speed"}, {Tag: "line.state"}, {Tag: "tag"}, {Tag: "double"}, {Tag: "in"}, {Tag: "_x1"}}

// Scenario: Conditions over a row with speed 12, line.state 1, tag 5, double 6, in missing and _x1 -2. Guarantees: Each
// holds or not as arithmetic has it; whole numbers stand for doubles; what needs a missing value, or divides by nothing
// there is, does not hold.
func TestConditions(t *testing.T) {
	l, err := newLanguage(languageTags)
	if err != nil {
		t.Fatal(err)
	}
	row := []float64{12, 1, 5, 6, math.NaN(), -2}
	for text, want := range map[string]bool{
		"speed > 10":                        true,
		"speed > 10.5 && speed <= 12":       true,
		"speed == 12":                       true,
		"speed + 1 == 13":                   true,
		"speed / 0 > 1":                     true, // +Inf
		"1 < 2":                             true,
		"int(speed) % 5 == 2":               true,
		`tag["line.state"] == 1`:            true,
		`tag["line.state"] == 1 && _x1 < 0`: true,
		`tag["tag"] == 5`:                   true, // the plain name is the map
		`tag["double"] == 6`:                true, // the plain name is a type
		`tag["in"] > 0`:                     false,
		`!(tag["in"] > 0)`:                  false,
		`speed > 10 || tag["in"] > 0`:       true,
		`"in" in tag`:                       false,
		`"speed" in tag`:                    true,
		`has(tag.speed) && tag.speed > 11`:  true,
		`size(tag) == 5`:                    true,
		`tag.exists(k, k.startsWith("line") && tag[k] == 1)`: true,
		`tag.all(k, tag[k] > 0)`:                             false,
		"speed > 10 ? _x1 == -2 : false":                     true,
	} {
		e, err := l.compile(text, defaultMaxCost)
		if err != nil {
			t.Errorf("%s: %v", text, err)
			continue
		}
		for range 2 {
			if got := l.holds(e, row); got != want {
				t.Errorf("%s: want %v, got %v", text, want, got)
			}
		}
		if l.holds(e, []float64{math.NaN(), math.NaN(), math.NaN(), math.NaN(), math.NaN(), math.NaN()}) && strings.Contains(text, "speed >") {
			t.Errorf("%s: want false of a row without values", text)
		}
	}
}

// Scenario: Conditions that are none: a value, an unknown tag, another type, too costly, too deep, too long, broken.
// Guarantees: Each is refused before data, with what is wrong.
func TestConditionFaults(t *testing.T) {
	l, err := newLanguage(languageTags)
	if err != nil {
		t.Fatal(err)
	}
	for text, want := range map[string]string{
		"speed":               "want a condition",
		"pressure > 1":        "undeclared reference to 'pressure'",
		`tag["pressure"] > 1`: `tag["pressure"]: want a tag of align's channels`,
		`speed > "a"`:         "no matching overload",
		"in > 1":              "Syntax error",
		"speed >":             "Syntax error",
		"tag.all(a, tag.all(b, tag.all(c, tag.all(d, tag.all(e, tag[a] > tag[b])))))": "want a cost of at most max_cost",
		strings.Repeat("(", 100) + "true" + strings.Repeat(")", 100):                  "",
		strings.Repeat(" ", maxExpression) + "speed > 1":                              "size",
		"now() > 1": "undeclared reference",
	} {
		_, err := l.compile(text, defaultMaxCost)
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%.60s: want an error of one line with %q, got %v", text, want, err)
		}
	}
}

// BenchmarkCondition judges one row by a condition on two tags.
func BenchmarkCondition(b *testing.B) {
	l, err := newLanguage(languageTags)
	if err != nil {
		b.Fatal(err)
	}
	e, err := l.compile(`speed > 10 && tag["line.state"] == 1`, defaultMaxCost)
	if err != nil {
		b.Fatal(err)
	}
	row := []float64{12, 1, 5, 6, 7, -2}
	b.ReportAllocs()
	for b.Loop() {
		if !l.holds(e, row) {
			b.Fatal("want true")
		}
	}
}
