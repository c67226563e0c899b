// Package pipelinetest is the harness that operators are tested with: scripts whose expected part can be rewritten,
// tables of rows as text, memory that shows leaks and kept slices, emitters and sinks that keep or fail, and the checks
// that every operator must pass.
package pipelinetest

import (
	"testing"

	"github.com/apache/arrow/go/v15/arrow/memory"
)

// NewAllocator returns memory that fails t if any of it is still held when t ends, and that overwrites what is freed, so
// that a slice kept beyond its batch shows in the results.
func NewAllocator(t testing.TB) memory.Allocator {
	checked := memory.NewCheckedAllocator(Poison{memory.NewGoAllocator()})
	t.Cleanup(func() { checked.AssertSize(t, 0) })
	return checked
}

// poisonByte gives -5.6e303 as a float64, -1.7e38 as a float32 and a large negative number as an integer.
const poisonByte = 0xFE

// Poison is an allocator that overwrites memory when it is freed or left behind by growing.
type Poison struct{ memory.Allocator }

// Allocate returns size bytes of zeros.
func (p Poison) Allocate(size int) []byte { return p.Allocator.Allocate(size) }

// Reallocate moves always, since a move is what a kept slice must not survive.
func (p Poison) Reallocate(size int, b []byte) []byte {
	moved := p.Allocator.Allocate(size)
	copy(moved, b)
	p.Free(b)
	return moved
}

// Free overwrites b and frees it.
func (p Poison) Free(b []byte) {
	b = b[:cap(b)]
	for i := range b {
		b[i] = poisonByte
	}
	p.Allocator.Free(b)
}
