package eventtime

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/tailrace/tailrace/pipeline/state"
)

// version is the format of the values below.
const version = 1

// The keys of a snapshot begin with one of these and end with a name; the clock and the lanes are of no one key.
// They are apart since a src and an asset may have the same name.
const (
	keySrc   = "s" // a device that a src names: its clock in both lanes, and what is found about it
	keyAsset = "a" // the same of a device that an asset names
	keyTag   = "t" // a number that stands for a tag in what follows, and the tag
	keySeen  = "d" // the number of the lane and an asset: the times of its tags after the horizon
)

// Snapshot writes all that the clock must know to go on, or what has changed since the Snapshot before.
func (c *Clock) Snapshot(w *state.Writer, full bool) error {
	w.Version(version)
	var e state.Encoder
	e.Int(c.now)
	for i := range c.lanes {
		l := &c.lanes[i]
		for _, v := range []int64{l.watermark, l.newest, l.newestArrived, l.began, l.lastArrived, int64(l.gathered)} {
			e.Int(v)
		}
		e.Bool(l.open)
		e.Bool(l.gathers)
	}
	w.Common(e.Bytes)

	if full {
		c.touched = c.touched[:0]
		for device := range c.names.devices {
			c.touched = append(c.touched, int32(device))
		}
		c.names.tagsWritten = 0
	}
	for _, device := range c.touched {
		c.writeDevice(w, &e, device)
	}
	c.touched = c.touched[:0]
	for ; c.names.tagsWritten < c.names.tags.Len(); c.names.tagsWritten++ {
		w.Put(keyTag+strconv.Itoa(c.names.tagsWritten), []byte(c.names.tags.Text(int32(c.names.tagsWritten))))
	}
	for i := range c.lanes {
		c.writeSeen(w, &e, i, full)
	}
	return nil
}

func (c *Clock) writeDevice(w *state.Writer, e *state.Encoder, device int32) {
	e.Reset()
	for i := range c.lanes {
		t := c.track(Lane(i), device)
		e.Int(t.newest)
		e.Int(t.arrived)
		e.Bool(t.active)
		t.touched = false
	}
	f := c.faults[device]
	e.Bool(f != nil)
	if f != nil {
		e.Text(f.kind)
		for _, v := range []int64{f.since, f.last, f.by, f.rows} {
			e.Int(v)
		}
	}
	key := keyAsset
	if c.names.devices[device].src {
		key = keySrc
	}
	w.Put(key+c.names.text(device), e.Bytes)
}

// writeSeen writes the times of assets that have a pair that has changed. What only fell behind the horizon stays as
// it was written: it falls behind again when it is read.
func (c *Clock) writeSeen(w *state.Writer, e *state.Encoder, lane int, full bool) {
	l := &c.lanes[lane]
	s, horizon := &l.seen, l.horizon()
	var assets []int32
	for _, id := range s.changed {
		s.pairs[id].changed = false
		asset, _ := s.pairs[id].names()
		assets = append(assets, asset)
	}
	s.changed = s.changed[:0]
	if full {
		assets = assets[:0]
		for asset, head := range s.heads {
			if head != 0 {
				assets = append(assets, int32(asset))
			}
		}
	}
	slices.Sort(assets)
	prefix := keySeen + strconv.Itoa(lane)
	for _, asset := range slices.Compact(assets) {
		e.Reset()
		for id := s.heads[asset]; id != 0; id = s.pairs[id].sibling {
			p := &s.pairs[id]
			p.forget(horizon)
			if len(p.recent) == 0 {
				continue
			}
			_, tag := p.names()
			e.Uint(uint64(tag))
			e.Uint(uint64(len(p.recent)))
			last := int64(0)
			for _, ts := range p.recent {
				e.Int(ts - last)
				last = ts
			}
		}
		if len(e.Bytes) > 0 {
			w.Put(prefix+c.names.assets.Text(asset), e.Bytes)
		}
	}
}

// Restore takes what Snapshot wrote. It is called before the first row; after an error the clock must not be used.
func (c *Clock) Restore(r *state.Reader) error {
	if v := r.Version(); v != version {
		return fmt.Errorf("want format version %d of event time, got %d: it is of another release", version, v)
	}
	d := state.NewDecoder(r.Common())
	c.now, c.due = d.Int(), -farthest
	for i := range c.lanes {
		l := &c.lanes[i]
		for _, v := range []*int64{&l.watermark, &l.newest, &l.newestArrived, &l.began, &l.lastArrived} {
			*v = d.Int()
		}
		l.gathered, l.open, l.gathers = int(d.Int()), d.Bool(), d.Bool()
	}
	if err := d.Err(); err != nil {
		return fmt.Errorf("clock and lanes: %w", err)
	}
	if err := c.restoreTags(r); err != nil {
		return err
	}
	for key, value := range r.All() {
		if strings.HasPrefix(key, keyTag) {
			continue
		}
		if key == "" {
			return fmt.Errorf("%w: want keys that say what they are of, got an empty one", state.ErrCorrupt)
		}
		if err := c.restoreKey(key[:1], key[1:], state.NewDecoder(value)); err != nil {
			return fmt.Errorf("key %q: %w", key, err)
		}
	}
	return nil
}

// restoreTags gives the tags the numbers that they had.
func (c *Clock) restoreTags(r *state.Reader) error {
	for {
		key := keyTag + strconv.Itoa(c.names.tags.Len())
		tag := r.Get(key)
		if tag == nil {
			c.names.tagsWritten = c.names.tags.Len()
			return nil
		}
		if _, twice := c.names.tags.Find(tag); twice {
			return fmt.Errorf("key %q: %w: want a tag with one number, got %.100q again", key, state.ErrCorrupt, tag)
		}
		c.names.tags.ID(tag)
	}
}

func (c *Clock) restoreKey(kind, name string, d *state.Decoder) error {
	switch kind {
	case keySrc:
		if name != "" {
			return c.readDevice(d, c.names.restoreSrc(name))
		}
	case keyAsset:
		return c.readDevice(d, c.names.restoreAsset(name))
	case keySeen:
		if name != "" && name[0] >= '0' && name[0] < '0'+byte(lanes) {
			return c.readSeen(d, &c.lanes[name[0]-'0'], name[1:])
		}
	}
	return fmt.Errorf("%w: want a key that begins with s, a, t, d0 or d1", state.ErrCorrupt)
}

func (c *Clock) readDevice(d *state.Decoder, device int32) error {
	for i := range c.lanes {
		t := c.track(Lane(i), device)
		t.newest, t.arrived = d.Int(), d.Int()
		if active := d.Bool(); active {
			c.lanes[i].join(device)
		} else if t.newest != unset {
			c.lanes[i].away.add(device)
		}
	}
	if d.Bool() {
		c.faults[device] = &fault{kind: d.Text(), since: d.Int(), last: d.Int(), by: d.Int(), rows: d.Int()}
		c.faulty.add(device)
		c.track(Live, device).fault = true
	}
	return d.Err()
}

func (c *Clock) readSeen(d *state.Decoder, l *lane, name string) error {
	asset, horizon := c.names.assets.ID([]byte(name)), l.horizon()
	for d.More() {
		tag, last := d.Uint(), int64(0)
		if tag >= uint64(c.names.tags.Len()) {
			return fmt.Errorf("%w: want the number of one of %d tags, got %d", state.ErrCorrupt, c.names.tags.Len(), tag)
		}
		for range d.Len(1) {
			last += d.Int()
			l.seen.repeats(asset, int32(tag), last, horizon)
		}
	}
	return d.Err()
}
