package spec

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
	"unicode/utf8"
)

// Scenario: any bytes as a pipeline file.
// Guarantees: no panic; either a file or faults, at most a page of them, each with a place inside the text and one line of
// valid text; the same bytes give the same answer.
func FuzzParse(f *testing.F) {
	seeds, err := filepath.Glob("testdata/faults/*.yaml")
	if err != nil {
		f.Fatal(err)
	}
	for _, name := range append(seeds, "testdata/good.yaml") {
		text, err := os.ReadFile(name)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(text)
	}
	for _, text := range []string{"", "\x00", "a: &a [*a]", "? x\n: y", "|\n x", "%YAML 1.2\n---\n", "a: b: c", "{a: [}", "- - - x", "!!t &a *a"} {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		file, err := parseTest("f", text)
		_, again := parseTest("f", text)
		if err == nil {
			if file == nil || again != nil {
				t.Fatalf("got %v, then %v", file, again)
			}
			return
		}
		var faults Faults
		if file != nil || !errors.As(err, &faults) || len(faults) == 0 || len(faults) > maxFaults+1 {
			t.Fatalf("got %v, %v", file, err)
		}
		if again == nil || again.Error() != err.Error() {
			t.Fatalf("got %v, then %v", err, again)
		}
		lines := 2 // a fault may stand on the line after the last
		for _, b := range text {
			if b == '\n' || b == '\r' {
				lines++
			}
		}
		for _, fault := range faults {
			if fault.Line < 0 || fault.Line > lines || fault.Column < 0 || fault.Message == "" {
				t.Fatalf("fault out of place: %v", fault)
			}
			for _, r := range fault.Error() {
				if r < ' ' || r == utf8.RuneError {
					t.Fatalf("fault with %q: %q", r, fault.Error())
				}
			}
		}
	})
}
