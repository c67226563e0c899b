// Package model reads, checks and writes model bundles: a folder with an ONNX graph, a manifest that holds everything a
// pipeline must not guess about it, and golden outputs that every backend must give.
package model

import (
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/goccy/go-yaml"

	"github.com/tailrace/tailrace/schemas"
)

// Manifest is manifest.yaml.
type Manifest struct {
	Name    string    `yaml:"name"`
	Version string    `yaml:"version"`
	Licence string    `yaml:"licence,omitempty"`
	File    ModelFile `yaml:"file"`

	// Channels are the inputs in order, each with the statistics that normalize it: (value - mean) / std.
	Channels []Channel `yaml:"channels"`
	// Grid is the spacing of a window's rows.
	Grid time.Duration `yaml:"grid"`
	// WindowRows is T, the rows of a window.
	WindowRows int `yaml:"window_rows"`
	// HopRows is the distance of the windows it was trained on; 0 if that does not matter.
	HopRows int `yaml:"hop_rows,omitempty"`
	// MinCoverage is the least share of cells that a scored window holds, 0 to 1.
	MinCoverage float64 `yaml:"min_coverage"`

	Outputs Outputs `yaml:"outputs"`
	// Thresholds gives, for a quantile written as a decimal ("0.99"), the score that this share of normal windows stays
	// under.
	Thresholds map[string]float64 `yaml:"thresholds"`
	TrainedOn  TrainedOn          `yaml:"trained_on"`
	// Metrics are what training measured, by name.
	Metrics map[string]float64 `yaml:"metrics,omitempty"`
	// Files are the SHA-256 of the bundle's other files, lowercase hex by name.
	Files map[string]string `yaml:"files"`
}

// ModelFile names the ONNX file.
type ModelFile struct {
	Path   string `yaml:"path"`
	SHA256 string `yaml:"sha256"` // lowercase hex
	Opset  int64  `yaml:"opset"`
}

// Channel is one input.
type Channel struct {
	Tag  string  `yaml:"tag"`
	Unit string  `yaml:"unit,omitempty"`
	Mean float64 `yaml:"mean"` // in Unit
	Std  float64 `yaml:"std"`  // in Unit, above 0
}

// Outputs names the graph's outputs by their meaning. N is the number of windows, C of channels.
type Outputs struct {
	Score    string   `yaml:"score"`              // [N]
	Scalars  []string `yaml:"scalars,omitempty"`  // [N] each: other numbers worth keeping
	Contrib  string   `yaml:"contrib,omitempty"`  // [N, C]: share of each channel in the score
	Expected string   `yaml:"expected,omitempty"` // [N, C]: what the model expected of the last row, normalized
}

// Names are all outputs, the score first.
func (o *Outputs) Names() []string {
	names := append([]string{o.Score}, o.Scalars...)
	for _, n := range []string{o.Contrib, o.Expected} {
		if n != "" {
			names = append(names, n)
		}
	}
	return names
}

// TrainedOn says what the model has seen.
type TrainedOn struct {
	Files []TrainedFile `yaml:"files,omitempty"`
	Rows  int           `yaml:"rows"` // windows that were used
	From  time.Time     `yaml:"from"` // start of the first window
	To    time.Time     `yaml:"to"`   // end of the last
	Seed  int64         `yaml:"seed"`
}

// TrainedFile is a file that the windows came from.
type TrainedFile struct {
	Name   string `yaml:"name"` // base name
	SHA256 string `yaml:"sha256"`
	Rows   int64  `yaml:"rows,omitempty"` // 0 if not counted
}

// parseManifest reads strict YAML: an unknown key is an error.
func parseManifest(text []byte) (Manifest, error) {
	var m Manifest
	if err := yaml.UnmarshalWithOptions(text, &m, yaml.Strict()); err != nil {
		return m, err
	}
	return m, m.check()
}

