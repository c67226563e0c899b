package onnx_test

import (
	"bytes"
	"io/fs"
	"reflect"
	"strings"
	"testing"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/tailrace/tailrace/deploy"
	"github.com/tailrace/tailrace/operators/onnx"
)

// every is a graph with every operator that the builder has.
func every(t testing.TB) *onnx.Model {
	t.Helper()
	b := onnx.NewBuilder("every")
	x := b.Input("x", onnx.Float32, onnx.Var("N"), onnx.Fixed(2), onnx.Fixed(3))
	flat := b.Flatten("flat", x)
	product := b.MatMul("product", flat, b.Floats("weights", []float32{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12}, 6, 2))
	shifted := b.Add("shifted", product, b.Floats("bias", []float32{0.5, -0.5}, 2))
	ratio := b.Div("ratio", b.Sub("less", shifted, b.Scalar("one", 1)), b.Scalar("two", 2))
	positive := b.Greater("positive", ratio, b.Scalar("zero", 0))
	b.Output(b.Where("rectified", positive, ratio, b.Mul("small", ratio, b.Scalar("tenth", 0.1))))
	b.Output(b.Sum("total", flat, 1, true))
	b.Output(b.At("last", b.Unflatten("again", flat, 2, 3), 1, 1))
	m, err := b.Model("test", map[string]string{"b": "2", "a": "1"})
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func carriedModel(t testing.TB) []byte {
	t.Helper()
	file, err := fs.ReadFile(deploy.Demo, "demo/models/tep-pca/1.0.0/model.onnx")
	if err != nil {
		t.Fatal(err)
	}
	return file
}

// Scenario: a graph with every operator is written, read, and written again.
// Guarantees: what is read equals what was written, field by field, and so do the bytes.
func TestRoundTrip(t *testing.T) {
	want := every(t)
	file := want.Marshal()
	got, err := onnx.Parse(file)
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(normal(want), normal(got)) {
		t.Errorf("want\n%+v\ngot\n%+v", want, got)
	}
	for range 20 {
		if !bytes.Equal(got.Marshal(), file) {
			t.Fatal("want the same bytes each time")
		}
	}
	shapes := map[string]string{"rectified": "[N,2]", "total": "[N,1]", "last": "[N,3]"}
	for _, o := range got.Graph.Outputs {
		if o.Shape.String() != shapes[o.Name] {
			t.Errorf("output %s: want %s, got %s", o.Name, shapes[o.Name], o.Shape)
		}
	}
}

// normal makes empty and absent lists the same.
func normal(m *onnx.Model) *onnx.Model {
	c := *m
	c.Graph.Inits = append([]onnx.Tensor(nil), m.Graph.Inits...)
	for i := range c.Graph.Inits {
		c.Graph.Inits[i].Dims = append([]int64{}, c.Graph.Inits[i].Dims...)
		c.Graph.Inits[i].Raw = append([]byte{}, c.Graph.Inits[i].Raw...)
	}
	return &c
}

// Scenario: the model that the program carries.
// Guarantees: its input and outputs read as the manifest says.
func TestCarriedModelReads(t *testing.T) {
	m, err := onnx.Parse(carriedModel(t))
	if err != nil {
		t.Fatal(err)
	}
	x, err := m.WindowInput()
	if err != nil {
		t.Fatal(err)
	}
	if x.Shape.String() != "[N,1,52]" || m.Opset != 13 || m.IRVersion != 7 || m.Metadata["name"] != "tep-pca" {
		t.Errorf("want [N,1,52], opset 13, ir 7, name tep-pca, got %s, %d, %d, %v", x.Shape, m.Opset, m.IRVersion, m.Metadata)
	}
	if !bytes.Equal(m.Marshal(), carriedModel(t)) {
		t.Error("want the same bytes when written again")
	}
}

// Scenario: constants that are written in the other forms of the format: one by one, packed, and as raw bytes.
// Guarantees: all give the same values.
func TestFormsOfConstants(t *testing.T) {
	packed := protowire.AppendFixed32(protowire.AppendFixed32(nil, 0x3f800000), 0xc0000000) // 1, -2
	single := func(b []byte, bits uint32) []byte {
		return protowire.AppendFixed32(protowire.AppendTag(b, 4, protowire.Fixed32Type), bits)
	}
	for name, values := range map[string][]byte{
		"packed":     protowire.AppendBytes(protowire.AppendTag(nil, 4, protowire.BytesType), packed),
		"one by one": single(single(nil, 0x3f800000), 0xc0000000),
		"raw":        protowire.AppendBytes(protowire.AppendTag(nil, 9, protowire.BytesType), packed),
	} {
		m, err := onnx.Parse(withConstant(t, append(header(1), values...)))
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		c := m.Graph.Inits[len(m.Graph.Inits)-1]
		got, err := c.Floats()
		if err != nil || !reflect.DeepEqual(got, []float32{1, -2}) {
			t.Errorf("%s: want [1 -2], got %v (%v)", name, got, err)
		}
	}
	ints := protowire.AppendBytes(protowire.AppendTag(nil, 7, protowire.BytesType), protowire.AppendVarint(protowire.AppendVarint(nil, 5), ^uint64(0)))
	m, err := onnx.Parse(withConstant(t, append(header(7), ints...)))
	if err != nil {
		t.Fatal(err)
	}
	c := m.Graph.Inits[len(m.Graph.Inits)-1]
	if got, err := c.Ints(); err != nil || !reflect.DeepEqual(got, []int64{5, -1}) {
		t.Errorf("ints: want [5 -1], got %v (%v)", got, err)
	}
}

// header is the beginning of a constant of two values called extra.
func header(typ uint64) []byte {
	b := protowire.AppendVarint(protowire.AppendTag(nil, 1, protowire.VarintType), 2)
	b = protowire.AppendVarint(protowire.AppendTag(b, 2, protowire.VarintType), typ)
	return protowire.AppendString(protowire.AppendTag(b, 8, protowire.BytesType), "extra")
}

// withConstant adds a constant to a model: a message that comes twice is merged.
func withConstant(t testing.TB, tensor []byte) []byte {
	graph := protowire.AppendBytes(protowire.AppendTag(nil, 5, protowire.BytesType), tensor)
	return protowire.AppendBytes(protowire.AppendTag(every(t).Marshal(), 7, protowire.BytesType), graph)
}

// Scenario: files that are broken, hostile, or ask for other files.
// Guarantees: an error that says what was wanted, and no model.
func TestParseRefuses(t *testing.T) {
	file := every(t).Marshal()
	external := protowire.AppendVarint(protowire.AppendTag(header(1), 14, protowire.VarintType), 1)
	twice := every(t)
	twice.Graph.Nodes[1].Outputs[0] = "flat"
	early := every(t)
	early.Graph.Nodes[0], early.Graph.Nodes[1] = early.Graph.Nodes[1], early.Graph.Nodes[0]
	nowhere := every(t)
	nowhere.Graph.Outputs[0].Name = "nothing"
	deep := every(t)
	deep.Graph.Inputs[0].Shape = make(onnx.Shape, 17)
	for name, c := range map[string]struct {
		file []byte
		want string
	}{
		"empty":             {nil, "want a graph with nodes"},
		"text":              {[]byte("not a model"), "onnx:"},
		"cut":               {file[:len(file)-5], "unexpected EOF"},
		"other file":        {withConstant(t, external), "want weights inside the file"},
		"value given twice": {twice.Marshal(), `value "flat": node 0 (Flatten) gives it already`},
		"used before given": {early.Marshal(), `value "flat" is not given by anything before it`},
		"output of nothing": {nowhere.Marshal(), `output "nothing": nothing gives it`},
		"too many sizes":    {deep.Marshal(), "want at most 16 of dimension"},
	} {
		if _, err := onnx.Parse(c.file); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: want an error with %q, got %v", name, c.want, err)
		}
	}
	if _, err := (onnx.Limits{Nodes: 2, Rank: 16, Attributes: 16}).Parse(file); err == nil || !strings.Contains(err.Error(), "want at most 2 of node") {
		t.Errorf("want the limit of nodes, got %v", err)
	}
}

