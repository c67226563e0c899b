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
	mem  memory.Allocator
	part int32
	n    int // rows appended
	room int // rows that fit without growing

	Assets *Interner
	Tags   *Interner
	units  *Interner
	srcs   *Interner // id 0 is ""
	topics *Interner // id 0 is the topic

	ts, tsIngest, kOffset, valueInt column[int64]
	asset, tag, unit, src, kIdx     column[int32]
	tsKind, vtype, quality          column[uint8]
	status, flags                   column[uint32]
	srcSeq                          column[uint64]
	value                           column[float64]
	hasValue, hasInt, hasUnit       bitmap
	valueStr                        *array.StringBuilder // lags behind: it is brought up to a row when that has a text
}

// NewTelemetryBuilder returns a builder for the partition part of topic.
func NewTelemetryBuilder(mem memory.Allocator, topic string, part int32) *TelemetryBuilder {
	b := &TelemetryBuilder{
		mem: mem, part: part,
		Assets: NewInterner(mem), Tags: NewInterner(mem),
		units: NewInterner(mem), srcs: NewInterner(mem), topics: NewInterner(mem),
		valueStr: array.NewStringBuilder(mem),
	}
	b.srcs.ID(nil)
	b.topics.ID([]byte(topic))
	return b
}

// Reserve makes room for n more rows. Without it the room doubles when it is used up.
func (b *TelemetryBuilder) Reserve(n int) {
	if b.n+n > b.room {
		b.grow(max(b.n+n, 64))
	}
}

func (b *TelemetryBuilder) grow(rows int) {
	b.room = rows
	for _, c := range []*column[int64]{&b.ts, &b.tsIngest, &b.kOffset, &b.valueInt} {
		c.grow(b.mem, rows)
	}
	for _, c := range []*column[int32]{&b.asset, &b.tag, &b.unit, &b.src, &b.kIdx} {
		c.grow(b.mem, rows)
	}
	for _, c := range []*column[uint8]{&b.tsKind, &b.vtype, &b.quality} {
		c.grow(b.mem, rows)
	}
	for _, c := range []*column[uint32]{&b.status, &b.flags} {
		c.grow(b.mem, rows)
	}
	for _, v := range []*bitmap{&b.hasValue, &b.hasInt, &b.hasUnit} {
		v.grow(b.mem, rows)
	}
	b.srcSeq.grow(b.mem, rows)
	b.value.grow(b.mem, rows)
}

// Len returns the number of rows appended since the last [TelemetryBuilder.NewRecord].
func (b *TelemetryBuilder) Len() int { return b.n }

// Append adds a row of the message at offset, which arrived at tsIngest (ns UTC).
func (b *TelemetryBuilder) Append(r *Row, offset, tsIngest int64) {
	if b.n == b.room {
		b.grow(max(2*b.room, 64))
	}
	i := b.n
	b.n++
	b.ts.data[i] = r.TS
	b.tsIngest.data[i] = tsIngest
	b.tsKind.data[i] = uint8(r.TSKind)
	b.asset.data[i] = b.Assets.ID(r.Asset)
	b.tag.data[i] = b.Tags.ID(r.Tag)
	b.vtype.data[i] = uint8(r.VType)
	if r.HasValue {
		b.value.data[i] = r.Value
		b.hasValue.mark(i)
	}
	if r.HasInt {
		b.valueInt.data[i] = r.Int
		b.hasInt.mark(i)
	}
	if r.Str != nil {
		b.catchUp(i)
		b.valueStr.BinaryBuilder.Append(r.Str)
	}
	b.quality.data[i] = uint8(r.Quality)
	b.status.data[i] = r.Status
	b.flags.data[i] = uint32(r.Flags)
	if r.Unit != nil {
		b.unit.data[i] = b.units.ID(r.Unit)
		b.hasUnit.mark(i)
	}
	if len(r.Src) > 0 {
		b.src.data[i] = b.srcs.ID(r.Src)
	}
	b.srcSeq.data[i] = r.SrcSeq
	b.kOffset.data[i] = offset
	b.kIdx.data[i] = r.Idx
}

