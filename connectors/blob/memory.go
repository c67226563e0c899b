package blob

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/tailrace/tailrace/pipeline/state"
)

// memory keeps blobs in memory.
type memory struct {
	mu    sync.Mutex
	blobs map[string]stored
}

type stored struct {
	data     []byte
	modified time.Time
}

var _ state.Store = (*memory)(nil)

func newMemory() *memory { return &memory{blobs: map[string]stored{}} }

// Open has nothing to check.
func (m *memory) Open(ctx context.Context) error { return ctx.Err() }

// Put keeps a copy of data.
func (m *memory) Put(ctx context.Context, name string, data []byte) error {
	if err := checkName(name); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if old, ok := m.blobs[name]; ok {
		if !bytes.Equal(old.data, data) {
			return fmt.Errorf("put %s: %w", name, otherBytes(len(old.data), len(data)))
		}
		return ctx.Err()
	}
	m.blobs[name] = stored{slices.Clone(data), time.Now()}
	return ctx.Err()
}

func otherBytes(old, data int) error {
	return fmt.Errorf("want the %d bytes that are there already, got %d others: a name is written once", old, data)
}

// Get returns a copy.
func (m *memory) Get(ctx context.Context, name string) ([]byte, error) {
	if err := checkName(name); err != nil {
		return nil, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	b, ok := m.blobs[name]
	if !ok {
		return nil, fmt.Errorf("get %s: %w", name, state.ErrNotFound)
	}
	return slices.Clone(b.data), ctx.Err()
}

// List gives what there is.
func (m *memory) List(ctx context.Context, prefix string) ([]state.Info, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	var list []state.Info
	for name, b := range m.blobs {
		if strings.HasPrefix(name, prefix) {
			list = append(list, state.Info{Name: name, Size: int64(len(b.data)), Modified: b.modified})
		}
	}
	sortByName(list)
	return list, ctx.Err()
}

func sortByName(list []state.Info) {
	slices.SortFunc(list, func(a, b state.Info) int { return strings.Compare(a.Name, b.Name) })
}

// Delete forgets a blob.
func (m *memory) Delete(ctx context.Context, name string) error {
	if err := checkName(name); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.blobs, name)
	return ctx.Err()
}

// Close does nothing: the blobs go with the store.
func (m *memory) Close() error { return nil }
