package chwire

import (
	"fmt"
	"strconv"
	"strings"
)

// shape is how the values of a type lie in a Native column, whatever they mean.
type shape struct {
	kind  kind
	width int64    // bytes of a value, for fixed
	parts []*shape // what is inside, for the others
}

type kind uint8

const (
	fixed          kind = iota // n values of one width
	text                       // n texts, each after its length
	nullable                   // n flags of one byte, then n values
	array                      // n ends (UInt64), then as many values as the last end says
	tuple                      // each part, n values of it
	lowCardinality             // keys and indices into them; parts[0] is the shape of a key
)

// UnknownTypeError names a type whose extent in a block is not known here: Variant, Dynamic, JSON and the states of
// aggregate functions, which only the engine can walk.
type UnknownTypeError struct{ Type string }

func (e *UnknownTypeError) Error() string {
	return fmt.Sprintf("type %s is not carried by the native protocol here; the HTTP interface carries every type", e.Type)
}

// A type is bounded, because it comes from the network and is parsed by recursion. Enums with thousands of names are real.
const (
	maxTypeBytes = 1 << 20
	maxTypeDepth = 32
)

// widths of the types with values of one width.
var widths = map[string]int64{
	"UInt8": 1, "UInt16": 2, "UInt32": 4, "UInt64": 8, "UInt128": 16, "UInt256": 32,
	"Int8": 1, "Int16": 2, "Int32": 4, "Int64": 8, "Int128": 16, "Int256": 32,
	"Float32": 4, "Float64": 8, "BFloat16": 2, "Bool": 1, "Nothing": 1,
	"Date": 2, "Date32": 4, "DateTime": 4, "DateTime32": 4, "DateTime64": 8, "Time": 4, "Time64": 8,
	"Enum8": 1, "Enum16": 2, "UUID": 16, "IPv4": 4, "IPv6": 16,
	"Decimal32": 4, "Decimal64": 8, "Decimal128": 16, "Decimal256": 32,
	"IntervalNanosecond": 8, "IntervalMicrosecond": 8, "IntervalMillisecond": 8, "IntervalSecond": 8,
	"IntervalMinute": 8, "IntervalHour": 8, "IntervalDay": 8, "IntervalWeek": 8, "IntervalMonth": 8,
	"IntervalQuarter": 8, "IntervalYear": 8,
}

// aliases are the geometric types, which are names for others.
var aliases = map[string]string{
	"Point":           "Tuple(Float64, Float64)",
	"Ring":            "Array(Point)",
	"LineString":      "Array(Point)",
	"Polygon":         "Array(Ring)",
	"MultiLineString": "Array(LineString)",
	"MultiPolygon":    "Array(Polygon)",
}

// Known is nil if a block with a column of this type can be copied.
func Known(typ string) error {
	_, err := parseType(typ, 0)
	return err
}

