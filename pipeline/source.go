package pipeline

import (
	"context"
	"errors"
	"time"

	"github.com/apache/arrow/go/v15/arrow"
	"github.com/tailrace/tailrace/schemas/formats"
)

// Source joins a consumer group and hands out one Generation after the other.
type Source interface {
	// Next blocks until this member has its partitions in a new generation. The previous Generation must be closed. It
	// returns ctx's error when ctx ends, an error that wraps ErrConfig for what no retry mends (a topic that does not
	// exist), and retries everything else itself, saying so in ready.
	Next(ctx context.Context) (Generation, error)
	// Close leaves the group.
	Close() error
}

// Troubled is a [Source] that says why it gets nothing though it is assigned partitions. The engine is not ready meanwhile.
type Troubled interface {
	// Trouble is "" if nothing is wrong. It may be called at any time.
	Trouble() string
}

// Generation is one assignment of partitions to this member.
type Generation interface {
	// Revoked is closed when the assignment ends: the group rebalances, or the member was fenced. Heartbeats go on until
	// Close, so that what is in flight can be settled and committed.
	Revoked() <-chan struct{}
	// Partitions are this member's, each to be read by one goroutine.
	Partitions() []Partition
	// Commit stores the next offsets to read, by partition. It returns nil only if every one of them was stored.
	Commit(ctx context.Context, next map[int32]int64) error
	// Close ends the generation. All reads have returned before.
	Close() error
}

// Partition reads one partition in offset order.
type Partition interface {
	Topic() string
	ID() int32
	// Start is the offset of the first message that Read will look for.
	Start() int64
	// Read blocks until there are messages, ctx ends, or, with io.EOF, the partition's bound is reached. It retries what
	// is transient. An empty Delivery is allowed: it moves Next, or says CaughtUp.
	Read(ctx context.Context) (Delivery, error)
	// Close frees what the reader holds. It may be called while no Read is in progress.
	Close() error
}

// Delivery is what one Read gives. The receiver owns it.
type Delivery struct {
	Batch    arrow.Record  // telemetry.v1; nil if there are no rows
	Dead     []DeadLetter  // messages that were refused, in offset order
	First    int64         // offset of the first message looked at
	Next     int64         // offset after the last: everything in [First, Next) is in Batch, in Dead, or never was
	Messages int           // data messages in [First, Next)
	Bytes    int64         // what the delivery holds in memory
	Decode   time.Duration // how long decoding took, without waiting for the broker
	CaughtUp bool          // the partition's end was reached when the messages were fetched
	Lag      int64         // messages between Next and the partition's end, as last seen
}

// Release gives the batch back.
func (d *Delivery) Release() {
	if d.Batch != nil {
		d.Batch.Release()
		d.Batch = nil
	}
}

// DeadLetter is a message that was refused, and why. Its bytes are its own.
type DeadLetter struct {
	Topic     string
	Partition int32
	Message   formats.Message
	Stage     string // "decode"
	Reject    *formats.Reject
	// Length and SHA256 describe the whole value where Message.Value is only its beginning; Length is 0 otherwise.
	Length int64
	SHA256 [32]byte
}

// ErrConfig marks errors that no retry mends: the user must change something. The program ends with exit code 2.
var ErrConfig = errors.New("configuration")
