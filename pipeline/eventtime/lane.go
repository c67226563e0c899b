package eventtime

import "container/heap"

// track is the clock of one device in one lane.
type track struct {
	newest  int64 // event time; unset before the first row
	arrived int64 // when the clock last moved
	end     int64 // if active, the event time at which it enters the next bucket
	slot    int32 // if active, its bucket
	active  bool  // the watermark waits for it
	fault   bool  // something is found to be wrong with it; in the live lane only
	touched bool  // it has changed since the last snapshot
}

func newTrack() track { return track{newest: unset, arrived: -farthest} }

// lane is the clocks of all devices in one lane, and its watermark.
type lane struct {
	step, outOfOrder, recall int64 // ns; recall is out_of_order and allowed_lateness together

	watermark             int64
	newest, newestArrived int64   // the newest row, and its arrival
	burst                         // History
	tracks                []track // by device
	away                  roster  // devices that have a clock and are not active
	buckets               buckets // of the active ones
	waiting               idleHeap
	seen                  series
}

// burst is what history knows of the rows since its watermark last closed up.
type burst struct {
	open        bool // there are some
	gathers     bool // the watermark waits for other devices
	gathered    int  // rows
	began       int64
	lastArrived int64
}

func newLane(step, outOfOrder, lateness int64, maxRecent int) lane {
	return lane{
		step: step, outOfOrder: outOfOrder, recall: outOfOrder + lateness, watermark: none, newest: unset,
		newestArrived: -farthest, buckets: newBuckets(), seen: newSeries(maxRecent),
	}
}

func (l *lane) grow(devices int) {
	for len(l.tracks) < devices {
		l.tracks = append(l.tracks, newTrack())
	}
}

// horizon is the time at or before which duplicates are not looked for.
func (l *lane) horizon() int64 {
	if l.watermark == none {
		return none
	}
	return l.watermark - l.recall
}

// place puts a device's clock into the bucket of its time.
func (l *lane) place(t *track) {
	n := floor(t.newest-l.outOfOrder, l.step)
	t.slot = l.buckets.add(n)
	t.end = (n+1)*l.step + l.outOfOrder
}

// join makes a device active.
func (l *lane) join(device int32) {
	t := &l.tracks[device]
	t.active = true
	l.away.remove(device)
	l.place(t)
	heap.Push(&l.waiting, idleAt{t.arrived, device})
}

// idlest returns a device that is active though its clock has not moved since before.
func (l *lane) idlest(before int64) (int32, bool) {
	for len(l.waiting) > 0 && l.waiting[0].arrived < before {
		first := &l.waiting[0]
		arrived := l.tracks[first.device].arrived
		if arrived == first.arrived {
			return first.device, true
		}
		first.arrived = arrived
		heap.Fix(&l.waiting, 0)
	}
	return 0, false
}

// leave makes the device that idlest gave inactive.
func (l *lane) leave(device int32) *track {
	heap.Pop(&l.waiting)
	t := &l.tracks[device]
	l.buckets.remove(t.slot)
	t.active = false
	l.away.add(device)
	return t
}

// roster is a set of devices that can be gone through without looking at the others.
type roster struct {
	list []int32
	at   []int32 // by device, its place in list and 1; 0 is not in it
}

func (r *roster) add(device int32) {
	for int(device) >= len(r.at) {
		r.at = append(r.at, 0)
	}
	if r.at[device] == 0 {
		r.list = append(r.list, device)
		r.at[device] = int32(len(r.list))
	}
}

func (r *roster) remove(device int32) {
	if int(device) >= len(r.at) || r.at[device] == 0 {
		return
	}
	place, last := r.at[device]-1, r.list[len(r.list)-1]
	r.list[place], r.at[last] = last, place+1
	r.list, r.at[device] = r.list[:len(r.list)-1], 0
}

// idleAt is an active device with when its clock moved, or earlier: an entry is brought up to date when it comes to
// the top. So a device costs the heap nothing for most of its rows.
type idleAt struct {
	arrived int64
	device  int32
}

type idleHeap []idleAt

func (h idleHeap) Len() int           { return len(h) }
func (h idleHeap) Less(i, j int) bool { return h[i].arrived < h[j].arrived }
func (h idleHeap) Swap(i, j int)      { h[i], h[j] = h[j], h[i] }
func (h *idleHeap) Push(x any)        { *h = append(*h, x.(idleAt)) }

func (h *idleHeap) Pop() any {
	last := (*h)[len(*h)-1]
	*h = (*h)[:len(*h)-1]
	return last
}
