package cli

import (
	"context"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/apache/arrow/go/v15/arrow"
	"github.com/apache/arrow/go/v15/arrow/array"
	"github.com/tailrace/tailrace/connectors/file"
	"github.com/tailrace/tailrace/operators/ort"
	"github.com/tailrace/tailrace/operators/train"
	"github.com/tailrace/tailrace/pipeline/spec"
	"github.com/tailrace/tailrace/schemas"
)

// labeller is what the demo shows of the classifier that it trains. It learns from the runs dNN; these are shares of the
// runs dNN_te, which it has not seen.
type labeller struct {
	Accuracy       map[string]float64 `json:"accuracy"` // fault, or normal, to the share of windows that get its label; of faults those that end in samples 161 to 960
	Macro          float64            `json:"macro"`    // mean of accuracy
	ValidationLoss float64            `json:"validation_loss"`
}

const (
	classifierFile  = "tep-classifier.yaml"
	classifierModel = "models/tep-classifier"
	testSuffix      = "_te"    // of the name of a test run, after that of the training run
	probability     = "p_"     // of the model's outputs, before the label
	faultLabel      = "fault_" // of the labels of faults, before the number
)

// classifier trains the classifier of the carried pipeline file, as the command train does, and labels the test runs with
// it. It is nil in a program that cannot train.
func (d *demo) classifier(ctx context.Context) (*labeller, error) {
	if !ort.Available {
		d.progress("\nNo classifier: this program was built without a C compiler, and nets are trained by ONNX Runtime")
		return nil, nil
	}
	d.progress("\nTraining a classifier of the faults, from %s", classifierFile)
	path := filepath.Join(filepath.Dir(d.file), classifierFile)
	// Who has trained it in the repository and built the program again carries a bundle, which training would not replace.
	if err := os.RemoveAll(filepath.Join(filepath.Dir(d.file), filepath.FromSlash(classifierModel))); err != nil {
		return nil, err
	}
	f, err := d.load(path)
	if err != nil {
		return nil, err
	}
	made, err := d.trainFile(ctx, f, path, "")
	if err != nil {
		return nil, err
	}
	last := slices.IndexFunc(f.Steps, func(s spec.Step) bool { return s.Kind == "score" })
	if last < 0 {
		return nil, f.Fault("steps", "want a step score, got none")
	}
	t := &labelTally{start: file.DefaultConfig().Start, labels: map[string]string{}, runs: map[string]*labelCount{}}
	for asset, label := range made.section.Model.Labels {
		t.labels[asset+testSuffix] = label
	}
	runs := slices.DeleteFunc(slices.Clone(demoRuns), func(run string) bool { return t.labels[run] == "" })
	if err := d.offline(ctx, made.plan, made.plan.Steps[:last+1], runs, t.add); err != nil {
		return nil, err
	}
	r := t.result()
	r.ValidationLoss = made.bundle.Manifest.Metrics["validation_loss"]
	return r, nil
}

// labelTally counts the windows of each test run that get the label of its training run.
type labelTally struct {
	start  time.Time         // of every run
	labels map[string]string // by run
	runs   map[string]*labelCount
}

type labelCount struct{ windows, right int }

// add counts the rows of score by the label that is most probable.
func (t *labelTally) add(rec arrow.Record) error {
	outputs, ok := column(rec, schemas.NameOutputs).(*array.Map)
	if !ok {
		return fmt.Errorf("want the columns of score, got %s", rec.Schema())
	}
	names, values := outputs.Keys().(*array.String), outputs.Items().(*array.Float32)
	return scoredRows(rec, t.start, func(i int, run string) {
		if t.runs[run] == nil {
			t.runs[run] = &labelCount{}
		}
		label, top := "", float32(-1)
		for from, to := outputs.ValueOffsets(i); from < to; from++ {
			name, is := strings.CutPrefix(names.Value(int(from)), probability)
			if p := values.Value(int(from)); is && p > top {
				label, top = name, p
			}
		}
		t.runs[run].windows++
		if label == t.labels[run] {
			t.runs[run].right++
		}
	})
}

func (t *labelTally) result() *labeller {
	r := &labeller{Accuracy: map[string]float64{}}
	sum := 0.0
	for _, name := range slices.Sorted(maps.Keys(t.runs)) { // floats sum to the same in the same order only
		run := t.runs[name]
		share := float64(run.right) / float64(run.windows)
		sum += share
		r.Accuracy[strings.TrimPrefix(t.labels[name], faultLabel)] = round(share, 4)
	}
	r.Macro = round(sum/float64(len(t.runs)), 4)
	return r
}

// String is a line for people.
func (l *labeller) String() string {
	var parts []string
	for _, name := range sortedFaults(l.Accuracy) {
		if name != train.LabelNormal {
			parts = append(parts, fmt.Sprintf("%s: %.1f", name, 100*l.Accuracy[name]))
		}
	}
	return fmt.Sprintf("right label, %% of windows: faults %s; normal: %.1f; mean: %.1f",
		strings.Join(parts, ", "), 100*l.Accuracy[train.LabelNormal], 100*l.Macro)
}
