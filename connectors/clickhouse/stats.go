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
	// Counts are all other things by name; their meaning is in Counters.
	Counts map[string]int64
	// LastError is the newest failure of an attempt, "" if there was none; LastErrorAt is when.
	LastError   string
	LastErrorAt time.Time
}

// TableStats counts one table.
type TableStats struct {
	Rows    int64         // acknowledged, or found stored
	Blocks  int64         // INSERTs acknowledged, or found stored
	Bytes   int64         // of the acknowledged blocks, encoded, before compression
	Retries int64         // attempts that failed and were made again
	Took    time.Duration // from the first byte to the acknowledgement, acknowledged attempts only
}

// counters is Stats under a lock.
type counters struct {
	mu sync.Mutex
	s  Stats
}

// counted are the names in Stats.Counts, so that each is in the metrics from the start.
var counted = []string{
	"inserts_held_back",                 // by inserts_per_second
	"lookups",                           // of blocks and lines in doubt
	"blocks_found_stored",               // by a look-up, so that they were not sent again
	"blocks_resent_under_another_token", // acknowledged, yet not there
	"blocks_expired",                    // older than the table's TTL, so that no row was found
	"blocks_halved",                     // refused, with more than one row
	"blocks_refused_by_views",           // stored, but not in a materialized view that throws
	"rows_refused",                      // given back
	failuresBy(faultParts),              // too many parts
	failuresBy(faultMemory),             // out of memory
	failuresBy(faultTimeout),            // no answer in time
	failuresBy(faultClosed),             // turned away: password, grant, certificate
	failuresBy(faultConnection),         // away, or the connection broke
	failuresBy(faultServer),             // anything else that the server says
}

func newCounters() counters {
	counts := make(map[string]int64, len(counted))
	for _, name := range counted {
		counts[name] = 0
	}
	return counters{s: Stats{Tables: map[pipeline.Table]TableStats{}, Counts: counts}}
}

func (c *counters) table(t pipeline.Table, change func(*TableStats)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := c.s.Tables[t]
	change(&s)
	c.s.Tables[t] = s
}

func (c *counters) count(what string, n int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.s.Counts[what] += n
}

func (c *counters) waited(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.s.Waited += d
	if d > 0 {
		c.s.Counts["inserts_held_back"]++
	}
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
	snapshot.Tables, snapshot.Counts = maps.Clone(snapshot.Tables), maps.Clone(snapshot.Counts)
	return snapshot
}

// Counters gives all that only grows by name, for metrics: per table rows, blocks, bytes, retries and microseconds, how long
// inserts_per_second held inserts back, failed attempts by cause, and what was done about blocks in doubt.
func (s *Sink) Counters() map[string]int64 {
	stats := s.Stats()
	all := maps.Clone(stats.Counts)
	all["inserts_held_back_microseconds"] = stats.Waited.Microseconds()
	for table, t := range stats.Tables {
		name := string(table)
		all[name+"_rows"], all[name+"_blocks"], all[name+"_bytes"] = t.Rows, t.Blocks, t.Bytes
		all[name+"_retries"], all[name+"_microseconds"] = t.Retries, t.Took.Microseconds()
	}
	return all
}
