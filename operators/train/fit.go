package train

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/apache/arrow/go/v15/arrow"
	"github.com/apache/arrow/go/v15/arrow/array"

	"github.com/tailrace/tailrace/operators/model"
	"github.com/tailrace/tailrace/pipeline"
	"github.com/tailrace/tailrace/schemas"
)

// window is one row of the window operator. A sample that is missing is NaN.
type window struct {
	asset      string
	start, end int64 // ns UTC
	samples    []float64
}

// Trainer collects windows and fits a model to them. It is for one goroutine.
type Trainer struct {
	config  Config
	layout  schemas.Layout
	windows []window
	skipped int // windows that were cut or hold too little
	runtime Runtime
}

// New makes a Trainer for windows of a layout.
func New(c Config, layout schemas.Layout) (*Trainer, error) {
	var faults []error
	for _, f := range c.Validate() {
		faults = append(faults, f)
	}
	if len(layout.Channels) == 0 || layout.Size < 1 || layout.Grid <= 0 {
		faults = append(faults, fmt.Errorf("want the layout of windows, got %d channels, %d rows, grid %s",
			len(layout.Channels), layout.Size, layout.Grid))
	}
	if len(faults) > 0 {
		return nil, fmt.Errorf("train: %w: %w", pipeline.ErrConfig, errors.Join(faults...))
	}
	return &Trainer{config: c, layout: layout}, nil
}

// features is the number of features of a window.
func (t *Trainer) features() int { return t.layout.Size * len(t.layout.Channels) }

// copies is how many times the samples lie in memory at the peak: the windows, their standardized form, what the
// decomposition works on, and its vectors.
const copies = 4

// Add copies the windows of rec, which has the columns of [schemas.WindowFields]. Windows that are cut or hold too little
// are counted and left out.
func (t *Trainer) Add(rec arrow.Record) error {
	cols, err := columnsOf(rec, t.features())
	if err != nil {
		return fmt.Errorf("train: %w", err)
	}
	for i := range int(rec.NumRows()) {
		if text(cols.cut, i) != "" || cols.coverage.Value(i) < float32(t.config.MinCoverage) {
			t.skipped++
			continue
		}
		if bytes := int64(len(t.windows)+1) * int64(t.features()) * 8 * copies; bytes > int64(t.config.MaxMemory) {
			return fmt.Errorf("train: %w: max_memory: %d windows of %d values take %d bytes with their decomposition; "+
				"want fewer windows (a larger hop) or more memory",
				pipeline.ErrConfig, len(t.windows)+1, t.features(), bytes)
		}
		t.windows = append(t.windows, window{
			asset: strings.Clone(text(cols.asset, i)), samples: cols.row(i, t.features()),
			start: int64(cols.start.Value(i)), end: int64(cols.end.Value(i)),
		})
	}
	return nil
}

// columns are the columns that training needs.
type columns struct {
	asset, cut *array.Dictionary
	start, end *array.Timestamp
	coverage   *array.Float32
	samples    *array.FixedSizeList
}

func columnsOf(rec arrow.Record, features int) (c columns, err error) {
	var faults []error
	want := map[string]any{
		schemas.NameAsset: &c.asset, schemas.NameCut: &c.cut, schemas.NameWindowStart: &c.start, schemas.NameWindowEnd: &c.end,
		schemas.NameCoverage: &c.coverage, schemas.NameSamples: &c.samples,
	}
	for name, to := range want {
		at := rec.Schema().FieldIndices(name)
		if len(at) != 1 {
			faults = append(faults, fmt.Errorf("column %s: want one, got %d", name, len(at)))
			continue
		}
		if !assign(to, rec.Column(at[0])) {
			got := rec.Column(at[0]).DataType()
			faults = append(faults, fmt.Errorf("column %s: want the type of window's rows, got %s", name, got))
		}
	}
	if len(faults) > 0 {
		return c, errors.Join(faults...)
	}
	list := c.samples.DataType().(*arrow.FixedSizeListType)
	if int(list.Len()) != features || list.Elem().ID() != arrow.FLOAT64 {
		return c, fmt.Errorf("column %s: want %d float64, got %s", schemas.NameSamples, features, list)
	}
	return c, nil
}

func assign(to any, from arrow.Array) (ok bool) {
	switch to := to.(type) {
	case **array.Dictionary:
		*to, ok = from.(*array.Dictionary)
	case **array.Timestamp:
		*to, ok = from.(*array.Timestamp)
	case **array.Float32:
		*to, ok = from.(*array.Float32)
	case **array.FixedSizeList:
		*to, ok = from.(*array.FixedSizeList)
	}
	return ok
}

func text(a *array.Dictionary, i int) string {
	return a.Dictionary().(*array.String).Value(a.GetValueIndex(i))
}

// row copies the samples of row i. ListValues ignores the offset of a slice.
func (c *columns) row(i, features int) []float64 {
	values := c.samples.ListValues().(*array.Float64)
	at := (c.samples.Data().Offset() + i) * features
	out := make([]float64, features)
	for k := range out {
		out[k] = math.NaN()
		if values.IsValid(at + k) {
			out[k] = values.Value(at + k)
		}
	}
	return out
}

