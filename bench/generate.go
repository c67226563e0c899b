package main

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/tailrace/tailrace/pipeline"
	"github.com/tailrace/tailrace/schemas"
	"github.com/tailrace/tailrace/schemas/formats/jsontelemetry"
)

// GeneratorConfig is the telemetry of a plant: every asset sends all tags at every step of event time, and some rows
// come late, twice or broken.
type GeneratorConfig struct {
	Seed   uint64
	Assets int
	Tags   []Tag
	Start  time.Time // event time of the first step
	Step   time.Duration

	// Shares of the rows, each from 0 to 1. A late row is sent some steps after its time: up to OutOfOrder (it is in
	// time all the same), up to OutOfOrder and AllowedLateness together (it corrects a result), or up to MaxDelay (it is
	// too late).
	InTime, Correcting, TooLate float64
	Duplicate                   float64 // of rows that are sent again, byte by byte
	Malformed                   float64 // of messages beside the rows that are no JSON
	OutOfOrder, AllowedLateness time.Duration
	MaxDelay                    time.Duration

	// Excursion is the share of time that an asset spends away from normal, in stretches of ExcursionSteps.
	Excursion      float64
	ExcursionSteps int
}

// Tag is a signal whose values lie around Mean. Normal operation stays within a third of Deviation; an excursion
// moves the first quarter of the tags by six of them.
type Tag struct {
	Name            string
	Mean, Deviation float64
}

// A value carries the number of its row below its own digits: a multiple of valueGrain and number*numberGrain. For
// values under maxValue both are exact in a float64.
const (
	valueGrain  = 1e-4
	numberGrain = 1e-11
	maxNumber   = 9_999_999
	maxValue    = 8192
)

// Validate reports what is out of bounds.
func (c *GeneratorConfig) Validate() []pipeline.Fault {
	var faults []pipeline.Fault
	fault := func(path, format string, args ...any) {
		faults = append(faults, pipeline.Faultf(path, format, args...))
	}
	if c.Assets < 1 {
		fault("assets", "want 1 or more, got %d", c.Assets)
	}
	if len(c.Tags) == 0 {
		fault("tags", "want at least one, got none")
	}
	for _, t := range c.Tags {
		if !(math.Abs(t.Mean)+10*t.Deviation < maxValue) || !(t.Deviation >= 0) {
			fault("tags", "want values under %d, got %g and %g of %q", maxValue, t.Mean, t.Deviation, t.Name)
		}
	}
	if c.Step < time.Microsecond {
		fault("step", "want 1us or more, got %v", c.Step)
	}
	for _, s := range []struct {
		path string
		v    float64
	}{
		{"in_time", c.InTime}, {"correcting", c.Correcting}, {"too_late", c.TooLate}, {"duplicate", c.Duplicate},
		{"malformed", c.Malformed}, {"excursion", c.Excursion}, {"late", c.InTime + c.Correcting + c.TooLate},
	} {
		if !(s.v >= 0 && s.v <= 1) {
			fault(s.path, "want a share from 0 to 1, got %v", s.v)
		}
	}
	if c.Excursion > 0 && c.ExcursionSteps < 1 {
		fault("excursion_steps", "want 1 or more, got %d", c.ExcursionSteps)
	}
	for _, d := range []struct {
		path     string
		share    float64
		from, to time.Duration
	}{
		{"in_time", c.InTime, 0, c.OutOfOrder},
		{"correcting", c.Correcting, c.OutOfOrder, c.OutOfOrder + c.AllowedLateness},
		{"too_late", c.TooLate, c.OutOfOrder + c.AllowedLateness, c.MaxDelay},
	} {
		if d.share > 0 && c.Step > 0 && d.to/c.Step <= d.from/c.Step {
			fault(d.path, "want a step (%v) or more between %v and %v", c.Step, d.from, d.to)
		}
	}
	return faults
}

// Kind says what is special about a message.
type Kind uint8

// The kinds.
const (
	Plain Kind = iota
	InTime
	Correcting
	TooLate
	Duplicate
	Malformed
	kinds
)

// String is the name in results.
func (k Kind) String() string {
	return [kinds]string{"plain", "in_time", "correcting", "too_late", "duplicate", "malformed"}[k]
}

// Message is one record for Kafka, keyed by asset.
type Message struct {
	Number int64 // from 1, of the row; a duplicate has that of its first, a malformed one has 0
	Kind   Kind
	At     int64 // event time, ns UTC
	Key    []byte
	Value  []byte
}

// Generator gives the messages of a plant, one after the other, without end. The same config gives the same messages.
type Generator struct {
	config GeneratorConfig
	random *rand.Rand
	assets []asset
	step   int64 // of event time
	ready  []Message
	next   int // of ready
	held   map[int64][]Message
	number int64
	counts [kinds]int64
}

type asset struct {
	name      string
	excursion int // steps that are left of it
}

