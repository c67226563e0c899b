package train_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/tailrace/tailrace/deploy/native"
	"github.com/tailrace/tailrace/operators/model"
	"github.com/tailrace/tailrace/operators/ort"
	backend "github.com/tailrace/tailrace/operators/reference"
	"github.com/tailrace/tailrace/operators/train"
	"github.com/tailrace/tailrace/schemas"
)

const demoAutoencoder = "demo/models/tep-ae/1.0.0"

// aeRows is the length of the autoencoder's windows, a quarter of an hour.
const aeRows = 5

// aeConfig is the section train of deploy/demo/tep-ae.yaml.
func aeConfig() train.Config {
	c := train.DefaultConfig()
	c.Name, c.Version, c.Output = "tep-ae", "1.0.0", "models"
	c.Autoencoder.Hidden, c.Autoencoder.Activation = []int{64, 24, 64}, train.Tanh
	c.Autoencoder.Epochs, c.Autoencoder.LearningRate, c.Autoencoder.Patience = 300, 0.002, 30
	return c
}

func aeLayout() schemas.Layout {
	l := tepLayout()
	l.Size = aeRows
	return l
}

// hopping makes windows of size rows of a run, one every row. They end in rows size to len(rows), from 1.
func hopping(asset string, rows [][]float64, size int) []sample {
	var out []sample
	for i := size; i <= len(rows); i++ {
		out = append(out, sample{asset: asset, at: i - size, values: slices.Concat(rows[i-size : i]...), coverage: 1})
	}
	return out
}

// fitNet trains with the runtime that this build has.
func fitNet(t testing.TB, c train.Config, l schemas.Layout, samples []sample, report func(train.Progress), files ...model.TrainedFile) (*model.Bundle, error) {
	t.Helper()
	trainer, err := train.New(c, l)
	if err != nil {
		return nil, err
	}
	if err := add(t, trainer, l, samples, 128); err != nil {
		return nil, err
	}
	return trainer.WithRuntime(train.Runtime{Library: library, Progress: report}).Fit(context.Background(), files)
}

func library(ctx context.Context) (string, error) {
	return native.Resolve(ctx, native.ONNXRuntime, native.Options{})
}

// scoresOf gives the scores of a run's windows, in order.
func scoresOf(t testing.TB, b *model.Bundle, run int) []float32 {
	t.Helper()
	data, _ := readRun(t, sub(t, demoData), fmt.Sprintf("d%02d_te.dat.gz", run))
	var windows [][]float64
	for _, s := range hopping("", data, b.Manifest.WindowRows) {
		windows = append(windows, s.values)
	}
	got, err := scorers(t, b)[backend.Backend].Score(context.Background(), normalized(b, windows))
	if err != nil {
		t.Fatal(err)
	}
	return got["score"].Data().([]float32)
}

// over is the share of scores above a threshold.
func over(scores []float32, threshold float64) float64 {
	n := 0
	for _, v := range scores {
		if float64(v) > threshold {
			n++
		}
	}
	return float64(n) / float64(len(scores))
}

// detection gives the false alarms on normal operation and the mean detection over the faults of the plan: a detection is
// a window that ends in rows 161 to 960, over the threshold.
func detection(normal []float32, faulty map[int][]float32, threshold float64) (falseAlarms, mean float64, by map[int]float64) {
	by = map[int]float64{}
	for fault, scores := range faulty {
		by[fault] = over(scores[len(scores)-800:], threshold)
		mean += by[fault] / float64(len(faulty))
	}
	return over(normal, threshold), mean, by
}

// Scenario: the carried PCA and the carried autoencoder, both trained on d00 alone, over the faults 1, 2, 4 to 8, 10 and 11
// at the same false alarms on d00_te (.021), and at their own thresholds, which come from d00.
// Guarantees: the autoencoder's mean detection is at least .820, what a PCA gives where T2 and Q each have a threshold of
// their own. The carried PCA has one for the larger of the two.
func TestDetectionAtEqualFalseAlarms(t *testing.T) {
	const falseAlarms = 0.021
	for _, dir := range []string{demoBundle, demoAutoencoder} {
		b, err := model.DefaultLimits().LoadFS(sub(t, dir))
		if err != nil {
			t.Fatal(err)
		}
		normal, faulty := scoresOf(t, b, 0), map[int][]float32{}
		for _, fault := range []int{1, 2, 4, 5, 6, 7, 8, 10, 11} {
			faulty[fault] = scoresOf(t, b, fault)
		}
		sorted := slices.Sorted(slices.Values(normal))
		equal := float64(sorted[len(sorted)-1-int(falseAlarms*float64(len(sorted)))])
		fa, mean, by := detection(normal, faulty, equal)
		t.Logf("%s at equal false alarms: detection %.3f, false alarms %.4f, by fault %.3v", b.Manifest.Name, mean, fa, by)
		if fa > falseAlarms || dir == demoAutoencoder && mean < 0.82 {
			t.Errorf("%s: want a detection of .820 at false alarms of .021, got %.4f at %.4f", b.Manifest.Name, mean, fa)
		}
		own := b.Manifest.Thresholds["0.99"]
		fa, mean, by = detection(normal, faulty, own)
		t.Logf("%s at its own 0.99 threshold: detection %.3f, false alarms %.4f, by fault %.3v", b.Manifest.Name, mean, fa, by)
	}
}

// Scenario: the carried autoencoder's golden inputs on every backend.
// Guarantees: ONNX Runtime gives the golden outputs to 1e-5, the reference backend to 1e-4.
func TestAutoencoderGoldenOutputs(t *testing.T) {
	b, err := model.DefaultLimits().LoadFS(sub(t, demoAutoencoder))
	if err != nil {
		t.Fatal(err)
	}
	checkGolden(t, b)
}

func checkGolden(t testing.TB, b *model.Bundle) {
	t.Helper()
	for name, s := range scorers(t, b) {
		rel := map[string]float64{ort.Backend: 1e-5, backend.Backend: 1e-4}[name]
		if err := b.CheckGolden(context.Background(), s, rel); err != nil {
			t.Error(err)
		}
	}
}

// Scenario: sections of nets with every field out of its bounds, and labels that do not fit.
// Guarantees: each fault is reported with its key; a net without hidden layers is not looked at.
func TestNetFaults(t *testing.T) {
	bad := train.Net{Hidden: []int{8, 0}, Activation: "step", Optimizer: "lbfgs", Validation: 1, Gap: -1}
	for want, change := range map[string]func(*train.Config){
		"": func(c *train.Config) { c.Autoencoder = train.Net{Activation: "step"} },
		"autoencoder.activation autoencoder.batch autoencoder.epochs autoencoder.gap autoencoder.hidden[1] " +
			"autoencoder.learning_rate autoencoder.optimizer autoencoder.patience autoencoder.validation": func(c *train.Config) {
			c.Autoencoder = bad
		},
		"classifier labels": func(c *train.Config) { c.Autoencoder.Hidden, c.Classifier.Hidden = []int{1}, []int{1} },
		"labels":            func(c *train.Config) { c.Labels = map[string]string{"a": train.LabelNormal} },
		"labels.a": func(c *train.Config) {
			c.Classifier.Hidden, c.Labels = []int{1}, map[string]string{"a": "not plain", "b": train.LabelNormal}
		},
	} {
		c := tepConfig()
		change(&c)
		var paths []string
		for _, f := range c.Validate() {
			paths = append(paths, f.Path)
		}
		slices.Sort(paths)
		if got := strings.Join(paths, " "); got != want {
			t.Errorf("want faults of %q, got %q", want, got)
		}
	}
}
