package model

import (
	"fmt"
	"slices"

	"github.com/tailrace/tailrace/operators/onnx"
)

// checkGraph compares the graph's input and outputs with what the manifest says of them, before anything runs.
func (b *Bundle) checkGraph() error {
	m := &b.Manifest
	graph, err := onnx.Parse(b.ONNX)
	if err != nil {
		return fmt.Errorf("%s: %w", m.File.Path, err)
	}
	if graph.Opset != m.File.Opset {
		return fmt.Errorf("%s: opset: want %d by %s, got %d", m.File.Path, m.File.Opset, ManifestFile, graph.Opset)
	}
	x, err := graph.WindowInput()
	if err != nil {
		return fmt.Errorf("%s: %w", m.File.Path, err)
	}
	want := onnx.Shape{x.Shape[0], onnx.Fixed(m.WindowRows), onnx.Fixed(len(m.Channels))}
	if !slices.Equal(x.Shape, want) {
		return fmt.Errorf("%s: input %q: want %s by %s, got %s", m.File.Path, x.Name, want, ManifestFile, x.Shape)
	}
	_, outputs := graph.Signature()
	for _, name := range m.Outputs.Names() {
		i := slices.IndexFunc(outputs, func(v onnx.ValueInfo) bool { return v.Name == name })
		if i < 0 {
			return fmt.Errorf("%s: want an output %q by %s, got none", m.File.Path, name, ManifestFile)
		}
		if got := outputs[i].Shape.Width(); got != m.width(name) {
			return fmt.Errorf("%s: output %q: want %d values a window by %s, got %s",
				m.File.Path, name, m.width(name), ManifestFile, outputs[i].Shape)
		}
	}
	return nil
}
