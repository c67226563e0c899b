package pipeline

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
)

// Scorers opens each model once and closes all at the end. It may be used from several goroutines.
type Scorers struct {
	factories map[string]ScorerFactory

	mu    sync.Mutex
	open  map[string]Scorer
	known map[string]ScorerInfo // of all that were ever opened
}

// NewScorers returns a pool that makes scorers with factories, by backend.
func NewScorers(factories map[string]ScorerFactory) *Scorers {
	return &Scorers{factories: factories, open: map[string]Scorer{}, known: map[string]ScorerInfo{}}
}

// Scorer implements ScorerPool. Opening holds the lock: a second task that wants the same model waits and shares it.
func (p *Scorers) Scorer(ctx context.Context, spec ScorerSpec) (Scorer, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	key := fmt.Sprintf("%s/%x", spec.Backend, sha256.Sum256(spec.Model))
	if s, ok := p.open[key]; ok {
		return s, nil
	}
	factory, ok := p.factories[spec.Backend]
	if !ok {
		known := strings.Join(slices.Sorted(maps.Keys(p.factories)), ", ")
		return nil, fmt.Errorf("%w: backend: want one of %s, got %q", ErrConfig, known, spec.Backend)
	}
	s, err := factory(ctx, spec)
	if err != nil {
		return nil, err
	}
	p.open[key] = s
	p.known[key] = s.Info()
	return s, nil
}

// infos lists what runs or ran.
func (p *Scorers) infos() []ScorerInfo {
	p.mu.Lock()
	defer p.mu.Unlock()
	var list []ScorerInfo
	for _, key := range slices.Sorted(maps.Keys(p.known)) {
		list = append(list, p.known[key])
	}
	return list
}

// Close closes every scorer that is open.
func (p *Scorers) Close() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	var faults []error
	for _, s := range p.open {
		faults = append(faults, s.Close())
	}
	clear(p.open)
	return errors.Join(faults...)
}
