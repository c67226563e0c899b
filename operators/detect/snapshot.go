package detect

import (
	"fmt"
	"slices"
	"strings"

	"github.com/tailrace/tailrace/pipeline/state"
)

// stateVersion numbers the format of the values that Snapshot writes.
const stateVersion = 1

// Snapshot writes where each asset stands, by asset, and once the channels, which causes name by number.
func (o *Operator) Snapshot(w *state.Writer, full bool) error {
	w.Version(stateVersion)
	var e state.Encoder
	for i := range o.assets {
		a := &o.assets[i]
		if !a.changed && !full {
			continue
		}
		a.changed = false
		e.Reset()
		a.encode(&e, i)
		w.Put(o.names.Text(int32(i)), e.Bytes)
	}
	e.Reset()
	e.Uint(uint64(len(o.layout.Channels)))
	for _, channel := range o.layout.Channels {
		e.Text(channel.Tag)
	}
	w.Common(e.Bytes)
	return nil
}

// Restore takes what Snapshot wrote. Assets keep the order in which they were first seen.
func (o *Operator) Restore(r *state.Reader) error {
	if r.Version() == 0 {
		return nil
	}
	if v := r.Version(); v != stateVersion {
		return fmt.Errorf("state of detect: want version %d, got %d: it is of another release", stateVersion, v)
	}
	if err := o.restoreCommon(r.Common()); err != nil {
		return fmt.Errorf("state of detect: %w", err)
	}
	if r.Len() > o.config.MaxAssets {
		return fmt.Errorf("state of detect: want at most %d assets (max_assets), got %d", o.config.MaxAssets, r.Len())
	}
	for i, s := range r.InOrder() {
		o.names.ID([]byte(s.Key))
		o.assets = append(o.assets, asset{state: newStanding(), changed: s.Place != uint64(i)})
		o.assets[i].decode(s.Rest, len(o.layout.Channels))
		if err := s.Rest.Err(); err != nil {
			return fmt.Errorf("state of detect: asset %q: %w", s.Key, err)
		}
	}
	return nil
}

// restoreCommon takes what is of no one asset, and wants it to fit.
func (o *Operator) restoreCommon(value []byte) error {
	d := state.NewDecoder(value)
	got := make([]string, d.Len(1))
	for i := range got {
		got[i] = d.Text()
	}
	if err := d.Err(); err != nil {
		return err
	}
	want := make([]string, len(o.layout.Channels))
	for i, channel := range o.layout.Channels {
		want[i] = channel.Tag
	}
	if !slices.Equal(want, got) {
		return fmt.Errorf("channels: want %d (%s), as configured, got %d (%s)", len(want), strings.Join(want, ", "), len(got),
			strings.Join(got, ", "))
	}
	return nil
}

// encode writes an asset, the one at place in the order of first sight.
func (a *asset) encode(e *state.Encoder, place int) {
	e.Uint(uint64(place))
	s := &a.state
	for _, flag := range []bool{s.started, s.scored, s.open, s.waiting} {
		e.Bool(flag)
	}
	e.Float(s.smooth)
	for _, at := range []int64{s.last, s.scoredAt, s.waited, s.onset, s.cleared, s.quietTill} {
		e.Int(at)
	}
	v := &a.evidence
	e.Float(v.peak)
	e.Float(v.smoothed)
	e.Int(v.peakAt)
	e.Int(v.first)
	e.Int(v.last)
	e.Uint(uint64(len(v.causes)))
	for _, c := range v.causes {
		e.Uint(uint64(c.channel))
		e.Float(float64(c.share))
		e.Float(c.observed)
		e.Float(c.expected)
	}
}

// decode reads the asset whose place was read.
func (a *asset) decode(d *state.Decoder, channels int) {
	s := &a.state
	for _, flag := range []*bool{&s.started, &s.scored, &s.open, &s.waiting} {
		*flag = d.Bool()
	}
	s.smooth = d.Float()
	for _, at := range []*int64{&s.last, &s.scoredAt, &s.waited, &s.onset, &s.cleared, &s.quietTill} {
		*at = d.Int()
	}
	v := &a.evidence
	v.peak, v.smoothed, v.peakAt, v.first, v.last = d.Float(), d.Float(), d.Int(), d.Int(), d.Int()
	v.causes = make([]cause, d.Len(25))
	for i := range v.causes {
		channel := min(d.Uint(), uint64(channels-1)) // so that damaged bytes can't name one that is not there
		v.causes[i] = cause{channel: int32(channel), share: float32(d.Float()), observed: d.Float(), expected: d.Float()}
	}
}