func parseType(typ string, depth int) (*shape, error) {
	if len(typ) > maxTypeBytes {
		return nil, &LimitError{What: "length of a type", Limit: maxTypeBytes}
	}
	if depth > maxTypeDepth {
		return nil, &LimitError{What: "depth of a type", Limit: maxTypeDepth}
	}
	typ = strings.TrimSpace(typ)
	name, rest, compound := strings.Cut(typ, "(")
	if w, ok := widths[name]; ok {
		return &shape{kind: fixed, width: w}, nil // arguments are time zones, precisions and names
	}
	if alias, ok := aliases[typ]; ok {
		return parseType(alias, depth+1)
	}
	if typ == "String" {
		return &shape{kind: text}, nil
	}
	if !compound || !strings.HasSuffix(rest, ")") {
		return nil, &UnknownTypeError{Type: typ}
	}
	args, err := splitArgs(rest[:len(rest)-1])
	if err != nil {
		return nil, fmt.Errorf("type %s: %w", typ, err)
	}
	switch name {
	case "FixedString":
		n, err := strconv.ParseInt(args[0], 10, 32)
		if err != nil || n < 1 || len(args) != 1 {
			return nil, fmt.Errorf("type %s: want a length of at least 1", typ)
		}
		return &shape{kind: fixed, width: n}, nil
	case "Decimal":
		precision, err := strconv.Atoi(args[0])
		if err != nil || precision < 1 || precision > 76 {
			return nil, fmt.Errorf("type %s: want a precision of 1 to 76", typ)
		}
		return &shape{kind: fixed, width: decimalWidth(precision)}, nil
	case "SimpleAggregateFunction": // (function, type): stored as the type
		if len(args) != 2 {
			return nil, &UnknownTypeError{Type: typ}
		}
		return parseType(args[1], depth+1)
	case "LowCardinality":
		inner := args[0]
		// A null is key 0 of the dictionary: the keys themselves have no flags.
		if v, ok := strings.CutPrefix(inner, "Nullable("); ok {
			inner = strings.TrimSuffix(v, ")")
		}
		return wrap(lowCardinality, []string{inner}, 1, typ, depth)
	case "Nullable":
		return wrap(nullable, args, 1, typ, depth)
	case "Array":
		return wrap(array, args, 1, typ, depth)
	case "Map":
		pair, err := wrap(tuple, args, 2, typ, depth)
		if err != nil {
			return nil, err
		}
		return &shape{kind: array, parts: []*shape{pair}}, nil
	case "Tuple", "Nested":
		for i, arg := range args {
			args[i] = withoutName(arg)
		}
		fields, err := wrap(tuple, args, len(args), typ, depth)
		if err != nil || name == "Tuple" {
			return fields, err
		}
		return &shape{kind: array, parts: []*shape{fields}}, nil
	}
	return nil, &UnknownTypeError{Type: typ}
}

func wrap(k kind, args []string, want int, typ string, depth int) (*shape, error) {
	if len(args) != want {
		return nil, fmt.Errorf("type %s: want %d inner types, got %d", typ, want, len(args))
	}
	s := &shape{kind: k, parts: make([]*shape, want)}
	for i, arg := range args {
		part, err := parseType(arg, depth+1)
		if err != nil {
			return nil, err
		}
		s.parts[i] = part
	}
	return s, nil
}

func decimalWidth(precision int) int64 {
	switch {
	case precision <= 9:
		return 4
	case precision <= 18:
		return 8
	case precision <= 38:
		return 16
	}
	return 32
}

// splitArgs cuts at the commas that are inside no parentheses and no quotes. There is always at least one argument.
func splitArgs(s string) ([]string, error) {
	var args []string
	depth, start := 0, 0
	for i := 0; i < len(s); i++ {
		switch s[i] {
		case '(':
			depth++
		case ')':
			if depth--; depth < 0 {
				return nil, fmt.Errorf("a closing parenthesis too many at %d", i)
			}
		case '\'', '`', '"':
			end := quoteEnd(s, i)
			if end < 0 {
				return nil, fmt.Errorf("a quote without its end at %d", i)
			}
			i = end
		case ',':
			if depth == 0 {
				args = append(args, strings.TrimSpace(s[start:i]))
				start = i + 1
			}
		}
	}
	if depth != 0 {
		return nil, fmt.Errorf("%d parentheses without their end", depth)
	}
	return append(args, strings.TrimSpace(s[start:])), nil
}

// quoteEnd is the place of the quote that ends the one at i; a backslash keeps the next byte from being one.
func quoteEnd(s string, i int) int {
	for j := i + 1; j < len(s); j++ {
		switch s[j] {
		case '\\':
			j++
		case s[i]:
			return j
		}
	}
	return -1
}

// withoutName is the type of a tuple's field, which may have a name before it: "a UInt8", "`my field` String".
func withoutName(field string) string {
	for i := 0; i < len(field); i++ {
		switch field[i] {
		case '`', '"':
			end := quoteEnd(field, i)
			if end < 0 {
				return field
			}
			i = end
		case '(':
			return field
		case ' ':
			return strings.TrimSpace(field[i+1:])
		}
	}
	return field
}
