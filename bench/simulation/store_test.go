package simulation

import (
	"context"
	"errors"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/tailrace/tailrace/pipeline/state"
)

// bucket is a state store as a server: it may be away, slow, or full, and answer with an error though it has done what
// it was asked for.
type bucket struct {
	mu     sync.Mutex
	rng    *rand.Rand
	blobs  map[string]stored
	away   bool
	full   bool
	slow   time.Duration
	flaky  float64 // share of requests that fail, before or after they are carried out
	faults int
}

type stored struct {
	data []byte
	at   time.Time
}

func newBucket(seed uint64) *bucket {
	return &bucket{rng: rand.New(rand.NewPCG(seed, 3)), blobs: map[string]stored{}}
}

var (
	errBucketAway = errors.New("the bucket does not answer")
	errBucketFull = errors.New("no space left")
)

// store is one process's view of the bucket.
type store struct {
	bucket  *bucket
	process *process
}

var _ state.Store = (*store)(nil)

func (s *store) ask(ctx context.Context, do func() error) error {
	s.bucket.mu.Lock()
	delay := s.bucket.slow
	s.bucket.mu.Unlock()
	select {
	case <-time.After(delay + s.process.world.network.latency()):
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	if err := s.process.world.network.wait(ctx, s.process.name); err != nil {
		return err
	}
	if err := s.process.alive(ctx); err != nil {
		return err
	}
	b := s.bucket
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.away {
		b.faults++
		return errBucketAway
	}
	before, after := b.rng.Float64() < b.flaky, b.rng.Float64() < b.flaky
	if before {
		b.faults++
		return errBucketAway
	}
	if err := do(); err != nil {
		return err
	}
	if after {
		b.faults++
		return errBucketAway
	}
	return nil
}

func (s *store) Close() error { return nil }

// Open finds nothing wrong, whatever is: a store that can't be used as a process starts is a fault of the configuration.
func (s *store) Open(context.Context) error { return nil }

func (s *store) Put(ctx context.Context, name string, data []byte) error {
	return s.process.trapped("blob", func() error {
		return s.ask(ctx, func() error {
			if s.bucket.full {
				s.bucket.faults++
				return errBucketFull
			}
			s.bucket.blobs[name] = stored{slices.Clone(data), time.Now()}
			return nil
		})
	})
}

func (s *store) Get(ctx context.Context, name string) (data []byte, err error) {
	err = s.ask(ctx, func() error {
		b, ok := s.bucket.blobs[name]
		if !ok {
			return state.ErrNotFound
		}
		data = b.data
		return nil
	})
	return data, err
}

func (s *store) List(ctx context.Context, prefix string) (list []state.Info, err error) {
	err = s.ask(ctx, func() error {
		list = nil
		for _, name := range slices.Sorted(maps.Keys(s.bucket.blobs)) {
			if strings.HasPrefix(name, prefix) {
				b := s.bucket.blobs[name]
				list = append(list, state.Info{Name: name, Size: int64(len(b.data)), Modified: b.at})
			}
		}
		return nil
	})
	return list, err
}

func (s *store) Delete(ctx context.Context, name string) error {
	return s.ask(ctx, func() error { delete(s.bucket.blobs, name); return nil })
}
