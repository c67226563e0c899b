package simulation

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/tailrace/tailrace/schemas"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// driver breaks a world as a seed says: every second it may begin one fault, which ends some seconds later.
type driver struct {
	*world
	rng      *rand.Rand
	rate     float64 // faults a second
	seats    []*process
	restarts int
	heal     []healing
	plant    *plant
	client   *kgo.Client
	at       map[int]func() // what a scenario does in a second
	each     func()         // and in every one; nil for nothing
}

// healing is the end of a fault.
type healing struct {
	at time.Time
	do func()
}

// The faults that there are.
var faults = []struct {
	name string
	do   func(*driver)
}{
	{"kill", (*driver).killOne},
	{"kill", (*driver).killOne},
	{"stop", (*driver).stopOne},
	{"topic grows", (*driver).grow},
	{"trap", (*driver).setTrap},
	{"trap", (*driver).setTrap},
	{"topics out stuck", (*driver).topicsStuck},
	{"cut off", (*driver).cutOff},
	{"broken links", (*driver).breakLinks},
	{"broker away", (*driver).brokerAway},
	{"coordinator moves", (*driver).coordinatorMoves},
	{"leaders move", (*driver).leadersMove},
	{"commit unknown", (*driver).commitUnknown},
	{"commit refused", (*driver).commitRefused},
	{"clickhouse away", (*driver).clickhouseAway},
	{"clickhouse hung", (*driver).clickhouseHung},
	{"clickhouse slow", (*driver).clickhouseSlow},
	{"clickhouse refuses", (*driver).clickhouseRefuses},
	{"part lost", (*driver).partLost},
	{"part lost", (*driver).partLost},
	{"bucket away", (*driver).bucketAway},
	{"bucket full", (*driver).bucketFull},
	{"bucket flaky", (*driver).bucketFlaky},
	{"bucket slow", (*driver).bucketSlow},
}

// second ends what is due, puts new processes on empty seats and maybe begins a fault.
func (d *driver) second() {
	now := time.Now()
	for i := 0; i < len(d.heal); {
		if h := d.heal[i]; !now.Before(h.at) {
			d.heal = append(d.heal[:i], d.heal[i+1:]...)
			h.do()
			continue
		}
		i++
	}
	for i, p := range d.seats {
		if (p == nil || p.ended()) && d.rng.IntN(3) > 0 {
			d.seat(i)
		}
	}
	if d.rng.Float64() < d.rate {
		f := faults[d.rng.IntN(len(faults))]
		d.journal.add("fault", "%s", f.name)
		f.do(d)
	}
}

func (d *driver) seat(i int) {
	d.restarts++
	d.seats[i] = d.start(fmt.Sprintf("p%d.%d", i, d.restarts), "")
}

// later ends a fault after a while.
func (d *driver) later(seconds int, do func()) {
	d.heal = append(d.heal, healing{time.Now().Add(time.Duration(1+d.rng.IntN(seconds)) * time.Second), do})
}

// one picks a process that runs; nil if none does.
func (d *driver) one() *process {
	var running []*process
	for _, p := range d.seats {
		if p != nil && !p.ended() {
			running = append(running, p)
		}
	}
	if len(running) == 0 {
		return nil
	}
	return running[d.rng.IntN(len(running))]
}

func (p *process) ended() bool {
	select {
	case <-p.done:
		return true
	case <-p.killed:
		return true
	default:
		return false
	}
}

func (d *driver) killOne() {
	if p := d.one(); p != nil {
		d.journal.add(p.name, "is killed")
		p.kill()
	}
}

// protocol is the steps that a trap can be for.
var protocol = []string{"blob", "commit", "insert telemetry", "insert predictions", "insert anomaly_events", "ledger"}

// setTrap has a process killed or cut off before or after a step of the protocol.
func (d *driver) setTrap() {
	set := trap{
		when: []string{"before", "after"}[d.rng.IntN(2)], step: protocol[d.rng.IntN(len(protocol))], skip: d.rng.IntN(3),
	}
	if d.rng.IntN(2) == 0 {
		set.cutOff = time.Duration(1+d.rng.IntN(12)) * time.Second
	}
	if p := d.one(); p != nil {
		d.journal.add(p.name, "has a trap %s %s", set.when, set.step)
		p.mu.Lock()
		defer p.mu.Unlock()
		p.trap = set
	}
}

// grow gives the topic a partition more, and the plant a device whose messages go there once the producer knows it.
func (d *driver) grow() {
	n := int32(d.partitions())
	if n >= 6 {
		return
	}
	request := kmsg.NewCreatePartitionsRequest()
	t := kmsg.NewCreatePartitionsRequestTopic()
	t.Topic, t.Count = topic, n+1
	request.Topics = append(request.Topics, t)
	if _, err := request.RequestWith(d.t.Context(), d.client); err != nil {
		d.t.Error(err)
		return
	}
	d.plant.add(n, time.Now().Add(3*time.Second))
}

// topicsStuck has a topic of the pipeline's take nothing for a while.
func (d *driver) topicsStuck() {
	out := []string{schemas.TopicEvents, schemas.TopicLate, schemas.TopicDeadLetters}[d.rng.IntN(3)]
	d.journal.add("fault", "%s is stuck", out)
	fault := d.cluster.Fault(kfake.Fault{
		Keys: []kmsg.Key{kmsg.Produce}, Topic: d.prefix + out, Err: kerr.NotLeaderForPartition, Count: -1,
	})
	d.later(8, fault.Remove)
}

func (d *driver) stopOne() {
	if p := d.one(); p != nil {
		d.journal.add(p.name, "is stopped")
		p.stop()
	}
}

