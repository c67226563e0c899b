package pipeline

import (
	"context"
	"time"

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

// Checkpoint is everything that the tasks of a process gave between two barriers. A sink cuts it into blocks, one INSERT each,
// by nothing but what is in it, so that whoever has the same checkpoint makes the same blocks.
type Checkpoint struct {
	Run       [16]byte // random for each group generation a process works under
	Seq       uint64   // grows by one
	BlockRows int      // the most rows of a block; 0 is the sink's own BlockRows
	// Resent says that blocks may have been sent before, perhaps by a process that is still at it: the sink looks for
	// each before it sends it.
	Resent bool
	Parts  map[Table][]Part
}

// Written is what a Sink did with a checkpoint.
type Written struct {
	// Refused are the rows that the store refuses as they are, each in a batch of its own, which the receiver owns.
	Refused []RefusedRow
}

// RefusedRow is a row that the store does not take.
type RefusedRow struct {
	Table     Table
	Topic     string
	Partition int32
	Row       arrow.Record // one row
	Reason    string
}

// LedgerEntry is what the ledger, the table checkpoints, says of one partition of a checkpoint that is settled.
type LedgerEntry struct {
	Pipeline  string
	Run       [16]byte
	Seq       uint64
	Topic     string
	TopicID   string
	Partition int32
	From, To  int64     // offsets
	Messages  int64     // data messages in [From, To)
	Settled   time.Time // the store's own clock if zero
	Blob      string
	Rows      map[Table]int64  // stored, by table
	Counters  map[string]int64 // messages and rows that went elsewhere, by reason
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
	// Write borrows c and returns nil only when all of it is durable, but for the rows that it gives back as refused. It
	// retries what is transient until ctx ends. After an error any of it may be stored.
	Write(ctx context.Context, c *Checkpoint) (Written, error)
	// BlockRows is the most rows of a block.
	BlockRows() int
	// Record adds the lines of one settled checkpoint to the ledger, all with one run and seq. Lines that are there already
	// are not added again.
	Record(ctx context.Context, lines []LedgerEntry) error
	// Ledger returns the newest line of each partition of a topic that a pipeline has settled.
	Ledger(ctx context.Context, pipeline, topic string) ([]LedgerEntry, error)
	Close() error
}

// Selective is a [Sink] that leaves out some of the engine's tables. It is given no rows of them, and the ledger counts them as
// left out.
type Selective interface {
	Sink
	// Stores tells whether a table is written. It is the same for the sink's life.
	Stores(t Table) bool
}

// Publisher sends rows and dead letters to topics as they come. Its methods may be called from several goroutines.
type Publisher interface {
	// Open checks that the topics exist, making them if it is told to.
	Open(ctx context.Context) error
	// PublishEvents borrows batch (schemas.Events). It returns when the rows are queued, which may wait for room.
	PublishEvents(ctx context.Context, batch arrow.Record) error
	// PublishLate borrows batch (schemas.Telemetry): rows that came too late for any result.
	PublishLate(ctx context.Context, batch arrow.Record) error
	// PublishRekeyed borrows batch (schemas.Telemetry): rows of one partition, in order, for the topic keyed by asset. topicID
	// is that of the topic they come from, "" if it is not known. Rows may come again, from some row on.
	PublishRekeyed(ctx context.Context, topicID string, batch arrow.Record) error
	// PublishDead takes refused messages.
	PublishDead(ctx context.Context, letters []DeadLetter) error
	// Flush returns nil when all that was published before is acknowledged. It retries what is transient until ctx ends.
	Flush(ctx context.Context) error
	Close() error
}
