package window

import (
	"time"

	"github.com/tailrace/tailrace/pipeline"
)

// The kinds of windows.
const (
	Tumbling = "tumbling" // one after the other
	Hopping  = "hopping"  // one every hop, overlapping where hop is less than size
)

// Config is what a user writes under window.
type Config struct {
	// Kind is tumbling, one window after the other, or hopping, one every hop. Default tumbling.
	Kind string `yaml:"kind" jsonschema:"enum=tumbling,enum=hopping"`
	// Size is the length of a window, a multiple of align's grid. Required.
	Size time.Duration `yaml:"size" jsonschema:"required"`
	// Hop is the time from the start of a window to the start of the next, a multiple of the grid and at most size.
	// Windows start at multiples of hop since 1970. For hopping only, and required there.
	Hop time.Duration `yaml:"hop"`
	// MaxAssets is the most assets of one partition; rows of further ones are counted as max_assets. Default 10000, as
	// in align.
	MaxAssets int `yaml:"max_assets"`
	// MaxState is the most memory for the rows of open windows of one partition; rows beyond it are counted as
	// max_state. Default 512MiB: 1000 assets with 50 channels and windows of 1000 rows, and some.
	MaxState pipeline.Bytes `yaml:"max_state"`
	// MaxBatch is the size of an emitted batch's samples at which the next window starts a new one. Default 16MiB: some
	// hundred windows of 600 rows and 50 channels, more than a model's batch needs.
	MaxBatch pipeline.Bytes `yaml:"max_batch"`
}

// maxSize keeps a window's end far from the end of time.
const maxSize = 366 * 24 * time.Hour

func defaults() Config {
	return Config{Kind: Tumbling, MaxAssets: 10_000, MaxState: 512 << 20, MaxBatch: 16 << 20}
}

// Validate reports what is missing or out of bounds.
func (c *Config) Validate() []pipeline.Fault {
	var faults []pipeline.Fault
	if c.Size <= 0 || c.Size > maxSize {
		faults = append(faults, pipeline.Faultf("size", "want a length over 0s and up to %v, such as 10m, got %v", maxSize, c.Size))
	}
	switch c.Kind {
	case Tumbling:
		if c.Hop != 0 && c.Hop != c.Size {
			faults = append(faults, pipeline.Faultf("hop", "want none with kind tumbling (its windows follow each other), got %v", c.Hop))
		}
	case Hopping:
		if c.Hop <= 0 || c.Hop > c.Size {
			faults = append(faults, pipeline.Faultf("hop", "want a time over 0s and up to size (%v), got %v", c.Size, c.Hop))
		}
	default:
		faults = append(faults, pipeline.Faultf("kind", "want tumbling or hopping, got %q", c.Kind))
	}
	if c.MaxAssets < 1 {
		faults = append(faults, pipeline.Faultf("max_assets", "want 1 or more, got %d", c.MaxAssets))
	}
	if c.MaxState < 1<<20 {
		faults = append(faults, pipeline.Faultf("max_state", "want 1MiB or more, got %d bytes", c.MaxState))
	}
	if c.MaxBatch < 1 || c.MaxBatch > 1<<30 {
		faults = append(faults, pipeline.Faultf("max_batch", "want 1 byte to 1GiB, got %d bytes", c.MaxBatch))
	}
	return faults
}

// Component describes window to a pipeline file.
func Component() pipeline.Component[pipeline.NewOperator] {
	return pipeline.Define("windows of the grid's rows, tumbling or hopping, in event time", defaults(),
		func(c Config) (pipeline.NewOperator, error) {
			return func(s pipeline.Settings) (pipeline.Operator, error) { return New(c, s), nil }, nil
		})
}
