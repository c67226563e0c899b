package pipeline

import (
	"context"
	"sync/atomic"

	"golang.org/x/sync/semaphore"
)

// budget bounds the bytes that the tasks of a process hold between reading and storing. Not reading is how a full
// budget pauses a partition.
type budget struct {
	size   int64
	sem    *semaphore.Weighted
	inUse  atomic.Int64
	full   func() // called when someone has to wait
	waited atomic.Int64
}

func newBudget(size int64, full func()) *budget {
	return &budget{size: size, sem: semaphore.NewWeighted(size), full: full}
}

// acquire waits until n bytes are free. One delivery larger than the whole budget is let in alone.
func (b *budget) acquire(ctx context.Context, n int64) (int64, error) {
	n = min(n, b.size)
	if !b.sem.TryAcquire(n) {
		b.waited.Add(1)
		b.full()
		if err := b.sem.Acquire(ctx, n); err != nil {
			return 0, err
		}
	}
	b.inUse.Add(n)
	return n, nil
}

// release gives back what acquire granted.
func (b *budget) release(n int64) {
	b.inUse.Add(-n)
	b.sem.Release(n)
}
