package rekeyed

import (
	"errors"
	"fmt"
	"slices"
	"strconv"

	"github.com/go-faster/jx"
	"github.com/tailrace/tailrace/schemas"
	"github.com/tailrace/tailrace/schemas/formats"
)

// maxName bounds an asset's or a tag's name in bytes, as in the format json.
const maxName = 1024

// Resent is the reason under which rows are counted that were given before.
const Resent = "resent"

// Decoder reads the messages of one partition. It gives every row of a source partition once: the writer sends a source
// partition's rows in order, and after a crash again from some row on, so that a row that is not behind the last one seen was
// seen before. That holds while several writers send the same rows, as when an old one has not noticed that it was replaced.
//
// A row is given with all its columns but these: lineage is this topic's own, idx being its place in the message; ts_ingest is
// this message's own time, by which the clocks of idle devices run; src names, behind the row's own src or else its asset, the
// partition of the source that it came from, "press 1@plant.telemetry/1", so that a partition that is behind holds the watermark as
// a device that is behind does; and the flag late is not set, since what is late here is found out here.
//
// Messages that `dlq replay` has sent back are not compared with the last row seen: they are behind it.
type Decoder struct {
	config  Config
	last    map[source]place
	from    source // of the message read last
	dropped int

	jx      jx.Decoder
	message message
	arena   []byte // of the message's texts
}

var _ interface {
	formats.Stateful
	formats.Dropper
} = (*Decoder)(nil)

// source is a partition of a topic that rows come from. A topic that was made anew has another id.
type source struct {
	topic, id string
	partition int32
}

// place is where a row lies in its source partition.
type place struct {
	offset int64
	idx    int32
}

func (p place) after(q place) bool {
	return p.offset > q.offset || p.offset == q.offset && p.idx > q.idx
}

// message is one message as it is read.
type message struct {
	topic, id, asset []byte
	partition        int32
	rows             []row
	has              uint8 // of the fields
}

type row struct {
	schemas.Row
	place
	has uint8 // of the fields
}

// The fields that must be there.
const (
	hasTopic = 1 << iota
	hasPartition
	hasAsset
	hasRows
	hasAll = 1<<iota - 1
)

const (
	hasOffset = 1 << iota
	hasTS
	hasTag
	hasVType
	hasQuality
	hasWholeRow = 1<<iota - 1
)

// New returns a decoder of one partition. The error has every fault of c.
func New(c Config) (*Decoder, error) {
	var faults []error
	for _, f := range c.Faults() {
		faults = append(faults, fmt.Errorf("%s: %s", f.Path, f.Message))
	}
	return &Decoder{config: c, last: map[source]place{}}, errors.Join(faults...)
}

// Decode implements [formats.Decoder].
func (d *Decoder) Decode(m *formats.Message, b *schemas.TelemetryBuilder) error {
	switch {
	case m.Value == nil:
		return formats.Rejectf(schemas.DeadWrongType, "want a JSON object, got a null value")
	case len(m.Value) > int(d.config.MaxBytes):
		return formats.Rejectf(schemas.DeadTooLarge, "want at most %d bytes, got %d", d.config.MaxBytes, len(m.Value))
	case !jx.Valid(m.Value):
		return formats.Rejectf(schemas.DeadInvalidJSON, "want a JSON object, got %.100q", m.Value)
	}
	if reject := d.read(m.Value); reject != nil {
		return reject
	}
	if reject := d.whole(); reject != nil {
		return reject
	}
	r := &d.message
	if d.from.topic != string(r.topic) || d.from.id != string(r.id) { // most have those of the message before
		d.from.topic, d.from.id = string(r.topic), string(r.id)
	}
	d.from.partition = r.partition
	from := d.from
	last, known := d.last[from]
	if !known {
		last = place{-1, -1}
		if len(d.last) >= d.config.MaxSources {
			return formats.Rejectf(schemas.DeadCardinality, "source: want at most %d partitions, got partition %d of %.100q more",
				d.config.MaxSources, from.partition, from.topic)
		}
	}
	replayed := slices.ContainsFunc(m.Headers, func(h formats.Header) bool { return h.Key == schemas.HeaderReplayedFrom })
	first := 0
	for !replayed && first < len(r.rows) && !r.rows[first].after(last) {
		first++
	}
	if reject := d.bounded(b, r.rows[first:]); reject != nil {
		return reject
	}
	d.dropped += first
	for i := first; i < len(r.rows); i++ {
		r.rows[i].Idx = int32(i)
		d.append(&r.rows[i].Row, m, b)
	}
	if newest := r.rows[len(r.rows)-1].place; !replayed && newest.after(last) {
		d.last[from] = newest
	}
	return nil
}

