package model_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"gorgonia.org/tensor"

	"github.com/tailrace/tailrace/deploy"
	"github.com/tailrace/tailrace/operators/model"
	"github.com/tailrace/tailrace/operators/onnx"
	"github.com/tailrace/tailrace/operators/reference"
	"github.com/tailrace/tailrace/pipeline"
	"github.com/tailrace/tailrace/schemas"
)

// small is a bundle of two channels and two rows: the score is the sum of the window, "half" is half of it, the shares
// are the sums of the channels, and the last row is what is expected.
func small(t testing.TB) *model.Bundle {
	t.Helper()
	b := onnx.NewBuilder("small")
	x := b.Input("x", onnx.Float32, onnx.Var("N"), onnx.Fixed(2), onnx.Fixed(2))
	sum := b.Sum("score", b.Flatten("flat", x), 1, true)
	b.Output(sum)
	b.Output(b.Mul("half", sum, b.Scalar("point_five", 0.5)))
	b.Output(b.Sum("contrib", x, 1, false))
	b.Output(b.At("expected", x, 1, 1))
	graph, err := b.Model("test", nil)
	if err != nil {
		t.Fatal(err)
	}
	return &model.Bundle{
		ONNX: graph.Marshal(),
		Manifest: model.Manifest{
			Name: "small", Version: "1.2.0", Licence: "Apache-2.0", File: model.ModelFile{Opset: onnx.Opset},
			Channels: []model.Channel{{Tag: "spindle.temp", Unit: "CEL", Mean: 41.123456789012, Std: 3.3}, {Tag: "load", Mean: -1e-7, Std: 1e9}},
			Grid:     90 * time.Second, WindowRows: 2, HopRows: 1, MinCoverage: 0.8,
			Outputs:    model.Outputs{Score: "score", Scalars: []string{"half"}, Contrib: "contrib", Expected: "expected"},
			Thresholds: map[string]float64{"0.9": 1, "0.99": 1.5, "0.995": 2.25},
			TrainedOn: model.TrainedOn{
				Files: []model.TrainedFile{{Name: "a b.csv", SHA256: strings.Repeat("ab", 32), Rows: 3}}, Rows: 2,
				From: time.Date(2026, 1, 2, 3, 4, 5, 6000, time.UTC), To: time.Date(2026, 2, 2, 3, 4, 5, 0, time.UTC), Seed: -4,
			},
			Metrics: map[string]float64{"z": 0.1, "a": 2},
		},
		Golden: model.Golden{
			Rows: 2, X: []float32{1, 2, 3, 4, 0, 0, -1, 0.5},
			Outputs: map[string][]float32{"score": {10, -0.5}, "half": {5, -0.25}, "contrib": {4, 6, -1, 0.5}, "expected": {3, 4, -1, 0.5}},
		},
	}
}

// written writes the small bundle and returns its folder.
func written(t testing.TB) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "models", "small", "1.2.0")
	if err := model.Write(dir, small(t)); err != nil {
		t.Fatal(err)
	}
	return dir
}

// Scenario: a bundle is written and loaded.
// Guarantees: everything comes back as it was, and the same bundle gives the same bytes each time.
func TestWriteThenLoad(t *testing.T) {
	want := small(t)
	dir := written(t)
	got, err := model.Load(dir)
	if err != nil {
		t.Fatal(err)
	}
	files, err := model.Encode(want) // fills the hashes
	if err != nil {
		t.Fatal(err)
	}
	want.Dir = dir
	if !reflect.DeepEqual(want, got) {
		t.Errorf("want\n%+v\ngot\n%+v", want, got)
	}
	for range 20 {
		again, err := model.Encode(got)
		if err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(files, again) {
			t.Fatal("want the same bytes each time")
		}
	}
	info := got.Info()
	if info.SHA256 != got.Manifest.File.SHA256 || info.Mean[0] != 41.123456789012 || info.Std[1] != 1e9 || info.Thresholds["0.99"] != 1.5 || info.MinCoverage != 0.8 {
		t.Errorf("info: got %+v", info)
	}
}

// Scenario: the sums file of a written bundle.
// Guarantees: its lines are those of sha256sum, for every other file.
func TestSumsAreThoseOfSha256sum(t *testing.T) {
	dir := written(t)
	var want bytes.Buffer
	for _, name := range []string{"golden.arrow", "manifest.yaml", "model.onnx"} {
		text, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		s := sha256.Sum256(text)
		want.WriteString(hex.EncodeToString(s[:]) + "  " + name + "\n")
	}
	got, err := os.ReadFile(filepath.Join(dir, "SHA256SUMS"))
	if err != nil || !bytes.Equal(got, want.Bytes()) {
		t.Errorf("want\n%s\ngot\n%s (%v)", &want, got, err)
	}
}

