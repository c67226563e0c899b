package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const modulePath = "github.com/tailrace/tailrace"

// all matches every package; a pattern that ends in /... matches a folder and what is below it.
const all = "..."

// arrows says what each package may import of ours, whatever else lies in its own folder below the top two levels
// (connectors/embedded/chdb is part of connectors/embedded). The first line that matches a package counts; "" is main.go.
var arrows = []struct {
	from     string
	may      []string
	sentence string
}{
	{"schemas/...", []string{"schemas/..."}, "schemas is the vocabulary: everyone reads it, it reads no one"},
	{"pipeline", []string{"schemas/...", "pipeline/state", "pipeline/eventtime", "pipeline/failpoint"},
		"the engine knows no operator, no connector and no model"},
	{"pipeline/state", nil, "what survives a restart knows nobody whose it is"},
	{"pipeline/failpoint", nil, "a kill knows no more than the name of a step"},
	{"pipeline/eventtime", []string{"schemas/...", "pipeline/state"}, "the clock judges rows and runs nothing"},
	{"pipeline/cli/...", []string{all}, "the command line is the outermost layer"},
	{"pipeline/...", []string{"pipeline", "pipeline/state", "schemas/..."}, "what belongs to the engine builds on its contracts alone"},
	{"operators/onnx", nil, "the graph writer knows ONNX and nothing of ours"},
	{"operators/ort", []string{"pipeline", "operators/onnx"}, "a backend runs graphs behind the Scorer contract"},
	{"operators/reference", []string{"pipeline", "operators/onnx"}, "a backend runs graphs behind the Scorer contract"},
	{"operators/model", []string{"pipeline", "schemas/...", "operators/onnx"}, "a bundle is a graph with its manifest"},
	{"operators/...", []string{
		"pipeline", "pipeline/state", "schemas/...", "operators/onnx", "operators/ort", "operators/reference", "operators/model",
	}, "an operator imports contracts and the operators' libraries, never another operator and never a connector"},
	{"connectors/credentials", []string{"pipeline"}, "doors are opened the same way for every connector"},
	{"connectors/...", []string{"pipeline", "pipeline/state", "schemas/...", "connectors/credentials"},
		"a connector imports contracts and the connectors' library, never an operator or another connector"},
	{"deploy/...", nil, "deploy is a leaf: what everyone may read imports nothing of ours"},
	{"bench/...", []string{all}, "bench measures all"},
	{"", []string{all}, "main.go hands the components to the command line"},
}

// importers says who alone may import a package of ours.
var importers = []struct {
	target   string
	by       []string
	sentence string
}{
	{"pipeline/cli/...", []string{"", "pipeline/cli/..."}, "only main.go imports the command line"},
	{"pipeline/pipelinetest", nil, "the harness is for tests"},
	{"connectors/credentials/credentialstest", nil, "certificates made on the spot are for tests"},
	{"connectors/kafka/kafkatest", []string{"bench/..."}, "the broker that it runs is for tests, and for bench, which kills it"},
	{"bench/...", []string{"bench/..."}, "nothing imports bench"},
}

// homes gives each library from outside the packages that may know it. The longest prefix of an import path counts.
var homes = []struct {
	library string
	in      []string
}{
	{"C", []string{"operators/ort"}}, // everything else builds without a C compiler
	{"github.com/ClickHouse/ch-go", []string{"connectors/clickhouse/...", "connectors/embedded/..."}},
	{"github.com/ClickHouse/clickhouse-go/v2", []string{"connectors/clickhouse/...", "connectors/embedded/..."}},
	{"github.com/HdrHistogram/hdrhistogram-go", []string{"pipeline", "pipeline/cli/...", "bench/..."}},
	{"github.com/apache/arrow/go/v15", []string{
		"", "schemas/...", "pipeline/...", "operators/...", "connectors/clickhouse/...", "connectors/file/...",
		"connectors/kafka/...", "bench/...",
	}},
	{"github.com/ebitengine/purego", []string{"connectors/embedded/chdb"}},
	{"github.com/go-faster/jx", []string{"schemas/formats/..."}},
	{"github.com/goccy/go-yaml", []string{"pipeline/spec", "operators/model"}},
	{"github.com/google/cel-go", []string{"operators/window"}},
	{"github.com/invopop/jsonschema", []string{"pipeline/spec"}},
	{"github.com/klauspost/compress", []string{"connectors/kafka/...", "connectors/embedded/..."}},
	{"github.com/pierrec/lz4/v4", []string{"connectors/kafka/...", "connectors/embedded/..."}},
	{"github.com/prometheus/client_golang", []string{"pipeline"}},
	{"github.com/segmentio/kafka-go", []string{"connectors/kafka/..."}},
	{"github.com/spf13/cobra", []string{"pipeline/cli/..."}},
	{"go.opentelemetry.io/otel", []string{"pipeline", "pipeline/cli/..."}},
	{"github.com/twmb/franz-go", []string{"connectors/embedded/..."}},
	{"github.com/vbauerster/mpb/v8", []string{"pipeline/cli/..."}},
	{"github.com/yalue/onnxruntime_go", []string{"operators/ort"}},
	{"go4.org/unsafe/assume-no-moving-gc", []string{"operators/reference"}}, // must be linked before the tensors
	{"golang.org/x/sync", []string{all}},
	{"golang.org/x/sys", []string{all}},
	{"gonum.org/v1/gonum", []string{"operators/train"}},
	{"gonum.org/v1/plot", []string{"operators/train"}},
	{"google.golang.org/protobuf", []string{"operators/onnx"}},
	{"gorgonia.org/tensor", []string{ // the Scorer contract, and those who keep or use it
		"pipeline", "operators/ort", "operators/reference", "operators/score", "operators/model",
	}},
}

