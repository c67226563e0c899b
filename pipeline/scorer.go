package pipeline

import (
	"context"

	"gorgonia.org/tensor"
)

// Scorer runs one model over batches. It may be called from several goroutines.
type Scorer interface {
	// Score runs the model on x, a float32 tensor of shape [N, T, C] with N >= 1, borrowed for the call. It returns the
	// model's outputs by name, float32 with N as their first dimension, in memory of their own.
	Score(ctx context.Context, x *tensor.Dense) (map[string]*tensor.Dense, error)
	// Info says what really runs.
	Info() ScorerInfo
	Close() error
}

// ScorerInfo says what runs a model.
type ScorerInfo struct {
	Backend  string // "onnxruntime" or "reference"
	Version  string // of the backend's library; "" if it has none
	Provider string // execution provider that runs the model: "cpu"
}

// ScorerSpec asks for a Scorer.
type ScorerSpec struct {
	Backend string // a key of the program's scorer factories
	Model   []byte // an ONNX file's bytes
	Name    string // for messages
}

// ScorerFactory makes a Scorer. What no retry mends wraps ErrConfig.
type ScorerFactory func(ctx context.Context, spec ScorerSpec) (Scorer, error)

// ScorerPool hands out scorers that the runtime owns and closes: operators that ask for the same model and backend
// share one.
type ScorerPool interface {
	Scorer(ctx context.Context, spec ScorerSpec) (Scorer, error)
}
