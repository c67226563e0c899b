package cli

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"github.com/apache/arrow/go/v15/arrow"
	"github.com/apache/arrow/go/v15/arrow/array"
	"github.com/tailrace/tailrace/connectors/file"
	"github.com/tailrace/tailrace/deploy"
	"github.com/tailrace/tailrace/operators/model"
	"github.com/tailrace/tailrace/pipeline"
	"github.com/tailrace/tailrace/pipeline/spec"
	"github.com/tailrace/tailrace/schemas"
)

// secondModel is what the demo shows of the autoencoder, at the 0.99 threshold of its bundle.
type secondModel struct {
	Detection      map[string]float64 `json:"detection"`        // fault to share of windows that end in samples 161 to 960 over the threshold
	FalseAlarmRate float64            `json:"false_alarm_rate"` // share of d00_te's windows over the threshold
}

// The carried autoencoder: its pipeline file and its bundle, beside the demo's own.
const (
	autoencoderFile   = "tep-ae.yaml"
	autoencoderBundle = "models/tep-ae/1.0.0"
	autoencoderLimit  = 0.99
)

// autoencoder runs the carried runs through the steps of the autoencoder's pipeline file, up to the score.
func (d *demo) autoencoder(ctx context.Context) (*secondModel, error) {
	path := filepath.Join(filepath.Dir(d.file), autoencoderFile)
	f, err := d.load(path)
	if err != nil {
		return nil, err
	}
	plan, err := d.plan(f, path)
	if err != nil {
		return nil, err
	}
	last := slices.IndexFunc(f.Steps, func(s spec.Step) bool { return s.Kind == "score" })
	if last < 0 {
		return nil, f.Fault("steps", "want a step score, got none")
	}
	bundle, err := model.Load(filepath.Join(plan.Dir, filepath.FromSlash(autoencoderBundle)))
	if err != nil {
		return nil, err
	}
	t := &tally{
		start: file.DefaultConfig().Start, threshold: bundle.Manifest.Thresholds[model.Quantile(autoencoderLimit)],
		runs: map[string]*runTally{},
	}
	if err := d.offline(ctx, plan, plan.Steps[:last+1], demoRuns, t.add); err != nil {
		return nil, err
	}
	return t.result()
}

// offline puts carried runs, one asset each, through steps. out borrows what the last of them gives.
func (d *demo) offline(ctx context.Context, plan pipeline.Plan, steps []pipeline.Step, runs []string, out func(arrow.Record) error) (err error) {
	c := file.DefaultConfig()
	c.Format, c.Period = file.FormatTEP, demoPeriod
	for _, run := range runs {
		c.Files = append(c.Files, "demo/tep/"+run+".dat.gz")
	}
	reader, err := file.Open(deploy.Demo, c, d.Alloc)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, reader.Close()) }()
	pool := pipeline.NewScorers(d.Components.Scorers)
	defer func() { err = errors.Join(err, pool.Close()) }()
	settings := pipeline.Settings{Pipeline: plan.ID, Dir: plan.Dir, Alloc: d.Alloc, Log: d.log, Scorers: pool}
	offline, err := pipeline.NewOffline(steps, settings, plan.Watermark, out)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, offline.Close()) }()
	return offline.Run(ctx, reader.Next)
}

// tally counts the windows of each run over a threshold.
type tally struct {
	start     time.Time // of every run
	threshold float64
	runs      map[string]*runTally
}

type runTally struct{ windows, over int }

// add counts the rows of score. Of a faulty run, those that end before the fault do not count.
func (t *tally) add(rec arrow.Record) error {
	scores, ok := column(rec, schemas.NameScore).(*array.Float32)
	if !ok {
		return fmt.Errorf("want the columns of score, got %s", rec.Schema())
	}
	return scoredRows(rec, t.start, func(i int, run string) {
		if t.runs[run] == nil {
			t.runs[run] = &runTally{}
		}
		t.runs[run].windows++
		if float64(scores.Value(i)) > t.threshold {
			t.runs[run].over++
		}
	})
}

func column(rec arrow.Record, name string) arrow.Array {
	return rec.Column(rec.Schema().FieldIndices(name)[0])
}

// scoredRows visits the rows of score that count: those with a score and, of a faulty run, that end after the fault began.
func scoredRows(rec arrow.Record, start time.Time, visit func(i int, run string)) error {
	assets, ok := column(rec, schemas.NameAsset).(*array.Dictionary)
	times, ok2 := column(rec, schemas.NameTS).(*array.Timestamp)
	if !ok || !ok2 {
		return fmt.Errorf("want the columns of score, got %s", rec.Schema())
	}
	scores, names := column(rec, schemas.NameScore), assets.Dictionary().(*array.String)
	for i := range int(rec.NumRows()) {
		run := names.Value(assets.GetValueIndex(i))
		sample := 1 + int((int64(times.Value(i))-start.UnixNano())/int64(demoPeriod))
		if scores.IsValid(i) && (run == demoNormal || sample > demoFaultSample) {
			visit(i, run)
		}
	}
	return nil
}

// demoNormal is the run without a fault.
const demoNormal = "d00_te"

func (t *tally) result() (*secondModel, error) {
	r := &secondModel{Detection: map[string]float64{}}
	for name, run := range t.runs {
		rate := round(float64(run.over)/float64(run.windows), 4)
		if name == demoNormal {
			r.FalseAlarmRate = rate
			continue
		}
		var fault int
		if _, err := fmt.Sscanf(name, "d%d_te", &fault); err != nil {
			return nil, fmt.Errorf("asset %q: want dNN_te: %w", name, err)
		}
		r.Detection[strconv.Itoa(fault)] = rate
	}
	return r, nil
}
