package align

import (
	"cmp"
	"context"
	"math"
	"slices"

	"github.com/tailrace/tailrace/pipeline"
)

// lateSample is a sample whose row is out and that waits for the next step to correct it.
type lateSample struct {
	asset, channel int32
	sample
}

// correction is the rows of one asset that are given again.
type correction struct {
	asset int32
	spans []span // by time, apart
	next  int64  // the earliest row that is still to give; none at the end
}

// span is the rows from from to to, both with.
type span struct{ from, to int64 }

// correct takes the late samples into what was kept and gives every row again that one of them changes, once.
func (o *Operator) correct(ctx context.Context, out pipeline.Emitter) error {
	if len(o.late) == 0 {
		return nil
	}
	slices.SortStableFunc(o.late, func(a, b lateSample) int {
		return cmp.Or(cmp.Compare(a.asset, b.asset), cmp.Compare(a.channel, b.channel), cmp.Compare(a.ts, b.ts))
	})
	var list []correction
	duplicates := 0
	for from := 0; from < len(o.late); {
		to := from
		for to < len(o.late) && o.late[to].asset == o.late[from].asset {
			to++
		}
		c, twice := o.takeLate(o.late[from:to])
		duplicates += twice
		if len(c.spans) > 0 {
			list = append(list, c)
		}
		from = to
	}
	o.late = o.late[:0]
	o.settings.Drop("duplicate", duplicates)
	for {
		g := int64(none)
		for i := range list {
			g = min(g, list[i].next)
		}
		if g == none {
			return o.flush(ctx, out)
		}
		for i := range list {
			if c := &list[i]; c.next == g {
				o.rows.add(c.asset, g, o.assets[c.asset].again(&o.timing, g, o.rows.cells))
				c.step(o.grid)
			}
		}
		if o.rows.len() >= o.config.BatchRows {
			if err := o.flush(ctx, out); err != nil {
				return err
			}
		}
	}
}

// takeLate takes the late samples of one asset, by channel and time, and returns which of its rows they change, and
// how many of them came after another of the same channel and time.
func (o *Operator) takeLate(late []lateSample) (c correction, duplicates int) {
	c = correction{asset: late[0].asset, next: none}
	a := &o.assets[c.asset]
	a.changed = true
	fresh := make([][]sample, len(a.lanes))
	for i := range late {
		s, l := &late[i], &a.lanes[late[i].channel]
		at := l.before(s.ts)
		if at < l.head && l.samples[at].ts == s.ts || i > 0 && late[i-1].channel == s.channel && late[i-1].ts == s.ts {
			duplicates++
			continue
		}
		next := int64(none)
		if at < l.head {
			next = l.samples[at].ts
		}
		// Late samples between this one and the next change no row that this one's span does not have.
		c.spans = append(c.spans, span{o.timing.first(s.ts), min(o.timing.last(s.ts, next), o.emitted)})
		fresh[s.channel] = append(fresh[s.channel], s.sample)
		a.arrived = max(a.arrived, s.arrived)
	}
	if len(c.spans) == 0 {
		return c, duplicates
	}
	c.join(o.grid)
	o.revise(a, c.spans)
	for i, samples := range fresh {
		if len(samples) > 0 {
			l := &a.lanes[i]
			l.merge(samples)
			o.kept += len(samples)
			if g := o.emitted + o.grid; o.timing.alive(l.held.ts, g) {
				a.next = min(a.next, g)
				o.next = min(o.next, g)
			}
		}
	}
	return c, duplicates
}

// revise counts a revision of each row that was out before. It is called before late samples are merged, so that a row
// which they alone make keeps revision 0.
func (o *Operator) revise(a *asset, spans []span) {
	for _, s := range spans {
		for g := s.from; g <= s.to; g += o.grid {
			if a.out(&o.timing, g) {
				if a.revisions == nil {
					a.revisions = map[int64]uint32{}
				}
				a.revisions[g]++
			}
		}
	}
}

// join puts the spans in order and joins those that meet.
func (c *correction) join(grid int64) {
	slices.SortFunc(c.spans, func(a, b span) int { return cmp.Compare(a.from, b.from) })
	n := 0
	for _, s := range c.spans[1:] {
		if last := &c.spans[n]; s.from <= last.to+grid {
			last.to = max(last.to, s.to)
			continue
		}
		n++
		c.spans[n] = s
	}
	c.spans = c.spans[:n+1]
	c.next = c.spans[0].from
}

// step goes to the next row.
func (c *correction) step(grid int64) {
	s := &c.spans[0]
	if s.from += grid; s.from > s.to {
		c.spans = c.spans[1:]
	}
	c.next = none
	if len(c.spans) > 0 {
		c.next = c.spans[0].from
	}
}

// retain moves the horizon with the rows that are out and forgets what no correction can need. If more is kept than
// may be, the horizon moves up until half of that is: what is late beyond it leaves as late.
func (o *Operator) retain() {
	o.horizon = max(o.horizon, minus(o.emitted, o.lateness))
	if o.lateness == 0 {
		return
	}
	reach, bound := o.timing.reach(), o.config.MaxOpenSamples/2
	// Forgetting looks at every asset, so it is done now and then: a quarter more is kept than need be.
	if o.kept > bound || uint64(o.horizon)-uint64(o.trimmed) >= uint64(o.lateness)/4+uint64(reach)/4 {
		o.trim()
	}
	for back := uint64(o.emitted) - uint64(minus(o.horizon, reach)); o.kept > bound; {
		back /= 2
		o.horizon = o.emitted - int64(back) + reach
		o.trim()
	}
}

// forget drops all that was kept, which a state from before a restart may have when there is no lateness any more.
func (o *Operator) forget() {
	for i := range o.assets {
		o.kept -= o.assets[i].trim(math.MaxInt64, 0)
	}
}

// trim forgets what no correction after the horizon needs.
func (o *Operator) trim() {
	o.trimmed = o.horizon
	for i := range o.assets {
		o.kept -= o.assets[i].trim(o.horizon, o.timing.reach())
	}
}

// trim forgets the samples that no row after horizon sees, and the revisions of rows at and before it. It returns how
// many samples.
func (a *asset) trim(horizon, reach int64) int {
	n := 0
	limit := minus(horizon, reach)
	for i := range a.lanes {
		n += a.lanes[i].trim(limit)
	}
	for g := range a.revisions {
		if g <= horizon {
			delete(a.revisions, g)
		}
	}
	return n
}
