package clickhouse

import (
	"context"
	"math/rand/v2"
	"time"
)

// wait sleeps for d or until ctx ends.
func wait(ctx context.Context, d time.Duration) error {
	if d <= 0 {
		return ctx.Err()
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-t.C:
		return nil
	}
}

// backoff is the waits between attempts. Each doubles; a random half keeps processes that lost the same server apart.
type backoff struct {
	min, max, next time.Duration
}

func (b *backoff) wait(ctx context.Context) error {
	b.next = min(max(b.next, b.min), b.max)
	d := b.next/2 + rand.N(b.next/2+1)
	b.next *= 2
	return wait(ctx, d)
}

// pacer is a token bucket of one second's size.
type pacer struct {
	perSecond float64
	tokens    float64
	last      time.Time
}

func newPacer(perSecond float64) pacer {
	return pacer{perSecond: perSecond, tokens: max(1, perSecond)}
}

// giveBack returns a token: the insert made no part.
func (p *pacer) giveBack() { p.tokens = min(max(1, p.perSecond), p.tokens+1) }

// take waits for a token and says how long that took.
func (p *pacer) take(ctx context.Context) (time.Duration, error) {
	now := time.Now()
	if !p.last.IsZero() {
		p.tokens = min(max(1, p.perSecond), p.tokens+now.Sub(p.last).Seconds()*p.perSecond)
	}
	p.last = now
	p.tokens--
	if p.tokens >= 0 {
		return 0, ctx.Err()
	}
	d := time.Duration(-p.tokens / p.perSecond * float64(time.Second))
	return d, wait(ctx, d)
}