// check reports every fault of a manifest, joined.
func (m *Manifest) check() error {
	var faults []string
	fault := func(format string, args ...any) { faults = append(faults, fmt.Sprintf(format, args...)) }
	if !PlainName(m.Name) {
		fault("name: want letters, digits, '.', '-' and '_', got %q", m.Name)
	}
	if !PlainName(m.Version) {
		fault("version: want letters, digits, '.', '-' and '_', got %q", m.Version)
	}
	if !PlainName(m.File.Path) {
		fault("file.path: want the name of a file in the bundle, got %q", m.File.Path)
	}
	if len(m.Channels) == 0 {
		fault("channels: want at least one")
	}
	seen := map[string]bool{}
	for i, c := range m.Channels {
		if c.Tag == "" || seen[c.Tag] {
			fault("channels[%d].tag: want a tag of its own, got %q", i, c.Tag)
		}
		seen[c.Tag] = true
		if !finite(c.Mean) {
			fault("channels[%d].mean: want a finite number, got %v (%s)", i, c.Mean, c.Tag)
		}
		if !finite(c.Std) || c.Std <= 0 {
			fault("channels[%d].std: want a number above 0, got %v (%s)", i, c.Std, c.Tag)
		}
	}
	if m.Grid <= 0 {
		fault("grid: want a duration above 0, got %s", m.Grid)
	}
	if m.WindowRows < 1 {
		fault("window_rows: want at least 1, got %d", m.WindowRows)
	}
	if m.HopRows < 0 {
		fault("hop_rows: want 0 or more, got %d", m.HopRows)
	}
	if !(m.MinCoverage >= 0 && m.MinCoverage <= 1) {
		fault("min_coverage: want 0 to 1, got %v", m.MinCoverage)
	}
	outputs := map[string]bool{}
	for _, n := range m.Outputs.Names() {
		if n == "" || outputs[n] {
			fault("outputs: want names of their own, got %q", n)
		}
		outputs[n] = true
	}
	for q, v := range m.Thresholds {
		if f, err := strconv.ParseFloat(q, 64); err != nil || !(f > 0 && f < 1) || Quantile(f) != q {
			fault("thresholds: want a quantile between 0 and 1 such as \"0.99\", got %q", q)
		}
		if !finite(v) {
			fault("thresholds[%q]: want a finite number, got %v", q, v)
		}
	}
	if m.Files[GoldenFile] == "" {
		fault("files: want %s", GoldenFile)
	}
	for name := range m.Files {
		if !PlainName(name) {
			fault("files: want names of files in the bundle, got %q", name)
		}
	}
	if len(faults) > 0 {
		slices.Sort(faults)
		return fmt.Errorf("%s", strings.Join(faults, "; "))
	}
	return nil
}

// Quantile writes a quantile as the manifest does: the shortest decimal.
func Quantile(q float64) string { return strconv.FormatFloat(q, 'f', -1, 64) }

func finite(v float64) bool { return !math.IsNaN(v) && !math.IsInf(v, 0) }

// PlainName tells whether s can be a file's or folder's name anywhere, so that no path leaves the bundle.
func PlainName(s string) bool {
	if s == "" || len(s) > 128 || s[0] == '.' {
		return false
	}
	for _, c := range []byte(s) {
		if !(c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '.' || c == '-' || c == '_') {
			return false
		}
	}
	return true
}

// Info is what the steps after score need.
func (b *Bundle) Info() schemas.ModelInfo {
	m := &b.Manifest
	info := schemas.ModelInfo{
		Name: m.Name, Version: m.Version, SHA256: m.File.SHA256,
		Mean: make([]float64, len(m.Channels)), Std: make([]float64, len(m.Channels)),
		Thresholds: make(map[string]float64, len(m.Thresholds)), MinCoverage: m.MinCoverage,
	}
	for i, c := range m.Channels {
		info.Mean[i], info.Std[i] = c.Mean, c.Std
	}
	for q, v := range m.Thresholds {
		info.Thresholds[q] = v
	}
	return info
}

// CheckLayout reports every difference between the rows that a pipeline makes and the rows that the model was trained on,
// joined: channels in order with their units, the grid and the window's rows.
func (b *Bundle) CheckLayout(l schemas.Layout) error {
	m := &b.Manifest
	var faults []string
	if len(l.Channels) != len(m.Channels) {
		faults = append(faults, fmt.Sprintf("channels: want %d, got %d", len(m.Channels), len(l.Channels)))
	}
	for i := range min(len(l.Channels), len(m.Channels)) {
		want, got := m.Channels[i], l.Channels[i]
		if want.Tag != got.Tag {
			faults = append(faults, fmt.Sprintf("channels[%d].tag: want %s, got %s", i, want.Tag, got.Tag))
		} else if want.Unit != "" && got.Unit != "" && want.Unit != got.Unit {
			faults = append(faults, fmt.Sprintf("channels[%d].unit: want %s, got %s (%s)", i, want.Unit, got.Unit, want.Tag))
		}
	}
	if l.Grid != m.Grid {
		faults = append(faults, fmt.Sprintf("grid: want %s, got %s", m.Grid, l.Grid))
	}
	if l.Size != m.WindowRows {
		faults = append(faults, fmt.Sprintf("window rows: want %d, got %d", m.WindowRows, l.Size))
	}
	if len(faults) > 0 {
		return fmt.Errorf("model %s %s: %s", m.Name, m.Version, strings.Join(faults, "; "))
	}
	return nil
}
