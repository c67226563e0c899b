package pipelinetest

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"

	"github.com/apache/arrow/go/v15/arrow"
	"github.com/tailrace/tailrace/pipeline"
)

// Collector is an Emitter that keeps what it is given.
type Collector struct {
	Rows    []arrow.Record
	Events  []arrow.Record
	Late    []arrow.Record
	Rekeyed []arrow.Record
	// FailAt makes the nth Emit, counted from 1, and every later one fail with Err. 0 never fails.
	FailAt int
	Err    error
	calls  int
}

var _ pipeline.Emitter = (*Collector)(nil)

// Emit keeps batch, or releases it and fails. It fails as well when ctx has ended.
func (c *Collector) Emit(ctx context.Context, output pipeline.Output, batch arrow.Record) error {
	c.calls++
	if err := ctx.Err(); err != nil {
		batch.Release()
		return err
	}
	if c.FailAt > 0 && c.calls >= c.FailAt {
		batch.Release()
		return c.Err
	}
	switch output {
	case pipeline.Rows:
		c.Rows = append(c.Rows, batch)
	case pipeline.Events:
		c.Events = append(c.Events, batch)
	case pipeline.Late:
		c.Late = append(c.Late, batch)
	case pipeline.Rekeyed:
		c.Rekeyed = append(c.Rekeyed, batch)
	default:
		batch.Release()
		return fmt.Errorf("output %d: want one of the contract's", output)
	}
	return nil
}

// Calls returns how often Emit was called.
func (c *Collector) Calls() int { return c.calls }

// Release gives back what was kept.
func (c *Collector) Release() {
	for _, batch := range slices.Concat(c.Rows, c.Events, c.Late, c.Rekeyed) {
		batch.Release()
	}
	c.Rows, c.Events, c.Late, c.Rekeyed = nil, nil, nil, nil
}

// Drops counts what an operator dropped, by reason.
type Drops struct {
	mu     sync.Mutex
	counts map[string]int
}

var _ pipeline.Drops = (*Drops)(nil)

// Drop adds rows to the reason's count.
func (d *Drops) Drop(_, reason string, rows int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.counts == nil {
		d.counts = map[string]int{}
	}
	d.counts[reason] += rows
}

// Count returns the rows dropped for a reason.
func (d *Drops) Count(reason string) int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.counts[reason]
}

// Take returns the counts as text, "bad_quality=1 late=2", and starts anew. It is "" if nothing was dropped.
func (d *Drops) Take() string {
	d.mu.Lock()
	defer d.mu.Unlock()
	var parts []string
	for _, reason := range slices.Sorted(maps.Keys(d.counts)) {
		parts = append(parts, fmt.Sprintf("%s=%d", reason, d.counts[reason]))
	}
	d.counts = nil
	return strings.Join(parts, " ")
}

// Sink is a pipeline.Sink that keeps in memory what it is given. Its fields are read after the run has ended.
type Sink struct {
	Batches map[pipeline.Table][]arrow.Record
	Lines   []pipeline.LedgerEntry
	Writes  int
	// FailWrites makes the first n calls of Write fail with Err, storing nothing.
	FailWrites int
	Err        error
}

var _ pipeline.Sink = (*Sink)(nil)

// Open does nothing.
func (s *Sink) Open(context.Context) error { return nil }

// Write keeps every batch of the checkpoint.
func (s *Sink) Write(ctx context.Context, c *pipeline.Checkpoint) (pipeline.Written, error) {
	s.Writes++
	if err := ctx.Err(); err != nil {
		return pipeline.Written{}, err
	}
	if s.Writes <= s.FailWrites {
		return pipeline.Written{}, s.Err
	}
	if s.Batches == nil {
		s.Batches = map[pipeline.Table][]arrow.Record{}
	}
	for table, parts := range c.Parts {
		for _, part := range parts {
			for _, batch := range part.Batches {
				batch.Retain()
				s.Batches[table] = append(s.Batches[table], batch)
			}
		}
	}
	return pipeline.Written{}, nil
}

// BlockRows is what the ClickHouse sink has by default.
func (s *Sink) BlockRows() int { return 500_000 }

// Record keeps the lines.
func (s *Sink) Record(_ context.Context, lines []pipeline.LedgerEntry) error {
	s.Lines = append(s.Lines, lines...)
	return nil
}

// Ledger gives the newest line of each partition.
func (s *Sink) Ledger(_ context.Context, id, topic string) ([]pipeline.LedgerEntry, error) {
	newest := map[int32]pipeline.LedgerEntry{}
	for _, line := range s.Lines {
		if line.Pipeline == id && line.Topic == topic {
			newest[line.Partition] = line
		}
	}
	return slices.Collect(maps.Values(newest)), nil
}

// Rows counts the rows kept of a table.
func (s *Sink) Rows(table pipeline.Table) int64 {
	var n int64
	for _, batch := range s.Batches[table] {
		n += batch.NumRows()
	}
	return n
}

// Close gives back what was kept.
func (s *Sink) Close() error {
	for _, batches := range s.Batches {
		for _, batch := range batches {
			batch.Release()
		}
	}
	s.Batches = nil
	return nil
}
