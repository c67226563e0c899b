// Package score runs a model bundle over windows.
//
// Columns in: those of window and [schemas.NameInput], which normalize adds. Columns out: all of them and
// [schemas.ScoreFields]. A window that was cut or holds less than the bundle's min_coverage is not scored: its score is
// null and the reason says why. The same goes for a window for which the model gives a number that is not finite. It
// keeps no state; rows keep their order.
package score

import (
	"path/filepath"

	"github.com/tailrace/tailrace/operators/model"
	"github.com/tailrace/tailrace/operators/ort"
	"github.com/tailrace/tailrace/operators/reference"
	"github.com/tailrace/tailrace/pipeline"
)

// BackendAuto chooses ONNX Runtime where the program was built with it, else the reference backend.
const BackendAuto = "auto"

// Config is what to run and how.
type Config struct {
	// Model is the folder of a model bundle. A relative path starts at the pipeline file.
	Model string `yaml:"model"`
	// Backend is what runs the model: onnxruntime, reference (plain Go, no shared library), or auto. Default auto.
	Backend string `yaml:"backend"`
	// MaxBatch is the largest number of windows in one run of the model. Default 128: on a CPU larger batches bring nothing,
	// and recurrent models get slower as they leave the cache (see the figures in operators/ort).
	MaxBatch int `yaml:"max_batch"`
	// MaxModel bounds the size of the model's file. Default 512MiB.
	MaxModel pipeline.Bytes `yaml:"max_model"`
}

// DefaultConfig is a Config without a model.
func DefaultConfig() Config {
	return Config{Backend: BackendAuto, MaxBatch: 128, MaxModel: model.DefaultLimits().Model}
}

// Validate reports every fault.
func (c *Config) Validate() []pipeline.Fault {
	var faults []pipeline.Fault
	if c.Model == "" {
		faults = append(faults, pipeline.Faultf("model", "want the folder of a model bundle, got nothing"))
	}
	switch c.Backend {
	case BackendAuto, ort.Backend, reference.Backend:
	default:
		faults = append(faults, pipeline.Faultf("backend", "want %s, %s or %s, got %q",
			BackendAuto, ort.Backend, reference.Backend, c.Backend))
	}
	if c.MaxBatch < 1 || c.MaxBatch > 1<<20 {
		faults = append(faults, pipeline.Faultf("max_batch", "want 1 to 1048576, got %d", c.MaxBatch))
	}
	if c.MaxModel < 1 {
		faults = append(faults, pipeline.Faultf("max_model", "want 1 byte or more, got %d", c.MaxModel))
	}
	return faults
}

// RunsOn is the backend that runs the model: what auto comes to in this build.
func (c *Config) RunsOn() string {
	switch {
	case c.Backend != BackendAuto:
		return c.Backend
	case ort.Available:
		return ort.Backend
	}
	return reference.Backend
}

// tolerance is how close the golden outputs must be, relative. ONNX Runtime was within 1.3e-6 of float64 on seven kinds of
// model; the reference backend sums in plain order, which costs a digit.
func (c *Config) tolerance() float64 {
	if c.RunsOn() == ort.Backend {
		return 1e-5
	}
	return 1e-4
}

// Component makes score operators.
func Component() pipeline.Component[pipeline.NewOperator] {
	return pipeline.Define("score windows with a model bundle", DefaultConfig(), func(c Config) (pipeline.NewOperator, error) {
		return func(s pipeline.Settings) (pipeline.Operator, error) { return New(c, s), nil }, nil
	})
}

// dir is the bundle's folder.
func (c *Config) dir(base string) string {
	if filepath.IsAbs(c.Model) {
		return c.Model
	}
	return filepath.Join(base, c.Model)
}