// Scenario: a bundle, once for every byte of every file, that byte changed.
// Guarantees: each is refused with an error that names a file, and one that no retry mends. For a changed model, manifest
// or golden file it is that file, with the hash wanted and the hash that came.
func TestAnyChangedByteIsRefused(t *testing.T) {
	files, err := model.Encode(small(t))
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range files {
		for i := range text {
			fsys := fstest.MapFS{}
			for other, bytes := range files {
				fsys[other] = &fstest.MapFile{Data: bytes}
			}
			changed := slices.Clone(text)
			changed[i] ^= 0x20
			fsys[name] = &fstest.MapFile{Data: changed}
			_, err := model.DefaultLimits().LoadFS(fsys)
			if !errors.Is(err, pipeline.ErrConfig) {
				t.Fatalf("%s, byte %d: want an error that wraps %v, got %v", name, i, pipeline.ErrConfig, err)
			}
			if name == model.SumsFile {
				continue // the change is in what another file is compared with, or in a name
			}
			for _, want := range []string{name + ": sha256: want ", ", got " + sum(changed)} {
				if !strings.Contains(err.Error(), want) {
					t.Fatalf("%s, byte %d: want an error with %q, got %v", name, i, want, err)
				}
			}
		}
	}
}

func sum(text []byte) string {
	s := sha256.Sum256(text)
	return hex.EncodeToString(s[:])
}

// Scenario: files too many, too few, too large, links, folders, and no folder at all.
// Guarantees: each is refused, naming the file.
func TestFilesThatAreNotTheBundle(t *testing.T) {
	outside := filepath.Join(t.TempDir(), "outside")
	if err := os.WriteFile(outside, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		spoil func(dir string) error
		want  string
	}{
		"one more":      {func(dir string) error { return os.WriteFile(filepath.Join(dir, "notes.txt"), nil, 0o600) }, "notes.txt: SHA256SUMS does not name it"},
		"one less":      {func(dir string) error { return os.Remove(filepath.Join(dir, "golden.arrow")) }, "golden.arrow: named by SHA256SUMS, but missing"},
		"no sums":       {func(dir string) error { return os.Remove(filepath.Join(dir, "SHA256SUMS")) }, "SHA256SUMS"},
		"no manifest":   {func(dir string) error { return os.Remove(filepath.Join(dir, "manifest.yaml")) }, "manifest.yaml: named by SHA256SUMS, but missing"},
		"a folder more": {func(dir string) error { return os.Mkdir(filepath.Join(dir, "more"), 0o700) }, "more: want a plain file, got d"},
		"a link more":   {func(dir string) error { return os.Symlink(outside, filepath.Join(dir, "more")) }, "more: want a plain file, got L"},
		"model is a link": {func(dir string) error {
			// The link leads to the very same bytes, and is refused all the same.
			at := filepath.Join(dir, "model.onnx")
			if err := os.Rename(at, outside); err != nil {
				return err
			}
			return os.Symlink(outside, at)
		}, "model.onnx: want a plain file, got L"},
		"nothing": {os.RemoveAll, "no such file"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := written(t)
			if err := c.spoil(dir); err != nil {
				t.Fatal(err)
			}
			_, err := model.Load(dir)
			if !errors.Is(err, pipeline.ErrConfig) || !strings.Contains(err.Error(), c.want) {
				t.Errorf("want an error that wraps %v with %q, got %v", pipeline.ErrConfig, c.want, err)
			}
		})
	}
	dir := written(t)
	for want, limits := range map[string]model.Limits{
		"manifest.yaml: want at most 400 bytes": {Manifest: 400, Model: 1 << 20, Golden: 1 << 20},
		"model.onnx: want at most 10 bytes":     {Manifest: 1 << 20, Model: 10, Golden: 1 << 20},
		"golden.arrow: want at most 10 bytes":   {Manifest: 1 << 20, Model: 1 << 20, Golden: 10},
	} {
		if _, err := limits.Load(dir); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("want an error with %q, got %v", want, err)
		}
	}
}

