package schemas

import (
	"github.com/apache/arrow/go/v15/arrow"
	"github.com/apache/arrow/go/v15/arrow/array"
	"github.com/apache/arrow/go/v15/arrow/memory"
)

// TakeTelemetry copies rows of rec, which has the schema telemetry.v1, in the order given. The copy shares rec's
// dictionaries and none of its other memory. The caller owns it.
func TakeTelemetry(mem memory.Allocator, rec arrow.Record, rows []int) arrow.Record {
	columns := make([]arrow.Array, rec.NumCols())
	for i, column := range rec.Columns() {
		columns[i] = take(mem, column, rows)
		defer columns[i].Release()
	}
	return array.NewRecord(telemetry, columns, int64(len(rows)))
}

// take copies rows of a column of a type that telemetry.v1 has.
func take(mem memory.Allocator, column arrow.Array, rows []int) arrow.Array {
	if dict, ok := column.(*array.Dictionary); ok {
		indexes := take(mem, dict.Indices(), rows)
		defer indexes.Release()
		return array.NewDictionaryArray(dict.DataType(), indexes, dict.Dictionary())
	}
	b := array.NewBuilder(mem, column.DataType())
	defer b.Release()
	b.Reserve(len(rows))
	switch b := b.(type) {
	case *array.TimestampBuilder:
		takeInto(b, column.(*array.Timestamp), rows)
	case *array.Int64Builder:
		takeInto(b, column.(*array.Int64), rows)
	case *array.Int32Builder:
		takeInto(b, column.(*array.Int32), rows)
	case *array.Uint64Builder:
		takeInto(b, column.(*array.Uint64), rows)
	case *array.Uint32Builder:
		takeInto(b, column.(*array.Uint32), rows)
	case *array.Uint8Builder:
		takeInto(b, column.(*array.Uint8), rows)
	case *array.Float64Builder:
		takeInto(b, column.(*array.Float64), rows)
	case *array.StringBuilder:
		takeInto(b, column.(*array.String), rows)
	}
	return b.NewArray()
}

// takeInto appends the values at rows.
func takeInto[T any](b interface {
	Append(T)
	AppendNull()
}, column interface {
	IsNull(int) bool
	Value(int) T
}, rows []int) {
	for _, i := range rows {
		if column.IsNull(i) {
			b.AppendNull()
		} else {
			b.Append(column.Value(i))
		}
	}
}
