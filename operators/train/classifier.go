package train

import (
	"context"
	"fmt"
	"math"
	"slices"

	"github.com/tailrace/tailrace/operators/model"
	"github.com/tailrace/tailrace/operators/onnx"
)

// leastProbability is what a label is given at least: no net of some thousand windows can know better, and a threshold
// stays a number that can be read.
const leastProbability = 1e-6

// fitClassifier trains f to tell the labels of windows: with p = softmax(f(z)) the loss is the mean of -log p(label), the
// probability of label k is q_k = (1 - K u) p_k + u for K labels and u = 1e-6, and the score is the sum of q over all
// labels but normal. Thresholds are quantiles of the score of normal windows, by nets that had not seen their time.
func (t *Trainer) fitClassifier(ctx context.Context, files []model.TrainedFile) (*model.Bundle, error) {
	labels, err := t.labels()
	if err != nil {
		return nil, err
	}
	label := func(w window) int { return slices.Index(labels, t.config.Labels[w.asset]) }
	k := &task{
		net: &t.config.Classifier, sizes: slices.Concat([]int{t.features()}, t.config.Classifier.Hidden, []int{len(labels)}),
		loss: func(b *onnx.Builder, got, want onnx.Value) onnx.Value { return b.CrossEntropy("loss", got, want) },
		target: func(w window, _ []float64) []float64 {
			y := make([]float64, len(labels))
			y[label(w)] = 1
			return y
		},
		error: func(got, want []float64) float64 {
			at := slices.Index(want, 1)
			top, sum := slices.Max(got), 0.0
			for _, v := range got {
				sum += math.Exp(v - top)
			}
			return math.Log(sum) + top - got[at]
		},
	}
	f, err := t.fitNet(ctx, k)
	if err != nil {
		return nil, err
	}
	var scores []float64
	right := 0
	err = t.heldOutNets(ctx, k, f.best, func(w window, _, got []float64) {
		q := probabilities(got)
		if slices.Index(q, slices.Max(q)) == label(w) {
			right++
		}
		if label(w) == 0 {
			scores = append(scores, abnormal(q))
		}
	})
	if err != nil {
		return nil, err
	}
	graph, err := t.classifierGraph(f.net, labels)
	if err != nil {
		return nil, err
	}
	b, err := t.netBundle(k, &f, graph, files)
	if err != nil {
		return nil, err
	}
	b.Manifest.Outputs = model.Outputs{Score: outScore}
	for _, l := range labels {
		b.Manifest.Outputs.Scalars = append(b.Manifest.Outputs.Scalars, "p_"+l)
	}
	b.Golden = t.classifierGolden(&f, b.Manifest.Outputs.Scalars)
	b.Manifest.Metrics["held_out_accuracy"] = digits(float64(right)/float64(len(t.windows)), limitDigits)
	for _, q := range t.config.Quantiles {
		b.Manifest.Thresholds[model.Quantile(q)] = digits(quantile(scores, q), limitDigits)
	}
	_, err = model.Encode(b)
	return b, err
}

// labels gives the labels, normal first and the others in order, after checking that each window has one and each label
// windows.
func (t *Trainer) labels() ([]string, error) {
	count := map[string]int{}
	for _, w := range t.windows {
		l, ok := t.config.Labels[w.asset]
		if !ok {
			return nil, fmt.Errorf("labels: want one for each asset, got none for %q", w.asset)
		}
		count[l]++
	}
	list := []string{LabelNormal}
	for asset, l := range t.config.Labels {
		if count[l] == 0 {
			return nil, fmt.Errorf("labels.%s: want windows of label %s, got none", asset, l)
		}
		if !slices.Contains(list, l) {
			list = append(list, l)
		}
	}
	slices.Sort(list[1:])
	return list, nil
}

// probabilities are q, from the net's last layer.
func probabilities(logits []float64) []float64 {
	q := make([]float64, len(logits))
	top, sum := slices.Max(logits), 0.0
	for i, v := range logits {
		q[i] = math.Exp(v - top)
		sum += q[i]
	}
	for i := range q {
		q[i] = (1-float64(len(q))*leastProbability)*q[i]/sum + leastProbability
	}
	return q
}

// abnormal sums instead of taking q(normal) from 1, which would lose the digits of a small score.
func abnormal(q []float64) (sum float64) {
	for _, v := range q[1:] {
		sum += v
	}
	return sum
}

func (t *Trainer) classifierGraph(d *dense, labels []string) (*onnx.Model, error) {
	b := onnx.NewBuilder("classifier")
	x := b.Input("x", onnx.Float32, onnx.Var("N"), onnx.Fixed(t.layout.Size), onnx.Fixed(len(t.layout.Channels)))
	p := b.Softmax("softmax", d.constants(b, b.Flatten("z", x)))
	share := b.Scalar("share", float32(1-float64(len(labels))*leastProbability))
	q := b.Add("probabilities", b.Mul("shared", p, share), b.Scalar("least", leastProbability))
	faulty := make([]float32, len(labels))
	for i := range faulty[1:] {
		faulty[1+i] = 1
	}
	b.Output(b.Sum(outScore, b.Mul("of_faults", q, b.Floats("faults", faulty, len(labels))), 1, true))
	for i, l := range labels {
		b.Output(b.At("p_"+l, q, 1, i))
	}
	return b.Model("tailrace", map[string]string{"name": t.config.Name, "version": t.config.Version, "kind": "classifier"})
}

// classifierGolden works the outputs of windows spread over the training time out in float64.
func (t *Trainer) classifierGolden(f *netFit, names []string) model.Golden {
	g := model.Golden{Outputs: map[string][]float32{}}
	n := len(t.windows)
	for k := range goldenRows {
		at := k * (n - 1) / (goldenRows - 1)
		z := f.scaling.normalize(t.windows[at : at+1])
		for i := range z {
			z[i] = float64(float32(z[i]))
			g.X = append(g.X, float32(z[i]))
		}
		q := probabilities(f.net.apply(z))
		g.Rows++
		g.Outputs[outScore] = append(g.Outputs[outScore], float32(abnormal(q)))
		for i, name := range names {
			g.Outputs[name] = append(g.Outputs[name], float32(q[i]))
		}
	}
	return g
}
