// Package rekeyed is the format of the topic telemetry.rekeyed.v1, in which all rows of an asset lie in one partition whatever
// partition of the source topic they came from. A pipeline with the step rekey writes it, a second one reads it.
//
// A message is one JSON object: rows of one asset from one partition of the source topic, in the order in which they lie there.
//
//	{"topic":"plant.telemetry","topic_id":"...","partition":1,"asset":"press 1","rows":[
//	  {"offset":41,"idx":0,"ts":1700000000000000000,"ts_ingest":1700000000010000000,"ts_kind":0,"tag":"force","vtype":4,
//	   "value":1.5,"quality":2,"status":0,"flags":0,"unit":"NEW","src":"gateway 7","src_seq":12}]}
//
// A row has all columns of telemetry.v1: value, value_int, value_str and unit are absent where they are null, src where it is
// empty, idx, ts_kind, status, flags and src_seq where they are 0. Times are ns UTC. The key is the asset.
//
// The writer sends rows again after a crash, from some row on: [Decoder] leaves out what it has given before.
package rekeyed

import (
	"encoding/json"
	"fmt"
	"math"
	"strconv"

	"github.com/apache/arrow/go/v15/arrow"
	"github.com/apache/arrow/go/v15/arrow/array"
	"github.com/tailrace/tailrace/schemas"
)

// Rows reads a record of telemetry.v1 to write messages of it. It borrows the record.
type Rows struct {
	asset, tag, unit, src, topic *array.Dictionary
	ts, ingest                   []arrow.Timestamp
	kind, vtype, quality         []uint8
	value                        *array.Float64
	integer                      *array.Int64
	text                         *array.String
	status, flags                []uint32
	seq                          []uint64
	part, idx                    []int32
	offset                       []int64
}

// Read looks a record's columns up. One of another schema is an error.
func Read(rec arrow.Record) (*Rows, error) {
	if !rec.Schema().Equal(schemas.Telemetry()) {
		return nil, fmt.Errorf("rekeyed rows: want the schema telemetry.v1, got %s", rec.Schema())
	}
	text := func(column int) *array.Dictionary { return rec.Column(column).(*array.Dictionary) }
	bytes := func(column int) []uint8 { return rec.Column(column).(*array.Uint8).Uint8Values() }
	words := func(column int) []uint32 { return rec.Column(column).(*array.Uint32).Uint32Values() }
	numbers := func(column int) []int32 { return rec.Column(column).(*array.Int32).Int32Values() }
	times := func(column int) []arrow.Timestamp { return rec.Column(column).(*array.Timestamp).TimestampValues() }
	return &Rows{
		asset: text(schemas.ColAsset), tag: text(schemas.ColTag), unit: text(schemas.ColUnit), src: text(schemas.ColSrc),
		topic: text(schemas.ColKTopic), ts: times(schemas.ColTS), ingest: times(schemas.ColTSIngest),
		kind: bytes(schemas.ColTSKind), vtype: bytes(schemas.ColVType), quality: bytes(schemas.ColQuality),
		value: rec.Column(schemas.ColValue).(*array.Float64), integer: rec.Column(schemas.ColValueInt).(*array.Int64),
		text: rec.Column(schemas.ColValueStr).(*array.String), status: words(schemas.ColStatus), flags: words(schemas.ColFlags),
		seq: rec.Column(schemas.ColSrcSeq).(*array.Uint64).Uint64Values(), part: numbers(schemas.ColKPart),
		idx: numbers(schemas.ColKIdx), offset: rec.Column(schemas.ColKOffset).(*array.Int64).Int64Values(),
	}, nil
}

// Len is the number of rows.
func (r *Rows) Len() int { return len(r.ts) }

// AssetIndex is the asset of a row as an index of the record's dictionary.
func (r *Rows) AssetIndex(row int) int { return r.asset.GetValueIndex(row) }

// Asset is the asset of a row.
func (r *Rows) Asset(row int) string { return textOf(r.asset, row) }

// AppendHead begins the message that row is the first of. topicID is that of the topic it comes from, "" if it is not known.
func (r *Rows) AppendHead(dst []byte, topicID string, row int) []byte {
	dst = appendText(append(dst, `{"topic":`...), textOf(r.topic, row))
	dst = appendText(append(dst, `,"topic_id":`...), topicID)
	dst = strconv.AppendInt(append(dst, `,"partition":`...), int64(r.part[row]), 10)
	dst = appendText(append(dst, `,"asset":`...), r.Asset(row))
	return append(dst, `,"rows":[`...)
}

// AppendRow adds a row to a message that AppendHead has begun, with a comma before it unless it is the first.
func (r *Rows) AppendRow(dst []byte, first bool, row int) []byte {
	if !first {
		dst = append(dst, ',')
	}
	flags := r.flags[row]
	number := func(key string, v int64, always bool) {
		if v != 0 || always {
			dst = append(dst, key...)
			dst = strconv.AppendInt(dst, v, 10)
		}
	}
	number(`{"offset":`, r.offset[row], true)
	number(`,"idx":`, int64(r.idx[row]), false)
	number(`,"ts":`, int64(r.ts[row]), true)
	number(`,"ts_ingest":`, int64(r.ingest[row]), true)
	number(`,"ts_kind":`, int64(r.kind[row]), false)
	dst = appendText(append(dst, `,"tag":`...), textOf(r.tag, row))
	number(`,"vtype":`, int64(r.vtype[row]), true)
	if r.value.IsValid(row) {
		if v := r.value.Value(row); math.IsNaN(v) || math.IsInf(v, 0) {
			flags |= uint32(schemas.FlagNotFinite) // null with this flag is how telemetry.v1 has it
		} else {
			dst = strconv.AppendFloat(append(dst, `,"value":`...), v, 'g', -1, 64)
		}
	}
	if r.integer.IsValid(row) {
		number(`,"value_int":`, r.integer.Value(row), true)
	}
	if r.text.IsValid(row) {
		dst = appendText(append(dst, `,"value_str":`...), r.text.Value(row))
	}
	number(`,"quality":`, int64(r.quality[row]), true)
	number(`,"status":`, int64(r.status[row]), false)
	number(`,"flags":`, int64(flags), false)
	if r.unit.IsValid(row) {
		dst = appendText(append(dst, `,"unit":`...), textOf(r.unit, row))
	}
	if src := textOf(r.src, row); src != "" {
		dst = appendText(append(dst, `,"src":`...), src)
	}
	if r.seq[row] != 0 {
		dst = strconv.AppendUint(append(dst, `,"src_seq":`...), r.seq[row], 10)
	}
	return append(dst, '}')
}

// AppendTail ends a message.
func AppendTail(dst []byte) []byte { return append(dst, "]}"...) }

func textOf(column *array.Dictionary, row int) string {
	return column.Dictionary().(*array.String).Value(column.GetValueIndex(row))
}

// appendText appends a JSON text. Plant names rarely need an escape. Bytes that are no UTF-8 become U+FFFD.
func appendText(dst []byte, s string) []byte {
	for i := range len(s) {
		if c := s[i]; c < ' ' || c == '"' || c == '\\' || c >= 0x7f {
			escaped, err := json.Marshal(s)
			if err != nil { // of a string there is none
				return append(dst, `""`...)
			}
			return append(dst, escaped...)
		}
	}
	dst = append(dst, '"')
	dst = append(dst, s...)
	return append(dst, '"')
}