// NewGenerator returns a generator for a config that is valid.
func NewGenerator(c GeneratorConfig) *Generator {
	g := &Generator{config: c, random: rand.New(rand.NewPCG(c.Seed, 0x7461696c72616365)), held: map[int64][]Message{}}
	for i := range c.Assets {
		g.assets = append(g.assets, asset{name: fmt.Sprintf("bench.site.line%02d.cell%04d", i%8, i)})
	}
	return g
}

// Next gives the next message, whose memory is the caller's. It returns false when the numbers are used up, after
// some ten million rows.
func (g *Generator) Next() (Message, bool) {
	for g.next == len(g.ready) {
		if g.number+int64(len(g.assets)*len(g.config.Tags)) > maxNumber {
			return Message{}, false
		}
		g.ready, g.next = g.ready[:0], 0
		g.makeStep()
	}
	m := g.ready[g.next]
	g.next++
	g.counts[m.Kind]++
	return m, true
}

// Counts are the messages given so far, by kind.
func (g *Generator) Counts() map[string]int64 {
	counts := map[string]int64{}
	for k, n := range g.counts {
		counts[Kind(k).String()] = n
	}
	return counts
}

// Rows is how many rows were given so far, each counted once: what is stored of them, since doubles are not.
func (g *Generator) Rows() int64 {
	return g.counts[Plain] + g.counts[InTime] + g.counts[Correcting] + g.counts[TooLate]
}

// makeStep puts the messages of one step of event time into ready: those that were held back until now, then the
// assets'.
func (g *Generator) makeStep() {
	g.ready = append(g.ready, g.held[g.step]...)
	delete(g.held, g.step)
	at := g.config.Start.Add(time.Duration(g.step) * g.config.Step).UnixNano()
	for i := range g.assets {
		a := &g.assets[i]
		if a.excursion > 0 {
			a.excursion--
		} else if c := &g.config; c.Excursion > 0 && g.random.Float64() < c.Excursion/float64(c.ExcursionSteps) {
			a.excursion = c.ExcursionSteps
		}
		for t := range g.config.Tags {
			g.makeRow(a, t, at)
		}
	}
	g.step++
}

func (g *Generator) makeRow(a *asset, t int, at int64) {
	c, tag := &g.config, &g.config.Tags[t]
	g.number++
	value := tag.Mean + tag.Deviation*max(-1, min(1, g.random.NormFloat64()/3))/3
	if a.excursion > 0 && t < (len(c.Tags)+3)/4 {
		value += 6 * tag.Deviation
	}
	m := Message{Number: g.number, At: at, Key: []byte(a.name)}
	m.Value = jsontelemetry.AppendMessage(nil, at, jsontelemetry.Nanos, a.name, tag.Name, numbered(value, g.number),
		true, schemas.Good)

	delay := int64(0)
	if g.step > 0 { // an asset's first rows are in time, or there would be no clock to be late by
		m.Kind, delay = g.delay()
	}
	g.put(m, delay)
	// The clock looks for doubles as far back as rows may correct: one of a row that is too late is stored as well.
	if g.random.Float64() < c.Duplicate && m.Kind != TooLate {
		again := m
		again.Kind = Duplicate
		again.Key, again.Value = slices.Clone(m.Key), slices.Clone(m.Value)
		g.put(again, delay)
	}
	if g.random.Float64() < c.Malformed {
		g.put(Message{Kind: Malformed, At: at, Key: []byte(a.name), Value: g.broken(m.Value)}, 0)
	}
}

// delay draws whether a row is late, and by how many steps.
func (g *Generator) delay() (Kind, int64) {
	c := &g.config
	u := g.random.Float64()
	from, to, kind := time.Duration(0), c.OutOfOrder, InTime
	switch {
	case u < c.InTime:
	case u < c.InTime+c.Correcting:
		from, to, kind = c.OutOfOrder, c.OutOfOrder+c.AllowedLateness, Correcting
	case u < c.InTime+c.Correcting+c.TooLate:
		from, to, kind = c.OutOfOrder+c.AllowedLateness, c.MaxDelay, TooLate
	default:
		return Plain, 0
	}
	first, last := int64(from/c.Step)+1, int64(to/c.Step)
	return kind, first + g.random.Int64N(last-first+1)
}

func (g *Generator) put(m Message, delay int64) {
	if delay == 0 {
		g.ready = append(g.ready, m)
		return
	}
	g.held[g.step+delay] = append(g.held[g.step+delay], m)
}

// broken makes what no decoder takes: a message that was cut, texts that are no JSON, a field of another type.
func (g *Generator) broken(whole []byte) []byte {
	switch g.random.IntN(4) {
	case 0:
		return slices.Clone(whole[:len(whole)/2])
	case 1:
		return []byte("\x00\xff not json")
	case 2:
		return []byte(`{"ts":"yesterday","asset":7}`)
	}
	return []byte{}
}

// numbered gives value, rounded to valueGrain, with the number below.
func numbered(value float64, number int64) float64 {
	return math.Round(value/valueGrain)*valueGrain + float64(number)*numberGrain
}

// numberOf gives the number back.
func numberOf(value float64) int64 {
	grains := value / valueGrain
	return int64(math.Round((grains - math.Floor(grains)) * valueGrain / numberGrain))
}
