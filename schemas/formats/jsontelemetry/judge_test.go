package jsontelemetry

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math"
	"math/big"
	"math/rand/v2"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/apache/arrow/go/v15/arrow/array"
	"github.com/tailrace/tailrace/schemas"
	"pgregory.net/rapid"
)

// verdict is what a message should give by encoding/json, math/big and strconv, which share nothing with the scanner.
type verdict struct {
	codes      []string // the codes that it may be refused with; none: it must be taken
	ts         int64
	asset, tag string
	vtype      schemas.ValueType
	value      float64
	has        bool
	integer    int64
	hasInt     bool
	quality    schemas.Quality
}

// tokens are texts, and numbers that are not finite.
var tokens = regexp.MustCompile(`"(?:[^"\\]|\\.)*"|-?Infinity|NaN`)

// quoteNotFinite puts quotes around bare NaN and infinities.
func quoteNotFinite(message []byte) []byte {
	return tokens.ReplaceAllFunc(message, func(token []byte) []byte {
		if token[0] == '"' {
			return token
		}
		return fmt.Appendf(nil, "%q", token)
	})
}

// judge reads a message under the default config.
func judge(message []byte) verdict {
	var v verdict
	refuse := func(code string) { v.codes = append(v.codes, code) }
	if !json.Valid(message) {
		refuse(schemas.DeadInvalidJSON)
		return v
	}
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(message, &fields); err != nil || fields == nil {
		refuse(schemas.DeadWrongType)
		return v
	}
	text := func(key string, to *string) {
		raw, ok := fields[key]
		switch {
		case !ok:
			refuse(schemas.DeadMissing)
		case raw[0] != '"':
			refuse(schemas.DeadWrongType)
		case !utf8.Valid(raw):
			refuse(schemas.DeadInvalidJSON)
		default:
			if err := json.Unmarshal(raw, to); err != nil {
				refuse("encoding/json: " + err.Error())
			}
			if *to == "" {
				refuse(schemas.DeadMissing)
			}
			if len(*to) > 1024 {
				refuse(schemas.DeadOutOfRange)
			}
		}
	}
	text("asset", &v.asset)
	text("tag", &v.tag)
	v.judgeTime(fields, refuse)
	v.judgeValue(fields, refuse)
	v.judgeQuality(fields["q"], refuse)
	return v
}

func (v *verdict) judgeTime(fields map[string]json.RawMessage, refuse func(string)) {
	raw, ok := fields["ts"]
	if !ok {
		refuse(schemas.DeadMissing)
		return
	}
	if raw[0] == '"' {
		var quoted string
		if json.Unmarshal(raw, &quoted) != nil || !isJSONNumber(quoted) {
			refuse(schemas.DeadWrongType)
			return
		}
		raw = []byte(quoted)
	}
	if !isJSONNumber(string(raw)) {
		refuse(schemas.DeadWrongType)
		return
	}
	f, _ := strconv.ParseFloat(string(raw), 64)
	switch {
	case math.Abs(f) > 1e19:
		refuse(schemas.DeadOutOfRange)
		return
	case math.Abs(f) < 1e-100:
		return
	}
	r, _ := new(big.Rat).SetString(string(raw))
	n := new(big.Int).Quo(r.Num(), r.Denom())
	if !n.IsInt64() {
		refuse(schemas.DeadOutOfRange)
		return
	}
	v.ts = n.Int64()
}

func isJSONNumber(s string) bool {
	return s != "" && (s[0] == '-' || s[0] >= '0' && s[0] <= '9') && strings.TrimSpace(s) == s && json.Valid([]byte(s))
}

func (v *verdict) judgeValue(fields map[string]json.RawMessage, refuse func(string)) {
	raw, ok := fields["value"]
	if !ok {
		refuse(schemas.DeadMissing)
		return
	}
	switch string(raw) {
	case "null", `"NaN"`, `"Infinity"`, `"-Infinity"`:
		return
	case "true":
		v.vtype, v.value, v.has = schemas.TypeBool, 1, true
		return
	case "false":
		v.vtype, v.has = schemas.TypeBool, true
		return
	}
	if !isJSONNumber(string(raw)) {
		refuse(schemas.DeadWrongType)
		return
	}
	f, err := strconv.ParseFloat(string(raw), 64)
	if err != nil {
		return
	}
	v.vtype, v.value, v.has = schemas.TypeFloat, f, true
	if i, err := strconv.ParseInt(string(raw), 10, 64); err == nil {
		v.vtype, v.integer, v.hasInt = schemas.TypeInt, i, true
	} else if u, err := strconv.ParseUint(string(raw), 10, 64); err == nil {
		v.vtype, v.integer, v.hasInt = schemas.TypeUint, int64(u), true
	}
}

