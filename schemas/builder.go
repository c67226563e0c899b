package schemas

import (
	"github.com/apache/arrow/go/v15/arrow"
	"github.com/apache/arrow/go/v15/arrow/array"
	"github.com/apache/arrow/go/v15/arrow/memory"
)

// Row is one value as a decoder hands it to a [TelemetryBuilder]. Texts are lent: the builder copies what it keeps.
type Row struct {
	TS      int64 // event time, ns UTC
	TSKind  TimeSource
	Asset   []byte
	Tag     []byte
	VType   ValueType
	Value   float64 // numeric view; counts only if HasValue
	Int     int64   // exact integer; counts only if HasInt
	Str     []byte  // nil if there is none
	Quality Quality
	Status  uint32
	Flags   Flag
	Unit    []byte // nil if unknown
	Src     []byte
	SrcSeq  uint64
	Idx     int32 // index of the value inside its message

	HasValue bool
	HasInt   bool
}

// TelemetryBuilder builds records of telemetry.v1 for one partition of one topic. Its dictionaries live as long as it
// does: an asset has the same index in every record it builds. It is for one goroutine.
type TelemetryBuilder struct {
	mem   memory.Allocator
	topic string
	part  int32

	Assets *Interner
	Tags   *Interner
	units  *Interner
	srcs   *Interner
	topics *Interner

	ts, tsIngest, kOffset, valueInt *array.Int64Builder
	asset, tag, unit, src, kTopic   *array.Int32Builder
	kPart, kIdx                     *array.Int32Builder
	tsKind, vtype, quality          *array.Uint8Builder
	status, flags                   *array.Uint32Builder
	srcSeq                          *array.Uint64Builder
	value                           *array.Float64Builder
	valueStr                        *array.StringBuilder
	all                             []array.Builder
}

// NewTelemetryBuilder returns a builder for the partition part of topic.
func NewTelemetryBuilder(mem memory.Allocator, topic string, part int32) *TelemetryBuilder {
	b := &TelemetryBuilder{
		mem: mem, topic: topic, part: part,
		Assets: NewInterner(mem), Tags: NewInterner(mem), units: NewInterner(mem), srcs: NewInterner(mem), topics: NewInterner(mem),
		ts: array.NewInt64Builder(mem), tsIngest: array.NewInt64Builder(mem), kOffset: array.NewInt64Builder(mem), valueInt: array.NewInt64Builder(mem),
		asset: array.NewInt32Builder(mem), tag: array.NewInt32Builder(mem), unit: array.NewInt32Builder(mem), src: array.NewInt32Builder(mem), kTopic: array.NewInt32Builder(mem),
		kPart: array.NewInt32Builder(mem), kIdx: array.NewInt32Builder(mem),
		tsKind: array.NewUint8Builder(mem), vtype: array.NewUint8Builder(mem), quality: array.NewUint8Builder(mem),
		status: array.NewUint32Builder(mem), flags: array.NewUint32Builder(mem),
		srcSeq: array.NewUint64Builder(mem), value: array.NewFloat64Builder(mem), valueStr: array.NewStringBuilder(mem),
	}
	b.all = []array.Builder{
		ColTS: b.ts, ColTSIngest: b.tsIngest, ColTSKind: b.tsKind, ColAsset: b.asset, ColTag: b.tag, ColVType: b.vtype,
		ColValue: b.value, ColValueInt: b.valueInt, ColValueStr: b.valueStr, ColQuality: b.quality, ColStatus: b.status,
		ColFlags: b.flags, ColUnit: b.unit, ColSrc: b.src, ColSrcSeq: b.srcSeq, ColKTopic: b.kTopic, ColKPart: b.kPart,
		ColKOffset: b.kOffset, ColKIdx: b.kIdx,
	}
	return b
}

// Reserve makes room for n more rows.
func (b *TelemetryBuilder) Reserve(n int) {
	for _, c := range b.all {
		c.Reserve(n)
	}
}

// Len returns the number of rows appended since the last [TelemetryBuilder.NewRecord].
func (b *TelemetryBuilder) Len() int { return b.ts.Len() }

// Append adds a row of the message at offset, which arrived at tsIngest (ns UTC).
func (b *TelemetryBuilder) Append(r *Row, offset, tsIngest int64) {
	b.ts.Append(r.TS)
	b.tsIngest.Append(tsIngest)
	b.tsKind.Append(uint8(r.TSKind))
	b.asset.Append(b.Assets.ID(r.Asset))
	b.tag.Append(b.Tags.ID(r.Tag))
	b.vtype.Append(uint8(r.VType))
	if r.HasValue {
		b.value.Append(r.Value)
	} else {
		b.value.AppendNull()
	}
	if r.HasInt {
		b.valueInt.Append(r.Int)
	} else {
		b.valueInt.AppendNull()
	}
	if r.Str != nil {
		b.valueStr.BinaryBuilder.Append(r.Str)
	} else {
		b.valueStr.AppendNull()
	}
	b.quality.Append(uint8(r.Quality))
	b.status.Append(r.Status)
	b.flags.Append(uint32(r.Flags))
	if r.Unit != nil {
		b.unit.Append(b.units.ID(r.Unit))
	} else {
		b.unit.AppendNull()
	}
	b.src.Append(b.srcs.ID(r.Src))
	b.srcSeq.Append(r.SrcSeq)
	b.kTopic.Append(b.topics.ID([]byte(b.topic)))
	b.kPart.Append(b.part)
	b.kOffset.Append(offset)
	b.kIdx.Append(r.Idx)
}

// NewRecord returns the rows appended so far and starts anew. The caller owns the record.
func (b *TelemetryBuilder) NewRecord() arrow.Record {
	n := int64(b.Len())
	cols := make([]arrow.Array, telemetryColumns)
	for i, c := range b.all {
		cols[i] = c.NewArray()
	}
	retype(cols, ColTS, NanosUTC)
	retype(cols, ColTSIngest, NanosUTC)
	for i, in := range map[int]*Interner{ColAsset: b.Assets, ColTag: b.Tags, ColUnit: b.units, ColSrc: b.srcs, ColKTopic: b.topics} {
		indices := cols[i]
		cols[i] = array.NewDictionaryArray(Dict, indices, in.Dictionary())
		indices.Release()
	}
	rec := array.NewRecord(telemetry, cols, n)
	for _, c := range cols {
		c.Release()
	}
	return rec
}

// retype gives the int64 column i the type t without touching its values.
func retype(cols []arrow.Array, i int, t arrow.DataType) {
	old := cols[i]
	data := array.NewData(t, old.Len(), old.Data().Buffers(), nil, old.NullN(), old.Data().Offset())
	cols[i] = array.MakeFromData(data)
	data.Release()
	old.Release()
}

// Release frees what the builder holds.
func (b *TelemetryBuilder) Release() {
	for _, c := range b.all {
		c.Release()
	}
	for _, in := range []*Interner{b.Assets, b.Tags, b.units, b.srcs, b.topics} {
		in.Release()
	}
}
