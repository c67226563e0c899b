package clickhouse

import (
	"encoding/binary"
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/ClickHouse/ch-go/proto"
	"github.com/apache/arrow/go/v15/arrow"
	"github.com/apache/arrow/go/v15/arrow/bitutil"

	"github.com/tailrace/tailrace/pipeline"
	"github.com/tailrace/tailrace/schemas"
)

// table is how the rows of one table become INSERTs. It has one block loaded at a time.
type table interface {
	name() pipeline.Table
	// plan takes the parts of a checkpoint and returns how many blocks they are. It borrows them until release.
	plan(parts []pipeline.Part, rowsMax int) (int, error)
	// rows is how many rows block i of the plan has.
	rows(i int) int
	// load makes the rows of n the block that input encodes.
	load(n node, run [16]byte, seq uint64) *block
	input() proto.Input
	// span is the first and the last event time of the loaded block, ns, and the column that holds it.
	span() (column string, first, last int64)
	// row is the first row of n, in a record that the receiver owns, and where it came from.
	row(n node) pipeline.RefusedRow
	// witness is the SQL condition that finds one row of the loaded block by the table's order key. A block is one part, so
	// that one row stands for all, and looking for it costs the same whatever the table has grown to. It is the row that
	// arrived last, which TTL takes last.
	witness() string
	// newest is a SELECT of one row, with the time columns of the table as they are in the witness.
	newest() string
	release()
}

// tables are the tables in the order in which a checkpoint is written: what explains an event is there before it.
func tables() []table {
	return []table{newTelemetry(), newPredictions(), newEvents()}
}

// columnar is a table whose rows are records: each column is encoded from its Arrow column.
type columnar struct {
	table   pipeline.Table
	schema  *arrow.Schema
	ts      int   // column of the record
	arrived int   // column of the record: ts_ingest
	names   []int // columns of the record before ts in the table's order key, all dictionaries
	columns proto.Input
	cuts    []cut
	block   block
}

func (t *columnar) name() pipeline.Table { return t.table }
func (t *columnar) input() proto.Input   { return t.columns }
func (t *columnar) release()             { t.cuts, t.block = nil, block{} }

func (t *columnar) witness() string {
	p := t.last()
	var key strings.Builder
	for _, i := range t.names {
		d := p.column(i)
		var name []byte // null is stored as the empty text
		if bits, at := validity(d); bits == nil || bitutil.BitIsSet(bits, at+p.from) {
			name = textsOf(d.Dictionary()).at(int(values[int32](d, p.from, p.from+1)[0]))
		}
		key.WriteString(equalText(t.schema.Field(i).Name, name) + " AND ")
	}
	return fmt.Sprintf("%s%s = %s", key.String(), t.schema.Field(t.ts).Name, timeText(p.time(t.ts)))
}

func (t *columnar) newest() string {
	p := t.last()
	return fmt.Sprintf("SELECT %s AS %s, %s AS %s", timeText(p.time(t.ts)), t.schema.Field(t.ts).Name,
		timeText(p.time(t.arrived)), t.schema.Field(t.arrived).Name)
}

// last is the row of the loaded block that arrived last; of equals the first.
func (t *columnar) last() piece {
	var last piece
	newest := int64(math.MinInt64)
	for k, p := range t.block.pieces {
		for i, ns := range values[int64](p.column(t.arrived), p.from, p.to) {
			if ns > newest || k == 0 && i == 0 {
				newest, last = ns, p
				last.from, last.to = p.from+i, p.from+i+1
			}
		}
	}
	return last
}

// equalText is a condition on a text column. Names come from the plant and are hostile: hex needs no escaping.
func equalText(column string, text []byte) string {
	return fmt.Sprintf("%s = unhex('%x')", column, text)
}

func (t *columnar) plan(parts []pipeline.Part, rowsMax int) (int, error) {
	for _, p := range parts {
		for _, rec := range p.Batches {
			if rec.Schema() != t.schema && !sameFields(rec.Schema(), t.schema) {
				return 0, fmt.Errorf("table %s: want columns %v, got %v", t.table, t.schema, rec.Schema())
			}
		}
	}
	t.cuts = split(parts, t.ts, rowsMax)
	return len(t.cuts), nil
}

func sameFields(a, b *arrow.Schema) bool {
	return slices.EqualFunc(a.Fields(), b.Fields(), func(x, y arrow.Field) bool {
		return x.Name == y.Name && arrow.TypeEqual(x.Type, y.Type)
	})
}

func (t *columnar) rows(i int) int { return t.cuts[i].rows }

func (t *columnar) load(n node, run [16]byte, seq uint64) *block {
	t.block = block{cut: t.cuts[n.root].slice(n.from, n.to), run: run, seq: seq, num: n.number()}
	return &t.block
}

func (t *columnar) span() (column string, first, last int64) {
	first, last = math.MaxInt64, math.MinInt64
	for _, p := range t.block.pieces {
		for _, ns := range values[int64](p.column(t.ts), p.from, p.to) {
			first, last = min(first, ns), max(last, ns)
		}
	}
	return t.schema.Field(t.ts).Name, first, last
}

func (t *columnar) row(n node) pipeline.RefusedRow {
	p := t.cuts[n.root].slice(n.from, n.from+1).pieces[0]
	return pipeline.RefusedRow{Topic: p.topic, Partition: p.part, Row: p.rec.NewSlice(int64(p.from), int64(p.to))}
}

