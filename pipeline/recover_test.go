package pipeline

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/apache/arrow/go/v15/arrow"
	"github.com/apache/arrow/go/v15/arrow/array"
	"github.com/tailrace/tailrace/pipeline/state"
	"github.com/tailrace/tailrace/schemas"
)

// summing adds up the values of each asset and says its sum whenever the watermark moves: what it says is wrong if a row
// counts twice, not at all, or if its state is lost.
type summing struct {
	settings Settings
	sums     map[string]float64
	out      *schemas.TelemetryBuilder
}

func newSumming(s Settings) (Operator, error) {
	return &summing{settings: s, sums: map[string]float64{}, out: schemas.NewTelemetryBuilder(s.Alloc, s.Topic, s.Partition)}, nil
}

func (o *summing) Bind(in *arrow.Schema) (*arrow.Schema, error) { return in, nil }

func (o *summing) Process(_ context.Context, in arrow.Record, _ Emitter) error {
	assets := in.Column(schemas.ColAsset).(*array.Dictionary)
	values := in.Column(schemas.ColValue).(*array.Float64)
	for i := range int(in.NumRows()) {
		o.sums[assets.Dictionary().(*array.String).Value(assets.GetValueIndex(i))] += values.Value(i)
	}
	return nil
}

func (o *summing) say(ctx context.Context, at int64, out Emitter) error {
	for _, asset := range slices.Sorted(maps.Keys(o.sums)) {
		row := schemas.Row{TS: at, Asset: []byte(asset), Tag: []byte("sum"), HasValue: true, Value: o.sums[asset]}
		o.out.Append(&row, -1, 0)
	}
	if o.out.Len() == 0 {
		return nil
	}
	rows := o.out.NewRecord()
	rows.Retain()
	if err := out.Emit(ctx, Events, rows); err != nil {
		rows.Release()
		return err
	}
	return out.Emit(ctx, Rows, rows)
}

func (o *summing) Advance(ctx context.Context, w int64, out Emitter) error { return o.say(ctx, w, out) }
func (o *summing) Close() error                                            { o.out.Release(); return nil }

func (o *summing) Finish(ctx context.Context, out Emitter) error { return o.say(ctx, 1<<40, out) }

func (o *summing) Snapshot(w *state.Writer, _ bool) error {
	w.Version(1)
	for asset, sum := range o.sums {
		var e state.Encoder
		e.Float(sum)
		w.Put(asset, e.Bytes)
	}
	return nil
}

func (o *summing) Restore(r *state.Reader) error {
	for asset, value := range r.All() {
		d := state.NewDecoder(value)
		o.sums[asset] = d.Float()
		if err := d.Err(); err != nil {
			return err
		}
	}
	return nil
}

// summingPlan has the operator summing, and snapshots that are full every third time.
func summingPlan(p *Plan) {
	p.Steps = []Step{{Name: "sum", New: newSumming, Fingerprint: "f"}}
	p.State.FullEvery = 3
}

// plantOf fills two partitions: rows out of order, late ones, two assets, and dead letters.
func plantOf(w *world) {
	w.bounded, w.pace = true, 700*time.Microsecond
	w.partitions = map[int32][]delivery{
		0: {{ts: []int64{1, 12, 11, 9, 25}}, {ts: []int64{26, 19, 41}, dead: 1}, {ts: ramp(42, 30)}, {ts: []int64{95}}},
		1: {{ts: ramp(1, 20), asset: "b"}, {ts: []int64{5, 33}, asset: "b"}, {dead: 2}, {ts: ramp(40, 7), asset: "c"}, {ts: []int64{99}, asset: "b"}},
	}
}

