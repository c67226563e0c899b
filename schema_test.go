package main

import (
	"bytes"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tailrace/tailrace/operators/ort"
)

var update = flag.Bool("update", false, "rewrite the generated files")

// Scenario: the JSON Schema of pipeline files is printed by the program.
// Guarantees: the one that the repository carries for editors is the program's own.
func TestCarriedSchema(t *testing.T) {
	const carried = "deploy/pipeline.schema.json"
	p, code := ended(t, "check", "--schema")
	if code != 0 {
		t.Fatalf("exit code %d\n%s", code, p.err.String())
	}
	if *update {
		if err := os.WriteFile(carried, []byte(p.out.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(carried)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(want, []byte(p.out.String())) {
		t.Errorf("%s is not what `tailrace check --schema` prints; go test . -run Schema -update rewrites it", carried)
	}
}

// Scenario: the demo's pipeline files, checked where they stand in the repository, the classifier's where the demo trains
// it.
// Guarantees: they have no faults. The repository carries no bundle of the classifier: without one, and without a C compiler
// to train it, nothing but the missing bundle is a fault.
func TestDemoFile(t *testing.T) {
	for _, file := range []string{"deploy/demo/tep.yaml", "deploy/demo/tep-ae.yaml"} {
		if p, code := ended(t, "check", file); code != 0 {
			t.Errorf("%s: exit code %d\n%s", file, code, p.out.String())
		}
	}
	dir := t.TempDir()
	if err := os.CopyFS(dir, os.DirFS("deploy/demo")); err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(filepath.Join(dir, "models", "tep-classifier")); err != nil { // of who has trained it there
		t.Fatal(err)
	}
	classifier := filepath.Join(dir, "tep-classifier.yaml")
	p, code := ended(t, "check", classifier)
	if faults := strings.Split(strings.TrimSpace(p.out.String()), "\n"); code != 1 || len(faults) != 1 ||
		!strings.Contains(faults[0], "normalize: model bundle") {
		t.Errorf("%s without a bundle: exit code %d\n%s", classifier, code, p.out.String())
	}
	if !ort.Available {
		return
	}
	if p, code := ended(t, "train", classifier); code != 0 {
		t.Errorf("train %s: exit code %d\n%s", classifier, code, p.err.String())
	}
	if p, code := ended(t, "check", classifier); code != 0 {
		t.Errorf("%s: exit code %d\n%s", classifier, code, p.out.String())
	}
}
