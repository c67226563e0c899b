package train

import (
	"bytes"
	"fmt"
	"image/color"
	"math"
	"slices"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/vg"
)

// drawCurve draws the losses over the passes as a PNG, with the pass whose weights were kept. The
// same curve gives the same bytes: fonts are part of the program, and a PNG holds no time.
func drawCurve(title string, c curve, best int) ([]byte, error) {
	p := plot.New()
	p.Title.Text = fmt.Sprintf("%s: pass %d kept", title, best)
	p.X.Label.Text, p.Y.Label.Text = "pass", "loss"
	if all := slices.Concat(c.training, c.validation); slices.Max(all) > widest*slices.Min(all) {
		p.Y.Scale, p.Y.Tick.Marker = plot.LogScale{}, plot.LogTicks{Prec: -1}
	}
	p.Legend.Top = true
	p.Add(plotter.NewGrid())
	for _, l := range []struct {
		name   string
		losses []float64
		color  color.Color
	}{
		{"training", c.training, color.RGBA{R: 0x1f, G: 0x77, B: 0xb4, A: 0xff}},
		{"validation", c.validation, color.RGBA{R: 0xd6, G: 0x27, B: 0x28, A: 0xff}},
	} {
		var points plotter.XYs
		for i, v := range l.losses {
			points = append(points, plotter.XY{X: float64(i + 1), Y: math.Max(v, lossFloor)})
		}
		line, err := plotter.NewLine(points)
		if err != nil {
			return nil, fmt.Errorf("loss curve: %w", err)
		}
		line.Color = l.color
		p.Add(line)
		p.Legend.Add(l.name, line)
	}
	w, err := p.WriterTo(16*vg.Centimeter, 10*vg.Centimeter, "png")
	if err != nil {
		return nil, fmt.Errorf("loss curve: %w", err)
	}
	var out bytes.Buffer
	if _, err := w.WriteTo(&out); err != nil {
		return nil, fmt.Errorf("loss curve: %w", err)
	}
	return out.Bytes(), nil
}

// widest is the ratio of the highest to the lowest loss that a linear scale still shows well.
const widest = 10

// lossFloor stands for a loss of 0 on a logarithmic scale.
const lossFloor = 1e-12
