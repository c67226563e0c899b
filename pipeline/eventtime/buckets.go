package eventtime

import "container/heap"

// buckets counts the active devices by the step that their clock is in, to know the earliest. Devices of one time
// share a bucket, so that it costs nothing to move most of them; a bucket that has become empty is forgotten when it
// is the earliest.
type buckets struct {
	active int // devices
	slots  []slot
	free   []int32
	by     map[int64]int32 // the slot of each bucket that is in order
	order  bucketHeap
	last   int32 // the slot added to last, which the next device often goes to as well
	empty  int   // slots in order without devices
}

type slot struct {
	bucket  int64
	devices int32
	held    bool // it is in order
}

func newBuckets() buckets { return buckets{by: map[int64]int32{}} }

// add counts a device and returns the slot that it is in.
func (b *buckets) add(bucket int64) int32 {
	b.active++
	if int(b.last) < len(b.slots) && b.slots[b.last].held && b.slots[b.last].bucket == bucket {
		b.enter(b.last)
		return b.last
	}
	id, ok := b.by[bucket]
	if !ok {
		if b.empty > 64 && b.empty > len(b.order)/2 {
			b.sweep()
		}
		if n := len(b.free); n > 0 {
			id, b.free = b.free[n-1], b.free[:n-1]
		} else {
			id = int32(len(b.slots))
			b.slots = append(b.slots, slot{})
		}
		b.slots[id] = slot{bucket: bucket, held: true}
		b.by[bucket] = id
		b.empty++
		heap.Push(&b.order, bucketAt{bucket, id})
	}
	b.last = id
	b.enter(id)
	return id
}

func (b *buckets) enter(id int32) {
	s := &b.slots[id]
	if s.devices == 0 {
		b.empty--
	}
	s.devices++
}

// remove takes a device out of its slot.
func (b *buckets) remove(id int32) {
	b.active--
	s := &b.slots[id]
	if s.devices--; s.devices == 0 {
		b.empty++
	}
}

// min returns the earliest bucket that has a device.
func (b *buckets) min() (bucket int64, ok bool) {
	for len(b.order) > 0 {
		first := b.order[0]
		if b.slots[first.slot].devices > 0 {
			return first.bucket, true
		}
		heap.Pop(&b.order)
		b.forget(first)
	}
	return 0, false
}

func (b *buckets) forget(e bucketAt) {
	delete(b.by, e.bucket)
	b.slots[e.slot].held = false
	b.free = append(b.free, e.slot)
	b.empty--
}

// sweep forgets all empty buckets: a slow device at the front would keep those that the others have left.
func (b *buckets) sweep() {
	kept := b.order[:0]
	for _, e := range b.order {
		if b.slots[e.slot].devices > 0 {
			kept = append(kept, e)
		} else {
			b.forget(e)
		}
	}
	b.order = kept
	heap.Init(&b.order)
}

type bucketAt struct {
	bucket int64
	slot   int32
}

type bucketHeap []bucketAt

func (h bucketHeap) Len() int           { return len(h) }
func (h bucketHeap) Less(i, j int) bool { return h[i].bucket < h[j].bucket }
func (h bucketHeap) Swap(i, j int)      { h[i], h[j] = h[j], h[i] }
func (h *bucketHeap) Push(x any)        { *h = append(*h, x.(bucketAt)) }

func (h *bucketHeap) Pop() any {
	last := (*h)[len(*h)-1]
	*h = (*h)[:len(*h)-1]
	return last
}
