//go:build cgo

package train_test

import (
	"bytes"
	"context"
	"errors"
	"image/png"
	"io/fs"
	"math"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/tailrace/tailrace/operators/model"
	"github.com/tailrace/tailrace/operators/train"
	"github.com/tailrace/tailrace/schemas"
)

func trainAutoencoder(t testing.TB, fsys fs.FS) *model.Bundle {
	t.Helper()
	rows, sum := readRun(t, fsys, "d00.dat.gz")
	b, err := fitNet(t, aeConfig(), aeLayout(), hopping("d00", rows, aeRows), nil, model.TrainedFile{Name: "d00.dat.gz", SHA256: sum})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// within tells whether two numbers differ by at most rel of the first.
func within(want, got, rel float64) bool { return math.Abs(got-want) <= rel*math.Abs(want) }

// Scenario: train the autoencoder as the demo's pipeline file says, twice.
// Guarantees: the same bytes both times, and the validation loss of the bundle that the program carries to 1e-3: another
// processor may round otherwise. The loss curve is a picture.
func TestAutoencoderComesOutAgain(t *testing.T) {
	b := trainAutoencoder(t, sub(t, demoData))
	same(t, encode(t, b), encode(t, trainAutoencoder(t, sub(t, demoData))))
	old, err := model.DefaultLimits().LoadFS(sub(t, demoAutoencoder))
	if err != nil {
		t.Fatal(err)
	}
	want, got := old.Manifest.Metrics["validation_loss"], b.Manifest.Metrics["validation_loss"]
	if !within(want, got, 1e-3) {
		t.Errorf("validation loss: want %v to 1e-3 as carried, got %v; `tailrace train deploy/demo/tep-ae.yaml` writes it anew", want, got)
	}
	if _, err := png.Decode(bytes.NewReader(old.Beside["loss.png"])); err != nil {
		t.Errorf("loss.png: %v", err)
	}
}

// plane draws windows of two rows and three channels that lie near a plane, labelled by the side that they are moved to.
func plane(n int, asset string, shift float64) (schemas.Layout, []sample) {
	l := schemas.Layout{Grid: time.Minute, Size: 2, Hop: 2}
	for _, tag := range []string{"a", "b", "c"} {
		l.Channels = append(l.Channels, schemas.Channel{Tag: tag})
	}
	r := rand.New(rand.NewPCG(1, uint64(len(asset))))
	var out []sample
	for i := range n {
		s := sample{asset: asset, at: 2 * i, coverage: 1}
		for range l.Size {
			u, v := r.NormFloat64(), r.NormFloat64()
			s.values = append(s.values, 5+u, 100+30*v, u-v+0.1*r.NormFloat64()+shift)
		}
		out = append(out, s)
	}
	return l, out
}

func netConfig() train.Config {
	c := train.DefaultConfig()
	c.Name, c.Version, c.Output, c.Quantiles = "net", "1", "models", []float64{0.9, 0.95}
	return c
}

// Scenario: both optimizers and activations on windows that lie near a plane of four dimensions in six.
// Guarantees: the validation loss falls far below 1, the variance; each pass is reported once, with what it learnt from;
// training stops early, and its golden outputs hold on every backend; a window off the plane scores far above the limit
// and is explained by its channel.
func TestAutoencoderLearns(t *testing.T) {
	for _, v := range []struct {
		optimizer, activation string
		rate                  float64
	}{{train.Adam, train.Relu, 0.01}, {train.Adam, train.Tanh, 0.01}, {train.SGD, train.Tanh, 0.05}} {
		c := netConfig()
		c.Autoencoder.Hidden, c.Autoencoder.Optimizer, c.Autoencoder.Activation = []int{24, 4, 24}, v.optimizer, v.activation
		c.Autoencoder.LearningRate, c.Autoencoder.Gap = v.rate, 4
		l, windows := plane(500, "x", 0)
		var seen []train.Progress
		b, err := fitNet(t, c, l, windows, func(p train.Progress) { seen = append(seen, p) })
		if err != nil {
			t.Fatal(err)
		}
		m := b.Manifest.Metrics
		if !(m["validation_loss"] < 0.2) {
			t.Errorf("%v: want a validation loss under 0.2, got %v", v, m["validation_loss"])
		}
		last, passes := 0, 0
		for _, p := range seen {
			if p.Part == 1 {
				last++
				if p.Epoch != last || p.Windows != 398 || math.IsNaN(p.Validation) {
					t.Errorf("%v: want pass %d of 398 windows with a validation loss, got %+v", v, last, p)
				}
			} else {
				passes++
			}
		}
		// 400 windows come before the validation part, and two of them end less than 4 rows before it.
		if want := 5 * int(m["epochs"]); passes != want || last > int(m["epochs"])+c.Autoencoder.Patience {
			t.Errorf("%v: want %d passes of folds and an early stop, got %d, %d after pass %v", v, want, passes, last, m["epochs"])
		}
		checkGolden(t, b)
		off := []float64{5, 100, 0, 5, 100, 6}
		got, err := scorers(t, b)["onnxruntime"].Score(context.Background(), normalized(b, [][]float64{off}))
		if err != nil {
			t.Fatal(err)
		}
		score, shares := got["score"].Data(), got["contrib"].Data().([]float32)
		if s, ok := score.([]float32); ok {
			score = s[0]
		}
		if score.(float32) < 3 || math.Abs(float64(shares[0]+shares[1]+shares[2]-1)) > 1e-5 {
			t.Errorf("%v: want a score over 3 and shares that sum to 1, got %v, %v", v, score, shares)
		}
	}
}

// Scenario: three assets, one of them normal, one shifted up and one down, told apart by a classifier.
// Guarantees: nearly every held-out window gets its label; the score is 1 less the probability of normal; golden outputs
// hold on every backend.
func TestClassifierTellsLabelsApart(t *testing.T) {
	c := netConfig()
	c.Classifier.Hidden, c.Classifier.LearningRate, c.Classifier.Epochs = []int{16}, 0.01, 60
	c.Labels = map[string]string{"n": train.LabelNormal, "up": "high", "low": "low"}
	l, windows := plane(200, "n", 0)
	for asset, shift := range map[string]float64{"up": 3, "low": -3} {
		_, more := plane(200, asset, shift)
		windows = append(windows, more...)
	}
	b, err := fitNet(t, c, l, windows, nil)
	if err != nil {
		t.Fatal(err)
	}
	if accuracy := b.Manifest.Metrics["held_out_accuracy"]; !(accuracy > 0.95) {
		t.Errorf("want 0.95 of the held-out windows labelled right, got %v", accuracy)
	}
	checkGolden(t, b)
	for i, p := range b.Golden.Outputs["p_normal"] {
		if score := b.Golden.Outputs["score"][i]; math.Abs(float64(score+p-1)) > 1e-6 {
			t.Errorf("window %d: want a score of 1 - %v, got %v", i, p, score)
		}
	}
	for _, name := range []string{"p_normal", "p_high", "p_low"} {
		if len(b.Golden.Outputs[name]) != b.Golden.Rows {
			t.Errorf("want an output %s, got %v", name, b.Manifest.Outputs)
		}
	}
	c.Labels = map[string]string{"n": train.LabelNormal, "up": "high"}
	if _, err := fitNet(t, c, l, windows, nil); err == nil {
		t.Error("want an error for an asset without a label, got none")
	}
}

// Scenario: the training is cancelled after its third pass, and another one diverges.
// Guarantees: the first ends with the reason of its context, the second names the learning rate.
func TestTrainingEndsEarly(t *testing.T) {
	c := netConfig()
	c.Autoencoder.Hidden = []int{8}
	l, windows := plane(200, "x", 0)
	trainer, err := train.New(c, l)
	if err != nil {
		t.Fatal(err)
	}
	if err := add(t, trainer, l, windows, 64); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	_, err = trainer.WithRuntime(train.Runtime{Library: library, Progress: func(p train.Progress) {
		if p.Epoch == 3 {
			cancel()
		}
	}}).Fit(ctx, nil)
	if !errors.Is(err, context.Canceled) {
		t.Errorf("want %v, got %v", context.Canceled, err)
	}
	c.Autoencoder.Hidden, c.Autoencoder.Activation = []int{64, 64}, train.Relu
	c.Autoencoder.Optimizer, c.Autoencoder.LearningRate = train.SGD, 1
	if _, err = fitNet(t, c, l, windows, nil); err == nil || !bytes.Contains([]byte(err.Error()), []byte("learning_rate")) {
		t.Errorf("want an error that names the learning_rate, got %v", err)
	}
}