// Scenario: constants whose sizes and bytes do not agree, or overflow.
// Guarantees: an error, and no allocation by what the sizes claim.
func TestConstantsThatLie(t *testing.T) {
	for _, dims := range [][]int64{{3}, {-1}, {1 << 62, 1 << 62}, {1 << 31, 1 << 31, 4}, {2, 0}} {
		c := onnx.Tensor{Name: "c", Type: onnx.Float32, Dims: dims, Raw: make([]byte, 8)}
		if v, err := c.Floats(); err == nil {
			t.Errorf("%v: want an error for 8 bytes, got %d values", dims, len(v))
		}
	}
	c := onnx.Tensor{Name: "c", Type: onnx.Int64, Dims: []int64{1}, Raw: make([]byte, 8)}
	if _, err := c.Floats(); err == nil || !strings.Contains(err.Error(), "want float32, got int64") {
		t.Errorf("want an error about the type, got %v", err)
	}
}

// Scenario: mistakes while a graph grows.
// Guarantees: the first one is reported by Model, with the name of the value; nothing panics after it.
func TestBuilderReportsTheFirstMistake(t *testing.T) {
	for name, c := range map[string]struct {
		build func(*onnx.Builder, onnx.Value)
		want  string
	}{
		"matmul":    {func(b *onnx.Builder, x onnx.Value) { b.MatMul("y", x, b.Floats("w", []float32{1}, 1, 1)) }, "y: MatMul: want float32 [M,K] and [K,N]"},
		"broadcast": {func(b *onnx.Builder, x onnx.Value) { b.Add("y", x, b.Floats("w", []float32{1, 2}, 2)) }, "y: Add: want shapes that broadcast"},
		"constant":  {func(b *onnx.Builder, x onnx.Value) { b.Floats("w", []float32{1, 2}, 3) }, "w: constant"},
		"type":      {func(b *onnx.Builder, x onnx.Value) { b.Where("y", x, x, x) }, "y: Where: want bool"},
		"axis":      {func(b *onnx.Builder, x onnx.Value) { b.Sum("y", x, 3, true) }, "y: ReduceSum"},
		"index":     {func(b *onnx.Builder, x onnx.Value) { b.At("y", x, 1, 2) }, "y: Gather"},
		"flatten":   {func(b *onnx.Builder, x onnx.Value) { b.Flatten("y", b.Flatten("z", onnx.Value{Name: "q"})) }, "z: Flatten"},
		"unflatten": {func(b *onnx.Builder, x onnx.Value) { b.Unflatten("y", b.Flatten("f", x), 4, 2) }, "y: Unflatten"},
		"same name": {func(b *onnx.Builder, x onnx.Value) { b.Flatten("y", x); b.Flatten("y", x) }, `y: want a name of its own`},
	} {
		t.Run(name, func(t *testing.T) {
			b := onnx.NewBuilder("g")
			x := b.Input("x", onnx.Float32, onnx.Var("N"), onnx.Fixed(2), onnx.Fixed(3))
			c.build(b, x)
			b.Output(b.Add("last", onnx.Value{}, x))
			if _, err := b.Model("test", nil); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("want an error with %q, got %v", c.want, err)
			}
		})
	}
}

