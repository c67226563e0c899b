package align

import (
	"math"

	"github.com/apache/arrow/go/v15/arrow"
	"github.com/apache/arrow/go/v15/arrow/array"
	"github.com/apache/arrow/go/v15/arrow/memory"
	"github.com/tailrace/tailrace/schemas"
)

// rowBuilder builds wide records.
type rowBuilder struct {
	schema      *arrow.Schema
	asset       *array.Int32Builder
	ts, arrived *array.TimestampBuilder
	coverage    *array.Float32Builder
	first, last *array.Int64Builder
	revision    *array.Uint32Builder
	channels    []*array.Float64Builder
	all         []array.Builder
	cells       []float64 // the row to add, NaN where a channel has no value
}

func newRowBuilder(mem memory.Allocator, schema *arrow.Schema) *rowBuilder {
	b := &rowBuilder{
		schema: schema, asset: array.NewInt32Builder(mem),
		ts: array.NewTimestampBuilder(mem, schemas.NanosUTC), arrived: array.NewTimestampBuilder(mem, schemas.NanosUTC),
		coverage: array.NewFloat32Builder(mem), first: array.NewInt64Builder(mem), last: array.NewInt64Builder(mem),
		revision: array.NewUint32Builder(mem),
	}
	b.all = []array.Builder{b.asset, b.ts, b.arrived, b.coverage, b.first, b.last, b.revision}
	for range len(schema.Fields()) - len(b.all) {
		channel := array.NewFloat64Builder(mem)
		b.channels = append(b.channels, channel)
	}
	for _, channel := range b.channels {
		b.all = append(b.all, channel)
	}
	b.cells = make([]float64, len(b.channels))
	return b
}

func (b *rowBuilder) len() int { return b.ts.Len() }

func (b *rowBuilder) add(asset int32, ts int64, r wideRow) {
	b.asset.Append(asset)
	b.ts.Append(arrow.Timestamp(ts))
	b.arrived.Append(arrow.Timestamp(r.arrived))
	b.coverage.Append(r.coverage)
	b.first.Append(r.first)
	b.last.Append(r.last)
	b.revision.Append(r.revision)
	for i, v := range b.cells {
		if math.IsNaN(v) {
			b.channels[i].AppendNull()
		} else {
			b.channels[i].Append(v)
		}
	}
}

// record returns the rows added since the last call; assets is the dictionary of their asset indexes.
func (b *rowBuilder) record(assets arrow.Array) arrow.Record {
	rows := int64(b.len())
	columns := make([]arrow.Array, len(b.all))
	for i, builder := range b.all {
		columns[i] = builder.NewArray()
		defer columns[i].Release()
	}
	named := array.NewDictionaryArray(schemas.Dict, columns[0], assets)
	defer named.Release()
	return array.NewRecord(b.schema, append([]arrow.Array{named}, columns[1:]...), rows)
}

func (b *rowBuilder) release() {
	for _, builder := range b.all {
		builder.Release()
	}
}
