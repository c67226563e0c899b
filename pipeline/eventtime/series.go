package eventtime

import (
	"slices"
)

// series remembers the times of each (asset, tag) that lie after the horizon, to know a row that comes twice.
type series struct {
	pairs   []pair  // the first stands for none
	index   []int32 // an open hash table of numbers in pairs; 0 is a free place, and its length a power of two
	heads   []int32 // by asset, the last of its pairs
	prev    int32   // the pair of the row before
	changed []int32 // pairs that have changed since the last snapshot
	limit   int
}

// pair is one tag of one asset.
type pair struct {
	key     uint64
	newest  int64
	recent  []int64 // times after the horizon, rising; some before it may not be gone yet
	next    int32   // the pair of the row that came after one of this pair: gateways send their tags in the same order
	sibling int32   // another pair of the asset
	changed bool
}

const noKey = ^uint64(0)

func newSeries(limit int) series {
	return series{pairs: []pair{{key: noKey}}, index: make([]int32, 64), limit: limit}
}

func keyOf(asset, tag int32) uint64   { return uint64(asset)<<32 | uint64(uint32(tag)) }
func (p *pair) names() (a, tag int32) { return int32(p.key >> 32), int32(p.key) }

// repeats tells whether a row of that time was there before, and remembers it. Rows at or before horizon are not
// looked at.
func (s *series) repeats(asset, tag int32, ts, horizon int64) bool {
	key := keyOf(asset, tag)
	id := s.pairs[s.prev].next
	if s.pairs[id].key != key {
		if ts <= horizon {
			return false
		}
		id = s.find(key, horizon)
	}
	s.prev = id
	p := &s.pairs[id]
	if ts <= horizon {
		return false
	}
	if !p.changed {
		p.changed = true
		s.changed = append(s.changed, id)
	}
	if ts > p.newest || len(p.recent) == 0 {
		if len(p.recent) == cap(p.recent) || len(p.recent) >= s.limit {
			p.makeRoom(horizon, s.limit)
		}
		p.newest = ts
		p.recent = append(p.recent, ts)
		return false
	}
	at, twice := slices.BinarySearch(p.recent, ts)
	if !twice {
		if len(p.recent) >= s.limit {
			p.makeRoom(horizon, s.limit)
			at, _ = slices.BinarySearch(p.recent, ts)
		}
		p.recent = slices.Insert(p.recent, at, ts)
	}
	return twice
}

// makeRoom forgets what is behind the horizon, and the oldest quarter if too much is in front of it. If that leaves
// more than half of the room taken it makes more, so that its cost is spread over as many rows.
func (p *pair) makeRoom(horizon int64, limit int) {
	p.forget(horizon)
	if len(p.recent) >= limit {
		p.recent = slices.Delete(p.recent, 0, max(len(p.recent)/4, 1))
	}
	switch n := len(p.recent); {
	case 2*n > cap(p.recent) || cap(p.recent) == 0:
		p.recent = slices.Grow(p.recent, max(n, 4))
	case cap(p.recent) > 64 && 8*n < cap(p.recent): // after a burst
		p.recent = append(make([]int64, 0, 2*n+4), p.recent...)
	}
}

func (p *pair) forget(horizon int64) {
	n := 0
	for n < len(p.recent) && p.recent[n] <= horizon {
		n++
	}
	if n > 0 {
		p.recent = p.recent[:copy(p.recent, p.recent[n:])]
	}
}

// find returns the pair of a key that is not the one expected, making it if it is new.
func (s *series) find(key uint64, horizon int64) int32 {
	id := s.index[s.place(key)]
	if id == 0 {
		if 2*len(s.pairs) >= len(s.index) {
			s.sweep(horizon)
		}
		id = s.insert(pair{key: key})
	}
	s.pairs[s.prev].next = id
	return id
}

// place is where key stands in the index or belongs. The factor is the first prime of xxHash64.
func (s *series) place(key uint64) int {
	mask := len(s.index) - 1
	h := key * 0x9E3779B185EBCA87
	at := int(h>>32) & mask
	for id := s.index[at]; id != 0 && s.pairs[id].key != key; id = s.index[at] {
		at = (at + 1) & mask
	}
	return at
}

func (s *series) insert(p pair) int32 {
	id := int32(len(s.pairs))
	asset, _ := p.names()
	for int(asset) >= len(s.heads) {
		s.heads = append(s.heads, 0)
	}
	p.sibling, s.heads[asset] = s.heads[asset], id
	s.pairs = append(s.pairs, p)
	s.index[s.place(p.key)] = id
	return id
}

// sweep forgets pairs that have nothing after the horizon, and makes the index larger if most have.
func (s *series) sweep(horizon int64) {
	old := s.pairs
	s.pairs = append(make([]pair, 0, len(old)), pair{key: noKey})
	clear(s.index)
	clear(s.heads)
	s.prev, s.changed = 0, s.changed[:0]
	kept := 0
	for i := range old[1:] {
		p := &old[1+i]
		if p.forget(horizon); len(p.recent) > 0 {
			old[kept+1] = *p
			kept++
		}
	}
	if 4*kept >= len(s.index) {
		s.index = make([]int32, 2*len(s.index))
	}
	for _, p := range old[1 : 1+kept] {
		p.next = 0
		if id := s.insert(p); p.changed {
			s.changed = append(s.changed, id)
		}
	}
}
