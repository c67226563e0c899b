package rekeyed

import (
	"errors"
	"math"
	"unicode/utf8"

	"github.com/go-faster/jx"
	"github.com/tailrace/tailrace/schemas"
	"github.com/tailrace/tailrace/schemas/formats"
)

// read reads a message that is valid JSON.
func (d *Decoder) read(value []byte) *formats.Reject {
	r := &d.message
	*r = message{rows: r.rows[:0]}
	d.arena = d.arena[:0]
	d.jx.ResetBytes(value)
	if got := d.jx.Next(); got != jx.Object {
		return formats.Rejectf(schemas.DeadWrongType, "want a JSON object, got %s", got)
	}
	err := d.jx.ObjBytes(func(j *jx.Decoder, key []byte) (err error) {
		switch string(key) {
		case "topic":
			r.has |= hasTopic
			r.topic, err = d.text(j, "topic")
		case "topic_id":
			r.id, err = d.text(j, "topic_id")
		case "partition":
			r.has |= hasPartition
			r.partition, err = number(j, "partition", math.MinInt32, math.MaxInt32, int32(0))
		case "asset":
			r.has |= hasAsset
			r.asset, err = d.text(j, "asset")
		case "rows":
			r.has |= hasRows
			r.rows = r.rows[:0]
			if got := j.Next(); got != jx.Array {
				return formats.Rejectf(schemas.DeadWrongType, "rows: want a list, got %s", got)
			}
			err = j.Arr(func(j *jx.Decoder) error {
				r.rows = append(r.rows, row{})
				return d.row(j, &r.rows[len(r.rows)-1], len(r.rows)-1)
			})
		default:
			err = j.Skip()
		}
		return err
	})
	return asReject(err)
}

// asReject finds the reject in an error of jx, which puts it into others.
func asReject(err error) *formats.Reject {
	var reject *formats.Reject
	switch {
	case err == nil:
		return nil
	case errors.As(err, &reject):
		return reject
	}
	return formats.Rejectf(schemas.DeadInvalidJSON, "want the fields of a message, got %v", err)
}

// row reads one row.
func (d *Decoder) row(j *jx.Decoder, r *row, at int) error {
	if got := j.Next(); got != jx.Object {
		return formats.Rejectf(schemas.DeadWrongType, "rows[%d]: want an object, got %s", at, got)
	}
	fields, err := j.ObjIter()
	for err == nil && fields.Next() {
		switch string(fields.Key()) {
		case "offset":
			r.has |= hasOffset
			r.offset, err = number(j, "offset", math.MinInt64, math.MaxInt64, int64(0))
		case "idx":
			r.idx, err = number(j, "idx", math.MinInt32, math.MaxInt32, int32(0))
		case "ts":
			r.has |= hasTS
			r.TS, err = number(j, "ts", math.MinInt64, math.MaxInt64, int64(0))
		case "ts_kind":
			r.TSKind, err = number(j, "ts_kind", 0, math.MaxUint8, schemas.TimeSource(0))
		case "tag":
			r.has |= hasTag
			r.Tag, err = d.text(j, "tag")
		case "vtype":
			r.has |= hasVType
			r.VType, err = number(j, "vtype", 0, math.MaxUint8, schemas.ValueType(0))
		case "value":
			if r.HasValue = j.Next() == jx.Number; !r.HasValue {
				return formats.Rejectf(schemas.DeadWrongType, "rows[%d].value: want a number, got %s", at, j.Next())
			}
			if r.Value, err = j.Float64(); err != nil || math.IsInf(r.Value, 0) {
				return formats.Rejectf(schemas.DeadOutOfRange, "rows[%d].value: want a number that fits float64", at)
			}
		case "value_int":
			r.HasInt = true
			r.Int, err = number(j, "value_int", math.MinInt64, math.MaxInt64, int64(0))
		case "value_str":
			r.Str, err = d.text(j, "value_str")
		case "quality":
			r.has |= hasQuality
			r.Quality, err = number(j, "quality", 0, math.MaxUint8, schemas.Quality(0))
		case "status":
			r.Status, err = number(j, "status", 0, math.MaxUint32, uint32(0))
		case "flags":
			r.Flags, err = number(j, "flags", 0, math.MaxUint32, schemas.Flag(0))
		case "unit":
			r.Unit, err = d.text(j, "unit")
		case "src":
			r.Src, err = d.text(j, "src")
		case "src_seq":
			if got := j.Next(); got != jx.Number {
				return formats.Rejectf(schemas.DeadWrongType, "rows[%d].src_seq: want a number, got %s", at, got)
			}
			if r.SrcSeq, err = j.UInt64(); err != nil {
				return formats.Rejectf(schemas.DeadOutOfRange, "rows[%d].src_seq: want a whole number of 64 bits", at)
			}
		default:
			err = j.Skip()
		}
	}
	if err == nil {
		err = fields.Err()
	}
	return err
}

// text reads a text. It lies in the arena, in memory that a larger arena leaves as it is.
func (d *Decoder) text(j *jx.Decoder, field string) ([]byte, error) {
	if got := j.Next(); got != jx.String {
		return nil, formats.Rejectf(schemas.DeadWrongType, "%s: want a text, got %s", field, got)
	}
	from := len(d.arena)
	longer, err := j.StrAppend(d.arena)
	if err != nil {
		return nil, err
	}
	d.arena = longer
	text := longer[from:len(longer):len(longer)]
	if !utf8.Valid(text) {
		return nil, formats.Rejectf(schemas.DeadInvalidJSON, "%s: want UTF-8, got %.100q", field, text)
	}
	return text, nil
}

// number reads a whole number of at most 63 bits and a sign.
func number[T ~int64 | ~int32 | ~uint32 | ~uint8](j *jx.Decoder, field string, low, high int64, _ T) (T, error) {
	if got := j.Next(); got != jx.Number {
		return 0, formats.Rejectf(schemas.DeadWrongType, "%s: want a number, got %s", field, got)
	}
	v, err := j.Int64()
	if err != nil || v < low || v > high {
		return 0, formats.Rejectf(schemas.DeadOutOfRange, "%s: want a whole number of %d to %d", field, low, high)
	}
	return T(v), nil
}
