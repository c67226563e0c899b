package blob

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/tailrace/tailrace/pipeline/state"
)

// inMemory keeps blobs until the process ends.
type inMemory struct {
	mu    sync.Mutex
	blobs map[string]entry
}

type entry struct {
	data     []byte
	modified time.Time
}

var _ state.Store = (*inMemory)(nil)

func newMemory() *inMemory { return &inMemory{blobs: map[string]entry{}} }

// Open does nothing.
func (m *inMemory) Open(context.Context) error { return nil }

// Put keeps a copy.
func (m *inMemory) Put(_ context.Context, name string, data []byte) error {
	if err := checkName(name); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if _, ok := m.blobs[name]; !ok {
		m.blobs[name] = entry{slices.Clone(data), time.Now()}
	}
	return nil
}

// Get returns what was put; it must not be changed.
func (m *inMemory) Get(_ context.Context, name string) ([]byte, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if e, ok := m.blobs[name]; ok {
		return e.data, nil
	}
	return nil, fmt.Errorf("%w: %s in memory", state.ErrNotFound, name)
}

// List gives the blobs by name.
func (m *inMemory) List(_ context.Context, prefix string) ([]state.Info, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	var list []state.Info
	for _, name := range slices.Sorted(maps.Keys(m.blobs)) {
		if strings.HasPrefix(name, prefix) {
			list = append(list, state.Info{Name: name, Size: int64(len(m.blobs[name].data)), Modified: m.blobs[name].modified})
		}
	}
	return list, nil
}

// Delete forgets a blob.
func (m *inMemory) Delete(_ context.Context, name string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.blobs, name)
	return nil
}

// Close does nothing.
func (m *inMemory) Close() error { return nil }
