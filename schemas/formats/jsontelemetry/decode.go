// Package jsontelemetry is the format json: one object {"ts","asset","tag","value","q"} in a message, one row of
// telemetry.v1.
//
// Keys come in any order; unknown ones are skipped, and of a key that comes twice the last counts. value is a number, a
// bool or null; NaN and infinities, bare or quoted, are null with the flag not_finite. q may be absent. ts is a number,
// with or without quotes, of the unit that Config names, or a text of RFC 3339; what is finer than a nanosecond is cut
// off. A time that can't be believed is kept with the flag clock_suspect.
package jsontelemetry

import (
	"errors"
	"fmt"
	"math"
	"time"
	"unicode/utf8"

	"github.com/tailrace/tailrace/schemas"
	"github.com/tailrace/tailrace/schemas/formats"
)

// maxName bounds an asset's or a tag's name in bytes: names become keys of tables, and ISA-95 paths are far shorter.
const maxName = 1024

// Decoder decodes messages of this format. It is for one goroutine.
type Decoder struct {
	config Config
	digits int // config.TS.digits()
	scan   scanner
	row    schemas.Row
}

var _ formats.Decoder = (*Decoder)(nil)

// New returns a decoder for a config without faults.
func New(c Config) (*Decoder, error) {
	var faults []error
	for _, f := range c.Faults() {
		faults = append(faults, fmt.Errorf("%s: %s", f.Path, f.Message))
	}
	return &Decoder{config: c, digits: c.TS.digits()}, errors.Join(faults...)
}

// Decode implements [formats.Decoder].
func (d *Decoder) Decode(m *formats.Message, b *schemas.TelemetryBuilder) error {
	if m.Value == nil {
		return formats.Rejectf(schemas.DeadWrongType, "want a JSON object, got a null value")
	}
	if len(m.Value) > int(d.config.MaxBytes) {
		return formats.Rejectf(schemas.DeadTooLarge, "want at most %d bytes, got %d", d.config.MaxBytes, len(m.Value))
	}
	if err := d.scan.object(m.Value); err != nil {
		return err
	}
	d.row = schemas.Row{TSKind: schemas.TimeFromSource}
	if reject := d.fill(m); reject != nil {
		return reject
	}
	if reject := d.bounded(b); reject != nil {
		return reject
	}
	b.Append(&d.row, m.Offset, m.Time)
	return nil
}

// fill turns the tokens of a message into the row.
func (d *Decoder) fill(m *formats.Message) *formats.Reject {
	s := &d.scan
	var reject *formats.Reject
	if d.row.TS, reject = d.time(&s.ts); reject != nil {
		return reject
	}
	if d.row.TS < int64(d.config.MinTime) || d.row.TS-int64(d.config.MaxSkew) > m.Time {
		d.row.Flags |= schemas.FlagClockSuspect
	}
	if d.row.Asset, reject = name("asset", &s.asset); reject != nil {
		return reject
	}
	if d.row.Tag, reject = name("tag", &s.tag); reject != nil {
		return reject
	}
	if reject := d.value(&s.value); reject != nil {
		return reject
	}
	return d.quality(&s.q)
}

// bounded refuses an asset or a tag that would be one too many.
func (d *Decoder) bounded(b *schemas.TelemetryBuilder) *formats.Reject {
	if b.Assets.Len() >= d.config.MaxAssets {
		if _, known := b.Assets.Find(d.row.Asset); !known {
			return formats.Rejectf(schemas.DeadCardinality, "asset: want at most %d in this partition, got %.100q more",
				d.config.MaxAssets, d.row.Asset)
		}
	}
	if b.Tags.Len() >= d.config.MaxTags {
		if _, known := b.Tags.Find(d.row.Tag); !known {
			return formats.Rejectf(schemas.DeadCardinality, "tag: want at most %d in this partition, got %.100q more",
				d.config.MaxTags, d.row.Tag)
		}
	}
	return nil
}

// name reads a text that names something.
func name(field string, t *token) ([]byte, *formats.Reject) {
	switch {
	case t.kind == absent:
		return nil, formats.Rejectf(schemas.DeadMissing, "%s: want a text, got no such key", field)
	case t.kind != text:
		return nil, formats.Rejectf(schemas.DeadWrongType, "%s: want a text, got %s", field, t)
	case len(t.raw) == 0:
		return nil, formats.Rejectf(schemas.DeadMissing, "%s: want a text, got an empty one", field)
	case len(t.raw) > maxName:
		return nil, formats.Rejectf(schemas.DeadOutOfRange, "%s: want at most %d bytes, got %d", field, maxName, len(t.raw))
	case !utf8.Valid(t.raw):
		return nil, formats.Rejectf(schemas.DeadInvalidJSON, "%s: want UTF-8, got %.100q", field, t.raw)
	}
	return t.raw, nil
}

// value reads the field value.
func (d *Decoder) value(t *token) *formats.Reject {
	r := &d.row
	switch t.kind {
	case absent:
		return formats.Rejectf(schemas.DeadMissing, "value: want a number, a bool or null, got no such key")
	case null:
		r.VType = schemas.TypeNull
	case truth:
		r.VType, r.HasValue, r.Value = schemas.TypeBool, true, 1
	case falsehood:
		r.VType, r.HasValue, r.Value = schemas.TypeBool, true, 0
	case notFinite:
		r.VType, r.Flags = schemas.TypeNull, r.Flags|schemas.FlagNotFinite
	case number:
		d.number(t)
	default:
		if t.kind == text && isNotFinite(t.raw) {
			r.VType, r.Flags = schemas.TypeNull, r.Flags|schemas.FlagNotFinite
			return nil
		}
		return formats.Rejectf(schemas.DeadWrongType, "value: want a number, a bool or null, got %s", t)
	}
	return nil
}

