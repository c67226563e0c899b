// Package formats turns payload bytes into rows of telemetry.v1: the contract here, one package per payload format below.
package formats

import (
	"fmt"

	"github.com/tailrace/tailrace/schemas"
)

// Header is one Kafka record header. Value is nil if the record's is null.
type Header struct {
	Key   string
	Value []byte
}

// Message is one Kafka record as a source hands it to a [Decoder]. Everything in it is lent until Decode returns.
type Message struct {
	Offset  int64
	Time    int64 // the record's timestamp, ns UTC
	Key     []byte
	Value   []byte
	Headers []Header
}

// Decoder turns messages into rows. A source calls one Decoder from one goroutine at a time, in offset order.
type Decoder interface {
	// Decode appends the rows of m to b. If it refuses m the error is a *Reject, and b is as it was before: a message
	// counts whole or not at all. Decode keeps nothing of m.
	Decode(m *Message, b *schemas.TelemetryBuilder) error
}

// Stateful is a [Decoder] whose rows depend on the messages before, beyond its limits. What it remembers survives a restart.
type Stateful interface {
	Decoder
	// Snapshot returns what it remembers after the message that it decoded last, in memory of its own.
	Snapshot() []byte
	// Restore takes a snapshot, before the first message. An error says that it can't be read.
	Restore(snapshot []byte) error
}

// Dropper is a [Decoder] that leaves rows out on purpose, such as those that it has given before.
type Dropper interface {
	Decoder
	// Dropped gives how many rows it has left out since the last call, by reason; nil for none.
	Dropped() map[string]int
}

// Fault is one thing wrong with a format's Config. Path is the user's key. It converts to a pipeline.Fault.
type Fault struct {
	Path    string
	Message string // what was wanted and what came
}

// Reject says why a message was refused. It goes to the dead-letter topic with the message.
type Reject struct {
	Code   string // one of the schemas.Dead constants
	Reason string // one sentence: where, what was wanted, what came
}

// Rejectf returns a Reject with a formatted reason.
func Rejectf(code, format string, args ...any) *Reject {
	return &Reject{Code: code, Reason: fmt.Sprintf(format, args...)}
}

func (r *Reject) Error() string { return r.Code + ": " + r.Reason }