// sealed makes the files of a bundle whose manifest was edited and whose sums are right again.
func sealed(t testing.TB, edit func(string) string) fs.FS {
	t.Helper()
	files, err := model.Encode(small(t))
	if err != nil {
		t.Fatal(err)
	}
	before := string(files[model.ManifestFile])
	files[model.ManifestFile] = []byte(edit(before))
	if string(files[model.ManifestFile]) == before {
		t.Fatal("want an edit that changes something")
	}
	files[model.SumsFile] = []byte(strings.Replace(string(files[model.SumsFile]), sum([]byte(before)), sum(files[model.ManifestFile]), 1))
	fsys := fstest.MapFS{}
	for name, text := range files {
		fsys[name] = &fstest.MapFile{Data: text}
	}
	return fsys
}

// Scenario: manifests that were edited, the sums made right again.
// Guarantees: what contradicts itself or the graph is refused with the key, what was wanted and what came; a number that
// may be changed, may be.
func TestEditedManifests(t *testing.T) {
	replace := func(old, with string) func(string) string {
		return func(s string) string { return strings.Replace(s, old, with, 1) }
	}
	for name, c := range map[string]struct {
		edit func(string) string
		want string
	}{
		"unknown key":       {replace("grid:", "grit: 1\ngrid:"), "grit"},
		"no yaml":           {replace("name: small", "name: [small"), "manifest.yaml"},
		"wrong type":        {replace("window_rows: 2", "window_rows: two"), "manifest.yaml"},
		"model elsewhere":   {replace("path: model.onnx", "path: ../model.onnx"), `file.path: want the name of a file in the bundle, got "../model.onnx"`},
		"std of 0":          {replace("std: 3.3", "std: 0.0"), "channels[0].std: want a number above 0, got 0 (spindle.temp)"},
		"mean not a number": {replace("mean: 41.123456789012", "mean: .nan"), "channels[0].mean: want a finite number, got NaN"},
		"same tag":          {replace("tag: load", "tag: spindle.temp"), `channels[1].tag: want a tag of its own, got "spindle.temp"`},
		"other window":      {replace("window_rows: 2", "window_rows: 3"), "golden.arrow: want columns"},
		"no grid":           {replace("grid: 1m30s", "grid: 0s"), "grid: want a duration above 0"},
		"other output":      {replace("- half", "- third"), "golden.arrow: want columns"},
		"quantile of 2":     {replace(`"0.99":`, `"2":`), `thresholds: want a quantile between 0 and 1 such as "0.99", got "2"`},
		"quantile written":  {replace(`"0.99":`, `"0.990":`), `got "0.990"`},
		"coverage of 2":     {replace("min_coverage: 0.8", "min_coverage: 2"), "min_coverage: want 0 to 1, got 2"},
		"other opset":       {replace("opset: 13", "opset: 12"), "model.onnx: opset: want 12 by manifest.yaml, got 13"},
		"other hash":        {replace("golden.arrow: ", "golden.arrow: 0"), "golden.arrow: sha256: want 0"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := model.DefaultLimits().LoadFS(sealed(t, c.edit))
			if !errors.Is(err, pipeline.ErrConfig) || !strings.Contains(err.Error(), c.want) {
				t.Errorf("want an error that wraps %v with %q, got %v", pipeline.ErrConfig, c.want, err)
			}
		})
	}
	b, err := model.DefaultLimits().LoadFS(sealed(t, replace("min_coverage: 0.8", "min_coverage: 0.5")))
	if err != nil || b.Manifest.MinCoverage != 0.5 {
		t.Errorf("want a coverage of 0.5, got %v", err)
	}
}

// Scenario: a version is written twice, then with other content; a parent that is a file.
// Guarantees: the same bytes are no error; others are, naming the file, and the old ones stay; nothing is left beside.
func TestAVersionNeverChanges(t *testing.T) {
	dir := written(t)
	if err := model.Write(dir, small(t)); err != nil {
		t.Errorf("the same again: want no error, got %v", err)
	}
	other := small(t)
	other.Manifest.Metrics["a"] = 3
	if err := model.Write(dir, other); !errors.Is(err, pipeline.ErrConfig) || !strings.Contains(err.Error(), "a version does not change: raise it") {
		t.Errorf("want an error that says to raise it, got %v", err)
	}
	b, err := model.Load(dir)
	if err != nil || b.Manifest.Metrics["a"] != 2 {
		t.Errorf("want the old bundle whole, got %v", err)
	}
	entries, err := os.ReadDir(filepath.Dir(dir))
	if err != nil || len(entries) != 1 {
		t.Errorf("want the version alone, got %v (%v)", entries, err)
	}
	if err := model.Write(filepath.Join(dir, "model.onnx", "2"), small(t)); err == nil {
		t.Error("a file as parent: want an error")
	}
	broken := small(t)
	broken.Manifest.Outputs.Scalars = []string{"absent"}
	broken.Golden.Outputs["absent"] = []float32{1, 2}
	if err := model.Write(filepath.Join(t.TempDir(), "b"), broken); err == nil || !strings.Contains(err.Error(), `want an output "absent"`) {
		t.Errorf("want an error about the output, got %v", err)
	}
}

