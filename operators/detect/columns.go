package detect

import (
	"errors"
	"fmt"
	"math"

	"github.com/apache/arrow/go/v15/arrow"
	"github.com/apache/arrow/go/v15/arrow/array"
	"github.com/apache/arrow/go/v15/arrow/memory"

	"github.com/tailrace/tailrace/schemas"
)

// passed are the columns that go from the input to the predictions as they are.
var passed = map[int]string{
	schemas.PredAsset: schemas.NameAsset, schemas.PredWindowStart: schemas.NameWindowStart, schemas.PredWindowEnd: schemas.NameWindowEnd,
	schemas.PredTS: schemas.NameTS, schemas.PredTSIngest: schemas.NameTSIngest, schemas.PredN: schemas.NameN,
	schemas.PredCoverage: schemas.NameCoverage, schemas.PredScore: schemas.NameScore, schemas.PredReason: schemas.NameReason,
	schemas.PredOutputs: schemas.NameOutputs, schemas.PredKFirst: schemas.NameKFirst, schemas.PredKLast: schemas.NameKLast,
	schemas.PredRevision: schemas.NameRevision,
}

// columns are the positions of the input's columns.
type columns struct {
	passed                     map[int]int // by column of the predictions
	samples, contrib, expected int
}

// bindColumns finds the columns of windows of t rows and c channels that score has scored.
func bindColumns(in *arrow.Schema, t, c int) (columns, error) {
	b := columns{passed: map[int]int{}}
	var faults []error
	find := func(name string, want arrow.DataType) int {
		at := in.FieldIndices(name)
		if len(at) != 1 {
			faults = append(faults, fmt.Errorf("column %q: want one, as score gives it, got %d", name, len(at)))
			return -1
		}
		if got := in.Field(at[0]).Type; !arrow.TypeEqual(got, want) {
			faults = append(faults, fmt.Errorf("column %q: want %s, got %s", name, want, got))
		}
		return at[0]
	}
	for i, field := range schemas.Predictions().Fields() {
		if name, ok := passed[i]; ok {
			b.passed[i] = find(name, field.Type)
		}
	}
	list := func(fields []arrow.Field, name string) int {
		for _, f := range fields {
			if f.Name == name {
				return find(name, f.Type)
			}
		}
		return -1
	}
	b.samples = list(schemas.WindowFields(t, c), schemas.NameSamples)
	b.contrib = list(schemas.ScoreFields(c), schemas.NameContrib)
	b.expected = list(schemas.ScoreFields(c), schemas.NameExpected)
	return b, errors.Join(faults...)
}

// batch is one record's columns as slices.
type batch struct {
	rec                   arrow.Record
	assets                *array.Dictionary
	assetIndex            []int32
	start, end, arrived   []arrow.Timestamp
	n                     []int32
	coverage              []float32
	first, last           []int64
	revision              []uint32
	scores                *array.Float32
	contrib, expected     list[float32]
	samples               list[float64]
	sampleValid           *array.Float64
	contribOf, expectedOf *array.FixedSizeList
}

// list is the values of a list column, without the offset that ListValues ignores.
type list[T any] struct {
	values []T
	width  int
	from   int // position of values[0] among all the list's values
}

func (l *list[T]) row(i int) []T { return l.values[i*l.width : (i+1)*l.width] }

func newList[T any](a *array.FixedSizeList, values []T) list[T] {
	width := int(a.DataType().(*arrow.FixedSizeListType).Len())
	from := a.Data().Offset() * width
	return list[T]{values: values[from : from+a.Len()*width], width: width, from: from}
}

func (c *columns) read(rec arrow.Record) *batch {
	column := func(pred int) arrow.Array { return rec.Column(c.passed[pred]) }
	b := &batch{
		rec: rec, assets: column(schemas.PredAsset).(*array.Dictionary),
		start:     column(schemas.PredWindowStart).(*array.Timestamp).TimestampValues(),
		end:       column(schemas.PredWindowEnd).(*array.Timestamp).TimestampValues(),
		arrived:   column(schemas.PredTSIngest).(*array.Timestamp).TimestampValues(),
		n:         column(schemas.PredN).(*array.Int32).Int32Values(),
		coverage:  column(schemas.PredCoverage).(*array.Float32).Float32Values(),
		first:     column(schemas.PredKFirst).(*array.Int64).Int64Values(),
		last:      column(schemas.PredKLast).(*array.Int64).Int64Values(),
		revision:  column(schemas.PredRevision).(*array.Uint32).Uint32Values(),
		scores:    column(schemas.PredScore).(*array.Float32),
		contribOf: rec.Column(c.contrib).(*array.FixedSizeList), expectedOf: rec.Column(c.expected).(*array.FixedSizeList),
	}
	b.assetIndex = b.assets.Indices().(*array.Int32).Int32Values()
	b.contrib = newList(b.contribOf, b.contribOf.ListValues().(*array.Float32).Float32Values())
	b.expected = newList(b.expectedOf, b.expectedOf.ListValues().(*array.Float32).Float32Values())
	samples := rec.Column(c.samples).(*array.FixedSizeList)
	b.sampleValid = samples.ListValues().(*array.Float64)
	b.samples = newList(samples, b.sampleValid.Float64Values())
	return b
}

