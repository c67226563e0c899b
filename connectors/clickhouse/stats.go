package clickhouse

import (
	"maps"
	"sync"
	"time"

	"github.com/tailrace/tailrace/pipeline"
)

// Stats counts what a Sink has done since it was made.
type Stats struct {
	Tables map[pipeline.Table]TableStats
	// Waited is how long inserts were held back by inserts_per_second.
	Waited time.Duration
	// LastError is the newest failure of an attempt, "" if there was none; LastErrorAt is when.
	LastError   string
	LastErrorAt time.Time
}

// TableStats counts one table.
type TableStats struct {
	Rows    int64         // acknowledged
	Blocks  int64         // acknowledged INSERTs
	Bytes   int64         // of the acknowledged blocks, encoded, before compression
	Retries int64         // attempts that failed and were made again
	Took    time.Duration // from the first byte to the acknowledgement, acknowledged attempts only
}

// counters is Stats under a lock.
type counters struct {
	mu sync.Mutex
	s  Stats
}

func (c *counters) table(t pipeline.Table, change func(*TableStats)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.s.Tables == nil {
		c.s.Tables = map[pipeline.Table]TableStats{}
	}
	s := c.s.Tables[t]
	change(&s)
	c.s.Tables[t] = s
}

func (c *counters) waited(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.s.Waited += d
}

func (c *counters) failed(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.s.LastError, c.s.LastErrorAt = err.Error(), time.Now()
}

// Stats returns a snapshot. It may be called from any goroutine.
func (s *Sink) Stats() Stats {
	s.counters.mu.Lock()
	defer s.counters.mu.Unlock()
	snapshot := s.counters.s
	snapshot.Tables = maps.Clone(snapshot.Tables)
	return snapshot
}

// Counters gives all that only grows by name, for metrics: per table rows, blocks, bytes, retries and microseconds, and how
// long inserts_per_second held inserts back.
func (s *Sink) Counters() map[string]int64 {
	stats := s.Stats()
	all := map[string]int64{"inserts_held_back_microseconds": stats.Waited.Microseconds()}
	for table, t := range stats.Tables {
		name := string(table)
		all[name+"_rows"], all[name+"_blocks"], all[name+"_bytes"] = t.Rows, t.Blocks, t.Bytes
		all[name+"_retries"], all[name+"_microseconds"] = t.Retries, t.Took.Microseconds()
	}
	return all
}