// live runs engines over the world until one finishes. Every killAt of kills ends one process.
func (w *world) live(t *testing.T, change func(*Plan), kills ...int) {
	t.Helper()
	for _, killAt := range append(kills, 0) {
		w.mu.Lock()
		w.killAt, w.asked, w.dead = killAt, 0, false
		w.mu.Unlock()
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- w.engine(change).Run(ctx) }()
		tick := time.NewTicker(time.Millisecond)
		var err error
		for running := true; running; {
			select {
			case err = <-done:
				running = false
			case <-tick.C:
				w.mu.Lock()
				dead := w.dead
				w.mu.Unlock()
				if dead {
					cancel()
				}
			}
		}
		tick.Stop()
		cancel()
		w.mu.Lock()
		dead := w.dead
		w.mu.Unlock()
		if killAt == 0 && err != nil {
			t.Fatalf("the last run: %v\n%s", err, w.log.String())
		}
		if killAt > 0 && !dead && err != nil {
			t.Fatalf("a run that was not killed: %v", err)
		}
	}
}

// outcome is what the plant's users see, apart from how often a topic had a message.
type outcome struct{ telemetry, predictions, events, letters string }

func (w *world) outcome() outcome {
	sorted := func(rows []string) string {
		rows = slices.Clone(rows)
		slices.Sort(rows)
		return strings.Join(rows, "\n")
	}
	once := func(rows []string) string {
		rows = slices.Clone(rows)
		slices.Sort(rows)
		return strings.Join(slices.Compact(rows), "\n")
	}
	return outcome{sorted(w.stored(Telemetry)), sorted(w.stored(Predictions)), once(w.events), once(w.letters)}
}

// undisturbed is the outcome of a run that nobody kills, and how much it asks of the world.
func undisturbed(t *testing.T) (outcome, int) {
	w := newWorld(t)
	plantOf(w)
	w.live(t, summingPlan)
	if n := len(w.stored(Telemetry)); n != 69 { // by hand: 5+3+30+1 and 20+2+7+1
		t.Fatalf("want 69 rows, got %d", n)
	}
	return w.outcome(), w.asked
}

// Scenario: the process is killed before or after each thing that it asks of the broker, the state store, ClickHouse and the
// topics, and started again; and twice, with every pair of a grid.
// Guarantees: telemetry and results are as if nothing had happened, each once; every event and dead letter is on its topic at
// least once; the ledger's lines follow each other without a gap and add up to what is stored.
func TestKilledAnywhere(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		want, asked := undisturbed(t)
		for first := 1; first <= 2*asked+4; first++ {
			for second := 0; second <= 2*asked+4; second += 31 {
				w := newWorld(t)
				plantOf(w)
				w.live(t, summingPlan, first, second)
				if got := w.outcome(); got != want {
					t.Fatalf("killed at %d and %d: want\n%v\ngot\n%v\n%s", first, second, want, got, w.log.String())
				}
				checkLedger(t, w)
			}
		}
	})
}

// checkLedger wants the lines of each partition to follow each other and to add up.
func checkLedger(t *testing.T, w *world) {
	t.Helper()
	var rows, messages, dead int64
	for id := range w.partitions {
		at := int64(0)
		lines := slices.Clone(w.ledger)
		slices.SortStableFunc(lines, func(a, b LedgerEntry) int { return int(a.To - b.To) })
		for _, line := range lines {
			if line.Partition != id {
				continue
			}
			if line.From != at {
				t.Fatalf("ledger of partition %d: want a line from %d, got %d to %d", id, at, line.From, line.To)
			}
			at = line.To
			rows += line.Rows[Telemetry]
			messages += line.Messages
			dead += line.Counters["dead."+schemas.DeadInvalidJSON]
		}
		if at != w.end(id) {
			t.Fatalf("ledger of partition %d: want it to end at %d, got %d", id, w.end(id), at)
		}
	}
	if n := int64(len(w.stored(Telemetry))); rows != n || dead != 3 || messages != n+dead {
		t.Fatalf("ledger: want %d rows, 3 dead letters and %d messages, got %d, %d and %d", n, n+3, rows, dead, messages)
	}
}

// Scenario: ClickHouse logs the token of a block and is killed before its part is in place, for each table.
// Guarantees: the block is sent again and is there once.
func TestTokenKnownPartLost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		want, _ := undisturbed(t)
		for _, table := range tableOrder {
			w := newWorld(t)
			plantOf(w)
			w.loseParts[string(table)] = true
			w.live(t, summingPlan, 1_000_000)
			if got := w.outcome(); got != want {
				t.Errorf("%s: want\n%v\ngot\n%v", table, want, got)
			}
		}
	})
}

