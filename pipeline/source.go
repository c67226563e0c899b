package pipeline

import (
	"context"
	"errors"
	"time"

	"github.com/apache/arrow/go/v15/arrow"
	"github.com/tailrace/tailrace/pipeline/state"
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
	// Commit stores offsets with their metadata, by partition, under this generation. It returns nil only if every one of
	// them was stored. The group's coordinator refuses members of an older generation: the error then wraps ErrFenced. Any
	// other error leaves it open what was stored, and the generation must end.
	Commit(ctx context.Context, commits map[int32]Commit) error
	// Width is the number of the topic's partitions, whoever has them.
	Width() int
	// Committed reads what the group has stored for every partition of the topic, whoever has it. A partition without a
	// commit is absent.
	Committed(ctx context.Context) (map[int32]Commit, error)
	// Range reads messages of any partition of the topic again, ending with io.EOF, through a decoder of its own. The caller
	// closes it.
	Range(ctx context.Context, s Stretch) (Partition, error)
	// Close ends the generation. All reads have returned before.
	Close() error
}

// Stretch is messages that were read before, and what their decoder knew then.
type Stretch struct {
	Partition int32
	From, To  int64  // offsets, To exclusive
	Decoder   []byte // the decoder's state before From; nil if it keeps none
	// Refused are messages that the first decoder refused for what it had seen before From.
	Refused []state.Refusal
}

// Commit is what a group has stored for a partition.
type Commit struct {
	Offset   int64  // of the next message
	Metadata string // at most state.MaxMeta bytes
}

// ErrFenced marks the refusal of a commit since the group is in another generation: the partitions may be someone else's.
var ErrFenced = errors.New("another generation of the group has begun")

// Partition reads one partition in offset order.
type Partition interface {
	Topic() string
	// TopicID tells a topic from one of the same name that was made anew; "" if the broker gives none.
	TopicID() string
	ID() int32
	// Committed is what the group had stored when the generation began; false if it had nothing.
	Committed() (Commit, bool)
	// Start is the offset of the first message that Read will look for: the committed one, else where the user wants to
	// start.
	Start() int64
	// Bounds are the first offset that is there and the end, as the generation began.
	Bounds() (first, end int64)
	// StartAt sets Start, and gives the decoder the state that it had there; nil for none. It comes before the first Read.
	StartAt(offset int64, decoder []byte) error
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
	Decoder  []byte        // the decoder's state at Next; nil if it keeps none
	// Dropped are the rows that the decoder left out, by reason: see formats.Dropper.
	Dropped map[string]int
	Lag     int64 // messages between Next and the partition's end, as last seen
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
	Stage     string // "decode" or "sink"
	Reject    *formats.Reject
	// Length and SHA256 describe the whole value where Message.Value is only its beginning; Length is 0 otherwise.
	Length int64
	SHA256 [32]byte
}

// ErrConfig marks errors that no retry mends: the user must change something. The program ends with exit code 2.
var ErrConfig = errors.New("configuration")
