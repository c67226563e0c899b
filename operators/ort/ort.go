// Package ort runs ONNX models with ONNX Runtime, through its C interface. It is the only package of the program that
// needs a C compiler; without one it builds to a factory that says so.
//
// How it is set, and why (measured on 2 cores): one session a model, since private sessions cost their weights again and
// were a quarter slower; one thread a run and as many runs side by side as Go has threads, since that beats threads inside
// a run on all but the largest models; no spinning, which took 25 to 40 % from everything else on the machine.
package ort

import (
	"context"

	"github.com/tailrace/tailrace/pipeline"
)

// Backend is the name of this backend in a pipeline file.
const Backend = "onnxruntime"

// LibraryPath gives the path of ONNX Runtime's shared library, which it may have to fetch.
type LibraryPath func(context.Context) (string, error)

// Factory returns a factory of scorers. libraryPath is called when the first model is opened. The library is loaded once in the life of a process and stays.
func Factory(libraryPath LibraryPath) pipeline.ScorerFactory {
	return func(ctx context.Context, spec pipeline.ScorerSpec) (pipeline.Scorer, error) {
		return open(ctx, spec, libraryPath)
	}
}