// append gives one row of the message.
func (d *Decoder) append(r *schemas.Row, m *formats.Message, b *schemas.TelemetryBuilder) {
	r.Asset = d.message.asset
	device := r.Src
	if len(device) == 0 {
		device = r.Asset
	}
	from := len(d.arena)
	d.arena = append(d.arena, device...)
	d.arena = append(d.arena, '@')
	d.arena = append(d.arena, d.message.topic...)
	d.arena = append(d.arena, '/')
	d.arena = strconv.AppendInt(d.arena, int64(d.message.partition), 10)
	r.Src = d.arena[from:]
	r.Flags &^= schemas.FlagLate
	b.Append(r, m.Offset, m.Time)
	d.arena = d.arena[:from]
}

// whole refuses a message that lacks something, or whose rows are not in order.
func (d *Decoder) whole() *formats.Reject {
	r := &d.message
	for i, key := range []string{"topic", "partition", "asset", "rows"} {
		if r.has&(1<<i) == 0 {
			return formats.Rejectf(schemas.DeadMissing, "%s: want it, got no such key", key)
		}
	}
	for _, n := range []struct {
		field string
		text  []byte
	}{{"topic", r.topic}, {"asset", r.asset}} {
		if reject := name(n.field, n.text); reject != nil {
			return reject
		}
	}
	if r.partition < 0 {
		return formats.Rejectf(schemas.DeadOutOfRange, "partition: want 0 or more, got %d", r.partition)
	}
	if len(r.rows) == 0 {
		return formats.Rejectf(schemas.DeadMissing, "rows: want at least one, got none")
	}
	last := place{-1, -1}
	for i := range r.rows {
		x := &r.rows[i]
		for bit, key := range []string{"offset", "ts", "tag", "vtype", "quality"} {
			if x.has&(1<<bit) == 0 {
				return formats.Rejectf(schemas.DeadMissing, "rows[%d].%s: want it, got no such key", i, key)
			}
		}
		switch {
		case x.offset < 0 || x.idx < 0:
			return formats.Rejectf(schemas.DeadOutOfRange, "rows[%d]: want offset and idx of 0 or more, got %d and %d", i, x.offset, x.idx)
		case !x.after(last):
			return formats.Rejectf(schemas.DeadOutOfRange, "rows[%d]: want one behind offset %d, idx %d, got offset %d, idx %d",
				i, last.offset, last.idx, x.offset, x.idx)
		case x.VType > schemas.TypeArray || x.Quality > schemas.Good || x.TSKind > schemas.TimeFromIngest:
			return formats.Rejectf(schemas.DeadOutOfRange, "rows[%d]: want vtype 0 to %d, quality 0 to %d and ts_kind 0 to %d, got %d, %d and %d",
				i, schemas.TypeArray, schemas.Good, schemas.TimeFromIngest, x.VType, x.Quality, x.TSKind)
		}
		if reject := name("tag", x.Tag); reject != nil {
			reject.Reason = fmt.Sprintf("rows[%d].%s", i, reject.Reason)
			return reject
		}
		last = x.place
	}
	return nil
}

// name refuses a text that can't name something.
func name(field string, text []byte) *formats.Reject {
	if len(text) == 0 {
		return formats.Rejectf(schemas.DeadMissing, "%s: want a text, got an empty one", field)
	}
	if len(text) > maxName {
		return formats.Rejectf(schemas.DeadOutOfRange, "%s: want at most %d bytes, got %d", field, maxName, len(text))
	}
	return nil
}

// bounded refuses an asset or tags that would be too many.
func (d *Decoder) bounded(b *schemas.TelemetryBuilder, rows []row) *formats.Reject {
	if len(rows) == 0 {
		return nil
	}
	if _, known := b.Assets.Find(d.message.asset); !known && b.Assets.Len() >= d.config.MaxAssets {
		return formats.Rejectf(schemas.DeadCardinality, "asset: want at most %d in this partition, got %.100q more",
			d.config.MaxAssets, d.message.asset)
	}
	if b.Tags.Len()+len(rows) <= d.config.MaxTags {
		return nil
	}
	var added []string
	for i := range rows {
		if _, known := b.Tags.Find(rows[i].Tag); known || slices.Contains(added, string(rows[i].Tag)) {
			continue
		}
		if added = append(added, string(rows[i].Tag)); b.Tags.Len()+len(added) > d.config.MaxTags {
			return formats.Rejectf(schemas.DeadCardinality, "tag: want at most %d in this partition, got %.100q more",
				d.config.MaxTags, rows[i].Tag)
		}
	}
	return nil
}

// Dropped implements [formats.Dropper].
func (d *Decoder) Dropped() map[string]int {
	if d.dropped == 0 {
		return nil
	}
	n := d.dropped
	d.dropped = 0
	return map[string]int{Resent: n}
}
