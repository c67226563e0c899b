package rekeyed

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"slices"
)

// stateVersion is the first byte of a snapshot.
const stateVersion = 1

// Snapshot implements [formats.Stateful]: the last row seen of each partition of a source.
func (d *Decoder) Snapshot() []byte {
	sources := make([]source, 0, len(d.last))
	for s := range d.last {
		sources = append(sources, s)
	}
	slices.SortFunc(sources, func(a, b source) int {
		return cmp.Or(cmp.Compare(a.topic, b.topic), cmp.Compare(a.id, b.id), cmp.Compare(a.partition, b.partition))
	})
	text := func(dst []byte, s string) []byte { return append(binary.AppendUvarint(dst, uint64(len(s))), s...) }
	dst := binary.AppendUvarint([]byte{stateVersion}, uint64(len(sources)))
	for _, s := range sources {
		dst = text(text(dst, s.topic), s.id)
		dst = binary.AppendVarint(dst, int64(s.partition))
		dst = binary.AppendVarint(dst, d.last[s].offset)
		dst = binary.AppendVarint(dst, int64(d.last[s].idx))
	}
	return dst
}

var errState = errors.New("the rows seen last: stored state is damaged")

// Restore implements [formats.Stateful].
func (d *Decoder) Restore(snapshot []byte) error {
	if len(snapshot) == 0 || snapshot[0] != stateVersion {
		return fmt.Errorf("%w: want version %d, got %.1x", errState, stateVersion, snapshot)
	}
	r := stateReader{rest: snapshot[1:]}
	last := map[source]place{}
	for n := r.uint(); n > 0 && !r.bad; n-- {
		s := source{topic: r.text(), id: r.text(), partition: int32(r.int(0, math.MaxInt32))}
		last[s] = place{offset: r.int(0, math.MaxInt64), idx: int32(r.int(0, math.MaxInt32))}
	}
	if r.bad || len(r.rest) > 0 {
		return fmt.Errorf("%w: want %d bytes to be the rows of its partitions", errState, len(snapshot))
	}
	d.last = last
	return nil
}

// stateReader reads a snapshot. After a field that does not fit, bad is set.
type stateReader struct {
	rest []byte
	bad  bool
}

func (r *stateReader) uint() uint64 {
	v, n := binary.Uvarint(r.rest)
	if n <= 0 {
		r.rest, r.bad = nil, true
		return 0
	}
	r.rest = r.rest[n:]
	return v
}

func (r *stateReader) int(low, high int64) int64 {
	v, n := binary.Varint(r.rest)
	if n <= 0 || v < low || v > high {
		r.rest, r.bad = nil, true
		return 0
	}
	r.rest = r.rest[n:]
	return v
}

func (r *stateReader) text() string {
	n := r.uint()
	if n > uint64(len(r.rest)) {
		r.rest, r.bad = nil, true
		return ""
	}
	s := string(r.rest[:n])
	r.rest = r.rest[n:]
	return s
}