// number reads a JSON number: an integer of 64 bits is kept exactly beside its float64.
func (d *Decoder) number(t *token) {
	r := &d.row
	v := t.decimal.float(t.raw)
	if math.IsInf(v, 0) {
		r.VType, r.Flags = schemas.TypeNull, r.Flags|schemas.FlagNotFinite
		return
	}
	r.VType, r.HasValue, r.Value = schemas.TypeFloat, true, v
	u, whole := t.decimal.magnitude(t.raw)
	switch negative := t.decimal.negative; {
	case !whole || negative && u > 1<<63:
	case negative:
		r.VType, r.HasInt, r.Int = schemas.TypeInt, true, -int64(u)
	case u > math.MaxInt64:
		r.VType, r.HasInt, r.Int = schemas.TypeUint, true, int64(u)
	default:
		r.VType, r.HasInt, r.Int = schemas.TypeInt, true, int64(u)
	}
}

// time reads the field ts in ns UTC.
func (d *Decoder) time(t *token) (int64, *formats.Reject) {
	unit := d.config.TS
	number, ok := &t.decimal, t.kind == number
	switch {
	case t.kind == absent:
		return 0, formats.Rejectf(schemas.DeadMissing, "ts: want a time in %s, got no such key", unit)
	case unit == RFC3339 && t.kind == text:
		return rfc3339(t.raw)
	case t.kind == text && len(t.raw) > 0:
		ok = parseDecimal(t.raw, 0, number) == len(t.raw)
	}
	if !ok || unit == RFC3339 {
		return 0, formats.Rejectf(schemas.DeadWrongType, "ts: want a time in %s, got %s", unit, t)
	}
	ns, ok := number.scaled(d.digits)
	if !ok {
		return 0, formats.Rejectf(schemas.DeadOutOfRange, "ts: want a time in %s within years 1678 to 2262, got %.40s",
			unit, t.raw)
	}
	return ns, nil
}

// The times that fit int64 nanoseconds.
var firstTime, lastTime = time.Unix(0, math.MinInt64), time.Unix(0, math.MaxInt64)

func rfc3339(raw []byte) (int64, *formats.Reject) {
	at, err := time.Parse(time.RFC3339Nano, string(raw))
	if err != nil {
		return 0, formats.Rejectf(schemas.DeadWrongType, "ts: want a time such as 2026-01-31T06:00:00.123Z, got %.100q",
			raw)
	}
	if at.Before(firstTime) || at.After(lastTime) {
		return 0, formats.Rejectf(schemas.DeadOutOfRange, "ts: want a year from 1678 to 2262, got %.100q", raw)
	}
	return at.UnixNano(), nil
}

// quality reads the field q. Absent and null are good.
func (d *Decoder) quality(t *token) *formats.Reject {
	r, kind := &d.row, d.config.Quality
	r.Quality = schemas.Good
	switch {
	case t.kind == absent || t.kind == null:
		return nil
	case (t.kind == truth || t.kind == falsehood) && (kind == QualityAuto || kind == QualityBool):
		if t.kind == falsehood {
			r.Quality, r.Status = schemas.Bad, statusBad
		}
		return nil
	case t.kind == number && kind != QualityBool:
		n, ok := t.decimal.magnitude(t.raw)
		ok = ok && n <= math.MaxUint8 && (n == 0 || !t.decimal.negative)
		if ok && n <= uint64(schemas.Good) && kind != QualityOPCDA {
			r.Quality = schemas.Quality(n)
			r.Status = [...]uint32{statusBad, statusUncertain, 0}[n]
			return nil
		}
		if ok && kind != QualityLevel {
			r.Quality, r.Status = opcDA(uint8(n))
			return nil
		}
	}
	return formats.Rejectf(schemas.DeadWrongType, "q: want a quality of kind %s, got %s", kind, t)
}

// StatusCodes of OPC UA (OPC 10000-6, annex A).
const (
	statusUncertain = 0x40000000
	statusBad       = 0x80000000
)

// opcDA maps an OPC DA quality byte QQSSSSLL to the quality and the StatusCode that OPC 10000-8, A.3.2.3 gives it. The
// limit bits LL do not change the meaning.
func opcDA(q uint8) (schemas.Quality, uint32) {
	switch q &^ 3 {
	case 216:
		return schemas.Good, 0x00960000 // LocalOverride
	case 68:
		return schemas.Uncertain, 0x40900000 // LastUsableValue
	case 80:
		return schemas.Uncertain, 0x40930000 // SensorNotAccurate
	case 84:
		return schemas.Uncertain, 0x40940000 // EngineeringUnitsExceeded
	case 88:
		return schemas.Uncertain, 0x40950000 // SubNormal
	case 4:
		return schemas.Bad, 0x80890000 // ConfigurationError
	case 8:
		return schemas.Bad, 0x808A0000 // NotConnected
	case 12:
		return schemas.Bad, 0x808B0000 // DeviceFailure
	case 16:
		return schemas.Bad, 0x808C0000 // SensorFailure
	case 20, 28:
		return schemas.Bad, 0x808D0000 // OutOfService
	case 24:
		return schemas.Bad, 0x80310000 // NoCommunication
	case 32:
		return schemas.Bad, 0x80320000 // WaitingForInitialData
	}
	switch q >> 6 {
	case 3:
		return schemas.Good, 0
	case 1:
		return schemas.Uncertain, statusUncertain
	}
	return schemas.Bad, statusBad
}
