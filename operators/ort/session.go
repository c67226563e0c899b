//go:build cgo

package ort

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"sync"

	ortgo "github.com/yalue/onnxruntime_go"
	"gorgonia.org/tensor"

	"github.com/tailrace/tailrace/operators/onnx"
	"github.com/tailrace/tailrace/pipeline"
)

// Available tells whether this build can run ONNX Runtime.
const Available = true

// environment guards the one ONNX Runtime environment of the process, which the C library itself keeps.
var environment sync.Mutex

// load loads the library and makes the environment, if that is not done.
func load(ctx context.Context, libraryPath LibraryPath) error {
	environment.Lock()
	defer environment.Unlock()
	if ortgo.IsInitialized() {
		return nil
	}
	path, err := libraryPath(ctx)
	if err != nil {
		return err
	}
	// A plant's program tells nobody outside what it does. Official builds send telemetry unless this is set before the
	// environment is made; the call that switches it off comes too late for the first event, and for a file that it leaves.
	if err := os.Setenv("ORT_DISABLE_TELEMETRY", "1"); err != nil {
		return fmt.Errorf("onnxruntime: %w", err)
	}
	ortgo.SetSharedLibraryPath(path)
	// ONNX Runtime also prints every error that it returns; here they are returned only.
	if err := ortgo.InitializeEnvironment(ortgo.WithLogLevelFatal()); err != nil {
		return fmt.Errorf("%w: %s: %w", pipeline.ErrConfig, path, err)
	}
	return nil
}

// Session is one model. Calls of Score may run side by side.
type Session struct {
	name    string
	input   onnx.ValueInfo
	outputs []onnx.ValueInfo
	session *ortgo.DynamicAdvancedSession
	// slots bounds the runs at a time: a run holds a thread of the operating system while it is in C. Close takes them all.
	slots  chan struct{}
	closed chan struct{}
	once   sync.Once
}

var _ pipeline.Scorer = (*Session)(nil)

func open(ctx context.Context, spec pipeline.ScorerSpec, libraryPath LibraryPath) (pipeline.Scorer, error) {
	m, err := onnx.Parse(spec.Model)
	if err != nil {
		return nil, fmt.Errorf("model %s: %w: %w", spec.Name, pipeline.ErrConfig, err)
	}
	s := &Session{name: spec.Name, slots: make(chan struct{}, runtime.GOMAXPROCS(0)), closed: make(chan struct{})}
	if s.input, err = m.WindowInput(); err != nil {
		return nil, fmt.Errorf("model %s: %w: %w", spec.Name, pipeline.ErrConfig, err)
	}
	_, s.outputs = m.Signature()
	if err := load(ctx, libraryPath); err != nil {
		return nil, fmt.Errorf("onnxruntime: %w", err)
	}
	if s.session, err = newSession(spec.Model, []onnx.ValueInfo{s.input}, s.outputs); err != nil {
		return nil, fmt.Errorf("model %s on onnxruntime: %w: %w", spec.Name, pipeline.ErrConfig, err)
	}
	return s, nil
}

func newSession(model []byte, inputs, outputs []onnx.ValueInfo) (*ortgo.DynamicAdvancedSession, error) {
	options, err := ortgo.NewSessionOptions()
	if err != nil {
		return nil, err
	}
	defer options.Destroy()
	err = errors.Join(
		options.SetIntraOpNumThreads(1),
		options.SetInterOpNumThreads(1),
		options.SetLogSeverityLevel(ortgo.LoggingLevelFatal),
		options.AddSessionConfigEntry("session.intra_op.allow_spinning", "0"),
		options.AddSessionConfigEntry("session.inter_op.allow_spinning", "0"),
	)
	if err != nil {
		return nil, err
	}
	return ortgo.NewDynamicAdvancedSessionWithONNXData(model, names(inputs), names(outputs), options)
}

func names(values []onnx.ValueInfo) []string {
	list := make([]string, len(values))
	for i, v := range values {
		list[i] = v.Name
	}
	return list
}