// Scenario: models whose input or outputs are not what a scorer of windows needs.
// Guarantees: each is refused with its signature.
func TestWindowInputRefuses(t *testing.T) {
	for name, edit := range map[string]func(*onnx.Model){
		"fixed batch":    func(m *onnx.Model) { m.Graph.Inputs[0].Shape[0] = onnx.Fixed(8) },
		"free window":    func(m *onnx.Model) { m.Graph.Inputs[0].Shape[1] = onnx.Var("T") },
		"two sizes":      func(m *onnx.Model) { m.Graph.Inputs[0].Shape = m.Graph.Inputs[0].Shape[:2] },
		"integers":       func(m *onnx.Model) { m.Graph.Inputs[0].Type = onnx.Int64 },
		"two inputs":     func(m *onnx.Model) { m.Graph.Inputs = append(m.Graph.Inputs, onnx.ValueInfo{Name: "y"}) },
		"no outputs":     func(m *onnx.Model) { m.Graph.Outputs = nil },
		"other batch":    func(m *onnx.Model) { m.Graph.Outputs[0].Shape[0] = onnx.Var("M") },
		"free output":    func(m *onnx.Model) { m.Graph.Outputs[0].Shape[1] = onnx.Var("M") },
		"no shape":       func(m *onnx.Model) { m.Graph.Outputs[0].Shape = nil },
		"boolean output": func(m *onnx.Model) { m.Graph.Outputs[0].Type = onnx.Bool },
		"huge":           func(m *onnx.Model) { m.Graph.Inputs[0].Shape[1] = onnx.Dim{Size: 1 << 62} },
	} {
		m := every(t)
		edit(m)
		if x, err := m.WindowInput(); err == nil {
			t.Errorf("%s: want an error, got %s %s", name, x.Name, x.Shape)
		}
	}
	if _, err := every(t).WindowInput(); err != nil {
		t.Error(err)
	}
}