// banned are the words that stand in no file, but for the files named, each with its reason.
var banned = []struct {
	word   string
	files  map[string]string
	reason string
}{
	{"os.Exit", map[string]string{
		"main.go":       "the one place that ends the program",
		"bench/main.go": "a program of its own",
	}, "an exit runs no deferred calls: return an error"},
	{"log.Fatal", nil, "an exit runs no deferred calls: return an error"},
	{"panic", map[string]string{
		"connectors/embedded/http_result.go": "net/http's own word for cutting a response short, so that no client takes it for whole",
	}, "data makes no panic: return an error"},
	{"init", nil, "what a program has is written in components.go, not found by importing it"},
}

// source is a package of ours with its files that are not tests, for any build.
type source struct {
	name  string // "operators/align"; "" is the root
	files map[string]*ast.File
	fset  *token.FileSet
}

// Scenario: every package of the module, in every build (tags, with and without cgo), tests left out.
// Guarantees: the arrows of DESIGN.md 2 are true, and each library from outside has its home.
func TestImportArrows(t *testing.T) {
	for _, p := range packages(t) {
		for file, imported := range p.imports(t) {
			for _, i := range imported {
				fault := ""
				if target, ours := strings.CutPrefix(i+"/", modulePath+"/"); ours {
					fault = arrowFault(p.name, strings.TrimSuffix(target, "/"))
				} else {
					fault = homeFault(p.name, i)
				}
				if fault != "" {
					t.Errorf("%s imports %s: %s", file, i, fault)
				}
			}
		}
	}
}

// arrowFault is the sentence that is broken where from imports target, both of ours, or "".
func arrowFault(from, target string) string {
	for _, only := range importers {
		if matches(only.target, target) && !anyMatches(only.by, from) {
			return only.sentence
		}
	}
	if folder(from) == folder(target) && from != "" {
		return ""
	}
	for _, a := range arrows {
		switch {
		case !matches(a.from, from):
		case anyMatches(a.may, target):
			return ""
		default:
			return a.sentence
		}
	}
	return "the package has no line in arrows: say what it may import"
}

// homeFault says what is wrong where from imports a package that is not ours, or "".
func homeFault(from, imported string) string {
	first, _, _ := strings.Cut(imported, "/")
	if imported != "C" && !strings.Contains(first, ".") {
		return "" // the standard library
	}
	library := -1
	for i, h := range homes {
		if matches(h.library+"/...", imported) && (library < 0 || len(h.library) > len(homes[library].library)) {
			library = i
		}
	}
	switch {
	case library < 0:
		return "the library has no line in homes: say which package may know it"
	case anyMatches(homes[library].in, from):
		return ""
	}
	return "its home is " + strings.Join(homes[library].in, ", ")
}

// Scenario: imports that are in order, and one that breaks each sentence.
// Guarantees: the tables are read as they are meant.
func TestArrowsBreak(t *testing.T) {
	for _, c := range []struct{ from, imported, want string }{
		{"pipeline", "schemas/formats", ""},
		{"pipeline/spec", "pipeline", ""},
		{"connectors/embedded", "connectors/embedded/chdb", ""},
		{"operators/score", "operators/ort", ""},
		{"", "pipeline/cli", ""},
		{"pipeline/cli/replay", "connectors/kafka", ""},
		{"schemas", "pipeline", "reads no one"},
		{"schemas/formats/jsontelemetry", "pipeline", "reads no one"},
		{"pipeline", "operators/model", "knows no operator"},
		{"pipeline", "pipeline/spec", "knows no operator"},
		{"pipeline/spec", "operators/model", "contracts alone"},
		{"operators/align", "operators/window", "never another operator"},
		{"operators/align", "connectors/kafka", "never a connector"},
		{"operators/align", "pipeline/spec", "never another operator"},
		{"operators/onnx", "schemas", "nothing of ours"},
		{"connectors/kafka", "connectors/clickhouse", "another connector"},
		{"connectors/kafka", "connectors/credentials", ""},
		{"connectors/credentials", "connectors/kafka", "the same way"},
		{"deploy/native", "schemas", "leaf"},
		{"deploy", "schemas", "leaf"},
		{"bench", "pipeline/cli", "only main.go"},
		{"pipeline/cli", "bench", "nothing imports bench"},
		{"operators/align", "pipeline/pipelinetest", "for tests"},
		{"connectors/kafka", "connectors/kafka/kafkatest", "for tests"},
		{"elsewhere", "schemas", "no line"},
	} {
		if got := arrowFault(c.from, c.imported); (got == "") != (c.want == "") || !strings.Contains(got, c.want) {
			t.Errorf("%q imports %q: got %q, want %q", c.from, c.imported, got, c.want)
		}
	}
	for _, c := range []struct{ from, imported, want string }{
		{"schemas", "encoding/json", ""},
		{"connectors/kafka", "github.com/segmentio/kafka-go/protocol", ""},
		{"operators/ort", "C", ""},
		{"operators/align", "github.com/segmentio/kafka-go", "its home is connectors/kafka"},
		{"operators/score", "C", "its home is operators/ort"},
		{"schemas", "github.com/apache/arrow/go/v18/arrow", "no line"},
		{"connectors/kafka", "github.com/segmentio/kafka-gopher", "no line"},
	} {
		if got := homeFault(c.from, c.imported); (got == "") != (c.want == "") || !strings.Contains(got, c.want) {
			t.Errorf("%q imports %q: got %q, want %q", c.from, c.imported, got, c.want)
		}
	}
}