// catchUp gives value_str nulls up to row n.
func (b *TelemetryBuilder) catchUp(n int) {
	b.valueStr.Reserve(n - b.valueStr.Len())
	for b.valueStr.Len() < n {
		b.valueStr.AppendNull()
	}
}

// NewRecord returns the rows appended so far and starts anew. The caller owns the record.
func (b *TelemetryBuilder) NewRecord() arrow.Record {
	n := b.n
	var kTopic, kPart column[int32]
	kTopic.grow(b.mem, n)
	kPart.grow(b.mem, n)
	for i := range kPart.data {
		kPart.data[i] = b.part
	}
	value, valueNulls := b.hasValue.take(n)
	valueInt, intNulls := b.hasInt.take(n)
	unit, unitNulls := b.hasUnit.take(n)
	types := arrow.PrimitiveTypes
	cols := []arrow.Array{
		ColTS:       newArray(NanosUTC, n, 0, nil, nil, b.ts.take(n)),
		ColTSIngest: newArray(NanosUTC, n, 0, nil, nil, b.tsIngest.take(n)),
		ColTSKind:   newArray(types.Uint8, n, 0, nil, nil, b.tsKind.take(n)),
		ColAsset:    newArray(Dict, n, 0, b.Assets, nil, b.asset.take(n)),
		ColTag:      newArray(Dict, n, 0, b.Tags, nil, b.tag.take(n)),
		ColVType:    newArray(types.Uint8, n, 0, nil, nil, b.vtype.take(n)),
		ColValue:    newArray(types.Float64, n, valueNulls, nil, value, b.value.take(n)),
		ColValueInt: newArray(types.Int64, n, intNulls, nil, valueInt, b.valueInt.take(n)),
		ColValueStr: b.takeStrings(n),
		ColQuality:  newArray(types.Uint8, n, 0, nil, nil, b.quality.take(n)),
		ColStatus:   newArray(types.Uint32, n, 0, nil, nil, b.status.take(n)),
		ColFlags:    newArray(types.Uint32, n, 0, nil, nil, b.flags.take(n)),
		ColUnit:     newArray(Dict, n, unitNulls, b.units, unit, b.unit.take(n)),
		ColSrc:      newArray(Dict, n, 0, b.srcs, nil, b.src.take(n)),
		ColSrcSeq:   newArray(types.Uint64, n, 0, nil, nil, b.srcSeq.take(n)),
		ColKTopic:   newArray(Dict, n, 0, b.topics, nil, kTopic.take(n)),
		ColKPart:    newArray(types.Int32, n, 0, nil, nil, kPart.take(n)),
		ColKOffset:  newArray(types.Int64, n, 0, nil, nil, b.kOffset.take(n)),
		ColKIdx:     newArray(types.Int32, n, 0, nil, nil, b.kIdx.take(n)),
	}
	b.n, b.room = 0, 0
	rec := array.NewRecord(telemetry, cols, int64(n))
	for _, c := range cols {
		c.Release()
	}
	return rec
}

// takeStrings returns the column value_str of n rows. Most decoders give numbers alone, so the column without a text is
// made at once.
func (b *TelemetryBuilder) takeStrings(n int) arrow.Array {
	if b.valueStr.Len() > 0 {
		b.catchUp(n)
		return b.valueStr.NewArray()
	}
	var offsets column[int32]
	var none bitmap
	offsets.grow(b.mem, n+1)
	none.grow(b.mem, n)
	valid, nulls := none.take(n)
	return newArray(arrow.BinaryTypes.String, n, nulls, nil, valid, offsets.take(n+1), nil)
}

// Release frees what the builder holds.
func (b *TelemetryBuilder) Release() {
	b.NewRecord().Release()
	b.valueStr.Release()
	for _, in := range []*Interner{b.Assets, b.Tags, b.units, b.srcs, b.topics} {
		in.Release()
	}
}
