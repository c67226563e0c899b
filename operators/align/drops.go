package align

import (
	"github.com/apache/arrow/go/v15/arrow/array"
	"github.com/tailrace/tailrace/pipeline"
)

// drops counts the samples of one asset in one batch that are not used.
type drops struct {
	unknownTag, clockSuspect, noValue, badQuality, notFinite, outOfRange, late, maxOpen, maxAssets int
}

// dropTable has the drops of a batch by the index of the asset in the batch's dictionary. All but the assets in touched
// are zero, so that a batch costs what it drops, however many assets there are.
type dropTable struct {
	counts  []drops
	touched []int32
}

// of returns the drops of an asset.
func (t *dropTable) of(asset int32) *drops {
	for int(asset) >= len(t.counts) {
		t.counts = append(t.counts, drops{})
	}
	d := &t.counts[asset]
	if *d == (drops{}) {
		t.touched = append(t.touched, asset)
	}
	return d
}

// report tells the totals of the batch and forgets them.
func (t *dropTable) report(s *pipeline.Settings, names *array.String) {
	for _, i := range t.touched {
		d, name := &t.counts[i], names.Value(int(i))
		s.DropOf(name, "unknown_tag", d.unknownTag)
		s.DropOf(name, "clock_suspect", d.clockSuspect)
		s.DropOf(name, "no_value", d.noValue)
		s.DropOf(name, "bad_quality", d.badQuality)
		s.DropOf(name, "not_finite", d.notFinite)
		s.DropOf(name, "out_of_range", d.outOfRange)
		s.DropOf(name, "late", d.late)
		s.DropOf(name, "max_open_samples", d.maxOpen)
		s.DropOf(name, "max_assets", d.maxAssets)
		*d = drops{}
	}
	t.touched = t.touched[:0]
}
