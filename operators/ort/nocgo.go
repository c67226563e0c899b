//go:build !cgo

package ort

import (
	"context"
	"fmt"

	"github.com/tailrace/tailrace/pipeline"
)

// Available tells whether this build can run ONNX Runtime.
const Available = false

func open(_ context.Context, spec pipeline.ScorerSpec, _ LibraryPath) (pipeline.Scorer, error) {
	return nil, fmt.Errorf("model %s: backend %s: %w: this program was built without a C compiler (CGO_ENABLED=0); "+
		"want backend reference, or a build with one",
		spec.Name, Backend, pipeline.ErrConfig)
}
