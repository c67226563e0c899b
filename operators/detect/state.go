package detect

import "math"

// rule is what decides, the same for all assets.
type rule struct {
	enter, leave                float64 // scores
	halfLife                    float64 // ns; 0 is no smoothing
	onDelay, offDelay, cooldown int64   // ns
	hop                         int64   // ns between windows
}

// change is what a window did to an asset's state.
type change uint8

const (
	nothing change = iota
	opened
	closed
)

// standing is where one asset stands.
//
// Closed, a score over enter starts the on delay, and one that is not over it ends the delay. Open, a score under leave
// starts the off delay, and one that is not under it ends the delay. A window without a score changes nothing: it can't
// tell whether the anomaly goes on. Delays count event time that was seen, at most a hop for each window with a score,
// so that an hour of silence is no hour over the threshold.
type standing struct {
	started  bool  // a window was seen
	last     int64 // end of the newest window
	scored   bool  // a score was seen
	scoredAt int64 // end of the newest window with a score
	smooth   float64

	open      bool
	waiting   bool  // a delay runs: the on delay if closed, the off delay if open
	waited    int64 // how long, ns
	onset     int64 // end of the first window over the threshold
	cleared   int64 // end of the first window under leave
	quietTill int64 // no event opens before it
}

func newStanding() standing { return standing{quietTill: math.MinInt64} }

// late tells whether a window that ends at end is not newer than the last.
func (s *standing) late(end int64) bool { return s.started && end <= s.last }

// step takes the window that ends at end, which is not late, with its score, NaN if it has none. compared tells whether
// s.smooth is this window's.
func (s *standing) step(r *rule, end int64, score float64) (c change, compared bool) {
	seen := r.hop
	if s.started {
		seen = min(seen, since(s.last, end))
	}
	s.started, s.last = true, end
	if math.IsNaN(score) || math.IsInf(score, 0) {
		return nothing, false
	}
	if s.scored && r.halfLife > 0 {
		// The weight of the past halves every half-life (DOMAIN: a = 1 - exp(-dt/tau), tau = half-life / ln 2).
		s.smooth += (score - s.smooth) * -math.Expm1(-math.Ln2*float64(since(s.scoredAt, end))/r.halfLife)
	} else {
		s.smooth = score
	}
	s.scored, s.scoredAt = true, end
	if s.open {
		return s.stepOpen(r, end, seen), true
	}
	return s.stepClosed(r, end, seen), true
}

func (s *standing) stepClosed(r *rule, end, seen int64) change {
	if end < s.quietTill || s.compared() <= r.enter {
		s.waiting = false
		return nothing
	}
	if s.waiting {
		s.waited += seen
	} else {
		s.waiting, s.waited, s.onset = true, 0, end
	}
	if s.waited < r.onDelay {
		return nothing
	}
	s.open, s.waiting = true, false
	return opened
}

func (s *standing) stepOpen(r *rule, end, seen int64) change {
	if s.compared() >= r.leave {
		s.waiting = false
		return nothing
	}
	if s.waiting {
		s.waited += seen
	} else {
		s.waiting, s.waited, s.cleared = true, 0, end
	}
	if s.waited < r.offDelay {
		return nothing
	}
	s.open, s.waiting, s.quietTill = false, false, math.MaxInt64
	if end <= math.MaxInt64-r.cooldown {
		s.quietTill = end + r.cooldown
	}
	return closed
}

// compared returns the smoothed score as it is stored.
func (s *standing) compared() float64 { return float64(float32(s.smooth)) }

// rising tells whether the on delay runs.
func (s *standing) rising() bool { return !s.open && s.waiting }

// since returns to - from for from <= to, the largest number if it does not fit.
func since(from, to int64) int64 {
	if d := to - from; d >= 0 {
		return d
	}
	return math.MaxInt64
}