// score returns the score of row i, NaN if it has none.
func (b *batch) score(i int) float64 {
	if b.scores.IsNull(i) {
		return math.NaN()
	}
	return float64(b.scores.Value(i))
}

// observed returns the sample of channel c in the last row of window i, or where that is missing the mean over the
// window, or where all are missing fill.
func (b *batch) observed(i, c, channels int, fill float64) float64 {
	row := b.samples.row(i)
	at := b.samples.from + i*b.samples.width
	value := func(k int) (float64, bool) {
		return row[k], b.sampleValid.IsValid(at+k) && !math.IsNaN(row[k]) && !math.IsInf(row[k], 0)
	}
	if v, ok := value(len(row) - channels + c); ok {
		return v
	}
	mean, n := 0.0, 0.0
	for k := c; k < len(row); k += channels {
		if v, ok := value(k); ok {
			n++
			mean += (v - mean) / n
		}
	}
	if n == 0 || math.IsInf(mean, 0) || math.IsNaN(mean) {
		return fill
	}
	return mean
}

// predictions builds the columns that detect adds.
type predictions struct {
	mem                    memory.Allocator
	smooth, threshold      *array.Float32Builder
	anomaly                *array.BooleanBuilder
	backfill               *array.BooleanBuilder
	model                  *array.Int32Builder
	contrib                *array.MapBuilder
	contribTag             *array.StringBuilder
	contribShare           *array.Float32Builder
	modelDict, versionDict arrow.Array
}

func newPredictions(mem memory.Allocator, m *schemas.ModelInfo) *predictions {
	p := &predictions{
		mem: mem, smooth: array.NewFloat32Builder(mem), threshold: array.NewFloat32Builder(mem), anomaly: array.NewBooleanBuilder(mem),
		backfill: array.NewBooleanBuilder(mem), model: array.NewInt32Builder(mem),
		contrib:   array.NewMapBuilder(mem, arrow.BinaryTypes.String, arrow.PrimitiveTypes.Float32, false),
		modelDict: oneText(mem, m.Name), versionDict: oneText(mem, m.Version),
	}
	p.contribTag, p.contribShare = p.contrib.KeyBuilder().(*array.StringBuilder), p.contrib.ItemBuilder().(*array.Float32Builder)
	return p
}

func oneText(mem memory.Allocator, text string) arrow.Array {
	b := array.NewStringBuilder(mem)
	defer b.Release()
	b.Append(text)
	return b.NewArray()
}

// record joins the added columns, which have a row for each of in's, with those of in.
func (p *predictions) record(in arrow.Record, c *columns) arrow.Record {
	models := p.model.NewArray()
	defer models.Release()
	made := map[int]arrow.Array{
		schemas.PredModel:        array.NewDictionaryArray(schemas.Dict, models, p.modelDict),
		schemas.PredModelVersion: array.NewDictionaryArray(schemas.Dict, models, p.versionDict),
		schemas.PredScoreSmooth:  p.smooth.NewArray(), schemas.PredThreshold: p.threshold.NewArray(),
		schemas.PredIsAnomaly: p.anomaly.NewArray(), schemas.PredContrib: p.contrib.NewArray(),
		schemas.PredBackfill: p.backfill.NewArray(),
	}
	all := make([]arrow.Array, len(schemas.Predictions().Fields()))
	for i, at := range c.passed {
		all[i] = in.Column(at)
	}
	for i, column := range made {
		all[i] = column
		defer column.Release()
	}
	return array.NewRecord(schemas.Predictions(), all, in.NumRows())
}

func (p *predictions) release() {
	for _, b := range []array.Builder{p.smooth, p.threshold, p.anomaly, p.backfill, p.model, p.contrib} {
		b.Release()
	}
	p.modelDict.Release()
	p.versionDict.Release()
}
