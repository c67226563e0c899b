package jsontelemetry

import (
	"bytes"
	"encoding/json"
	"math"
	"strconv"
	"time"

	"github.com/tailrace/tailrace/schemas"
)

// good is the OPC DA quality byte for good, as gateways send it.
const good = 192

// AppendMessage appends the message of one value to dst. ts is in ns UTC and is written in unit. A value that is not
// there, or not finite, is null.
func AppendMessage(
	dst []byte, ts int64, unit TSUnit, asset, tag string, value float64, has bool, quality schemas.Quality,
) []byte {
	dst = append(dst, `{"ts":`...)
	if unit == RFC3339 {
		dst = append(dst, '"')
		dst = time.Unix(0, ts).UTC().AppendFormat(dst, time.RFC3339Nano)
		dst = append(dst, '"')
	} else {
		dst = appendTime(dst, ts, unit.digits())
	}
	dst = append(dst, `,"asset":`...)
	dst = appendText(dst, asset)
	dst = append(dst, `,"tag":`...)
	dst = appendText(dst, tag)
	dst = append(dst, `,"value":`...)
	if has && value-value == 0 { // neither NaN nor infinite
		at := len(dst)
		dst = strconv.AppendFloat(dst, value, 'g', -1, 64)
		if bytes.IndexByte(dst[at:], '.') < 0 && bytes.IndexByte(dst[at:], 'e') < 0 {
			dst = append(dst, ".0"...) // a float that happens to be whole is no integer
		}
	} else {
		dst = append(dst, "null"...)
	}
	dst = append(dst, `,"q":`...)
	switch quality {
	case schemas.Good:
		dst = strconv.AppendInt(dst, good, 10)
	default:
		dst = strconv.AppendInt(dst, int64(quality), 10)
	}
	return append(dst, '}')
}

// appendTime appends ns in units of 10^digits ns, with a fraction if there is a rest.
func appendTime(dst []byte, ns int64, digits int) []byte {
	if digits == 0 {
		return strconv.AppendInt(dst, ns, 10)
	}
	unit := uint64(math.Pow10(digits))
	magnitude := uint64(ns)
	if ns < 0 {
		dst = append(dst, '-')
		magnitude = -magnitude
	}
	dst = strconv.AppendUint(dst, magnitude/unit, 10)
	rest := magnitude % unit
	if rest == 0 {
		return dst
	}
	dst = append(dst, '.')
	for rest > 0 {
		unit /= 10
		dst = append(dst, byte('0'+rest/unit))
		rest %= unit
	}
	return dst
}

// appendText appends a JSON text. Plant names rarely need an escape.
func appendText(dst []byte, s string) []byte {
	for i := range len(s) {
		if c := s[i]; c < ' ' || c == '"' || c == '\\' || c >= 0x7f {
			escaped, err := json.Marshal(s)
			if err != nil {
				return append(dst, `""`...)
			}
			return append(dst, escaped...)
		}
	}
	dst = append(dst, '"')
	dst = append(dst, s...)
	return append(dst, '"')
}