// Fit fits the model and returns its bundle, to be written with [model.Write]. files says where the windows came from.
func (t *Trainer) Fit(ctx context.Context, files []model.TrainedFile) (*model.Bundle, error) {
	b, err := t.fit(ctx, files)
	if err != nil {
		return nil, fmt.Errorf("train %s %s: %w", t.config.Name, t.config.Version, err)
	}
	return b, nil
}

func (t *Trainer) fit(ctx context.Context, files []model.TrainedFile) (*model.Bundle, error) {
	// Whatever order the windows came in, they are learnt from in the order of time.
	slices.SortFunc(t.windows, func(a, b window) int {
		if a.end != b.end {
			return compare(a.end, b.end)
		}
		if a.start != b.start {
			return compare(a.start, b.start)
		}
		return strings.Compare(a.asset, b.asset)
	})
	if err := t.enough(len(t.windows)); err != nil {
		return nil, err
	}
	switch {
	case len(t.config.Autoencoder.Hidden) > 0:
		return t.fitAutoencoder(ctx, files)
	case len(t.config.Classifier.Hidden) > 0:
		return t.fitClassifier(ctx, files)
	}
	return t.fitComponents(ctx, files)
}

// fitComponents fits a PCA.
func (t *Trainer) fitComponents(ctx context.Context, files []model.TrainedFile) (*model.Bundle, error) {
	held, err := t.heldOut(ctx)
	if err != nil {
		return nil, err
	}
	first := t.config.Quantiles[0]
	f := fitted{
		t2Limit: digits(quantile(slices.Clone(held.t2), first), limitDigits),
		qLimit:  digits(quantile(slices.Clone(held.q), first), limitDigits),
	}
	if f.scaling, f.pca, err = t.fitRows(t.windows); err != nil {
		return nil, err
	}
	scores := make([]float64, len(held.t2))
	for i := range scores {
		scores[i] = max(held.t2[i]/f.t2Limit, held.q[i]/f.qLimit)
	}
	f.thresholds = map[string]float64{}
	for _, q := range t.config.Quantiles {
		f.thresholds[model.Quantile(q)] = digits(quantile(scores, q), limitDigits)
	}
	return t.bundle(&f, files)
}

// limitDigits are the significant digits of limits and thresholds: what a float32 score can be compared at.
const limitDigits = 7

// fitted is everything that the bundle is made of.
type fitted struct {
	scaling         scaling
	pca             *pca
	t2Limit, qLimit float64
	thresholds      map[string]float64
}

// enough tells whether n windows suffice, for the fit and for the highest quantile.
func (t *Trainer) enough(n int) error {
	last := t.config.Quantiles[len(t.config.Quantiles)-1]
	need := max(2*t.config.Folds, t.config.PCA.Components+2, int(math.Ceil(1/(1-last)-1e-9)))
	if n < need {
		return fmt.Errorf("windows: want at least %d for %d folds, %d components and the quantile %v, got %d whole ones "+
			"(%d were cut or hold too little)",
			need, t.config.Folds, t.config.PCA.Components, last, n, t.skipped)
	}
	return nil
}

func (t *Trainer) fitRows(rows []window) (scaling, *pca, error) {
	s, err := t.fitScaling(rows)
	if err != nil {
		return s, nil, err
	}
	p, err := fitPCA(s.normalize(rows), len(rows), t.features(), t.config.PCA)
	return s, p, err
}

// held are the statistics of every window, by a model that had not seen its time.
type held struct{ t2, q []float64 }

func (t *Trainer) heldOut(ctx context.Context) (held, error) {
	var h held
	n := len(t.windows)
	for k := range t.config.Folds {
		if err := ctx.Err(); err != nil {
			return h, err
		}
		lo, hi := k*n/t.config.Folds, (k+1)*n/t.config.Folds
		block := t.windows[lo:hi]
		rest := apart(t.windows, lo, hi, 0)
		if len(rest) < 2 {
			return h, fmt.Errorf("fold %d of %d: want windows that share no time with it, got %d", k+1, t.config.Folds, len(rest))
		}
		s, p, err := t.fitRows(rest)
		if err != nil {
			return h, fmt.Errorf("fold %d of %d, without the windows from %s to %s: %w",
				k+1, t.config.Folds, stamp(block[0].start), stamp(block[len(block)-1].end), err)
		}
		z := s.normalize(block)
		for i := range block {
			one := p.apply(z[i*p.d : (i+1)*p.d])
			h.t2, h.q = append(h.t2, one.t2), append(h.q, one.q)
		}
	}
	return h, nil
}

// apart returns the windows outside lo to hi that end gap before it or begin gap after it. Even with a gap of 0 they share
// no time with it: where windows overlap, a neighbour of the block holds the block's own rows.
func apart(windows []window, lo, hi int, gap time.Duration) []window {
	from, to := windows[lo].start, windows[lo].end
	for _, w := range windows[lo:hi] {
		from, to = min(from, w.start), max(to, w.end)
	}
	from, to = from-int64(gap), to+int64(gap)
	var rest []window
	for i, w := range windows {
		if (i < lo || i >= hi) && (w.end <= from || w.start >= to) {
			rest = append(rest, w)
		}
	}
	return rest
}

func compare(a, b int64) int {
	if a < b {
		return -1
	}
	return 1
}

func stamp(ns int64) string { return time.Unix(0, ns).UTC().Format(time.RFC3339) }
