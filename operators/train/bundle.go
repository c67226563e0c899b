package train

import (
	"math"
	"math/rand/v2"
	"time"

	"github.com/tailrace/tailrace/operators/model"
	"github.com/tailrace/tailrace/operators/onnx"
)

// Names of the graph's outputs.
const (
	outScore    = "score"
	outT2       = "t2"
	outQ        = "q"
	outContrib  = "contrib"
	outExpected = "expected"
)

// tiny keeps the shares of a window that lies exactly at the mean 0 instead of 0/0. It changes no other float32 sum.
const tiny = 1e-30

func (t *Trainer) bundle(f *fitted, files []model.TrainedFile) (*model.Bundle, error) {
	graph, err := t.graph(f)
	if err != nil {
		return nil, err
	}
	b := &model.Bundle{ONNX: graph.Marshal(), Golden: t.golden(f)}
	b.Manifest = t.manifest(graph, f.scaling, files)
	b.Manifest.Outputs = model.Outputs{Score: outScore, Scalars: []string{outT2, outQ}, Contrib: outContrib, Expected: outExpected}
	b.Manifest.Thresholds = f.thresholds
	b.Manifest.Metrics = map[string]float64{
		"components": float64(f.pca.a), "variance_share": digits(f.pca.share, limitDigits),
		"t2_limit": f.t2Limit, "q_limit": f.qLimit,
		"held_out_windows": float64(len(t.windows)),
	}
	// Encoding fills the hashes, and refuses what could not be loaded again.
	_, err = model.Encode(b)
	return b, err
}

// manifest is what every kind of model says of itself.
func (t *Trainer) manifest(graph *onnx.Model, s scaling, files []model.TrainedFile) model.Manifest {
	from, to := t.windows[0].start, t.windows[len(t.windows)-1].end
	for _, w := range t.windows {
		from = min(from, w.start)
	}
	m := model.Manifest{
		Name: t.config.Name, Version: t.config.Version, Licence: t.config.Licence,
		File:       model.ModelFile{Opset: graph.Opset},
		Grid:       t.layout.Grid,
		WindowRows: t.layout.Size, HopRows: t.layout.Hop,
		MinCoverage: t.config.MinCoverage,
		TrainedOn: model.TrainedOn{
			Files: files, Rows: len(t.windows), Seed: t.config.Seed,
			From: time.Unix(0, from).UTC(), To: time.Unix(0, to).UTC(),
		},
	}
	for i, c := range t.layout.Channels {
		m.Channels = append(m.Channels, model.Channel{Tag: c.Tag, Unit: c.Unit, Mean: s.mean[i], Std: s.std[i]})
	}
	return m
}

