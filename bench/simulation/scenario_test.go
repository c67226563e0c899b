package simulation

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/tailrace/tailrace/pipeline"
)

// quiet is a driver under which nothing breaks but what a scenario breaks.
func (w *world) quiet(t *testing.T, rng *rand.Rand, seats int) *driver {
	w.steps = chains(t)[2]
	w.change = func(p *pipeline.Plan) { p.Checkpoint.Rows = 200 }
	d := &driver{world: w, rng: rng, seats: make([]*process, seats)}
	for i := range d.seats {
		d.seat(i)
	}
	return d
}

// busy is a plant with a device for each partition and one more.
func busy(seed uint64, partitions int) *plant {
	p := newPlant(seed, partitions)
	p.trouble = 0.05
	return p
}

// Scenario: ClickHouse hangs without closing a connection while a checkpoint is sent; the only process is told to stop,
// and another starts when ClickHouse answers again.
// Guarantees: the process ends within 5 s; the next one settles the plan that it left, and nothing is lost or doubled.
func TestStopWhileClickhouseHangs(t *testing.T) {
	journal := inWorld(t, 11, 2, func(t *testing.T, w *world, rng *rand.Rand) error {
		d := w.quiet(t, rng, 1)
		d.at = map[int]func(){
			6: d.clickhouseHung,
			9: func() {
				told := time.Now()
				d.seats[0].stop()
				<-d.seats[0].done
				if took := time.Since(told); took > 5*time.Second {
					t.Errorf("want an end within 5 s, it took %v", took)
				}
				d.seats[0] = nil
			},
			12: d.healAll,
		}
		return d.live(busy(11, 2), 20)
	})
	if !strings.Contains(journal, "settled a checkpoint that was left open") {
		t.Errorf("want a plan left open, and settled by the next process\n%s", journal)
	}
}

// Scenario: three processes are stopped and started again one after the other, twice, under load.
// Guarantees: each ends within 5 s without a fault, and nothing is lost or doubled.
func TestRollingRestart(t *testing.T) {
	inWorld(t, 12, 4, func(t *testing.T, w *world, rng *rand.Rand) error {
		d := w.quiet(t, rng, 3)
		d.at = map[int]func(){}
		for i := range 6 {
			d.at[5+4*i] = func() {
				p := d.seats[i%3]
				told := time.Now()
				p.stop()
				<-p.done
				if took := time.Since(told); took > 5*time.Second || p.err != nil {
					t.Errorf("%s: want an end within 5 s without a fault, it took %v: %v", p.name, took, p.err)
				}
				d.seat(i % 3)
			}
		}
		return d.live(busy(12, 4), 35)
	})
}

// Scenario: ClickHouse takes no connection for two minutes, and then hangs for two minutes; the process may hold 1 MiB.
// Guarantees: memory stays within a small multiple of what the process may hold; then all is stored, once.
func TestClickhouseAwayForMinutes(t *testing.T) {
	for _, how := range []string{"away", "hung"} {
		t.Run(how, func(t *testing.T) {
			inWorld(t, 13, 2, func(t *testing.T, w *world, rng *rand.Rand) error {
				d := w.quiet(t, rng, 1)
				d.seats[0].kill()
				w.change = func(p *pipeline.Plan) { p.Limits.Memory = 1 << 20 }
				d.seat(0)
				peak := 0
				d.each = func() { peak = max(peak, w.mem.CurrentAlloc()) }
				d.at = map[int]func(){
					5: func() {
						d.withClickhouse(func(c *clickhouse) { c.away = how == "away" })
						if how == "hung" {
							d.clickhouseHung()
							d.heal = nil
						}
					},
					125: func() {
						d.withClickhouse(func(c *clickhouse) { c.away = false })
						d.release()
					},
				}
				p := busy(13, 2)
				for i := range int32(20) {
					p.add(i%2, time.Time{})
				}
				if err := d.live(p, 130); err != nil {
					return err
				}
				w.journal.add("driver", "Arrow's memory was %d bytes at most", peak)
				if want := 4 << 20; peak > want {
					return fmt.Errorf("want at most %d bytes in Arrow's memory, got %d", want, peak)
				}
				return nil
			})
		})
	}
}
