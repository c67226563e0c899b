package jsontelemetry

import (
	"bytes"
	"fmt"
	"math"
	"strconv"
	"strings"

	"github.com/go-faster/jx"
	"github.com/tailrace/tailrace/schemas"
	"github.com/tailrace/tailrace/schemas/formats"
)

// kind is what stands behind a key.
type kind uint8

const (
	absent    kind = iota
	text           // raw is the text, unescaped
	number         // raw follows JSON's grammar of numbers
	truth          // true
	falsehood      // false
	null           //
	notFinite      // bare NaN, Infinity or -Infinity: no JSON, and what many libraries write
	composite      // an object or an array; raw is its JSON
)

// token is the value of one of the keys that count.
type token struct {
	kind kind
	raw  []byte // into the message, or into a buffer of jx
}

// String shows a token in an error.
func (t *token) String() string {
	switch t.kind {
	case text:
		return fmt.Sprintf("the text %.100q", t.raw)
	case composite:
		if t.raw[0] == '[' {
			return "an array"
		}
		return "an object"
	case absent:
		return "nothing"
	}
	return string(t.raw[:min(len(t.raw), 40)])
}

// scanner finds the tokens of a message. What plants write nearly always, plain texts and plain numbers, it reads itself
// and in place, because that halves the cost of a row; texts with escapes, objects and arrays it hands to jx.
type scanner struct {
	ts, asset, tag, value, q token

	src []byte
	at  int
	jx  jx.Decoder
}

// invalid is the rejection of bytes that are not JSON.
func (s *scanner) invalid(wanted string) *formats.Reject {
	if s.at >= len(s.src) {
		return formats.Rejectf(schemas.DeadInvalidJSON, "byte %d: want %s, got the end", s.at, wanted)
	}
	return formats.Rejectf(schemas.DeadInvalidJSON, "byte %d: want %s, got %.40q", s.at, wanted, s.src[s.at:])
}

// object scans a message. It returns a *formats.Reject as error.
func (s *scanner) object(src []byte) error {
	*s = scanner{src: src, jx: s.jx}
	s.space()
	if !s.take('{') {
		if s.at < len(src) && jx.Valid(src) {
			return formats.Rejectf(schemas.DeadWrongType, "want a JSON object, got %.40q", src)
		}
		return s.invalid("an object")
	}
	s.space()
	if s.take('}') {
		return s.end()
	}
	for {
		if s.at >= len(src) || src[s.at] != '"' {
			return s.invalid("a key")
		}
		key, reject := s.text()
		if reject != nil {
			return reject
		}
		field := s.field(key)
		s.space()
		if !s.take(':') {
			return s.invalid("a colon")
		}
		s.space()
		if reject := s.read(field); reject != nil {
			return reject
		}
		s.space()
		if s.take('}') {
			return s.end()
		}
		if !s.take(',') {
			return s.invalid("a comma or the object's end")
		}
		s.space()
	}
}

// end checks that nothing follows the object.
func (s *scanner) end() error {
	if s.space(); s.at < len(s.src) {
		return s.invalid("the end")
	}
	return nil
}

// field is where the value of a key goes; nil for a key that does not count.
func (s *scanner) field(key []byte) *token {
	switch string(key) {
	case "ts":
		return &s.ts
	case "asset":
		return &s.asset
	case "tag":
		return &s.tag
	case "value":
		return &s.value
	case "q":
		return &s.q
	}
	return nil
}

func (s *scanner) space() {
	for s.at < len(s.src) {
		switch s.src[s.at] {
		case ' ', '\t', '\n', '\r':
			s.at++
		default:
			return
		}
	}
}

func (s *scanner) take(c byte) bool {
	if s.at < len(s.src) && s.src[s.at] == c {
		s.at++
		return true
	}
	return false
}

// words are the values that are no text, number, object or array.
var words = []struct {
	word string
	kind kind
}{{"true", truth}, {"false", falsehood}, {"null", null}, {"NaN", notFinite}, {"Infinity", notFinite}, {"-Infinity", notFinite}}

// read reads a value into t, or over it if t is nil.
func (s *scanner) read(t *token) *formats.Reject {
	var skipped token
	if t == nil {
		t = &skipped
	}
	if s.at >= len(s.src) {
		return s.invalid("a value")
	}
	switch c := s.src[s.at]; {
	case c == '"':
		raw, reject := s.text()
		*t = token{text, raw}
		return reject
	case c == '{' || c == '[':
		raw, reject := s.composite()
		*t = token{composite, raw}
		return reject
	case c >= '0' && c <= '9' || c == '-' && s.at+1 < len(s.src) && s.src[s.at+1] != 'I':
		end := s.at
		for end < len(s.src) && numeric(s.src[end]) {
			end++
		}
		raw := s.src[s.at:end]
		if !isNumber(raw) {
			return s.invalid("a number")
		}
		*t, s.at = token{number, raw}, end
		return nil
	}
	for _, w := range words {
		if end := s.at + len(w.word); end <= len(s.src) && string(s.src[s.at:end]) == w.word {
			// NaN is let through where it says something: as the value.
			if w.kind == notFinite && t != &s.value {
				break
			}
			*t, s.at = token{w.kind, s.src[s.at:end]}, end
			return nil
		}
	}
	return s.invalid("a value")
}