func (v *verdict) judgeQuality(raw json.RawMessage, refuse func(string)) {
	v.quality = schemas.Good
	switch string(raw) {
	case "", "null", "true":
		return
	case "false":
		v.quality = schemas.Bad
		return
	}
	n, err := strconv.ParseInt(string(raw), 10, 64)
	switch {
	case err != nil || n < 0 || n > 255:
		refuse(schemas.DeadWrongType)
	case n <= 2:
		v.quality = schemas.Quality(n)
	default:
		v.quality = []schemas.Quality{schemas.Bad, schemas.Uncertain, schemas.Bad, schemas.Good}[n>>6]
	}
}

// compare decodes a message and says where the result is not the judge's.
func compare(t testing.TB, message []byte) error {
	want := judge(message)
	// Bare NaN and infinities are no JSON: the message may be refused for that, or be taken as if they were quoted.
	codes := want.codes
	if quoted := quoteNotFinite(message); !json.Valid(message) && json.Valid(quoted) {
		want = judge(quoted)
		codes = append(want.codes, schemas.DeadInvalidJSON)
	}
	rec, reject := decodeOne(t, DefaultConfig(), string(message))
	if reject != nil {
		if !slices.Contains(codes, reject.Code) {
			return fmt.Errorf("want codes %q, got %v", codes, reject)
		}
		return nil
	}
	if len(want.codes) > 0 {
		return fmt.Errorf("want codes %q, and it was taken", want.codes)
	}
	value, integer := rec.Column(schemas.ColValue).(*array.Float64), rec.Column(schemas.ColValueInt).(*array.Int64)
	got := verdict{
		ts:    int64(rec.Column(schemas.ColTS).(*array.Timestamp).Value(0)),
		asset: textAt(rec, schemas.ColAsset), tag: textAt(rec, schemas.ColTag),
		vtype: schemas.ValueType(rec.Column(schemas.ColVType).(*array.Uint8).Value(0)),
		value: value.Value(0), has: value.IsValid(0), integer: integer.Value(0), hasInt: integer.IsValid(0),
		quality: schemas.Quality(rec.Column(schemas.ColQuality).(*array.Uint8).Value(0)),
	}
	bits := math.Float64bits
	if bits(got.value) != bits(want.value) {
		return fmt.Errorf("value: want %v, got %v", want.value, got.value)
	}
	if a, b := fmt.Sprintf("%#v", want), fmt.Sprintf("%#v", got); a != b {
		return fmt.Errorf("want %s, got %s", a, b)
	}
	return nil
}

var seeds = []string{
	`{"ts":1795521599000000000,"asset":"a","tag":"t","value":1.5,"q":192}`,
	`{"ts":"1795521599000000000","asset":"\u00e4\ud83d\ude00","tag":"t\/","value":-12e-3,"q":true}`,
	`{"ts":17955215.99e11,"asset":"a","tag":"t","value":"NaN","x":{"y":[1,"\u0000",{}]}}`,
	`{"ts":1,"asset":"a","tag":"t","value":NaN}`,
	`{"ts":1,"asset":"\ud800","tag":"t","value":18446744073709551615,"q":null}`,
	`{"value":1,"value":2,"asset":"a","tag":"t","ts":0.1}`,
	`[{"ts":1}]`, `null`, `"x"`, `{"a":1e5,"b":-0,"c":[[[]]]}`, "{\"asset\":\"\xff\"}",
	`{"ts":1,"asset":"a","tag":"t","value":123456789012345678901234567890.5}`,
}

// Scenario: any bytes at all.
// Guarantees: what is taken and refused, the code and every value are those of encoding/json, math/big and strconv.
func FuzzDecode(f *testing.F) {
	for _, s := range seeds {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, message []byte) {
		if err := compare(t, message); err != nil {
			t.Fatalf("%q: %v", message, err)
		}
	})
}

