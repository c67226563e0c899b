package onnx

// Momentum is stochastic gradient descent: u' = Decay u + g, w' = w - rate u' (Polyak 1964, as Sutskever et al. 2013
// write it, with the rate outside).
type Momentum struct{ Decay float64 }

// Adam follows Kingma and Ba, "Adam: a method for stochastic optimization", 2015, in the order of the end of its section 2:
// m' = Beta1 m + (1-Beta1) g, v' = Beta2 v + (1-Beta2) g^2, w' = w - rate m' / (sqrt(v') + Epsilon), where the rate of
// step t is the learning rate times sqrt(1-Beta2^t) / (1-Beta1^t), which whoever runs the graph works out.
type Adam struct{ Beta1, Beta2, Epsilon float64 }

// Optimizer writes one step of descent. [Momentum] and [Adam] are the two.
type Optimizer interface {
	// Moments is how many values it keeps for each parameter, of the parameter's shape and 0 at first.
	Moments() int
	update(b *Builder, w, g, rate Value, moments []Value) (next Value, kept []Value)
}

// Moments of momentum is u.
func (Momentum) Moments() int { return 1 }

// Moments of Adam are m and v.
func (Adam) Moments() int { return 2 }

func (o Momentum) update(b *Builder, w, g, rate Value, moments []Value) (Value, []Value) {
	u := b.Add(w.Name+".u.next", b.Mul(w.Name+".u.old", moments[0], b.Scalar(w.Name+".decay", float32(o.Decay))), g)
	return b.Sub(w.Name+".next", w, b.Mul(w.Name+".step", rate, u)), []Value{u}
}

func (o Adam) update(b *Builder, w, g, rate Value, moments []Value) (Value, []Value) {
	blend := func(name string, old, now Value, beta float64) Value {
		return b.Add(name+".next",
			b.Mul(name+".old", old, b.Scalar(name+".beta", float32(beta))),
			b.Mul(name+".new", now, b.Scalar(name+".rest", float32(1-beta))))
	}
	m := blend(w.Name+".m", moments[0], g, o.Beta1)
	v := blend(w.Name+".v", moments[1], b.Mul(w.Name+".g2", g, g), o.Beta2)
	scale := b.Add(w.Name+".scale", b.Sqrt(w.Name+".root", v), b.Scalar(w.Name+".epsilon", float32(o.Epsilon)))
	step := b.Mul(w.Name+".step", rate, b.Div(w.Name+".direction", m, scale))
	return b.Sub(w.Name+".next", w, step), []Value{m, v}
}

// RateInput is the input [1] that [Builder.Step] adds.
const RateInput = "rate"

// Step turns a graph that computes loss from inputs, some of which are the parameters, into one that also makes a step of
// descent: forward, backward and update in one run. It adds the input [RateInput] and, for each parameter, its moments;
// the outputs are the loss [1], then the state's next values, in the order of the state: all parameters, then the moments of
// the first, of the second, and so on. It returns the state's values, whose shapes say what to allocate.
func (b *Builder) Step(loss Value, parameters []Value, o Optimizer) (state []Value) {
	grads := b.Gradients(loss, parameters...)
	if b.err != nil {
		return nil
	}
	rate := b.Input(RateInput, Float32, Fixed(1))
	state = append(state, parameters...)
	var next, kept []Value
	for i, w := range parameters {
		var moments []Value
		for k := range o.Moments() {
			moments = append(moments, b.Input(w.Name+".moment"+string(rune('1'+k)), Float32, w.Shape...))
		}
		w2, m2 := o.update(b, w, grads[i], rate, moments)
		state, next, kept = append(state, moments...), append(next, w2), append(kept, m2...)
	}
	b.Output(b.reshape(loss.Name+".out", loss, Shape{Fixed(1)}))
	for _, v := range append(next, kept...) {
		b.Output(v)
	}
	return state
}
