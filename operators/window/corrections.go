package window

import (
	"cmp"
	"context"
	"math"
	"slices"

	"github.com/tailrace/tailrace/pipeline"
)

// result is a window that is out and may change.
type result struct {
	bounds
	revision  uint32
	withdrawn bool
}

// resultBytes is what a result counts in the state.
const resultBytes = 48

func byBounds(a, b bounds) int {
	return cmp.Or(cmp.Compare(a.start, b.start), cmp.Compare(a.end, b.end))
}

// remember keeps a window that goes out. If the same was out before and withdrawn, it is its next revision.
func (o *Operator) remember(w *output) {
	a := &o.assets[w.asset]
	at, there := slices.BinarySearchFunc(a.given, w.bounds, func(r result, b bounds) int { return byBounds(r.bounds, b) })
	if there {
		w.revision = a.given[at].revision + 1
		a.given[at] = result{bounds: w.bounds, revision: w.revision}
		return
	}
	a.given = slices.Insert(a.given, at, result{bounds: w.bounds})
	o.state += resultBytes
}

// correct goes over the rows of each asset with late rows once more, from where they are settled, and gives what
// differs from what is out.
func (o *Operator) correct(ctx context.Context, out pipeline.Emitter) error {
	if len(o.corrected) == 0 {
		return nil
	}
	o.ready = o.ready[:0]
	for _, id := range o.corrected {
		a := &o.assets[id]
		a.corrected = false
		o.change(id, a)
		a.live = a.base.clone()
		o.found = o.kind.run(&a.live, a, a.settled, o.watermark, o.found[:0])
		a.live.short = 0 // those were counted when they were first seen
		o.compare(id, a)
		o.wake.set(id, o.kind.next(&a.live, a, o.watermark))
		if o.lateness > 0 {
			o.keep.set(id, o.release(a))
		}
	}
	slices.SortFunc(o.ready, func(a, b output) int {
		return cmp.Or(cmp.Compare(a.end, b.end), cmp.Compare(a.asset, b.asset), cmp.Compare(a.start, b.start))
	})
	err := o.emit(ctx, out)
	if o.lateness == 0 {
		for _, id := range o.corrected {
			o.keepNothing(&o.assets[id])
		}
	}
	o.corrected = o.corrected[:0]
	return err
}

// keepNothing lets go what corrections need, of an asset whose state is from a time with a lateness.
func (o *Operator) keepNothing(a *asset) {
	o.state -= resultBytes * int64(len(a.given))
	a.base, a.settled, a.given = newTrack(), math.MinInt64, nil
	o.state -= o.rowBytes() * int64(a.forget(o.kind.need(&a.live, a, o.watermark), o.channels))
}

// compare appends to ready what differs between the windows found and those given that are not settled.
func (o *Operator) compare(id int32, a *asset) {
	var changed []int64
	for i := a.head; i < len(a.rows); i++ {
		if r := &a.rows[i]; r.flags&flagChanged != 0 {
			r.flags &^= flagChanged
			changed = append(changed, r.ts)
		}
	}
	touches := func(b *bounds) bool {
		at, _ := slices.BinarySearch(changed, b.start)
		return at < len(changed) && changed[at] < b.end
	}
	slices.SortFunc(o.found, byBounds)
	given := a.given[:0:0]
	old := a.given
	for _, b := range o.found {
		for len(old) > 0 && byBounds(old[0].bounds, b) < 0 {
			given = append(given, o.withdraw(id, a, old[0]))
			old = old[1:]
		}
		r := result{bounds: b}
		same := len(old) > 0 && byBounds(old[0].bounds, b) == 0
		if same {
			r.revision = old[0].revision
			if !old[0].withdrawn && old[0].cut == b.cut && !touches(&b) {
				given, old = append(given, r), old[1:]
				continue
			}
			r.revision++
			old = old[1:]
		} else {
			o.state += resultBytes
		}
		given = append(given, r)
		o.ready = append(o.ready, output{bounds: b, asset: id, revision: r.revision})
	}
	for _, r := range old {
		given = append(given, o.withdraw(id, a, r))
	}
	a.given = given
}

// withdraw says that a window that is out is none any more, once. A settled one stays.
func (o *Operator) withdraw(id int32, a *asset, r result) result {
	if r.withdrawn || r.due <= a.settled {
		return r
	}
	r.revision, r.withdrawn, r.cut = r.revision+1, true, cutWithdrawn
	o.ready = append(o.ready, output{bounds: r.bounds, asset: id, revision: r.revision})
	return r
}

// settleAll moves on what late rows can't change any more.
func (o *Operator) settleAll(touched []int32) {
	o.settled = max(o.settled, plus(o.watermark, -o.lateness))
	for _, id := range touched {
		o.keep.set(id, o.release(&o.assets[id]))
	}
	for id, at := o.keep.first(); at <= o.settled && id >= 0; id, at = o.keep.first() {
		o.settle(id, o.settled)
	}
}

// release is the earliest time that rows must be settled up to so that something of a need not be kept longer.
func (o *Operator) release(a *asset) int64 {
	at := o.kind.next(&a.base, a, a.settled)
	if len(a.given) > 0 {
		at = min(at, a.given[0].due)
	}
	return at
}

// settle lets go what only rows at or before a time could change.
func (o *Operator) settle(id int32, to int64) {
	a := &o.assets[id]
	o.found = o.kind.run(&a.base, a, a.settled, to, o.found[:0])
	a.base.short = 0
	a.settled = to
	n := 0
	for n < len(a.given) && a.given[n].due <= to {
		n++
	}
	if a.given = a.given[n:]; len(a.given) == 0 {
		a.given = nil
	}
	o.state -= resultBytes * int64(n)
	o.state -= o.rowBytes() * int64(a.forget(o.kind.need(&a.base, a, to), o.channels))
	o.change(id, a)
	o.keep.set(id, o.release(a))
}

// fits tells whether there is room for one more row.
func (o *Operator) fits() bool { return o.state+o.rowBytes() <= int64(o.config.MaxState) }

// makeRoom makes room for one more row by letting go the oldest of what is only kept for corrections.
func (o *Operator) makeRoom() bool {
	for !o.fits() {
		id, at := o.keep.first()
		if id < 0 || at > o.watermark {
			return false
		}
		o.settle(id, at)
	}
	return true
}
