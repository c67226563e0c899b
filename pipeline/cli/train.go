package cli

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/apache/arrow/go/v15/arrow"
	"github.com/spf13/cobra"
	"github.com/tailrace/tailrace/connectors/file"
	"github.com/tailrace/tailrace/deploy/native"
	"github.com/tailrace/tailrace/operators/model"
	"github.com/tailrace/tailrace/operators/train"
	"github.com/tailrace/tailrace/pipeline"
	"github.com/tailrace/tailrace/pipeline/spec"
	"github.com/tailrace/tailrace/schemas"
)

func (e *env) trainCommand() *cobra.Command {
	var output string
	c := &cobra.Command{
		Use:   "train FILE",
		Short: "Fit the model of a pipeline file to recorded data and write its bundle",
		Long: "Run the pipeline file's own steps, up to window, over the recorded data that its section train names, fit\n" +
			"normalization and model, and write the bundle. What is trained is what is served.",
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error { return e.train(cmd.Context(), args[0], output) },
	}
	c.Flags().StringVar(&output, "output", "", "folder of models, instead of train.model.output")
	return c
}

// trained is the JSON of train.
type trained struct {
	Bundle     string             `json:"bundle"`
	Name       string             `json:"name"`
	Version    string             `json:"version"`
	Rows       int                `json:"rows"`
	Thresholds map[string]float64 `json:"thresholds"`
	Metrics    map[string]float64 `json:"metrics"`
	Files      map[string]string  `json:"files"`
}

func (e *env) train(ctx context.Context, path, output string) error {
	f, err := e.load(path)
	if err != nil {
		return err
	}
	made, err := e.trainFile(ctx, f, path, output)
	if err != nil {
		return err
	}
	if e.json {
		m := made.bundle.Manifest
		return e.print(trained{made.dir, m.Name, m.Version, m.TrainedOn.Rows, m.Thresholds, m.Metrics, m.Files})
	}
	return nil
}

// training is what came of the section train of a pipeline file.
type training struct {
	plan    pipeline.Plan
	section *trainSection
	bundle  *model.Bundle
	dir     string // that the bundle was written to
}

// trainFile fits the model of f, the file at path, and writes its bundle into a folder of models; "" for the file's own.
func (e *env) trainFile(ctx context.Context, f *spec.File, path, output string) (r training, err error) {
	var ok bool
	if r.section, ok = f.Sections["train"].(*trainSection); !ok {
		return r, fmt.Errorf("%w: %s: want a section train, got none", errStart, path)
	}
	if r.plan, err = e.plan(f, path); err != nil {
		return r, err
	}
	last := slices.IndexFunc(f.Steps, func(s spec.Step) bool { return s.Kind == "window" })
	if last < 0 {
		return r, f.Fault("steps", "want a step window to train on, got none")
	}
	if r.bundle, err = e.fit(ctx, r.plan, r.plan.Steps[:last+1], r.section); err != nil {
		return r, err
	}
	if output == "" {
		output = r.section.Model.Output
		if !filepath.IsAbs(output) {
			output = filepath.Join(r.plan.Dir, output)
		}
	}
	m := &r.bundle.Manifest
	r.dir = filepath.Join(output, m.Name, m.Version)
	if err := model.Write(r.dir, r.bundle); err != nil {
		return r, err
	}
	e.progress("wrote %s: %s %s from %d windows, thresholds %v", r.dir, m.Name, m.Version, m.TrainedOn.Rows, m.Thresholds)
	return r, nil
}

// fit runs steps over the recorded data and fits the model to the windows.
func (e *env) fit(ctx context.Context, plan pipeline.Plan, steps []pipeline.Step, section *trainSection) (b *model.Bundle, err error) {
	root := userFiles(plan.Dir)
	files, err := hashes(root, section.Data.Files)
	if err != nil {
		return nil, err
	}
	reader, err := file.Open(root, section.Data, e.Alloc)
	if err != nil {
		return nil, fmt.Errorf("%w: train.data: %w", pipeline.ErrConfig, err)
	}
	defer func() { err = errors.Join(err, reader.Close()) }()
	var trainer *train.Trainer
	settings := pipeline.Settings{Pipeline: plan.ID, Dir: plan.Dir, Alloc: e.Alloc, Log: e.log}
	offline, err := pipeline.NewOffline(steps, settings, plan.Watermark, func(rec arrow.Record) error { return trainer.Add(rec) })
	if err != nil {
		return nil, fmt.Errorf("%w: %w", pipeline.ErrConfig, err)
	}
	defer func() { err = errors.Join(err, offline.Close()) }()
	layout, err := schemas.LayoutOf(offline.Schema())
	if err != nil {
		return nil, err
	}
	if trainer, err = train.New(section.Model, layout); err != nil {
		return nil, err
	}
	shown := &passes{env: e}
	trainer.WithRuntime(train.Runtime{
		Library: func(ctx context.Context) (string, error) {
			return native.Resolve(ctx, native.ONNXRuntime, native.Options{Progress: e.fetching()})
		},
		Progress: shown.show,
	})
	e.progress("reading %d file(s)", len(section.Data.Files))
	var values int64
	err = offline.Run(ctx, func(ctx context.Context) (arrow.Record, error) {
		rec, err := reader.Next(ctx)
		if err == nil {
			values += rec.NumRows()
		}
		return rec, err
	})
	if err != nil {
		return nil, err
	}
	e.progress("read %d values; fitting", values)
	defer shown.done()
	return trainer.Fit(ctx, files)
}

// userFiles opens the files that a user names in a pipeline file or on the command line: relative to a folder, or
// wherever an absolute path or ".." leads, since the user may read what the user may read.
type userFiles string

func (dir userFiles) Open(name string) (fs.File, error) {
	if filepath.IsAbs(name) {
		return os.Open(name)
	}
	return os.Open(filepath.Join(string(dir), filepath.FromSlash(name)))
}

// hashes describes the files that a model learns from, for its manifest.
func hashes(root fs.FS, names []string) ([]model.TrainedFile, error) {
	var list []model.TrainedFile
	for _, name := range names {
		f, err := root.Open(name)
		if err != nil {
			return nil, fmt.Errorf("%w: train.data.files: %w", pipeline.ErrConfig, err)
		}
		sum := sha256.New()
		_, err = io.Copy(sum, f)
		if err = errors.Join(err, f.Close()); err != nil {
			return nil, fmt.Errorf("train.data.files: %s: %w", name, err)
		}
		list = append(list, model.TrainedFile{Name: filepath.Base(name), SHA256: hex.EncodeToString(sum.Sum(nil))})
	}
	return list, nil
}