// Score runs the model on x. If ctx ends while it runs, it stops at the next node of the graph.
func (s *Session) Score(ctx context.Context, x *tensor.Dense) (map[string]*tensor.Dense, error) {
	if err := s.input.Accepts(x.Dtype() == tensor.Float32, x.Shape()); err != nil {
		return nil, fmt.Errorf("model %s: %w", s.name, err)
	}
	values, ok := x.Data().([]float32)
	if !ok || x.RequiresIterator() {
		values = x.Materialize().Data().([]float32)
	}
	select {
	case s.slots <- struct{}{}:
		defer func() { <-s.slots }()
	case <-s.closed:
		return nil, fmt.Errorf("model %s: %w", s.name, errClosed)
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	select {
	case <-s.closed: // select chose the slot though both were ready
		return nil, fmt.Errorf("model %s: %w", s.name, errClosed)
	default:
	}
	outputs, err := s.run(ctx, x.Shape()[0], values)
	if err != nil {
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		return nil, fmt.Errorf("model %s on onnxruntime: %w", s.name, err)
	}
	return outputs, nil
}

var errClosed = errors.New("the scorer is closed")

// run lends ONNX Runtime the input, and outputs that are made here, so that nothing is copied. C keeps the addresses
// until the tensors are destroyed, so the memory is pinned until then.
func (s *Session) run(ctx context.Context, n int, x []float32) (_ map[string]*tensor.Dense, err error) {
	var pinner runtime.Pinner
	defer pinner.Unpin()
	pinner.Pin(&x[0])
	in, err := ortgo.NewTensor(shapeOf(n, s.input.Shape), x)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, in.Destroy()) }()

	outputs := make(map[string]*tensor.Dense, len(s.outputs))
	lent := make([]ortgo.Value, len(s.outputs))
	for i, o := range s.outputs {
		y := make([]float32, n*o.Shape.Width())
		pinner.Pin(&y[0])
		shape := shapeOf(n, o.Shape)
		var out *ortgo.Tensor[float32]
		if out, err = ortgo.NewTensor(shape, y); err != nil {
			return nil, err
		}
		defer func() { err = errors.Join(err, out.Destroy()) }()
		lent[i] = out
		dims := make([]int, len(shape))
		for k, d := range shape {
			dims[k] = int(d)
		}
		outputs[o.Name] = tensor.New(tensor.WithShape(dims...), tensor.WithBacking(y))
	}
	if ctx.Done() == nil {
		return outputs, s.session.Run([]ortgo.Value{in}, lent)
	}
	return outputs, s.runUntil(ctx, []ortgo.Value{in}, lent)
}

// runUntil runs and tells the runtime to stop when ctx ends.
func (s *Session) runUntil(ctx context.Context, in, out []ortgo.Value) (err error) {
	options, err := ortgo.NewRunOptions()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, options.Destroy()) }()
	told := make(chan error, 1)
	stop := context.AfterFunc(ctx, func() { told <- options.Terminate() })
	err = s.session.RunWithOptions(in, out, options)
	if !stop() {
		err = errors.Join(err, <-told) // options must not be destroyed under it
	}
	return err
}

func shapeOf(n int, shape onnx.Shape) ortgo.Shape {
	out := ortgo.Shape{int64(n)}
	for _, d := range shape[1:] {
		out = append(out, d.Size)
	}
	return out
}

// Info says what runs.
func (s *Session) Info() pipeline.ScorerInfo {
	return pipeline.ScorerInfo{Backend: Backend, Version: ortgo.GetVersion(), Provider: "cpu"}
}

// Close waits for the runs in progress and frees the session. Later calls of Score give an error.
func (s *Session) Close() (err error) {
	s.once.Do(func() {
		close(s.closed)
		for range cap(s.slots) {
			s.slots <- struct{}{}
		}
		err = s.session.Destroy()
	})
	return err
}
