package detect

import (
	"math"
	"time"

	"github.com/tailrace/tailrace/pipeline"
)

// Config is what a user writes under detect.
type Config struct {
	// Name is the detector's name. It is part of every event's id, so that it must not change. Default detect.
	Name string `yaml:"name"`
	// Threshold is the score above which a window is anomalous. Required.
	Threshold Threshold `yaml:"threshold" jsonschema:"required"`
	// Leave is the share of the threshold below which an event ends: the gap keeps a score that hovers at the threshold
	// from making many events. Default 0.9.
	Leave float64 `yaml:"leave"`
	// Smooth is the half-life of an exponential mean of the score; 0s takes the score as it is. Default 0s.
	Smooth time.Duration `yaml:"smooth"`
	// OnDelay is how long the score must stay above the threshold before an event opens. Default 0s.
	OnDelay time.Duration `yaml:"on_delay"`
	// OffDelay is how long the score must stay below leave before an event closes. Default 0s.
	OffDelay time.Duration `yaml:"off_delay"`
	// Cooldown is how long after the end of an event no other opens. Default 0s.
	Cooldown time.Duration `yaml:"cooldown"`
	// Contributions is how many channels with the largest shares are given as the cause. Default 3, what a person reads.
	Contributions int `yaml:"contributions"`
	// MaxAssets is the most assets of one partition; windows of further ones pass without events and are counted as
	// max_assets. Default 10000, as in align.
	MaxAssets int `yaml:"max_assets"`
}

// Threshold is written as one of {quantile: 0.99} and {fixed: 1.5}.
type Threshold struct {
	// Quantile takes the score that this share of normal windows stayed under in training, from the model bundle.
	Quantile *float64 `yaml:"quantile"`
	// Fixed is a score.
	Fixed *float64 `yaml:"fixed"`
}

func defaults() Config {
	return Config{Name: "detect", Leave: 0.9, Contributions: 3, MaxAssets: 10_000}
}

// Validate reports what is missing or out of bounds.
func (c *Config) Validate() []pipeline.Fault {
	var faults []pipeline.Fault
	fault := func(path, format string, args ...any) {
		faults = append(faults, pipeline.Faultf(path, format, args...))
	}
	if c.Name == "" {
		fault("name", "want a name, got none")
	}
	switch t := c.Threshold; {
	case (t.Quantile == nil) == (t.Fixed == nil):
		fault("threshold", "want one of {quantile: 0.99} and {fixed: 1.5}")
	case t.Quantile != nil && !(*t.Quantile > 0 && *t.Quantile < 1):
		fault("threshold.quantile", "want a share between 0 and 1, got %v", *t.Quantile)
	case t.Fixed != nil && !usable(*t.Fixed):
		fault("threshold.fixed", "want a score above 0, got %v", *t.Fixed)
	}
	if !(c.Leave > 0 && c.Leave <= 1) {
		fault("leave", "want a share of the threshold over 0 and up to 1, got %v", c.Leave)
	}
	for _, d := range []struct {
		path  string
		value time.Duration
	}{{"smooth", c.Smooth}, {"on_delay", c.OnDelay}, {"off_delay", c.OffDelay}, {"cooldown", c.Cooldown}} {
		if d.value < 0 {
			fault(d.path, "want 0s or more, got %v", d.value)
		}
	}
	if c.Contributions < 0 {
		fault("contributions", "want 0 or more, got %d", c.Contributions)
	}
	if c.MaxAssets < 1 {
		fault("max_assets", "want 1 or more, got %d", c.MaxAssets)
	}
	return faults
}

// usable tells whether a threshold fits the column threshold and can be left.
func usable(t float64) bool { return t >= math.SmallestNonzeroFloat32 && t <= math.MaxFloat32 }

// Component describes detect to a pipeline file.
func Component() pipeline.Component[pipeline.NewOperator] {
	return pipeline.Define("turn scores into anomaly events with a cause", defaults(),
		func(c Config) (pipeline.NewOperator, error) {
			return func(s pipeline.Settings) (pipeline.Operator, error) { return New(c, s), nil }, nil
		})
}
