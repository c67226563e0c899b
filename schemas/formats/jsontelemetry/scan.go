package jsontelemetry

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/bits"
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
	kind    kind
	raw     []byte  // as it stands in the message; of a text without quotes and escapes
	decimal decimal // of a number
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
	skipped                  token // the value of a key that does not count

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
	s.src, s.at = src, 0
	for _, t := range []*token{&s.ts, &s.asset, &s.tag, &s.value, &s.q} {
		t.kind = absent
	}
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

// field is where the value of a key goes.
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
	return &s.skipped
}

func (s *scanner) space() {
	if s.at < len(s.src) && s.src[s.at] > ' ' {
		return
	}
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
}{{"true", truth}, {"false", falsehood}, {"null", null},
	{"NaN", notFinite}, {"Infinity", notFinite}, {"-Infinity", notFinite}}

// read reads a value into t.
func (s *scanner) read(t *token) *formats.Reject {
	if s.at >= len(s.src) {
		return s.invalid("a value")
	}
	var reject *formats.Reject
	switch c := s.src[s.at]; {
	case c == '"':
		t.kind = text
		t.raw, reject = s.text()
		return reject
	case c-'0' < 10 || c == '-' && s.at+1 < len(s.src) && s.src[s.at+1] != 'I':
		end := parseDecimal(s.src, s.at, &t.decimal)
		if end < 0 {
			s.at = ^end
			return s.invalid("a digit")
		}
		t.kind, t.raw, s.at = number, s.src[s.at:end], end
		return nil
	case c == '{' || c == '[':
		t.kind = composite
		t.raw, reject = s.composite()
		return reject
	}
	for _, w := range words {
		if end := s.at + len(w.word); end <= len(s.src) && string(s.src[s.at:end]) == w.word {
			// NaN is let through where it says something: as the value.
			if w.kind == notFinite && t != &s.value {
				break
			}
			t.kind, t.raw, s.at = w.kind, s.src[s.at:end], end
			return nil
		}
	}
	return s.invalid("a value")
}

// text reads a text, which begins at s.at.
func (s *scanner) text() ([]byte, *formats.Reject) {
	src, start := s.src, s.at+1
	for i := start; i < len(src); i++ {
		if i+8 <= len(src) {
			// Eight bytes at once: a byte's high bit is set in x-ones&^x if the byte is 0, in x-below&^x if it is under
			// 0x20 (Anderson, "Bit Twiddling Hacks", "Determine if a word has a byte less than n"). Bits above the first
			// such byte may be wrong; it is found again byte by byte.
			const ones, high, below = 0x0101010101010101, 0x8080808080808080, 0x2020202020202020
			v := binary.LittleEndian.Uint64(src[i:])
			quote, slash := v^ones*'"', v^ones*'\\'
			found := ((quote-ones)&^quote | (slash-ones)&^slash | (v-below)&^v) & high
			if found == 0 {
				i += 7
				continue
			}
			i += bits.TrailingZeros64(found) / 8
		}
		switch c := src[i]; {
		case c == '"':
			s.at = i + 1
			return src[start:i], nil
		case c == '\\' || c < ' ':
			return s.escaped()
		}
	}
	s.at = len(src)
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

// isNotFinite tells the texts that stand for NaN and the infinities.
func isNotFinite(raw []byte) bool {
	switch strings.TrimPrefix(string(raw), "-") {
	case "NaN", "Infinity", "Inf":
		return true
	}
	return false
}
