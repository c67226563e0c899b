package main

import (
	"bytes"
	"math"
	"testing"
	"time"

	"pgregory.net/rapid"
)

func testPlant() GeneratorConfig {
	return GeneratorConfig{
		Seed: 7, Assets: 5, Start: time.Date(2026, 1, 31, 0, 0, 0, 0, time.UTC), Step: time.Minute,
		Tags:   []Tag{{"a", 20, 1}, {"b", 4511, 31}, {"c", -3, 0.01}},
		InTime: 0.1, Correcting: 0.05, TooLate: 0.02, Duplicate: 0.03, Malformed: 0.02,
		OutOfOrder: 2 * time.Minute, AllowedLateness: 5 * time.Minute, MaxDelay: 12 * time.Minute,
		Excursion: 0.2, ExcursionSteps: 4,
	}
}

func messages(t *testing.T, c GeneratorConfig, n int) []Message {
	t.Helper()
	if faults := c.Validate(); len(faults) > 0 {
		t.Fatal(faults)
	}
	g := NewGenerator(c)
	var list []Message
	for range n {
		m, ok := g.Next()
		if !ok {
			t.Fatalf("want %d messages, got %d", n, len(list))
		}
		list = append(list, m)
	}
	return list
}

// Scenario: the same config twice, and another seed.
// Guarantees: equal seeds give equal bytes, others do not.
func TestGeneratorIsDeterministic(t *testing.T) {
	first, second := messages(t, testPlant(), 5000), messages(t, testPlant(), 5000)
	for i := range first {
		if !bytes.Equal(first[i].Value, second[i].Value) || !bytes.Equal(first[i].Key, second[i].Key) ||
			first[i].Kind != second[i].Kind {
			t.Fatalf("message %d: got %s and %s", i, first[i].Value, second[i].Value)
		}
	}
	other := testPlant()
	other.Seed++
	same := 0
	for i, m := range messages(t, other, 5000) {
		if bytes.Equal(m.Value, first[i].Value) {
			same++
		}
	}
	if same > 100 {
		t.Errorf("want other messages from another seed, got %d of 5000 equal", same)
	}
}

// Scenario: 60,000 messages of a plant with every kind of fault; how late a row is follows from the newest time that
// was sent before.
// Guarantees: each kind comes in its share; a row of a kind is as late as the kind says; rows are numbered without
// gaps, but for those that are still held back; a duplicate has the bytes of its first.
func TestGeneratorKinds(t *testing.T) {
	c := testPlant()
	list := messages(t, c, 60_000)
	var newest int64
	rows := map[int64][]byte{}
	var counts [kinds]int
	for i, m := range list {
		counts[m.Kind]++
		if m.Kind == Malformed {
			continue
		}
		late := time.Duration(newest - m.At)
		newest = max(newest, m.At)
		if m.Kind == Duplicate {
			if !bytes.Equal(rows[m.Number], m.Value) {
				t.Fatalf("message %d: want the bytes of number %d again, got %s", i, m.Number, m.Value)
			}
			continue
		}
		if rows[m.Number] != nil {
			t.Fatalf("message %d: number %d is there twice", i, m.Number)
		}
		rows[m.Number] = m.Value
		// A row that is held for some steps goes out before the rows of the step: it is one step less behind.
		late += c.Step
		from, to := time.Duration(0), c.OutOfOrder
		switch m.Kind {
		case Plain:
			if late > c.Step {
				t.Fatalf("message %d is plain and %v late", i, late)
			}
			continue
		case Correcting:
			from, to = c.OutOfOrder, c.OutOfOrder+c.AllowedLateness
		case TooLate:
			from, to = c.OutOfOrder+c.AllowedLateness, c.MaxDelay
		}
		if late <= from || late > to {
			t.Fatalf("message %d, %v: want it more than %v and up to %v late, got %v", i, m.Kind, from, to, late)
		}
	}
	for kind, share := range map[Kind]float64{
		InTime: c.InTime, Correcting: c.Correcting, TooLate: c.TooLate, Duplicate: c.Duplicate, Malformed: c.Malformed,
	} {
		if got := float64(counts[kind]) / float64(len(rows)); math.Abs(got-share) > 0.2*share {
			t.Errorf("%v: want a share of %g, got %g", kind, share, got)
		}
	}
	held := 0
	for n := int64(1); n <= int64(len(rows)); n++ {
		if rows[n] == nil {
			held++
		}
	}
	if held > 200 { // at most the late rows of the last twelve steps
		t.Errorf("%d numbers are missing", held)
	}
}

// Scenario: any value in the bounds with any number.
// Guarantees: the number comes back, and the value is moved by less than two grains.
func TestNumbersInValues(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		value := rapid.Float64Range(-maxValue, maxValue).Draw(t, "value")
		number := rapid.Int64Range(1, maxNumber).Draw(t, "number")
		got := numbered(value, number)
		if numberOf(got) != number || math.Abs(got-value) > 2*valueGrain {
			t.Fatalf("%v with number %d is %v, which has number %d", value, number, got, numberOf(got))
		}
	})
}

// Scenario: configs with one thing out of bounds.
// Guarantees: the fault names the key.
func TestGeneratorFaults(t *testing.T) {
	for path, change := range map[string]func(*GeneratorConfig){
		"assets":          func(c *GeneratorConfig) { c.Assets = 0 },
		"tags":            func(c *GeneratorConfig) { c.Tags[0].Mean = 1e6 },
		"step":            func(c *GeneratorConfig) { c.Step = 0 },
		"in_time":         func(c *GeneratorConfig) { c.OutOfOrder = 0 },
		"too_late":        func(c *GeneratorConfig) { c.MaxDelay = time.Minute },
		"malformed":       func(c *GeneratorConfig) { c.Malformed = math.NaN() },
		"late":            func(c *GeneratorConfig) { c.InTime = 0.95 },
		"excursion_steps": func(c *GeneratorConfig) { c.ExcursionSteps = 0 },
	} {
		c := testPlant()
		change(&c)
		found := false
		for _, fault := range c.Validate() {
			found = found || fault.Path == path
		}
		if !found {
			t.Errorf("%s: want a fault there, got %v", path, c.Validate())
		}
	}
}

// Scenario: more rows than there are numbers.
// Guarantees: the generator ends and says so.
func TestGeneratorEnds(t *testing.T) {
	c := testPlant()
	g := NewGenerator(c)
	g.number = maxNumber - 20
	n := 0
	for {
		if _, ok := g.Next(); !ok {
			break
		}
		n++
	}
	if n == 0 || n > 40 {
		t.Errorf("got %d messages", n)
	}
}