// Scenario: the group's offsets are those of another program, the topic was made anew, it ends below the group's offset,
// retention has deleted what was not read, the offsets are gone, a blob is gone.
// Guarantees: each stops with an error that says what it is and what to do, and stores nothing; with --adopt, or with
// another state.on_missing, it goes on where the design says, with no row stored twice.
func TestStopsAndGoesOn(t *testing.T) {
	half := func(w *world) { // the first run sees a part of the topic
		plantOf(w)
		for id := range w.partitions {
			w.partitions[id] = w.partitions[id][:2]
		}
	}
	for _, c := range []struct {
		name    string
		spoil   func(*world)
		want    string
		change  func(*Plan)
		missing int // rows of the undisturbed run that are not stored in the end
	}{
		{"foreign metadata", func(w *world) {
			w.commits[0] = Commit{Offset: 3, Metadata: ""}
			w.blocks = map[string][]string{}
		}, "another program", func(p *Plan) { p.Adopt = true }, 3 + 22},
		{"topic made anew", func(w *world) { w.topicID, w.blocks = "two", map[string][]string{} }, "made anew", func(p *Plan) { p.Adopt = true }, 0},
		{"a fresh broker beside an old store", func(w *world) {
			clear(w.commits)
			w.topicID, w.blocks = "two", map[string][]string{}
		}, "the ledger knows it up to offset", func(p *Plan) { p.Adopt = true }, 0},
		{"end below", func(w *world) {
			c := w.commits[0]
			w.commits[0] = Commit{Offset: 1000, Metadata: c.Metadata}
			w.blocks = map[string][]string{}
		}, "below the group's offset 1000", func(p *Plan) { p.Adopt = true }, 22},
		{"expired", func(w *world) { w.first[0] = 12 }, "retention deleted", func(p *Plan) { p.Adopt = true }, 3},
		{"offsets gone, resumed", func(w *world) { clear(w.commits) }, "the group has no offset",
			func(p *Plan) { p.State.OnMissing = OnMissingResume }, 0},
		{"offsets and blobs gone, rebuilt", func(w *world) { clear(w.commits); clear(w.blobs) }, "the group has no offset",
			func(p *Plan) { p.State.OnMissing = OnMissingRebuild }, 0},
		{"blobs gone, rebuilt", func(w *world) { clear(w.blobs) }, "no such blob", func(p *Plan) { p.State.OnMissing = OnMissingRebuild }, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				full, _ := undisturbed(t)
				w := newWorld(t)
				half(w)
				w.live(t, summingPlan)
				plantOf(w)
				c.spoil(w)
				stored := len(w.stored(Telemetry))
				err := w.engine(summingPlan).Run(t.Context())
				if !errors.Is(err, ErrConfig) || !strings.Contains(fmt.Sprint(err), c.want) {
					t.Fatalf("want a fault of the configuration that says %q, got %v", c.want, err)
				}
				if n := len(w.stored(Telemetry)); n != stored {
					t.Fatalf("want nothing stored by a run that stops, got %d rows more", n-stored)
				}
				w.live(t, func(p *Plan) { summingPlan(p); c.change(p) })
				rows := w.stored(Telemetry)
				if want := strings.Count(full.telemetry, "\n") + 1 - c.missing; len(rows) != want {
					t.Errorf("want %d rows in the end, got %d", want, len(rows))
				}
				slices.Sort(rows)
				if n := len(slices.Compact(slices.Clone(rows))); n != len(rows) {
					t.Errorf("%d rows are stored twice", len(rows)-n)
				}
			})
		})
	}
}

// Scenario: the state store fails for a while, then works again.
// Guarantees: the pipeline waits, says so once, and loses and doubles nothing.
func TestStateStoreFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		want, _ := undisturbed(t)
		w := newWorld(t)
		plantOf(w)
		w.blobErr = errors.New("no space left on device")
		time.AfterFunc(time.Minute, func() { w.mu.Lock(); defer w.mu.Unlock(); w.blobErr = nil })
		w.live(t, summingPlan)
		if got := w.outcome(); got != want {
			t.Errorf("want\n%v\ngot\n%v", want, got)
		}
		if n := strings.Count(w.log.String(), "the state store does not take blobs"); n != 1 {
			t.Errorf("want the trouble said once, got %d times", n)
		}
	})
}

