package cli

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/tailrace/tailrace/connectors/blob"
	"github.com/tailrace/tailrace/connectors/file"
	"github.com/tailrace/tailrace/deploy/native"
	"github.com/tailrace/tailrace/operators/ort"
	"github.com/tailrace/tailrace/operators/score"
	"github.com/tailrace/tailrace/operators/train"
	"github.com/tailrace/tailrace/pipeline"
	"github.com/tailrace/tailrace/pipeline/spec"
	"github.com/tailrace/tailrace/pipeline/state"
)

// trainSection is the section train of a pipeline file.
type trainSection struct {
	// Data is the recorded data to learn from.
	Data file.Config `yaml:"data"`
	// Model is what to fit and where to write it.
	Model train.Config `yaml:"model"`
}

func (s *trainSection) Validate() []pipeline.Fault {
	var faults []pipeline.Fault
	for name, part := range map[string]pipeline.Validator{"data": &s.Data, "model": &s.Model} {
		for _, f := range part.Validate() {
			f.Path = joinPath(name, f.Path)
			faults = append(faults, f)
		}
	}
	return faults
}

func joinPath(outer, inner string) string {
	if inner == "" {
		return outer
	}
	return outer + "." + inner
}

// sections are the parts of a pipeline file that the engine does not know.
func sections() map[string]func() any {
	return map[string]func() any{
		"train": func() any { return &trainSection{Data: file.DefaultConfig(), Model: train.DefaultConfig()} },
	}
}

// load reads and checks a pipeline file.
func (e *env) load(path string) (*spec.File, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("%w: pipeline file: %w", errStart, err)
	}
	return spec.Parse(path, text, e.Components, sections())
}

// plan turns a checked pipeline file into what the engine runs.
func (e *env) plan(f *spec.File, path string) (pipeline.Plan, error) {
	dir, err := filepath.Abs(filepath.Dir(path))
	if err != nil {
		return pipeline.Plan{}, err
	}
	p := pipeline.Plan{
		ID: f.ID, Dir: dir, Scorers: e.Components.Scorers,
		Watermark: f.Watermark, Checkpoint: f.Checkpoint, State: f.State, Limits: f.Limits,
	}
	var faults []error
	if p.Store, err = e.openStore(f.State); err != nil {
		faults = append(faults, err)
	}
	p.Source = makePart(&faults, e.Components.Sources, f.Source.Kind, f.Source.Config)
	p.Decoder = makePart(&faults, e.Components.Formats, f.Source.Format.Kind, f.Source.Format.Config)
	p.Sink = makePart(&faults, e.Components.Sinks, f.Sink.Kind, f.Sink.Config)
	p.Publisher = makePart(&faults, e.Components.Publishers, f.Publisher.Kind, f.Publisher.Config)
	before := ""
	for _, s := range f.Steps {
		fingerprint, err := fingerprint(before, s)
		if err != nil {
			faults = append(faults, err)
		}
		before = fingerprint
		p.Steps = append(p.Steps, pipeline.Step{
			Name: s.Name, New: makePart(&faults, e.Components.Operators, s.Kind, s.Config), Fingerprint: fingerprint,
		})
	}
	return p, errors.Join(faults...)
}

// fingerprint stands for what a step makes of its input: its kind and its config, on top of those of the steps before it.
func fingerprint(before string, s spec.Step) (string, error) {
	config, err := json.Marshal(s.Config)
	if err != nil {
		return "", fmt.Errorf("step %q: config as JSON: %w", s.Name, err)
	}
	sum := sha256.Sum256(fmt.Appendf(nil, "%s\n%s\n%s", before, s.Kind, config))
	return hex.EncodeToString(sum[:8]), nil
}

// openStore returns the store of blobs that the file names.
func (e *env) openStore(c pipeline.StateConfig) (state.Store, error) {
	url, err := storeURL(c)
	if err != nil {
		return nil, err
	}
	return blob.Open(url)
}

// storeURL is where the blobs are.
func storeURL(c pipeline.StateConfig) (string, error) {
	if c.Store != "" {
		return c.Store, nil
	}
	home, err := stateHome()
	if err != nil {
		return "", err
	}
	return "file://" + filepath.ToSlash(filepath.Join(home, "state")), nil
}

// stateHome is the folder of what this machine's processes keep between runs.
func stateHome() (string, error) {
	dir := os.Getenv("XDG_STATE_HOME")
	if dir == "" {
		home, err := os.UserHomeDir()
		if err != nil {
			return "", fmt.Errorf("%w: state.store: want a URL, or a home folder for the default: %w", errStart, err)
		}
		dir = filepath.Join(home, ".local", "state")
	}
	return filepath.Abs(filepath.Join(dir, "tailrace"))
}

// fetchRuntime fetches ONNX Runtime, with its progress, if a step of the file will want it: binding a step must not. In a
// program that was built without a C compiler it says what that means.
func (e *env) fetchRuntime(ctx context.Context, f *spec.File) error {
	for _, s := range f.Steps {
		c, ok := s.Config.(*score.Config)
		switch {
		case !ok:
		case c.RunsOn() == ort.Backend:
			_, err := native.Resolve(ctx, native.ONNXRuntime, native.Options{Progress: e.fetching()})
			return err
		case !ort.Available:
			e.log.Warn("this program was built without a C compiler: models run on the reference backend, several times slower; " +
				"install gcc and build it again for ONNX Runtime")
			return nil
		}
	}
	return nil
}

// makePart makes the component that a file names.
func makePart[T any](faults *[]error, from map[string]pipeline.Component[T], kind string, config any) T {
	made, err := from[kind].New(config)
	if err != nil {
		*faults = append(*faults, fmt.Errorf("%w: %s: %w", pipeline.ErrConfig, kind, err))
	}
	return made
}

// placed turns the errors of binding the steps into faults with their place in the file.
func placed(f *spec.File, err error) error {
	var faults spec.Faults
	var collect func(error)
	collect = func(err error) {
		if joined, ok := err.(interface{ Unwrap() []error }); ok {
			for _, part := range joined.Unwrap() {
				collect(part)
			}
			return
		}
		var step *pipeline.StepError
		if errors.As(err, &step) && step.Index < len(f.Steps) {
			faults = append(faults, f.Fault(f.Steps[step.Index].Path, step.Err.Error()))
			return
		}
		faults = append(faults, spec.Fault{Message: err.Error()})
	}
	if err == nil {
		return nil
	}
	collect(err)
	return faults
}
