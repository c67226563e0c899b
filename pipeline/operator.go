// Package pipeline is the engine: the contracts that operators, sources, sinks and scorers keep, and the runtime that
// calls them. It knows no operator, no connector and no model.
//
// Ownership of Arrow memory, everywhere: you are lent what you are passed; you own what you build, slice or Retain; Emit
// takes one reference from you, always, also when it returns an error.
package pipeline

import (
	"context"
	"log/slog"
	"time"

	"github.com/apache/arrow/go/v15/arrow"
	"github.com/apache/arrow/go/v15/arrow/memory"
	"github.com/tailrace/tailrace/pipeline/state"
)

// Operator turns record batches into record batches. The runtime calls one Operator from one goroutine at a time, so it
// needs no locks; it starts no goroutines and reads no clock. It may emit only inside Process, Advance and Finish.
//
// An error from Process, Advance or Finish is a fault of the program or of the machine, never of a row: a row that can't
// be used leaves by a counter or a named output. Such an error stops the task.
type Operator interface {
	// Bind is called once, before data, with the schema of the rows to come. It finds its columns, checks their types and
	// returns the schema of its own output Rows. It reports every fault it finds, joined.
	Bind(in *arrow.Schema) (*arrow.Schema, error)
	// Process takes a batch, borrowed for the call. An empty batch is allowed.
	Process(ctx context.Context, in arrow.Record, out Emitter) error
	// Advance says that no row at or before watermark (ns UTC) is expected; it never goes back. Rows that come all the
	// same are late.
	Advance(ctx context.Context, watermark int64, out Emitter) error
	// Finish says that the input has ended: what is complete is emitted, what is not is emitted with the reason. Only Close
	// follows. State does not outlive the input: a later run over what comes then begins with none.
	Finish(ctx context.Context, out Emitter) error
	// Snapshot writes what the operator must know to go on after a restart, by asset. If full, it writes every key, else
	// at least those that have changed since the Snapshot before. It is called between batches.
	Snapshot(w *state.Writer, full bool) error
	// Restore takes what Snapshot wrote, maybe in another process. It is called at most once, after Bind and before data.
	// An error says that the state can't be used as it is.
	Restore(r *state.Reader) error
	// Close releases state and emits nothing. It is called once, also after an error, also without Bind.
	Close() error
}

// Stateless is embedded by operators that keep nothing between batches.
type Stateless struct{}

// Advance does nothing.
func (Stateless) Advance(context.Context, int64, Emitter) error { return nil }

// Finish does nothing.
func (Stateless) Finish(context.Context, Emitter) error { return nil }

// Snapshot writes nothing.
func (Stateless) Snapshot(*state.Writer, bool) error { return nil }

// Restore takes nothing.
func (Stateless) Restore(*state.Reader) error { return nil }

// Close does nothing.
func (Stateless) Close() error { return nil }

// Output names where an operator emits to.
type Output uint8

// The outputs. Rows go to the next step, and from the last step to the sinks; the others go to the sinks from any step.
const (
	Rows    Output = iota // the operator's schema from Bind
	Events                // schemas.Events
	Late                  // schemas.Telemetry: rows that came too late for any result, for the late topic
	Rekeyed               // schemas.Telemetry: rows as they came, for the topic keyed by asset; of a Rekeyer alone
)

// Rekeyer is an [Operator] that gives every row that it is given to Rekeyed, unchanged and in order, and nothing else. It is its
// pipeline's only step. Its rows are those of the table telemetry: to send them again the engine reads the messages again.
type Rekeyer interface {
	Operator
	Rekeys()
}

// Emitter takes what an operator gives.
type Emitter interface {
	// Emit takes the caller's reference to batch, also when it returns an error. Batches do not change once emitted.
	Emit(ctx context.Context, output Output, batch arrow.Record) error
}

// Settings is what the program passes to a component, beside the Config that the user wrote.
type Settings struct {
	Pipeline  string // the pipeline's fixed id
	Step      string // the step's name, for messages and metrics
	Topic     string // the partition that the task works on
	Partition int32
	// Lateness is how long after a result is out, in event time, late rows still correct it: operators that close results
	// keep what they need to give them again with a higher revision.
	Lateness time.Duration
	// Backfill says that the rows are a historical burst: results are marked so.
	Backfill bool
	Dir      string // the pipeline file's folder: relative paths start here
	Local    string // a folder of this machine for what helps a restart and may be lost; "" for none
	Alloc    memory.Allocator
	Log      *slog.Logger
	Drops    Drops
	Scorers  ScorerPool
	Rekeyed  bool              // rows for the topic keyed by asset will come; for a Publisher
	Reached  func(step string) // told that a step of the checkpoint protocol was reached, for tests; nil tells nobody
}

// Drops counts rows that go no further, by reason. A nil Drops counts nothing.
type Drops interface {
	Drop(step, reason string, rows int)
}

// AssetDrops is a Drops that also keeps, for status, whose rows they were.
type AssetDrops interface {
	DropAsset(partition int32, asset, reason string, rows int)
}

// Drop counts rows of this step that go no further.
func (s *Settings) Drop(reason string, rows int) {
	if s.Drops != nil && rows > 0 {
		s.Drops.Drop(s.Step, reason, rows)
	}
}

// DropAsset says whose rows some of those that Drop counts were. A step calls it a few times a batch, not for every row.
func (s *Settings) DropAsset(asset, reason string, rows int) {
	if d, ok := s.Drops.(AssetDrops); ok && rows > 0 {
		d.DropAsset(s.Partition, asset, reason, rows)
	}
}
