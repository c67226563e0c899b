//go:build !cgo

package train_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/tailrace/tailrace/pipeline"
)

// Scenario: the demo's autoencoder is trained by a program that was built without a C compiler.
// Guarantees: an error that no retry mends and that says what to do.
func TestNetsNeedACompiler(t *testing.T) {
	rows, _ := readRun(t, sub(t, demoData), "d00.dat.gz")
	_, err := fitNet(t, aeConfig(), aeLayout(), hopping("d00", rows, aeRows), nil)
	if !errors.Is(err, pipeline.ErrConfig) || !strings.Contains(err.Error(), "or train a pca") {
		t.Errorf("want an error that wraps %v and names pca, got %v", pipeline.ErrConfig, err)
	}
}
