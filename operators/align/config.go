package align

import (
	"fmt"
	"slices"
	"time"

	"github.com/tailrace/tailrace/pipeline"
	"github.com/tailrace/tailrace/schemas"
)

// Config is what a user writes under align.
type Config struct {
	// Grid is the spacing of the rows. Grid times are its multiples since 1970. Required.
	Grid time.Duration `yaml:"grid" jsonschema:"required"`
	// MaxGap is how long a value counts after its sample; past it the cell is empty. Default three times grid, so that
	// two lost samples of a value sent once a grid do no harm.
	MaxGap time.Duration `yaml:"max_gap"`
	// Value is what a cell holds: hold, the newest value at the row's time, or mean, the mean of that value since the row
	// before, weighted by how long each value held, which is what a coarse grid over data reported by exception wants. A
	// model must be trained with what it is run with. Default hold.
	Value string `yaml:"value" jsonschema:"enum=hold,enum=mean"`
	// Channels are the tags to take, each with the unit its values are in ("" if unknown), in the model's order. Required.
	Channels Channels `yaml:"channels" jsonschema:"required"`
	// MaxAssets is the most assets of one partition; samples of further ones are counted as max_assets. Default 10000:
	// an asset costs some 64 bytes a channel.
	MaxAssets int `yaml:"max_assets"`
	// MaxOpenSamples is the most samples of one partition that wait for the watermark; further ones are counted as
	// max_open_samples. As many again are kept to correct late rows with, if watermark.allowed_lateness is set. Default
	// 2000000, some 64 MiB, which is minutes of a full partition.
	MaxOpenSamples int `yaml:"max_open_samples"`
	// BatchRows is how many rows an emitted batch holds before the next grid time starts a new one. Default 8192, which
	// stays in a processor's cache at 50 channels.
	BatchRows int `yaml:"batch_rows"`
}

// maxGapRows bounds max_gap / grid, which is how many rows one last sample can make.
const maxGapRows = 100_000

// What a cell can hold.
const (
	valueHold = "hold"
	valueMean = "mean"
)

func defaults() Config {
	return Config{Value: valueHold, MaxAssets: 10_000, MaxOpenSamples: 2_000_000, BatchRows: 8192}
}

// Validate reports what is missing or out of bounds.
func (c *Config) Validate() []pipeline.Fault {
	var faults []pipeline.Fault
	if c.Grid <= 0 || c.Grid > 24*time.Hour {
		faults = append(faults, pipeline.Faultf("grid", "want a spacing over 0s and up to 24h, such as 1s, got %v", c.Grid))
	}
	switch {
	case c.MaxGap < 0 || c.MaxGap > 0 && c.MaxGap < c.Grid:
		faults = append(faults, pipeline.Faultf("max_gap", "want grid (%v) or more, got %v", c.Grid, c.MaxGap))
	case c.Grid > 0 && c.MaxGap/c.Grid > maxGapRows:
		faults = append(faults, pipeline.Faultf("max_gap", "want at most %d times grid (%v), got %v", maxGapRows, c.Grid, c.MaxGap))
	}
	if c.Value != valueHold && c.Value != valueMean {
		faults = append(faults, pipeline.Faultf("value", "want %s or %s, got %q", valueHold, valueMean, c.Value))
	}
	if len(c.Channels) == 0 {
		faults = append(faults, pipeline.Faultf("channels", "want at least one tag with its unit, got none"))
	}
	for _, limit := range []struct {
		path  string
		value int
	}{{"max_assets", c.MaxAssets}, {"max_open_samples", c.MaxOpenSamples}, {"batch_rows", c.BatchRows}} {
		if limit.value < 1 {
			faults = append(faults, pipeline.Faultf(limit.path, "want 1 or more, got %d", limit.value))
		}
	}
	return faults
}

// Channels are written as a mapping of tags to units whose order counts.
type Channels []schemas.Channel

var _ pipeline.PairsUnmarshaler = (*Channels)(nil)

// UnmarshalPairs takes the mapping.
func (c *Channels) UnmarshalPairs(pairs []pipeline.Pair) error {
	list := make(Channels, 0, len(pairs))
	for _, p := range pairs {
		if p.Key == "" {
			return fmt.Errorf("want a tag before each unit, got an empty one before %q", p.Value)
		}
		if slices.ContainsFunc(list, func(known schemas.Channel) bool { return known.Tag == p.Key }) {
			return fmt.Errorf("want each tag once, got %q twice", p.Key)
		}
		list = append(list, schemas.Channel{Tag: p.Key, Unit: p.Value})
	}
	*c = list
	return nil
}

// Component describes align to a pipeline file.
func Component() pipeline.Component[pipeline.NewOperator] {
	return pipeline.Define("long telemetry to one row per asset and grid time, holding values up to max_gap", defaults(),
		func(c Config) (pipeline.NewOperator, error) {
			return func(s pipeline.Settings) (pipeline.Operator, error) { return New(c, s), nil }, nil
		})
}
