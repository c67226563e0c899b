//go:build !cgo

package ort_test

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/tailrace/tailrace/operators/ort"
	"github.com/tailrace/tailrace/pipeline"
)

// Scenario: a model is opened in a program that was built without a C compiler.
// Guarantees: an error that no retry mends and that says what to do; the library is not looked for.
func TestWithoutCompiler(t *testing.T) {
	open := ort.Factory(func(context.Context) (string, error) {
		t.Error("want no library asked for")
		return "", nil
	})
	_, err := open(context.Background(), pipeline.ScorerSpec{Name: "m"})
	if !errors.Is(err, pipeline.ErrConfig) || !strings.Contains(err.Error(), "want backend reference") {
		t.Errorf("want an error that wraps %v and names the reference backend, got %v", pipeline.ErrConfig, err)
	}
	if _, err := ort.OpenGraph(context.Background(), "g", nil, nil); !errors.Is(err, pipeline.ErrConfig) {
		t.Errorf("want an error that wraps %v, got %v", pipeline.ErrConfig, err)
	}
	if ort.Available {
		t.Error("want Available false")
	}
}
