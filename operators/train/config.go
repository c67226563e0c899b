// Package train fits models to windows of normal operation and makes model bundles of them.
//
// Principal component analysis: the windows, T rows of C channels flattened to T*C features, are standardized with one
// mean and one standard deviation (n-1) a channel, z; the a leading right singular vectors P of all z and their variances
// lambda (n-1) give, for any z, the scores t = P'z, the reconstruction Pt and
//
//	T2 = sum t_k^2 / lambda_k   how far inside the plane of normal operation
//	Q  = |z - Pt|^2             how far off it
//
// (Hotelling's T2 and the squared prediction error). The score is max(T2/limit, Q/limit), 1 at the limit of the first
// configured quantile. Limits and thresholds are quantiles of windows that the model they were scored by had not seen:
// the windows are cut into contiguous blocks of time, and each block is scored by a model of the others. Where windows
// overlap, those that share time with a block are left out of its model.
//
// The shares of the channels explain the larger of the two ratios and sum to 1. For Q a feature's part is its squared
// residual. For T2 it is (P lambda^-1/2 P'z)_j^2, which is never negative and sums to T2, since P'P = I: the complete
// decomposition contribution, in the words of Alcala and Qin, Journal of Process Control 21 (2011). A channel's part is
// the sum over the window's rows.
//
// Two nets can be trained instead, by ONNX Runtime; what they are is said at their fields of [Config] and, in formulas, at
// fitAutoencoder and fitClassifier.
//
// For a PCA, the same windows and Config give the same bytes on every machine of one architecture: sums run in a fixed order, the
// signs of P are fixed, and what is stored is rounded.
package train

import (
	"slices"

	"github.com/tailrace/tailrace/operators/model"
	"github.com/tailrace/tailrace/pipeline"
)

// Config is what to fit and where to write it.
type Config struct {
	// Name is the model's name.
	Name string `yaml:"name"`
	// Version is the model's version. A version that was written never changes: raise it to train anew.
	Version string `yaml:"version"`
	// Output is the folder of models; the bundle goes to OUTPUT/NAME/VERSION. Relative paths start at the pipeline file.
	Output string `yaml:"output"`
	// Licence is written into the manifest, as it stands.
	Licence string `yaml:"licence"`
	// PCA is the model to fit, unless a net is named.
	PCA PCA `yaml:"pca"`
	// Autoencoder is fitted instead if it has hidden layers: a net that is to give back its input.
	Autoencoder Net `yaml:"autoencoder"`
	// Classifier is fitted instead if it has hidden layers: a net that is to tell the labels apart.
	Classifier Net `yaml:"classifier"`
	// Labels gives, for a classifier, the label of each asset, which is the name of its file without extensions unless
	// train.data.asset says otherwise. One label is normal; a label's probability is stored as p_LABEL.
	Labels map[string]string `yaml:"labels"`
	// Quantiles are the shares of normal windows that thresholds are given for, rising. The score is 1 at the first.
	// Default 0.95, 0.99, 0.995: a quantile q needs some 10/(1-q) windows to be more than a guess.
	Quantiles []float64 `yaml:"quantiles"`
	// Folds is the number of blocks of time that are scored by models of the others. Default 5, so that four fifths of the
	// windows fit each of them.
	Folds int `yaml:"folds"`
	// MinCoverage is the least share of cells of a window that is learnt from, and later scored. Default 0.9.
	MinCoverage float64 `yaml:"min_coverage"`
	// Seed makes the noise of the golden inputs, and a net's first weights and the order of its windows. Default 1.
	Seed int64 `yaml:"seed"`
	// MaxMemory bounds what the windows and their decomposition may take. Default 2GiB.
	MaxMemory pipeline.Bytes `yaml:"max_memory"`
}

// PCA is a principal component analysis.
type PCA struct {
	// Components is the number of components that are kept; 0 for as many as Variance asks for.
	Components int `yaml:"components"`
	// Variance is the share of the variance that the kept components hold, if Components is 0. Default 0.9.
	Variance float64 `yaml:"variance"`
}

// DefaultConfig is a Config without name, version and output, which have no default.
func DefaultConfig() Config {
	return Config{
		PCA: PCA{Variance: 0.9}, Autoencoder: defaultNet(), Classifier: defaultNet(), Quantiles: []float64{0.95, 0.99, 0.995}, Folds: 5,
		MinCoverage: 0.9, Seed: 1, MaxMemory: 2 << 30,
	}
}

// Validate reports every fault.
func (c *Config) Validate() []pipeline.Fault {
	var faults []pipeline.Fault
	fault := func(path, format string, args ...any) {
		faults = append(faults, pipeline.Faultf(path, format, args...))
	}
	if !model.PlainName(c.Name) {
		fault("name", "want letters, digits, '.', '-' and '_', got %q", c.Name)
	}
	if !model.PlainName(c.Version) {
		fault("version", "want letters, digits, '.', '-' and '_', got %q", c.Version)
	}
	if c.Output == "" {
		fault("output", "want a folder, got nothing")
	}
	if c.PCA.Components < 0 {
		fault("pca.components", "want 0 or more, got %d", c.PCA.Components)
	}
	if c.PCA.Components == 0 && !(c.PCA.Variance > 0 && c.PCA.Variance < 1) {
		fault("pca.variance", "want a share between 0 and 1, got %v", c.PCA.Variance)
	}
	faults = append(faults, c.validateNets()...)
	if len(c.Quantiles) == 0 {
		fault("quantiles", "want at least one")
	}
	for _, q := range c.Quantiles {
		if !(q > 0 && q < 1) {
			fault("quantiles", "want shares between 0 and 1, got %v", q)
		}
	}
	if !slices.IsSorted(c.Quantiles) || len(slices.Compact(slices.Clone(c.Quantiles))) != len(c.Quantiles) {
		fault("quantiles", "want them rising, got %v", c.Quantiles)
	}
	if c.Folds < 2 || c.Folds > 100 {
		fault("folds", "want 2 to 100, got %d", c.Folds)
	}
	if !(c.MinCoverage > 0 && c.MinCoverage <= 1) {
		fault("min_coverage", "want a share above 0, up to 1, got %v", c.MinCoverage)
	}
	if c.MaxMemory < 1<<20 {
		fault("max_memory", "want 1MiB or more, got %d bytes", c.MaxMemory)
	}
	return faults
}

// LabelNormal is the label of normal operation.
const LabelNormal = "normal"

// validateNets reports the faults of the net that is to be trained.
func (c *Config) validateNets() (faults []pipeline.Fault) {
	if len(c.Autoencoder.Hidden) > 0 {
		faults = append(faults, prefixed("autoencoder", c.Autoencoder.validate)...)
	}
	if len(c.Classifier.Hidden) == 0 {
		if len(c.Labels) > 0 {
			faults = append(faults, pipeline.Faultf("labels", "want none without a classifier, got %d", len(c.Labels)))
		}
		return faults
	}
	faults = append(faults, prefixed("classifier", c.Classifier.validate)...)
	if len(c.Autoencoder.Hidden) > 0 {
		faults = append(faults, pipeline.Faultf("classifier", "want one model to fit, got an autoencoder too"))
	}
	kinds := map[string]bool{}
	for asset, label := range c.Labels {
		if !model.PlainName(label) {
			faults = append(faults, pipeline.Faultf("labels."+asset, "want letters, digits, '.', '-' and '_', got %q", label))
		}
		kinds[label] = true
	}
	if !kinds[LabelNormal] || len(kinds) < 2 {
		faults = append(faults, pipeline.Faultf("labels", "want %s and another label, got %d", LabelNormal, len(kinds)))
	}
	return faults
}