// Scenario: a pipeline's layout beside the bundle's.
// Guarantees: every difference is reported at once, with what was wanted and what came; an unknown unit is no difference.
func TestCheckLayout(t *testing.T) {
	b := small(t)
	l := schemas.Layout{Grid: 90 * time.Second, Size: 2, Channels: []schemas.Channel{{Tag: "spindle.temp"}, {Tag: "load", Unit: "P1"}}}
	if err := b.CheckLayout(l); err != nil {
		t.Errorf("want no difference, got %v", err)
	}
	l = schemas.Layout{Grid: time.Second, Size: 3, Channels: []schemas.Channel{{Tag: "spindle.temp", Unit: "FAH"}, {Tag: "speed"}, {Tag: "load"}}}
	err := b.CheckLayout(l)
	for _, want := range []string{
		"channels: want 2, got 3", "channels[0].unit: want CEL, got FAH (spindle.temp)", "channels[1].tag: want load, got speed",
		"grid: want 1m30s, got 1s", "window rows: want 2, got 3",
	} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("want an error with %q, got %v", want, err)
		}
	}
}

// off is a scorer that changes outputs of another.
type off struct {
	pipeline.Scorer
	change func(map[string]*tensor.Dense)
}

func (o off) Score(ctx context.Context, x *tensor.Dense) (map[string]*tensor.Dense, error) {
	out, err := o.Scorer.Score(ctx, x)
	if err == nil {
		o.change(out)
	}
	return out, err
}

// Scenario: a backend that gives the golden outputs, and ones that are off by a little, by NaN, by an output.
// Guarantees: the first passes; the others are refused with the output, the row, what was wanted and what came.
func TestCheckGolden(t *testing.T) {
	b := small(t)
	s, err := reference.New(context.Background(), pipeline.ScorerSpec{Model: b.ONNX, Name: "small"})
	if err != nil {
		t.Fatal(err)
	}
	ctx := context.Background()
	if err := b.CheckGolden(ctx, s, 1e-6); err != nil {
		t.Errorf("want no error, got %v", err)
	}
	set := func(name string, i int, v float32) off {
		return off{s, func(out map[string]*tensor.Dense) { out[name].Data().([]float32)[i] = v }}
	}
	nan := float32(0)
	nan /= nan
	for want, s := range map[string]pipeline.Scorer{
		`golden output "half": row 1, value 0: want -0.25 to 1e-05 relative, got -0.2501 on reference`: set("half", 1, -0.2501),
		`golden output "contrib": row 0, value 1: want 6 to 1e-05 relative, got NaN`:                   set("contrib", 1, nan),
		`the model has no output "expected"`:                                                           off{s, func(out map[string]*tensor.Dense) { delete(out, "expected") }},
	} {
		if err := b.CheckGolden(ctx, s, 1e-5); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("want an error with %q, got %v", want, err)
		}
	}
	if err := b.CheckGolden(ctx, set("contrib", 0, 4.00005), 1e-5); err != nil {
		t.Errorf("a share off by less than 1e-5 of the row's largest: want no error, got %v", err)
	}
	ended, cancel := context.WithCancel(ctx)
	cancel()
	if err := b.CheckGolden(ended, s, 1e-5); !errors.Is(err, context.Canceled) {
		t.Errorf("want %v, got %v", context.Canceled, err)
	}
}

// Scenario: the bundle that the program carries.
// Guarantees: it loads, for the demo's 52 channels.
func TestCarriedBundleLoads(t *testing.T) {
	fsys, err := fs.Sub(deploy.Demo, "demo/models/tep-pca/1.0.0")
	if err != nil {
		t.Fatal(err)
	}
	b, err := model.DefaultLimits().LoadFS(fsys)
	if err != nil {
		t.Fatal(err)
	}
	if got := fmt.Sprint(b.Manifest.Name, " ", b.Manifest.Version, " ", len(b.Manifest.Channels)); got != "tep-pca 1.0.0 52" {
		t.Errorf("want tep-pca 1.0.0 52, got %s", got)
	}
}