// cutOff makes a zombie: for up to twice the session time-out nothing that a process sends arrives, and then all of it.
func (d *driver) cutOff() {
	if p := d.one(); p != nil {
		d.journal.add(p.name, "is cut off")
		d.network.hang(p.name)
		d.later(12, func() { d.journal.add(p.name, "is back"); d.network.release(p.name) })
	}
}

func (d *driver) breakLinks() {
	d.network.breakLinks(func(*link) bool { return d.rng.IntN(2) == 0 }, 0.5)
}

func (d *driver) brokerAway() {
	address := d.cluster.ListenAddrs()[d.rng.IntN(2)]
	d.network.lose(address, true)
	d.later(6, func() { d.journal.add("fault", "%s is back", address); d.network.lose(address, false) })
}

func (d *driver) coordinatorMoves() { d.cluster.RehashCoordinators() }
func (d *driver) leadersMove()      { d.cluster.ShufflePartitionLeaders() }

// commitUnknown has commits carried out and answered with a time-out.
func (d *driver) commitUnknown() { d.faultCommit(kerr.RequestTimedOut) }

// commitRefused has commits refused by a coordinator that is another's now.
func (d *driver) commitRefused() { d.faultCommit(kerr.NotCoordinator) }

func (d *driver) faultCommit(err *kerr.Error) {
	d.cluster.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.OffsetCommit}, Group: d.group, Err: err, Count: 1 + d.rng.IntN(3)})
}

func (d *driver) withClickhouse(do func(*clickhouse)) {
	d.clickhouse.mu.Lock()
	defer d.clickhouse.mu.Unlock()
	do(d.clickhouse)
}

func (d *driver) clickhouseAway() {
	d.withClickhouse(func(c *clickhouse) { c.away = true })
	d.later(10, func() { d.withClickhouse(func(c *clickhouse) { c.away = false }) })
}

func (d *driver) clickhouseHung() {
	d.withClickhouse(func(c *clickhouse) {
		if c.hung == nil {
			c.hung = make(chan struct{})
		}
	})
	d.later(10, d.release)
}

// release has ClickHouse answer again.
func (d *driver) release() {
	d.withClickhouse(func(c *clickhouse) {
		if c.hung != nil {
			close(c.hung)
			c.hung = nil
		}
	})
}

func (d *driver) clickhouseSlow() {
	d.withClickhouse(func(c *clickhouse) { c.slow = time.Duration(d.rng.IntN(4000)) * time.Millisecond })
	d.later(10, func() { d.withClickhouse(func(c *clickhouse) { c.slow = 0 }) })
}

var errManyParts = errors.New("too many parts")

func (d *driver) clickhouseRefuses() {
	d.withClickhouse(func(c *clickhouse) { c.refuse = errManyParts })
	d.later(10, func() { d.withClickhouse(func(c *clickhouse) { c.refuse = nil }) })
}

func (d *driver) partLost() { d.withClickhouse(func(c *clickhouse) { c.lose = 1 + d.rng.IntN(2) }) }

func (d *driver) withBucket(do func(*bucket)) {
	d.bucket.mu.Lock()
	defer d.bucket.mu.Unlock()
	do(d.bucket)
}

func (d *driver) bucketAway() {
	d.withBucket(func(b *bucket) { b.away = true })
	d.later(10, func() { d.withBucket(func(b *bucket) { b.away = false }) })
}

func (d *driver) bucketFull() {
	d.withBucket(func(b *bucket) { b.full = true })
	d.later(10, func() { d.withBucket(func(b *bucket) { b.full = false }) })
}

func (d *driver) bucketFlaky() {
	d.withBucket(func(b *bucket) { b.flaky = 0.4 })
	d.later(10, func() { d.withBucket(func(b *bucket) { b.flaky = 0 }) })
}

func (d *driver) bucketSlow() {
	d.withBucket(func(b *bucket) { b.slow = time.Duration(d.rng.IntN(3000)) * time.Millisecond })
	d.later(10, func() { d.withBucket(func(b *bucket) { b.slow = 0 }) })
}

// live runs the plant for a while under faults, then heals everything, stops all processes, and lets one read to the
// end.
func (d *driver) live(p *plant, seconds int) error {
	d.plant, d.client = p, d.producer()
	defer d.client.Close()
	for n := range seconds {
		ctx, cancel := context.WithTimeout(d.t.Context(), 30*time.Second)
		err := d.client.ProduceSync(ctx, p.second(time.Now())...).FirstErr()
		cancel()
		if err != nil {
			return fmt.Errorf("producing: %w", err)
		}
		d.second()
		if do := d.at[n]; do != nil {
			do()
		}
		if d.each != nil {
			d.each()
		}
		time.Sleep(time.Second)
	}
	d.healAll()
	time.Sleep(time.Duration(d.rng.IntN(15)) * time.Second)
	for _, p := range d.seats {
		if p != nil {
			p.stop()
			<-p.done
		}
	}
	time.Sleep(20 * time.Second) // the group forgets who is dead: a process that reads to the end reads its own share
	return d.finish("last")
}

// healAll ends all faults.
func (d *driver) healAll() {
	d.journal.add("driver", "heals everything")
	for _, h := range d.heal {
		h.do()
	}
	d.heal = nil
	d.withClickhouse(func(c *clickhouse) { c.lose = 0 })
}

// finish runs one process to the topic's end.
func (w *world) finish(name string) error {
	p := w.start(name, pipelineEnd)
	select {
	case <-p.done:
	case <-time.After(5 * time.Minute):
		p.kill()
		<-p.done
		return fmt.Errorf("%s: it has not come to the end within 5 minutes", name)
	}
	return p.err
}

const pipelineEnd = "end"