// text reads a text, which begins at s.at.
func (s *scanner) text() ([]byte, *formats.Reject) {
	for i := s.at + 1; i < len(s.src); i++ {
		switch c := s.src[i]; {
		case c == '"':
			raw := s.src[s.at+1 : i]
			s.at = i + 1
			return raw, nil
		case c == '\\' || c < ' ':
			return s.escaped()
		}
	}
	s.at = len(s.src)
	return nil, s.invalid("the end of a text")
}

// escaped reads a text with escapes, into memory of its own: a message may have several.
func (s *scanner) escaped() ([]byte, *formats.Reject) {
	s.jx.ResetBytes(s.src[s.at:])
	raw, err := s.jx.Raw()
	if err != nil {
		return nil, s.invalid("a text")
	}
	length := len(raw)
	s.jx.ResetBytes(raw)
	plain, err := s.jx.StrBytes()
	if err != nil {
		return nil, s.invalid("a text")
	}
	s.at += length
	return bytes.Clone(plain), nil
}

// composite reads over an object or an array.
func (s *scanner) composite() ([]byte, *formats.Reject) {
	s.jx.ResetBytes(s.src[s.at:])
	raw, err := s.jx.Raw()
	if err != nil {
		return nil, s.invalid("a whole object or array")
	}
	s.at += len(raw)
	return raw, nil
}

func numeric(c byte) bool {
	return c >= '0' && c <= '9' || c == '.' || c == '-' || c == '+' || c == 'e' || c == 'E'
}

// isNumber checks JSON's grammar of numbers (RFC 8259, section 6).
func isNumber(b []byte) bool {
	i := 0
	digits := func() bool {
		from := i
		for i < len(b) && b[i] >= '0' && b[i] <= '9' {
			i++
		}
		return i > from
	}
	if i < len(b) && b[i] == '-' {
		i++
	}
	leading := i
	if !digits() || b[leading] == '0' && i > leading+1 {
		return false
	}
	if i < len(b) && b[i] == '.' {
		if i++; !digits() {
			return false
		}
	}
	if i < len(b) && (b[i] == 'e' || b[i] == 'E') {
		if i++; i < len(b) && (b[i] == '+' || b[i] == '-') {
			i++
		}
		if !digits() {
			return false
		}
	}
	return i == len(b)
}

// isNotFinite tells the texts that stand for NaN and the infinities.
func isNotFinite(raw []byte) bool {
	switch strings.TrimPrefix(string(raw), "-") {
	case "NaN", "Infinity", "Inf":
		return true
	}
	return false
}

// powers are the powers of ten that float64 holds exactly.
var powers = [...]float64{1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18, 1e19, 1e20, 1e21, 1e22}

// shortFloat reads a number without exponent and with a mantissa below 2^53. Its quotient by an exact power of ten is
// then rounded once, hence right (Clinger 1990, "How to read floating point numbers accurately").
func shortFloat(raw []byte) (v float64, ok bool) {
	var mantissa uint64
	digits, fraction, negative, point := 0, 0, false, false
	for i, c := range raw {
		switch {
		case c >= '0' && c <= '9':
			if digits++; digits > 18 {
				return 0, false
			}
			mantissa = mantissa*10 + uint64(c-'0')
			if point {
				fraction++
			}
		case c == '.':
			point = true
		case c == '-' && i == 0:
			negative = true
		default:
			return 0, false
		}
	}
	if mantissa >= 1<<53 {
		return 0, false
	}
	v = float64(mantissa) / powers[fraction]
	if negative {
		v = -v
	}
	return v, true
}

// decimal reads a number of 10^digits nanoseconds as nanoseconds, exactly; what is finer is cut off. It is false for what
// does not fit.
func decimal(raw []byte, digits int) (int64, bool) {
	if bytes.ContainsAny(raw, "eE") {
		v, err := strconv.ParseFloat(string(raw), 64)
		if v *= powers[digits]; err != nil || math.Abs(v) >= math.MaxInt64 {
			return 0, false
		}
		return int64(v), true
	}
	whole, fraction, _ := bytes.Cut(raw, []byte{'.'})
	negative := raw[0] == '-'
	n, ok := int64(0), true
	push := func(c byte) {
		d := int64(c - '0')
		if n < (math.MinInt64+d)/10 {
			ok = false
			return
		}
		n = n*10 - d // negative, where there is room for one more
	}
	if negative {
		whole = whole[1:]
	}
	for _, c := range whole {
		push(c)
	}
	for i := range digits {
		if i < len(fraction) {
			push(fraction[i])
		} else {
			push('0')
		}
	}
	if negative {
		return n, ok
	}
	return -n, ok && n != math.MinInt64
}
