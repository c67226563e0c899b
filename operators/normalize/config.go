package normalize

import (
	"github.com/tailrace/tailrace/operators/model"
	"github.com/tailrace/tailrace/pipeline"
)

// Config is what a user writes under normalize.
type Config struct {
	// Model is the folder of the model bundle whose statistics are used. A relative path starts at the pipeline file.
	Model string `yaml:"model" jsonschema:"required"`
	// MaxModel bounds the size of the bundle's graph, which is verified with the rest. Default 512MiB, as in score.
	MaxModel pipeline.Bytes `yaml:"max_model"`
}

func defaults() Config { return Config{MaxModel: model.DefaultLimits().Model} }

// Validate reports what is missing or out of bounds.
func (c *Config) Validate() []pipeline.Fault {
	var faults []pipeline.Fault
	if c.Model == "" {
		faults = append(faults, pipeline.Faultf("model", "want the folder of a model bundle, got nothing"))
	}
	if c.MaxModel < 1 {
		faults = append(faults, pipeline.Faultf("max_model", "want 1 byte or more, got %d", c.MaxModel))
	}
	return faults
}

// Component describes normalize to a pipeline file.
func Component() pipeline.Component[pipeline.NewOperator] {
	return pipeline.Define("normalize windows with the statistics of a model bundle", defaults(),
		func(c Config) (pipeline.NewOperator, error) {
			return func(s pipeline.Settings) (pipeline.Operator, error) { return New(c, s), nil }, nil
		})
}
