// Package rekey sends every row to the topic telemetry.rekeyed.v1, keyed by asset, for a second pipeline to read: all rows of an
// asset then lie in one partition, whatever the key that a gateway has chosen, and its windows are whole.
//
// In: telemetry.v1. Out, to Rekeyed: the same rows, also late, suspect, historical and bad ones; duplicates were dropped before. It
// gives no rows to a step after it, which is why it is the only one, and keeps no state.
package rekey

import (
	"context"
	"fmt"

	"github.com/apache/arrow/go/v15/arrow"
	"github.com/tailrace/tailrace/pipeline"
	"github.com/tailrace/tailrace/schemas"
)

// Config is what a user writes under rekey: nothing. The topic is the publisher's, with its prefix and partitions.
type Config struct{}

// Operator passes the rows of one task on.
type Operator struct {
	pipeline.Stateless
}

var _ pipeline.Rekeyer = (*Operator)(nil)

// New returns an operator.
func New() *Operator { return &Operator{} }

// Rekeys implements [pipeline.Rekeyer].
func (*Operator) Rekeys() {}

// Bind wants the rows as they are decoded. It gives a schema without columns.
func (*Operator) Bind(in *arrow.Schema) (*arrow.Schema, error) {
	if !in.Equal(schemas.Telemetry()) {
		return nil, fmt.Errorf("%w: want the rows of the source, telemetry.v1, got %s", pipeline.ErrConfig, in)
	}
	return arrow.NewSchema(nil, nil), nil
}

// Process emits the batch as it is.
func (*Operator) Process(ctx context.Context, in arrow.Record, out pipeline.Emitter) error {
	if in.NumRows() == 0 {
		return nil
	}
	in.Retain()
	return out.Emit(ctx, pipeline.Rekeyed, in)
}

// Component describes rekey to a pipeline file.
func Component() pipeline.Component[pipeline.NewOperator] {
	return pipeline.Define("send all rows to a topic keyed by asset, for a second pipeline; the only step", Config{},
		func(Config) (pipeline.NewOperator, error) {
			return func(pipeline.Settings) (pipeline.Operator, error) { return New(), nil }, nil
		})
}
