package pipeline

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/apache/arrow/go/v15/arrow"
)

// passing gives every row to Rekeyed.
type passing struct{ Stateless }

func (passing) Rekeys()                                   {}
func (passing) Bind(*arrow.Schema) (*arrow.Schema, error) { return arrow.NewSchema(nil, nil), nil }
func (passing) Process(ctx context.Context, in arrow.Record, out Emitter) error {
	in.Retain()
	return out.Emit(ctx, Rekeyed, in)
}

func passingPlan(p *Plan) {
	p.Steps = []Step{{Name: "rekey", New: func(Settings) (Operator, error) { return passing{}, nil }}}
}

// once reads the topic keyed by asset as its reader does: of each partition no row that is not behind the last.
func (w *world) once(t *testing.T) string {
	t.Helper()
	last := map[int]int{}
	var rows []string
	for _, text := range w.rekeyed {
		var partition, offset int
		topic, row, _ := strings.Cut(text, " ")
		if _, err := fmt.Sscanf(row, "%d:%d", &partition, &offset); err != nil || topic != w.topicID {
			t.Fatalf("want a row of topic %q, got %q (%v)", w.topicID, text, err)
		}
		if at, seen := last[partition]; !seen || offset > at {
			last[partition] = offset
			rows = append(rows, row)
		}
	}
	slices.Sort(rows)
	return strings.Join(rows, "\n")
}

// Scenario: all rows go to the topic keyed by asset, and the process is killed before or after each thing that it asks for, and
// twice, with every pair of a grid.
// Guarantees: telemetry is as if nothing had happened; the topic has the same rows, flags and all, each at least once, in an order
// in which its reader takes each once.
func TestRekeyedKilledAnywhere(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		plantOf(w)
		w.live(t, passingPlan)
		want, asked := w.outcome(), w.asked
		if got := w.once(t); got != want.telemetry || len(w.rekeyed) != 69 || want.predictions != "" {
			t.Fatalf("want the 69 rows of telemetry, got %d, and predictions %q", len(w.rekeyed), want.predictions)
		}
		for first := 1; first <= 2*asked+4; first++ {
			for second := 0; second <= 2*asked+4; second += 53 {
				w := newWorld(t)
				plantOf(w)
				w.live(t, passingPlan, first, second)
				if got := w.outcome(); got != want {
					t.Fatalf("killed at %d and %d: want\n%v\ngot\n%v\n%s", first, second, want, got, w.log.String())
				}
				if got := w.once(t); got != want.telemetry {
					t.Fatalf("killed at %d and %d: the topic: want\n%v\ngot\n%v", first, second, want.telemetry, got)
				}
				checkLedger(t, w)
			}
		}
	})
}

// Scenario: a step that gives its rows to the topic alone stands before, behind and beside others.
// Guarantees: the plan is refused, and the error says what is wanted.
func TestRekeyedStandsAlone(t *testing.T) {
	for at := range 2 {
		e := newWorld(t).engine(func(p *Plan) {
			passing := Step{Name: "rekey", New: func(Settings) (Operator, error) { return passing{}, nil }}
			p.Steps = slices.Insert(p.Steps, at, passing)
		})
		if _, err := e.Check(); err == nil || !strings.Contains(err.Error(), `step "rekey": want it to be the pipeline's only step, got 2 steps`) {
			t.Errorf("at %d: want it refused, got %v", at, err)
		}
	}
}

// selective is a sink that leaves tables out.
type selective struct {
	Sink
	stores []Table
}

func (p selective) Stores(t Table) bool { return slices.Contains(p.stores, t) }

// Scenario: the sink leaves out each table, and all but one, and the process is killed anywhere.
// Guarantees: it is given no row of a table that it leaves out; the other tables and the topics are as without it; the ledger counts
// the rows as left out.
func TestTablesLeftOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		whole, asked := undisturbed(t)
		for _, stores := range [][]Table{{Predictions, EventsTable}, {Telemetry, EventsTable}, {Telemetry, Predictions}, {EventsTable}} {
			want := whole
			left := map[Table]int{}
			for _, table := range tableOrder {
				if slices.Contains(stores, table) {
					continue
				}
				left[table]++
				switch table {
				case Telemetry:
					want.telemetry = ""
				case Predictions:
					want.predictions = ""
				}
			}
			for killAt := 0; killAt <= 2*asked; killAt += 5 {
				w := newWorld(t)
				plantOf(w)
				w.live(t, func(p *Plan) {
					summingPlan(p)
					sink := p.Sink
					p.Sink = func(s Settings) (Sink, error) {
						made, err := sink(s)
						return selective{made, stores}, err
					}
				}, killAt)
				if got := w.outcome(); got != want {
					t.Fatalf("%v, killed at %d: want\n%v\ngot\n%v", stores, killAt, want, got)
				}
				for _, table := range tableOrder {
					var counted, stored int64
					for _, line := range w.ledger {
						counted += line.Counters[leftOut+string(table)]
						stored += line.Rows[table]
					}
					if rows := len(w.stored(table)); int64(rows) != stored || (counted > 0) != (left[table] > 0) || left[table] > 0 && rows > 0 {
						t.Fatalf("%v, killed at %d: %s: %d rows, the ledger has %d and %d left out", stores, killAt, table, rows, stored, counted)
					}
				}
			}
		}
	})
}
