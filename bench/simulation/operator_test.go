package simulation

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"time"

	"github.com/apache/arrow/go/v15/arrow"
	"github.com/apache/arrow/go/v15/arrow/array"
	"github.com/tailrace/tailrace/pipeline"
	"github.com/tailrace/tailrace/pipeline/state"
	"github.com/tailrace/tailrace/schemas"
)

// digest keeps for each asset a hash of all its rows so far, in order, and gives it out with each row: one row more,
// less or in another place, or a state that is lost or old, changes everything after it. Some rows open an event. It
// takes the rows of align or of window and gives schemas.Predictions.
type digest struct {
	settings pipeline.Settings
	in       *arrow.Schema
	hashes   map[string]uint64
	changed  map[string]bool
	out      *array.RecordBuilder
}

var _ pipeline.Operator = (*digest)(nil)

func newDigest(s pipeline.Settings) (pipeline.Operator, error) {
	return &digest{
		settings: s, hashes: map[string]uint64{}, changed: map[string]bool{},
		out: array.NewRecordBuilder(s.Alloc, schemas.Predictions()),
	}, nil
}

func (d *digest) Bind(in *arrow.Schema) (*arrow.Schema, error) {
	d.in = in
	return schemas.Predictions(), nil
}

// int reads a column of integers or times by name; 0 if there is none.
func (d *digest) int(b arrow.Record, name string, row int) int64 {
	at := d.in.FieldIndices(name)
	if len(at) == 0 {
		return 0
	}
	switch c := b.Column(at[0]).(type) {
	case *array.Timestamp:
		return int64(c.Value(row))
	case *array.Int64:
		return c.Value(row)
	case *array.Int32:
		return int64(c.Value(row))
	case *array.Uint32:
		return int64(c.Value(row))
	}
	return 0
}

func (d *digest) Process(ctx context.Context, in arrow.Record, out pipeline.Emitter) error {
	var events []schemas.Event
	for i, text := range rowTexts(in) {
		assets := in.Column(d.in.FieldIndices(schemas.NameAsset)[0]).(*array.Dictionary)
		asset := assets.Dictionary().(*array.String).Value(assets.GetValueIndex(i))
		sum := sha256.Sum256(binary.BigEndian.AppendUint64([]byte(text), d.hashes[asset]))
		hash := binary.BigEndian.Uint64(sum[:])
		d.hashes[asset], d.changed[asset] = hash, true
		start, end := d.int(in, schemas.NameWindowStart, i), d.int(in, schemas.NameWindowEnd, i)
		if end == 0 { // of align
			start = d.int(in, schemas.NameTS, i)
			end = start + 1
		}
		d.add(in, i, asset, start, end, hash)
		if hash%5 == 0 {
			events = append(events, d.event(asset, start, end, hash))
		}
	}
	if in.NumRows() == 0 {
		return nil
	}
	rows := d.out.NewRecord()
	if err := out.Emit(ctx, pipeline.Rows, rows); err != nil || len(events) == 0 {
		return err
	}
	list, err := schemas.NewEvents(d.settings.Alloc, events)
	if err != nil {
		return err
	}
	return out.Emit(ctx, pipeline.Events, list)
}

func (d *digest) add(in arrow.Record, i int, asset string, start, end int64, hash uint64) {
	text := func(column int, text string) {
		_ = d.out.Field(column).(*array.BinaryDictionaryBuilder).AppendString(text) // fails only out of memory
	}
	at := func(column int, ns int64) { d.out.Field(column).(*array.TimestampBuilder).Append(arrow.Timestamp(ns)) }
	text(schemas.PredAsset, asset)
	at(schemas.PredWindowStart, start)
	at(schemas.PredWindowEnd, end)
	at(schemas.PredTS, d.int(in, schemas.NameTS, i))
	at(schemas.PredTSIngest, d.int(in, schemas.NameTSIngest, i))
	d.out.Field(schemas.PredN).(*array.Int32Builder).Append(int32(d.int(in, schemas.NameN, i)))
	d.out.Field(schemas.PredCoverage).(*array.Float32Builder).Append(1)
	text(schemas.PredModel, fmt.Sprintf("%016x", hash))
	text(schemas.PredModelVersion, "1")
	d.out.Field(schemas.PredScore).(*array.Float32Builder).Append(float32(hash % 1000))
	text(schemas.PredReason, "")
	d.out.Field(schemas.PredScoreSmooth).AppendNull()
	d.out.Field(schemas.PredThreshold).AppendNull()
	d.out.Field(schemas.PredIsAnomaly).(*array.BooleanBuilder).Append(hash%5 == 0)
	d.out.Field(schemas.PredOutputs).(*array.MapBuilder).Append(true)
	d.out.Field(schemas.PredContrib).(*array.MapBuilder).Append(true)
	d.out.Field(schemas.PredRevision).(*array.Uint32Builder).Append(uint32(d.int(in, schemas.NameRevision, i)))
	d.out.Field(schemas.PredKFirst).(*array.Int64Builder).Append(d.int(in, schemas.NameKFirst, i))
	d.out.Field(schemas.PredKLast).(*array.Int64Builder).Append(d.int(in, schemas.NameKLast, i))
	d.out.Field(schemas.PredBackfill).(*array.BooleanBuilder).Append(d.settings.Backfill)
}

func (d *digest) event(asset string, start, end int64, hash uint64) schemas.Event {
	utc := func(ns int64) time.Time { return time.Unix(0, ns).UTC() }
	id := sha256.Sum256(fmt.Appendf(nil, "%s/digest/%s/%d/%x", d.settings.Pipeline, asset, start, hash))
	return schemas.Event{
		Schema: schemas.EventSchema, EventID: fmt.Sprintf("%x", id[:16]), Status: schemas.StatusFiring,
		Pipeline: d.settings.Pipeline,
		Detector: "digest", Asset: asset, OnsetTS: utc(start), EventTS: utc(end), DetectedTS: utc(end), PeakTS: utc(end),
		Score:  schemas.EventScore{Value: float64(hash % 1000)},
		Window: schemas.EventWindow{Start: utc(start), End: utc(end)}, Backfill: d.settings.Backfill,
		Lineage: schemas.EventLineage{Topic: d.settings.Topic, Partition: d.settings.Partition},
	}
}

func (d *digest) Advance(context.Context, int64, pipeline.Emitter) error { return nil }
func (d *digest) Finish(context.Context, pipeline.Emitter) error         { return nil }
func (d *digest) Close() error                                           { d.out.Release(); return nil }

func (d *digest) Snapshot(w *state.Writer, full bool) error {
	w.Version(1)
	for asset, hash := range d.hashes {
		if full || d.changed[asset] {
			var e state.Encoder
			e.Uint(hash)
			w.Put(asset, e.Bytes)
		}
	}
	clear(d.changed)
	return nil
}

func (d *digest) Restore(r *state.Reader) error {
	for asset, value := range r.All() {
		dec := state.NewDecoder(value)
		d.hashes[asset] = dec.Uint()
		if err := dec.Err(); err != nil {
			return err
		}
	}
	return nil
}
