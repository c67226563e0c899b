package window

import (
	"math"

	"github.com/apache/arrow/go/v15/arrow"
	"github.com/apache/arrow/go/v15/arrow/array"
	"github.com/apache/arrow/go/v15/arrow/memory"
	"github.com/tailrace/tailrace/schemas"
)

// windowBuilder builds records of windows.
type windowBuilder struct {
	schema         *arrow.Schema
	rows, channels int // T and C
	cutDict        arrow.Array

	asset, n, cut           *array.Int32Builder
	start, end, ts, arrived *array.TimestampBuilder
	coverage                *array.Float32Builder
	first, last             *array.Int64Builder
	revision                *array.Uint32Builder
	samples                 *array.Float64Builder
	scratch                 []float64 // one window, T x C
	valid                   []bool
	all                     []array.Builder // in the order of the columns
}

func newWindowBuilder(mem memory.Allocator, schema *arrow.Schema, rows, channels int) *windowBuilder {
	times := func() *array.TimestampBuilder { return array.NewTimestampBuilder(mem, schemas.NanosUTC) }
	b := &windowBuilder{
		schema: schema, rows: rows, channels: channels,
		asset: array.NewInt32Builder(mem), n: array.NewInt32Builder(mem), cut: array.NewInt32Builder(mem),
		start: times(), end: times(), ts: times(), arrived: times(), coverage: array.NewFloat32Builder(mem),
		first: array.NewInt64Builder(mem), last: array.NewInt64Builder(mem), revision: array.NewUint32Builder(mem),
		samples: array.NewFloat64Builder(mem),
		scratch: make([]float64, rows*channels), valid: make([]bool, rows*channels),
	}
	b.all = []array.Builder{
		b.asset, b.start, b.end, b.ts, b.arrived, b.n, b.coverage, b.cut, b.first, b.last, b.revision, b.samples,
	}
	texts := array.NewStringBuilder(mem)
	defer texts.Release()
	texts.AppendValues(cuts[:], nil)
	b.cutDict = texts.NewArray()
	return b
}

func (b *windowBuilder) len() int   { return b.start.Len() }
func (b *windowBuilder) cells() int { return b.rows * b.channels }

// reserve makes room for the samples of n more windows at once, instead of doubling what is large already.
func (b *windowBuilder) reserve(n int) { b.samples.Reserve(n * b.cells()) }

// frame says where the samples of a window's rows go: with a grid by time, from the row of first on, else one after the
// other. rows is how many the window should have, last the time of its last.
type frame struct {
	first, grid int64
	rows        int
	last        int64
}

// add adds a window of a. Of one that is withdrawn it adds the bounds alone.
func (b *windowBuilder) add(w *output, a *asset, f frame) {
	from, to := a.search(w.start), a.search(w.end)
	if f.grid > 0 {
		to = a.search(min(w.end, f.first+int64(f.rows)*f.grid))
	}
	if w.cut == cutWithdrawn {
		to = from
	}
	held := a.rows[from:to]

	arrived, first, last, coverage := int64(math.MinInt64), int64(-1), int64(-1), 0.0
	for i := range held {
		r := &held[i]
		arrived = max(arrived, r.arrived)
		if r.first >= 0 && (first < 0 || r.first < first) {
			first = r.first
		}
		last = max(last, r.last)
		coverage += float64(r.coverage)
	}
	if len(held) == 0 {
		arrived = f.last // no row arrived; a time that is in the table's range
	}
	whole := lay(b.scratch, b.valid, held, a.cells[from*b.channels:to*b.channels], f)

	b.asset.Append(w.asset)
	b.start.Append(arrow.Timestamp(w.start))
	b.end.Append(arrow.Timestamp(w.end))
	b.ts.Append(arrow.Timestamp(f.last))
	b.arrived.Append(arrow.Timestamp(arrived))
	b.n.Append(int32(len(held)))
	b.coverage.Append(float32(coverage / float64(f.rows)))
	b.cut.Append(int32(w.cut))
	b.first.Append(first)
	b.last.Append(last)
	b.revision.Append(w.revision)
	if whole {
		b.samples.AppendValues(b.scratch, nil)
	} else {
		b.samples.AppendValues(b.scratch, b.valid)
	}
}

// lay writes the samples of rows to the places in cells that the frame gives, and says in valid where there is one. It
// reports whether all are there. cells and valid are one window, T x C; samples are the rows' own, NaN where there is
// none.
func lay(cells []float64, valid []bool, rows []row, samples []float64, f frame) bool {
	if len(rows) == 0 {
		clear(valid)
		return false
	}
	channels := len(samples) / len(rows)
	whole := len(rows)*channels == len(cells)
	if !whole {
		clear(cells)
		clear(valid)
	}
	for i := range rows {
		at := i * channels
		if f.grid > 0 {
			at = int((rows[i].ts-f.first)/f.grid) * channels
		}
		for c, v := range samples[i*channels : (i+1)*channels] {
			present := v == v // not NaN
			if !present {
				v, whole = 0, false
			}
			cells[at+c], valid[at+c] = v, present
		}
	}
	return whole
}

// record returns the windows added since the last call; assets is the dictionary of their asset indexes.
func (b *windowBuilder) record(assets arrow.Array) arrow.Record {
	n := b.len()
	columns := make([]arrow.Array, len(b.all))
	for i, builder := range b.all {
		column := builder.NewArray()
		switch builder {
		case b.asset:
			columns[i] = array.NewDictionaryArray(schemas.Dict, column, assets)
			column.Release()
		case b.cut:
			columns[i] = array.NewDictionaryArray(schemas.Dict, column, b.cutDict)
			column.Release()
		case b.samples:
			data := array.NewData(b.schema.Field(i).Type, n, []*memory.Buffer{nil}, []arrow.ArrayData{column.Data()}, 0, 0)
			columns[i] = array.NewFixedSizeListData(data)
			data.Release()
			column.Release()
		default:
			columns[i] = column
		}
		defer columns[i].Release()
	}
	return array.NewRecord(b.schema, columns, int64(n))
}

func (b *windowBuilder) release() {
	for _, builder := range b.all {
		builder.Release()
	}
	b.cutDict.Release()
}
