package align

import (
	"github.com/apache/arrow/go/v15/arrow/array"
	"github.com/tailrace/tailrace/pipeline"
)

// The reasons why a sample is not used.
const (
	unknownTag = iota
	clockSuspect
	noValue
	badQuality
	notFinite
	outOfRange
	late
	maxOpen
	maxAssets
	reasons
)

// drops counts the samples of one batch that are not used, by reason and by the asset's index in the batch's dictionary.
// All but the assets in touched are zero, so that a batch costs what it drops, however many assets there are.
type drops struct {
	counts  [][reasons]int
	touched []int32
}

// start makes room for a dictionary of n assets. What was counted before must have been reported.
func (d *drops) start(n int) *drops {
	if n > len(d.counts) {
		d.counts = append(d.counts, make([][reasons]int, n-len(d.counts))...)
	}
	return d
}

func (d *drops) add(reason int, asset int32) {
	c := &d.counts[asset]
	if *c == [reasons]int{} {
		d.touched = append(d.touched, asset)
	}
	c[reason]++
}

// report tells the totals of the batch, and whose they are, and starts anew.
func (d *drops) report(s *pipeline.Settings, names *array.String) {
	words := [reasons]string{
		unknownTag: "unknown_tag", clockSuspect: "clock_suspect", noValue: "no_value", badQuality: "bad_quality",
		notFinite: "not_finite", outOfRange: "out_of_range", late: "late", maxOpen: "max_open_samples", maxAssets: "max_assets",
	}
	var totals [reasons]int
	for _, i := range d.touched {
		for reason, n := range d.counts[i] {
			totals[reason] += n
			s.DropAsset(names.Value(int(i)), words[reason], n)
		}
		d.counts[i] = [reasons]int{}
	}
	d.touched = d.touched[:0]
	for reason, n := range totals {
		s.Drop(words[reason], n)
	}
}
