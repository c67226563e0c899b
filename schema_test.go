package main

import (
	"bytes"
	"flag"
	"os"
	"testing"
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

// Scenario: the demo's pipeline file, checked where it stands in the repository.
// Guarantees: it has no faults.
func TestDemoFile(t *testing.T) {
	if p, code := ended(t, "check", "deploy/demo/tep.yaml"); code != 0 {
		t.Errorf("exit code %d\n%s", code, p.out.String())
	}
}
