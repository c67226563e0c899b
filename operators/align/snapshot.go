package align

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/tailrace/tailrace/pipeline/state"
)

// stateVersion numbers the format of the values that Snapshot writes.
const stateVersion = 1

// Snapshot writes the lanes by asset, and what is of no one asset, with what the state must fit.
func (o *Operator) Snapshot(w *state.Writer, full bool) error {
	w.Version(stateVersion)
	late := map[int32][]lateSample{}
	for _, s := range o.late {
		late[s.asset] = append(late[s.asset], s)
	}
	var e state.Encoder
	for i := range o.assets {
		a := &o.assets[i]
		if !a.changed && !full {
			continue
		}
		a.changed = false
		e.Reset()
		a.encode(&e, i, late[int32(i)])
		w.Put(o.names.Text(int32(i)), e.Bytes)
	}
	e.Reset()
	e.Int(o.grid)
	e.Int(o.gap)
	e.Bool(o.mean)
	e.Uint(uint64(len(o.config.Channels)))
	for _, channel := range o.config.Channels {
		e.Text(channel.Tag)
	}
	e.Int(o.emitted)
	e.Int(o.horizon)
	e.Int(o.trimmed)
	w.Common(e.Bytes)
	return nil
}

// Restore takes what Snapshot wrote. Assets keep the order in which they were first seen.
func (o *Operator) Restore(r *state.Reader) error {
	if r.Version() == 0 {
		return nil
	}
	if v := r.Version(); v != stateVersion {
		return fmt.Errorf("state of align: want version %d, got %d: it is of another release", stateVersion, v)
	}
	if err := o.restoreCommon(r.Common()); err != nil {
		return fmt.Errorf("state of align: %w", err)
	}
	if r.Len() > o.config.MaxAssets {
		return fmt.Errorf("state of align: want at most %d assets (max_assets), got %d", o.config.MaxAssets, r.Len())
	}
	for i, s := range r.InOrder() {
		o.names.ID([]byte(s.Key))
		o.assets = append(o.assets, newAsset(len(o.config.Channels)))
		a := &o.assets[i]
		o.late = append(o.late, a.decode(s.Rest, int32(i))...)
		if err := s.Rest.Err(); err != nil {
			return fmt.Errorf("state of align: asset %q: %w", s.Key, err)
		}
		a.changed = s.Place != uint64(i) // then what is stored says another place
		a.trim(o.trimmed, o.timing.reach())
		o.next = min(o.next, a.next)
		for k := range a.lanes {
			l := &a.lanes[k]
			o.kept += l.head - l.old
			o.open += len(l.samples) - l.head
		}
	}
	o.horizon = max(o.horizon, minus(o.emitted, o.lateness)) // it may be less now
	return nil
}

// restoreCommon takes what is of no one asset, and wants it to fit.
func (o *Operator) restoreCommon(value []byte) error {
	d := state.NewDecoder(value)
	grid, gap, mean := d.Int(), d.Int(), d.Bool()
	tags := make([]string, d.Len(1))
	for i := range tags {
		tags[i] = d.Text()
	}
	o.emitted, o.horizon, o.trimmed = d.Int(), d.Int(), d.Int()
	if err := d.Err(); err != nil {
		return err
	}
	var faults []error
	differ := func(what string, want, got any) {
		if want != got {
			faults = append(faults, fmt.Errorf("%s: want %v, as configured, got %v", what, want, got))
		}
	}
	want := make([]string, len(o.config.Channels))
	for i, channel := range o.config.Channels {
		want[i] = channel.Tag
	}
	differ("grid in ns", o.grid, grid)
	differ("max_gap in ns", o.gap, gap)
	differ("value: mean", o.mean, mean)
	differ("number of channels", len(want), len(tags))
	differ("channels", strings.Join(want, ", "), strings.Join(tags, ", "))
	return errors.Join(faults...)
}

// encode writes an asset, the one at place in the order of first sight.
func (a *asset) encode(e *state.Encoder, place int, late []lateSample) {
	e.Uint(uint64(place))
	e.Int(a.next)
	e.Int(a.newest)
	e.Int(a.arrived)
	e.Uint(uint64(len(a.revisions)))
	last := a.newest
	for _, g := range slices.Sorted(maps.Keys(a.revisions)) {
		e.Int(g - last)
		e.Uint(uint64(a.revisions[g]))
		last = g
	}
	for i := range a.lanes {
		l := &a.lanes[i]
		held := l.held.ts != -none
		e.Bool(held)
		if held {
			e.Int(a.newest - l.held.ts)
			e.Float(l.held.value)
		}
		e.Uint(uint64(l.head - l.old))
		e.Uint(uint64(len(l.samples) - l.head))
		from := sample{point: point{ts: a.newest}}
		for _, s := range l.samples[l.old:] {
			from = encodeSample(e, from, s)
		}
	}
	e.Uint(uint64(len(late)))
	from := sample{point: point{ts: a.newest}}
	for _, s := range late {
		e.Uint(uint64(s.channel))
		from = encodeSample(e, from, s.sample)
	}
}

// decode reads the asset whose place was read, and returns its late samples.
func (a *asset) decode(d *state.Decoder, id int32) []lateSample {
	a.next, a.newest, a.arrived = d.Int(), d.Int(), d.Int()
	if n := d.Len(2); n > 0 {
		a.revisions = make(map[int64]uint32, n)
		g := a.newest
		for range n {
			g += d.Int()
			a.revisions[g] = uint32(d.Uint())
		}
	}
	for i := range a.lanes {
		l := &a.lanes[i]
		from := sample{point: point{ts: a.newest}}
		if d.Bool() {
			l.held = point{ts: a.newest - d.Int(), value: d.Float()}
		}
		counted := d.Len(sampleBytes)
		waiting := d.Len(sampleBytes)
		for k := range counted + waiting {
			from = decodeSample(d, from)
			if k < counted {
				l.samples, l.head = append(l.samples, from), k+1
			} else {
				l.add(from)
			}
		}
	}
	late := make([]lateSample, d.Len(1+sampleBytes))
	from := sample{point: point{ts: a.newest}}
	for i := range late {
		channel := min(d.Uint(), uint64(len(a.lanes)-1)) // so that damaged bytes can't name one that is not there
		from = decodeSample(d, from)
		late[i] = lateSample{asset: id, channel: int32(channel), sample: from}
	}
	return late
}

// sampleBytes is the least that a sample takes.
const sampleBytes = 11

// encodeSample writes a sample by what it differs in from the one before, and from its own time, and returns it.
// Differences wrap around, and so does decodeSample's sum.
func encodeSample(e *state.Encoder, from, s sample) sample {
	e.Int(s.ts - from.ts)
	e.Float(s.value)
	e.Int(s.arrived - s.ts)
	e.Int(s.offset - from.offset)
	return s
}

func decodeSample(d *state.Decoder, from sample) sample {
	s := sample{point: point{ts: from.ts + d.Int(), value: d.Float()}}
	s.arrived = s.ts + d.Int()
	s.offset = from.offset + d.Int()
	return s
}
