//go:build !cgo

package ort

import (
	"context"
	"fmt"

	"github.com/tailrace/tailrace/pipeline"
)

// Graph is what a build with a C compiler runs.
type Graph struct{}

// Tensor is memory that graphs read and write.
type Tensor struct{ Data []float32 }

// OpenGraph tells that this build runs no graphs.
func OpenGraph(_ context.Context, name string, _ []byte, _ LibraryPath) (*Graph, error) {
	return nil, fmt.Errorf("graph %s: backend %s: %w: this program was built without a C compiler (CGO_ENABLED=0)",
		name, Backend, pipeline.ErrConfig)
}

// Tensor makes no tensor: there is no graph to make it for.
func (g *Graph) Tensor(...int64) (*Tensor, error) { return nil, errNoGraph() }

// Run runs nothing.
func (g *Graph) Run([]*Tensor, []*Tensor) error { return errNoGraph() }

// Close frees nothing.
func (g *Graph) Close() error { return nil }

func errNoGraph() error {
	return fmt.Errorf("%w: this program was built without a C compiler (CGO_ENABLED=0)", pipeline.ErrConfig)
}