// definition is a column of a table: name, type and encoder.
type definition struct {
	name string
	kind proto.ColumnType
	enc  encoder
}

// The types that several columns have.
const (
	lowText  proto.ColumnType = "LowCardinality(String)"
	lowTexts proto.ColumnType = "Array(LowCardinality(String))"
	time6    proto.ColumnType = "DateTime64(6, 'UTC')"
	time3    proto.ColumnType = "DateTime64(3, 'UTC')"
	numbers  proto.ColumnType = "Map(LowCardinality(String), Float32)"
)

func newColumnar(name pipeline.Table, schema *arrow.Schema, names []int, ts, arrived int, definitions []definition) *columnar {
	t := &columnar{table: name, schema: schema, names: names, ts: ts, arrived: arrived}
	for _, d := range append(definitions, lineage()...) {
		t.columns = append(t.columns, proto.InputColumn{
			Name: d.name, Data: &column{name: d.name, kind: d.kind, enc: d.enc, block: &t.block},
		})
	}
	return t
}

func newTelemetry() *columnar {
	names := []int{schemas.ColAsset, schemas.ColTag}
	return newColumnar(pipeline.Telemetry, schemas.Telemetry(), names, schemas.ColTS, schemas.ColTSIngest, []definition{
		{"ts", time6, micros{schemas.ColTS}},
		{"ts_ingest", time3, millis{schemas.ColTSIngest}},
		{"ts_kind", "UInt8", fixed{schemas.ColTSKind, 1}},
		{"asset", lowText, &lowCardinality{col: schemas.ColAsset}},
		{"tag", lowText, &lowCardinality{col: schemas.ColTag}},
		{"vtype", "UInt8", fixed{schemas.ColVType, 1}},
		{"value", "Nullable(Float64)", nullable{schemas.ColValue, 8}},
		{"value_int", "Nullable(Int64)", nullable{schemas.ColValueInt, 8}},
		{"value_str", "Nullable(String)", &nullableText{col: schemas.ColValueStr}},
		{"quality", "UInt8", fixed{schemas.ColQuality, 1}},
		{"status", "UInt32", fixed{schemas.ColStatus, 4}},
		{"flags", "UInt32", fixed{schemas.ColFlags, 4}},
		{"unit", lowText, &lowCardinality{col: schemas.ColUnit}},
		{"src", lowText, &lowCardinality{col: schemas.ColSrc}},
		{"src_seq", "UInt64", fixed{schemas.ColSrcSeq, 8}},
		{"k_topic", lowText, &lowCardinality{col: schemas.ColKTopic}},
		{"k_part", "Int32", fixed{schemas.ColKPart, 4}},
		{"k_offset", "Int64", fixed{schemas.ColKOffset, 8}},
		{"k_idx", "UInt32", fixed{schemas.ColKIdx, 4}},
	})
}

func newPredictions() *columnar {
	names := []int{schemas.PredAsset, schemas.PredModel, schemas.PredModelVersion}
	return newColumnar(pipeline.Predictions, schemas.Predictions(), names, schemas.PredTS, schemas.PredTSIngest, []definition{
		{"asset", lowText, &lowCardinality{col: schemas.PredAsset}},
		{"window_start", time6, micros{schemas.PredWindowStart}},
		{"window_end", time6, micros{schemas.PredWindowEnd}},
		{"ts", time6, micros{schemas.PredTS}},
		{"ts_ingest", time3, millis{schemas.PredTSIngest}},
		{"n", "UInt32", fixed{schemas.PredN, 4}},
		{"coverage", "Float32", fixed{schemas.PredCoverage, 4}},
		{"model", lowText, &lowCardinality{col: schemas.PredModel}},
		{"model_version", lowText, &lowCardinality{col: schemas.PredModelVersion}},
		{"score", "Nullable(Float32)", nullable{schemas.PredScore, 4}},
		{"reason", lowText, &lowCardinality{col: schemas.PredReason}},
		{"score_smooth", "Nullable(Float32)", nullable{schemas.PredScoreSmooth, 4}},
		{"threshold", "Nullable(Float32)", nullable{schemas.PredThreshold, 4}},
		{"is_anomaly", "Bool", truth{schemas.PredIsAnomaly}},
		{"outputs", numbers, &mapping{col: schemas.PredOutputs}},
		{"contrib", numbers, &mapping{col: schemas.PredContrib}},
		{"revision", "UInt32", fixed{schemas.PredRevision, 4}},
		{"k_topic", lowText, &topicOf{}},
		{"k_part", "Int32", partOf{}},
		{"k_first", "Int64", fixed{schemas.PredKFirst, 8}},
		{"k_last", "Int64", fixed{schemas.PredKLast, 8}},
		{"backfill", "Bool", truth{schemas.PredBackfill}},
	})
}

// lineage are the last columns of every table: the block that wrote the row.
func lineage() []definition {
	return []definition{
		{"run", "UInt128", &constant{value: func(b *block, dst []byte) []byte {
			// The number reads as the run's hex digits do; on the wire its lowest byte comes first.
			dst = append(dst, b.run[:]...)
			slices.Reverse(dst)
			return dst
		}}},
		{"seq", "UInt64", &constant{value: func(b *block, dst []byte) []byte {
			return binary.LittleEndian.AppendUint64(dst, b.seq)
		}}},
		{"block", "UInt32", &constant{value: func(b *block, dst []byte) []byte {
			return binary.LittleEndian.AppendUint32(dst, b.num)
		}}},
	}
}