// Scenario: any bytes.
// Guarantees: Parse returns; what it accepts can be written and read again and is the same; constants decode or refuse.
func FuzzParse(f *testing.F) {
	f.Add(every(f).Marshal())
	f.Add(carriedModel(f))
	f.Add([]byte{})
	limits := onnx.Limits{Nodes: 64, Rank: 8, Attributes: 64}
	f.Fuzz(func(t *testing.T, file []byte) {
		m, err := limits.Parse(file)
		if err != nil {
			return
		}
		for i := range m.Graph.Inits {
			c := &m.Graph.Inits[i]
			if v, err := c.Floats(); err == nil && 4*len(v) != len(c.Raw) {
				t.Fatalf("want %d bytes decoded, got %d values", len(c.Raw), len(v))
			}
			if v, err := c.Ints(); err == nil && 8*len(v) != len(c.Raw) {
				t.Fatalf("want %d bytes decoded, got %d values", len(c.Raw), len(v))
			}
		}
		if _, err := m.WindowInput(); err == nil {
			m.Signature()
		}
		again, err := limits.Parse(m.Marshal())
		if err != nil {
			t.Fatalf("written again: %v", err)
		}
		if !bytes.Equal(again.Marshal(), m.Marshal()) {
			t.Fatal("want a fixed point after one reading")
		}
	})
}

// Scenario: derivatives by what the loss does not depend on, through an operator that has none, and of no scalar.
// Guarantees: the builder reports each, naming the value.
func TestGradientMistakes(t *testing.T) {
	for want, build := range map[string]func(b *onnx.Builder, x onnx.Value) (loss, by onnx.Value){
		"x: Gradients: loss does not depend on it": func(b *onnx.Builder, x onnx.Value) (onnx.Value, onnx.Value) {
			return b.Total("loss", b.Floats("c", []float32{1, 2}, 2)), x
		},
		"q: Gradients: Div: not supported": func(b *onnx.Builder, x onnx.Value) (onnx.Value, onnx.Value) {
			return b.Total("loss", b.Div("q", x, x)), x
		},
		"x: Gradients: want a scalar float32, got float32 [2,3]": func(_ *onnx.Builder, x onnx.Value) (onnx.Value, onnx.Value) {
			return x, x
		},
	} {
		b := onnx.NewBuilder("test")
		loss, by := build(b, b.Input("x", onnx.Float32, onnx.Fixed(2), onnx.Fixed(3)))
		b.Gradients(loss, by)
		if _, err := b.Model("test", nil); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("want an error with %q, got %v", want, err)
		}
	}
}
