//go:build onnxcheck

package onnx_test

import (
	"context"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/tailrace/tailrace/deploy"
)

// Scenario: every model that the program carries, and a graph with every operator of the builder, go to the checker of
// Python's package onnx. The environment variable TAILRACE_ONNX_PYTHON names a Python that has it; .ci makes one.
// Guarantees: full_check passes: the files are well formed, operators have the inputs and attributes of their opset, and
// the shapes that the builder worked out are those of ONNX's own inference.
func TestPythonCheckerAccepts(t *testing.T) {
	python := os.Getenv("TAILRACE_ONNX_PYTHON")
	if python == "" {
		t.Fatal("TAILRACE_ONNX_PYTHON: want the path of a Python with the package onnx, got nothing")
	}
	dir := t.TempDir()
	files := map[string][]byte{"every.onnx": every(t).Marshal()}
	err := fs.WalkDir(deploy.Demo, ".", func(path string, d fs.DirEntry, err error) error {
		if err == nil && filepath.Ext(path) == ".onnx" {
			files[path], err = fs.ReadFile(deploy.Demo, path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(files) < 2 {
		t.Fatalf("want the carried models, got %d files", len(files))
	}
	const script = `
import sys, onnx
m = onnx.load(sys.argv[1])
onnx.checker.check_model(m, full_check=True)
inferred = onnx.shape_inference.infer_shapes(onnx.ModelProto.FromString(m.SerializeToString()), check_type=True, strict_mode=True, data_prop=True)
assert len(inferred.graph.value_info) > 0
print(m.graph.name, len(m.graph.node), "nodes")
`
	for name, file := range files {
		path := filepath.Join(dir, filepath.Base(name))
		if err := os.WriteFile(path, file, 0o600); err != nil {
			t.Fatal(err)
		}
		out, err := exec.CommandContext(context.Background(), python, "-c", script, path).CombinedOutput()
		if err != nil {
			t.Errorf("%s: %v\n%s", name, err, out)
		}
		t.Logf("%s: %s", name, out)
	}
}