// graph writes the formulas of the package over a batch of N windows. With W = P lambda^-1/2: w = W'z is the scores at
// unit variance, so T2 = |w|^2; the parts of T2 are (Pw)_j^2, and the reconstruction is P lambda^1/2 w.
func (t *Trainer) graph(f *fitted) (*onnx.Model, error) {
	p, rows, channels := f.pca, t.layout.Size, len(t.layout.Channels)
	scaled := func(power float64) []float32 { // P lambda^power, d x a
		out := make([]float32, p.d*p.a)
		for i, v := range p.loadings {
			out[i] = float32(v * math.Pow(p.lambda[i%p.a], power))
		}
		return out
	}
	b := onnx.NewBuilder("pca")
	x := b.Input("x", onnx.Float32, onnx.Var("N"), onnx.Fixed(rows), onnx.Fixed(channels))
	z := b.Flatten("z", x)
	w := b.MatMul("w", z, b.Floats("project", scaled(-0.5), p.d, p.a))
	t2 := b.Sum(outT2, b.Mul("w_squared", w, w), 1, true)
	recon := b.MatMul("reconstruction", w, b.Floats("expand", transpose(scaled(0.5), p.d, p.a), p.a, p.d))
	e := b.Sub("residual", z, recon)
	partsQ := b.Mul("residual_squared", e, e)
	q := b.Sum(outQ, partsQ, 1, true)

	ratioT2 := b.Div("t2_ratio", t2, b.Scalar("t2_limit", float32(f.t2Limit)))
	ratioQ := b.Div("q_ratio", q, b.Scalar("q_limit", float32(f.qLimit)))
	inPlane := b.Greater("t2_is_larger", ratioT2, ratioQ) // false for NaN, so that a NaN gets through to the score
	score := b.Where(outScore, inPlane, ratioT2, ratioQ)

	u := b.MatMul("t2_root", w, b.Floats("unproject", transpose(scaled(0), p.d, p.a), p.a, p.d))
	parts := b.Where("parts", inPlane, b.Mul("t2_parts", u, u), partsQ)
	whole := b.Add("whole", b.Where("larger", inPlane, t2, q), b.Scalar("tiny", tiny))
	byChannel := b.Sum("channel_parts", b.Unflatten("parts_by_row", parts, rows, channels), 1, false)

	b.Output(score)
	b.Output(t2)
	b.Output(q)
	b.Output(b.Div(outContrib, byChannel, whole))
	b.Output(b.At(outExpected, b.Unflatten("reconstruction_by_row", recon, rows, channels), 1, rows-1))
	return b.Model("tailrace", map[string]string{"name": t.config.Name, "version": t.config.Version, "kind": "pca"})
}

// transpose turns m, rows x cols row-major, around.
func transpose(m []float32, rows, cols int) []float32 {
	out := make([]float32, len(m))
	for i := range rows {
		for k := range cols {
			out[k*rows+i] = m[i*cols+k]
		}
	}
	return out
}

const (
	// goldenRows is how many golden inputs there are: enough that both ratios win some, few enough to be read.
	goldenRows = 16
	// goldenGap keeps golden inputs away from where the two ratios are equal and the shares jump.
	goldenGap = 1e-3
)

// golden makes inputs from windows spread over the training time, every second with noise of three standard deviations
// that stands for a fault, and works out their outputs in float64 straight from the formulas.
func (t *Trainer) golden(f *fitted) model.Golden {
	// A seed is all that a reader needs to make the same noise again: PCG is specified by the Go documentation.
	noise := rand.New(rand.NewPCG(uint64(t.config.Seed), 0))
	g := model.Golden{Outputs: map[string][]float32{}}
	put := func(name string, values ...float64) {
		for _, v := range values {
			g.Outputs[name] = append(g.Outputs[name], float32(v))
		}
	}
	c, n := len(t.layout.Channels), len(t.windows)
	for k := 0; g.Rows < goldenRows && k < 4*goldenRows; k++ {
		at := k % goldenRows * (n - 1) / (goldenRows - 1)
		z := f.scaling.normalize(t.windows[at : at+1])
		x := make([]float32, len(z))
		for i := range z {
			if k%2 == 1 {
				z[i] += 3 * noise.NormFloat64()
			}
			x[i] = float32(z[i])
			z[i] = float64(x[i])
		}
		s := f.pca.apply(z)
		ratioT2, ratioQ := s.t2/f.t2Limit, s.q/f.qLimit
		if math.Abs(ratioT2-ratioQ) < goldenGap*ratioQ {
			continue
		}
		parts, whole := s.partsQ, s.q
		if ratioT2 > ratioQ {
			parts, whole = s.partsT2, s.t2
		}
		shares := make([]float64, c)
		for i, v := range parts {
			shares[i%c] += v / whole
		}
		g.Rows++
		g.X = append(g.X, x...)
		put(outScore, max(ratioT2, ratioQ))
		put(outT2, s.t2)
		put(outQ, s.q)
		put(outContrib, shares...)
		put(outExpected, s.expected[len(z)-c:]...)
	}
	return g
}