// Scenario: messages of every shape that a gateway's library may write, and the same with a few bytes damaged.
// Guarantees: as FuzzDecode.
func TestDecodeAgreesWithTheJudge(t *testing.T) {
	number := rapid.OneOf(
		rapid.Map(rapid.Float64(), func(v float64) string {
			text, err := json.Marshal(v)
			if err != nil {
				return "1e400"
			}
			return string(text)
		}),
		rapid.Map(rapid.Int64(), func(v int64) string { return strconv.FormatInt(v, 10) }),
		rapid.Map(rapid.Uint64(), func(v uint64) string { return strconv.FormatUint(v, 10) }),
		rapid.StringMatching(`-?(0|[1-9][0-9]{0,24})(\.[0-9]{1,24})?([eE][+-]?[0-9]{1,3})?`),
	)
	text := rapid.Map(rapid.String(), func(s string) string {
		quoted, err := json.Marshal(s)
		if err != nil {
			panic(err)
		}
		return string(quoted)
	})
	any := rapid.OneOf(number, text, rapid.SampledFrom([]string{
		"null", "true", "false", `[1,{"a":"}"}]`, `{"value":[]}`, `"NaN"`, `"\ud800x"`, `"\u12"`, "NaN",
		"-Infinity", "[1 2]", "0", "1", "2", "64", "192", "300",
	}))
	field := rapid.Custom(func(t *rapid.T) string {
		key := rapid.SampledFrom([]string{"ts", "asset", "tag", "value", "q", "seq", "", "va", `t\u0073`}).Draw(t, "key")
		space := rapid.SampledFrom([]string{"", "", "", " ", "\n\t"}).Draw(t, "space")
		return space + `"` + key + `"` + space + ":" + space + any.Draw(t, "value") + space
	})
	rapid.Check(t, func(r *rapid.T) {
		fields := []string{
			`"ts":` + rapid.OneOf(number, any).Draw(r, "ts"), `"asset":` + text.Draw(r, "asset"),
			`"tag":` + text.Draw(r, "tag"), `"value":` + any.Draw(r, "value"),
		}
		fields = append(fields, rapid.SliceOfN(field, 0, 4).Draw(r, "more")...)
		message := []byte("{" + strings.Join(rapid.Permutation(fields).Draw(r, "order"), ",") + "}")
		for range rapid.SampledFrom([]int{0, 0, 0, 1, 3}).Draw(r, "damage") {
			message[rapid.IntRange(0, len(message)-1).Draw(r, "at")] = rapid.Byte().Draw(r, "byte")
		}
		if err := compare(t, message); err != nil {
			r.Fatalf("%q: %v", message, err)
		}
	})
}

// Scenario: 200,000 random numbers, written short, with many digits and with exponents.
// Guarantees: each is read as the nearest float64, bit for bit as strconv reads it.
func TestFloatsAreExact(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	for i := range 200_000 {
		v := math.Float64frombits(random.Uint64())
		if i%2 == 0 { // such as sensors give
			v = math.Round(random.NormFloat64()*1e7) / 1e4
		}
		if math.IsNaN(v) || math.IsInf(v, 0) {
			continue
		}
		var text []byte
		switch i % 5 {
		case 0:
			text = strconv.AppendFloat(nil, v, 'f', 4, 64)
		case 1:
			text = strconv.AppendFloat(nil, v, 'e', 25, 64)
		default:
			text = strconv.AppendFloat(nil, v, 'g', -1, 64)
		}
		var n decimal
		if end := parseDecimal(text, 0, &n); end != len(text) {
			t.Fatalf("%s: stopped at %d", text, end)
		}
		want, err := strconv.ParseFloat(string(text), 64)
		if got := n.float(text); err != nil || math.Float64bits(got) != math.Float64bits(want) {
			t.Fatalf("%s: want %v, got %v", text, want, got)
		}
	}
}

// Scenario: rows written with AppendMessage in every unit, names with anything in them.
// Guarantees: the message is JSON by encoding/json, and decoding it gives the row again.
func TestAppendMessageRoundTrip(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		unit := rapid.SampledFrom([]TSUnit{Nanos, Micros, Millis, Seconds, RFC3339}).Draw(r, "unit")
		ts := rapid.Int64Range(-2208988800e9, 4102444800e9).Draw(r, "ts") // 1900 to 2100
		asset, tag := rapid.StringN(1, 20, 80).Draw(r, "asset"), rapid.StringN(1, 20, 80).Draw(r, "tag")
		value, has := rapid.Float64().Draw(r, "value"), rapid.Bool().Draw(r, "has")
		quality := rapid.SampledFrom([]schemas.Quality{schemas.Bad, schemas.Uncertain, schemas.Good}).Draw(r, "quality")
		message := AppendMessage([]byte("x"), ts, unit, asset, tag, value, has, quality)[1:]
		if !json.Valid(message) || bytes.ContainsAny(message, "\n") {
			r.Fatalf("not JSON on a line: %q", message)
		}
		config := DefaultConfig()
		config.TS = unit
		rec, reject := decodeOne(t, config, string(message))
		if reject != nil {
			r.Fatalf("%s: %v", message, reject)
		}
		column := rec.Column(schemas.ColValue).(*array.Float64)
		got := fmt.Sprintln(int64(rec.Column(schemas.ColTS).(*array.Timestamp).Value(0)),
			textAt(rec, schemas.ColAsset), textAt(rec, schemas.ColTag), column.IsValid(0), math.Float64bits(column.Value(0)),
			rec.Column(schemas.ColQuality).ValueStr(0), rec.Column(schemas.ColVType).ValueStr(0))
		vtype := schemas.TypeFloat
		if !has || math.IsInf(value, 0) || math.IsNaN(value) {
			has, value, vtype = false, 0, schemas.TypeNull
		}
		want := fmt.Sprintln(ts, asset, tag, has, math.Float64bits(value), quality, vtype)
		if got != want {
			r.Fatalf("%s:\nwant %s\ngot  %s", message, want, got)
		}
	})
}
