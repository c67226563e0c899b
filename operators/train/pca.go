package train

import (
	"fmt"
	"math"
	"slices"
	"strconv"

	"gonum.org/v1/gonum/mat"
)

// pca is a fitted model of d features with a components.
type pca struct {
	d, a     int
	loadings []float64 // P, d x a row-major
	lambda   []float64 // variance of each component, falling
	share    float64   // of the variance that the components hold
}

// fitPCA decomposes z, n rows of d standardized features, row-major. It changes z.
func fitPCA(z []float64, n, d int, want PCA) (*pca, error) {
	var svd mat.SVD
	if !svd.Factorize(mat.NewDense(n, d, z), mat.SVDThinV) {
		return nil, fmt.Errorf("the singular value decomposition of %d windows of %d features did not converge", n, d)
	}
	values := svd.Values(nil)
	var total float64
	for i, s := range values {
		values[i] = s * s / float64(n-1)
		total += values[i]
	}
	p := &pca{d: d, a: want.Components}
	for sum := 0.0; want.Components == 0 && sum < want.Variance*total; p.a++ {
		sum += values[p.a]
	}
	// Singular values this far down are rounding noise, see numpy.linalg.matrix_rank.
	rank := 0
	for _, v := range values {
		if math.Sqrt(v/values[0]) > float64(max(n, d))*0x1p-52 {
			rank++
		}
	}
	if p.a >= rank {
		return nil, fmt.Errorf("pca: want fewer components than the data has dimensions, so that something is left for Q: "+
			"got %d of %d", p.a, rank)
	}
	for i := range p.a {
		p.share += values[i] / total
	}
	p.lambda = values[:p.a]
	var v mat.Dense
	svd.VTo(&v)
	p.loadings = make([]float64, d*p.a)
	for k := range p.a {
		p.orient(k, mat.Col(nil, k, &v))
	}
	return p, nil
}

// orient stores component k with the sign that makes its largest loading positive: a decomposition leaves signs open, and
// the same data must give the same bytes.
func (p *pca) orient(k int, column []float64) {
	largest, sign := 0.0, 1.0
	for _, v := range column {
		if math.Abs(v) > math.Abs(largest) {
			largest = v
		}
	}
	if largest < 0 {
		sign = -1
	}
	for j, v := range column {
		p.loadings[j*p.a+k] = sign * v
	}
}

// statistics are what the formulas of the package give for one window.
type statistics struct {
	t2, q    float64
	partsT2  []float64 // by feature, sum t2
	partsQ   []float64 // by feature, sum q
	expected []float64 // the reconstruction
}

// apply computes the statistics of z, d standardized features.
func (p *pca) apply(z []float64) statistics {
	s := statistics{partsT2: make([]float64, p.d), partsQ: make([]float64, p.d), expected: make([]float64, p.d)}
	for k := range p.a {
		var t float64
		for j, v := range z {
			t += v * p.loadings[j*p.a+k]
		}
		s.t2 += t * t / p.lambda[k]
		scaled := t / math.Sqrt(p.lambda[k])
		for j := range z {
			s.expected[j] += t * p.loadings[j*p.a+k]
			s.partsT2[j] += scaled * p.loadings[j*p.a+k] // squared below
		}
	}
	for j, v := range z {
		e := v - s.expected[j]
		s.partsQ[j] = e * e
		s.q += e * e
		s.partsT2[j] *= s.partsT2[j]
	}
	return s
}

// quantile returns the q-quantile of values by linear interpolation between order statistics (type 7 of Hyndman and Fan,
// the default of numpy). It sorts values.
func quantile(values []float64, q float64) float64 {
	slices.Sort(values)
	at := q * float64(len(values)-1)
	lo := int(at)
	hi := min(lo+1, len(values)-1)
	return values[lo] + (at-float64(lo))*(values[hi]-values[lo])
}

// scaling is the mean and the standard deviation (n-1) of each channel.
type scaling struct{ mean, std []float64 }

// storedDigits are the significant digits of means and standard deviations in the manifest: the 16th digit of a sum may
// differ between architectures, and no instrument shows 12.
const storedDigits = 12

// digits rounds v to n significant decimal digits, so that what is stored is what was computed with.
func digits(v float64, n int) float64 {
	rounded, err := strconv.ParseFloat(strconv.FormatFloat(v, 'e', n-1, 64), 64)
	if err != nil {
		return v
	}
	return rounded
}

// fitScaling measures the channels over the windows rows. A cell that is NaN is missing and does not count.
func (t *Trainer) fitScaling(rows []window) (scaling, error) {
	c := len(t.layout.Channels)
	s := scaling{mean: make([]float64, c), std: make([]float64, c)}
	n := make([]float64, c)
	over := func(use func(ch int, v float64)) {
		for _, w := range rows {
			for i, v := range w.samples {
				if v == v {
					use(i%c, v)
				}
			}
		}
	}
	over(func(ch int, v float64) { s.mean[ch] += v; n[ch]++ })
	for ch := range n {
		s.mean[ch] = digits(s.mean[ch]/n[ch], storedDigits)
	}
	over(func(ch int, v float64) { d := v - s.mean[ch]; s.std[ch] += d * d })
	var constant []string
	for ch := range n {
		s.std[ch] = digits(math.Sqrt(s.std[ch]/(n[ch]-1)), storedDigits)
		// A channel that moves by less than its numbers can show holds no information, only rounding.
		if n[ch] < 2 || !(s.std[ch] > 1e-12*math.Abs(s.mean[ch])) {
			constant = append(constant, t.layout.Channels[ch].Tag)
		}
	}
	if len(constant) > 0 {
		return s, fmt.Errorf("channels: want each to vary, got constant or empty %v: "+
			"leave them out, or train on data in which they move", constant)
	}
	return s, nil
}

// normalize returns the windows standardized, a missing cell as 0, the mean.
func (s *scaling) normalize(rows []window) []float64 {
	c := len(s.mean)
	z := make([]float64, 0, len(rows)*len(rows[0].samples))
	for _, w := range rows {
		for i, v := range w.samples {
			if v != v {
				z = append(z, 0)
				continue
			}
			z = append(z, (v-s.mean[i%c])/s.std[i%c])
		}
	}
	return z
}
