package pipeline

import (
	"context"

	"github.com/apache/arrow/go/v15/arrow"
)

// Table names what a Sink writes.
type Table string

// The tables of the engine.
const (
	Telemetry   Table = "telemetry"      // schemas.Telemetry: every decoded row
	Predictions Table = "predictions"    // schemas.Predictions: the rows of the last step
	EventsTable Table = "anomaly_events" // schemas.Events
)

// Part is the rows of one table that came from one partition, in order.
type Part struct {
	Topic     string
	Partition int32
	Batches   []arrow.Record
}

// Checkpoint is everything that the tasks of a process gave between two barriers.
type Checkpoint struct {
	Run   [16]byte // random for each group generation a process works under
	Seq   uint64   // grows by one
	Parts map[Table][]Part
}

// Rows counts the rows of a table.
func (c *Checkpoint) Rows(t Table) int64 {
	var n int64
	for _, p := range c.Parts[t] {
		for _, b := range p.Batches {
			n += b.NumRows()
		}
	}
	return n
}

// Sink stores checkpoints. The runtime calls it from one goroutine at a time.
type Sink interface {
	// Open checks that the sink can be reached and has the tables it needs. It retries what is transient until ctx ends;
	// what no retry mends wraps ErrConfig.
	Open(ctx context.Context) error
	// Write borrows c and returns nil only when all of it is durable. It retries what is transient until ctx ends. After
	// an error any of it may be stored.
	Write(ctx context.Context, c *Checkpoint) error
	Close() error
}

// Publisher sends rows and dead letters to topics as they come. Its methods may be called from several goroutines.
type Publisher interface {
	// Open checks that the topics exist, making them if it is told to.
	Open(ctx context.Context) error
	// PublishEvents borrows batch (schemas.Events). It returns when the rows are queued, which may wait for room.
	PublishEvents(ctx context.Context, batch arrow.Record) error
	// PublishDead takes refused messages.
	PublishDead(ctx context.Context, letters []DeadLetter) error
	// Flush returns nil when all that was published before is acknowledged. It retries what is transient until ctx ends.
	Flush(ctx context.Context) error
	Close() error
}