// Scenario: the topic gains a partition between two runs.
// Guarantees: the second run stops and says so, with nothing stored; told to continue it reads the new partition from its
// beginning and the others from where they stood.
func TestPartitionsGained(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		plantOf(w)
		w.live(t, summingPlan)
		w.partitions[2] = []delivery{{ts: ramp(1, 5), asset: "d"}}
		err := w.engine(summingPlan).Run(t.Context())
		if !errors.Is(err, ErrConfig) || !strings.Contains(fmt.Sprint(err), "has 3 partitions, and had 2") {
			t.Fatalf("want a fault of the configuration that names both numbers, got %v", err)
		}
		if n := len(w.stored(Telemetry)); n != 69 {
			t.Fatalf("want nothing stored by a run that stops, got %d rows more", n-69)
		}
		w.live(t, func(p *Plan) { summingPlan(p); p.State.OnGrowth = OnGrowthContinue })
		if n := len(w.stored(Telemetry)); n != 69+5 {
			t.Errorf("want the 5 rows of the new partition, got %d", n-69)
		}
		w.live(t, summingPlan) // the new number is known now
	})
}

// Scenario: events are to wait for their checkpoint, and the process is killed before or after each thing that it asks for.
// Guarantees: nothing is lost or doubled, and no event is on its topic before its row is in the table.
func TestEventsAfterTheirRows(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		want, asked := undisturbed(t)
		after := func(p *Plan) { summingPlan(p); p.Checkpoint.Emit = EmitAfterCheckpoint }
		for killAt := 1; killAt <= 2*asked; killAt++ {
			w := newWorld(t)
			plantOf(w)
			w.live(t, after, killAt)
			if got := w.outcome(); got != want {
				t.Fatalf("killed at %d: want\n%v\ngot\n%v", killAt, want, got)
			}
			written := false
			for _, step := range w.journal {
				switch step {
				case "blob":
					written = false
				case "write":
					written = true
				case "event":
					if !written {
						t.Fatalf("killed at %d: an event before its row, in %v", killAt, w.journal)
					}
				}
			}
		}
	})
}

// stuck blocks on the first batch of its first life until it is let go, with or without a look at its context.
type stuck struct {
	pass
	polite bool
	let    chan struct{}
	lives  *int
}

func (o *stuck) Process(ctx context.Context, in arrow.Record, out Emitter) error {
	if *o.lives++; *o.lives > 1 {
		return o.pass.Process(ctx, in, out)
	}
	if o.polite {
		<-ctx.Done()
		return ctx.Err()
	}
	<-o.let
	return nil
}

// Scenario: an operator makes no progress with a batch, one that looks at its context and one that does not.
// Guarantees: after limits.stall the generation ends. The first goes on in the next one, and nothing is lost; the second ends
// the engine with an error that names the partition, soon after.
func TestTaskWithoutProgress(t *testing.T) {
	for _, polite := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t)
			plantOf(w)
			let, lives := make(chan struct{}), 0
			began := time.Now()
			err := w.engine(func(p *Plan) {
				p.Limits.Stall = time.Minute
				delete(w.partitions, 1)
				p.Steps = []Step{{Name: "stuck", New: func(s Settings) (Operator, error) {
					return &stuck{pass: pass{world: w, settings: s}, polite: polite, let: let, lives: &lives}, nil
				}}}
			}).Run(t.Context())
			took := time.Since(began)
			close(let)
			synctest.Wait() // what is let go gives back what it holds
			switch {
			case took < time.Minute || took > 2*time.Minute:
				t.Errorf("polite %t: want the generation ended soon after a minute, took %v", polite, took)
			case polite && (err != nil || len(w.stored(Telemetry)) != 39):
				t.Errorf("want it to go on and store 39 rows, got %d and %v", len(w.stored(Telemetry)), err)
			case !polite && (!errors.Is(err, errStalled) || !strings.Contains(err.Error(), "plant partition 0")):
				t.Errorf("want an end that names the partition, got %v", err)
			}
		})
	}
}