// Scenario: the files of every package, tests left out.
// Guarantees: no word of the list banned stands in them but where an exception says why, and no exception is stale.
func TestBannedWords(t *testing.T) {
	found := map[string]bool{}
	for _, p := range packages(t) {
		for name, file := range p.files {
			ast.Inspect(file, func(n ast.Node) bool {
				word := wordOf(n)
				for _, b := range banned {
					if word != b.word {
						continue
					}
					found[b.word+" "+name] = true
					if b.files[name] == "" {
						t.Errorf("%s:%d: %s: %s", name, p.fset.Position(n.Pos()).Line, b.word, b.reason)
					}
				}
				return true
			})
		}
	}
	for _, b := range banned {
		for name := range b.files {
			if !found[b.word+" "+name] {
				t.Errorf("%s: the exception for %s is not needed any more", name, b.word)
			}
		}
	}
}

// wordOf is what banned calls n, or "".
func wordOf(n ast.Node) string {
	switch n := n.(type) {
	case *ast.FuncDecl:
		if n.Recv == nil && n.Name.Name == "init" {
			return "init"
		}
	case *ast.CallExpr:
		switch f := n.Fun.(type) {
		case *ast.Ident:
			return f.Name
		case *ast.SelectorExpr:
			if of, ok := f.X.(*ast.Ident); ok {
				if of.Name == "log" && strings.HasPrefix(f.Sel.Name, "Fatal") {
					return "log.Fatal"
				}
				return of.Name + "." + f.Sel.Name
			}
		}
	}
	return ""
}

// packages lists the module with go list, and reads the files that are no tests, those left out of this build as well.
func packages(t *testing.T) []source {
	t.Helper()
	out, err := exec.Command("go", "list", "-e", "-json=Dir,ImportPath,GoFiles,CgoFiles,IgnoredGoFiles", "./...").Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	var list []source
	for decoder := json.NewDecoder(bytes.NewReader(out)); ; {
		var p struct {
			Dir, ImportPath                   string
			GoFiles, CgoFiles, IgnoredGoFiles []string
		}
		if err := decoder.Decode(&p); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		s := source{
			name:  strings.TrimPrefix(strings.TrimPrefix(p.ImportPath, modulePath), "/"),
			files: map[string]*ast.File{}, fset: token.NewFileSet(),
		}
		for _, name := range slices.Concat(p.GoFiles, p.CgoFiles, p.IgnoredGoFiles) {
			if strings.HasSuffix(name, "_test.go") {
				continue
			}
			f, err := parser.ParseFile(s.fset, filepath.Join(p.Dir, name), nil, parser.SkipObjectResolution)
			if err != nil {
				t.Fatal(err)
			}
			s.files[path.Join(s.name, name)] = f
		}
		list = append(list, s)
	}
	if len(list) < 10 {
		t.Fatalf("go list names %d packages, want the whole module", len(list))
	}
	return list
}

// imports gives the import paths of each file.
func (s *source) imports(t *testing.T) map[string][]string {
	t.Helper()
	all := map[string][]string{}
	for name, f := range s.files {
		for _, i := range f.Imports {
			p, err := strconv.Unquote(i.Path.Value)
			if err != nil {
				t.Fatal(err)
			}
			all[name] = append(all[name], p)
		}
	}
	return all
}

// folder is the first two levels of a package's path.
func folder(name string) string {
	parts := strings.SplitN(name, "/", 3)
	return path.Join(parts[:min(2, len(parts))]...)
}

func anyMatches(patterns []string, name string) bool {
	return slices.ContainsFunc(patterns, func(p string) bool { return matches(p, name) })
}

func matches(pattern, name string) bool {
	if pattern == all {
		return true
	}
	below, ok := strings.CutSuffix(pattern, "/...")
	return name == below || ok && strings.HasPrefix(name, below+"/")
}
