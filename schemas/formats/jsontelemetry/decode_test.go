package jsontelemetry

import (
	"errors"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/apache/arrow/go/v15/arrow"
	"github.com/apache/arrow/go/v15/arrow/array"
	"github.com/apache/arrow/go/v15/arrow/memory"
	"github.com/tailrace/tailrace/schemas"
	"github.com/tailrace/tailrace/schemas/formats"
)

// now is the time of every message in these tests, 2026-11-24T12:00:00Z.
const now = 1795521600_000000000

// decodeOne decodes one message and returns its row, or the code and reason of its rejection.
func decodeOne(t testing.TB, c Config, message string) (arrow.Record, *formats.Reject) {
	t.Helper()
	mem := memory.NewCheckedAllocator(memory.NewGoAllocator())
	b := schemas.NewTelemetryBuilder(mem, "plant", 3)
	t.Cleanup(func() { mem.AssertSize(t, 0) })
	t.Cleanup(b.Release)
	d, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	err = d.Decode(&formats.Message{Offset: 42, Time: now, Value: []byte(message)}, b)
	var reject *formats.Reject
	if err != nil && !errors.As(err, &reject) {
		t.Fatalf("%s: want a *Reject, got %T %v", message, err, err)
	}
	if reject != nil {
		if b.Len() != 0 || b.Assets.Len() != 0 || b.Tags.Len() != 0 {
			t.Fatalf("%s: refused, and yet %d rows, %d assets, %d tags", message, b.Len(), b.Assets.Len(), b.Tags.Len())
		}
		return nil, reject
	}
	rec := b.NewRecord()
	t.Cleanup(rec.Release)
	if rec.NumRows() != 1 {
		t.Fatalf("%s: want 1 row, got %d", message, rec.NumRows())
	}
	return rec, nil
}

func textAt(rec arrow.Record, col int) string {
	d := rec.Column(col).(*array.Dictionary)
	return d.Dictionary().(*array.String).Value(d.GetValueIndex(0))
}

// Scenario: a message as a gateway sends it.
// Guarantees: every column of telemetry.v1 has the value that the message, its place and its time say.
func TestDecodeColumns(t *testing.T) {
	rec, reject := decodeOne(t, DefaultConfig(),
		`{"ts":1795521599123456789,"asset":"acme.koeln.press1","tag":"oil.temp","value":46.25,"q":192}`)
	if reject != nil {
		t.Fatal(reject)
	}
	if got := rec.Column(schemas.ColTS).(*array.Timestamp).Value(0); got != 1795521599123456789 {
		t.Errorf("ts: got %d", got)
	}
	if got := rec.Column(schemas.ColTSIngest).(*array.Timestamp).Value(0); got != now {
		t.Errorf("ts_ingest: got %d", got)
	}
	for col, want := range map[int]string{
		schemas.ColAsset: "acme.koeln.press1", schemas.ColTag: "oil.temp", schemas.ColSrc: "", schemas.ColKTopic: "plant",
	} {
		if got := textAt(rec, col); got != want {
			t.Errorf("column %d: want %q, got %q", col, want, got)
		}
	}
	for col, want := range map[int]string{
		schemas.ColTSKind: "0", schemas.ColVType: "4", schemas.ColValue: "46.25", schemas.ColValueInt: "(null)",
		schemas.ColValueStr: "(null)", schemas.ColQuality: "2", schemas.ColStatus: "0", schemas.ColFlags: "0",
		schemas.ColUnit: "(null)", schemas.ColSrcSeq: "0", schemas.ColKPart: "3", schemas.ColKOffset: "42", schemas.ColKIdx: "0",
	} {
		if got := rec.Column(col).ValueStr(0); got != want {
			t.Errorf("column %d: want %s, got %s", col, want, got)
		}
	}
}

// Scenario: the forms that values come in: numbers of every kind, bools, null, not finite ones.
// Guarantees: type, number, exact integer and flag of the row are those that the package comment promises.
func TestDecodeValues(t *testing.T) {
	const null = "(null)"
	for _, c := range []struct {
		value, vtype, number, integer, flags string
	}{
		{"1.5", "4", "1.5", null, "0"},
		{"-0.1", "4", "-0.1", null, "0"},
		{"25", "2", "25", "25", "0"},
		{"-3", "2", "-3", "-3", "0"},
		{"0", "2", "0", "0", "0"},
		{"-0", "2", "-0", "0", "0"},
		{"25.0", "4", "25", null, "0"},
		{"2e1", "4", "20", null, "0"},
		{"1E-2", "4", "0.01", null, "0"},
		{"9007199254740993", "2", "9.007199254740992e+15", "9007199254740993", "0"},
		{"9223372036854775807", "2", "9.223372036854776e+18", "9223372036854775807", "0"},
		{"-9223372036854775808", "2", "-9.223372036854776e+18", "-9223372036854775808", "0"},
		{"9223372036854775808", "3", "9.223372036854776e+18", "-9223372036854775808", "0"},
		{"18446744073709551615", "3", "1.8446744073709552e+19", "-1", "0"},
		{"18446744073709551616", "4", "1.8446744073709552e+19", null, "0"},
		{"-9223372036854775809", "4", "-9.223372036854776e+18", null, "0"},
		{"0.1000000000000000055511151231257827", "4", "0.1", null, "0"},
		{"5e-324", "4", "5e-324", null, "0"},
		{"1e-999", "4", "0", null, "0"},
		{"1.7976931348623157e308", "4", "1.7976931348623157e+308", null, "0"},
		{"1e999", "0", null, null, "8192"},
		{"-1e999", "0", null, null, "8192"},
		{"NaN", "0", null, null, "8192"},
		{"Infinity", "0", null, null, "8192"},
		{"-Infinity", "0", null, null, "8192"},
		{`"NaN"`, "0", null, null, "8192"},
		{`"Infinity"`, "0", null, null, "8192"},
		{`"-Infinity"`, "0", null, null, "8192"},
		{"true", "1", "1", null, "0"},
		{"false", "1", "0", null, "0"},
		{"null", "0", null, null, "0"},
	} {
		rec, reject := decodeOne(t, DefaultConfig(), `{"ts":1795521599000000000,"asset":"a","tag":"t","value":`+c.value+`}`)
		if reject != nil {
			t.Errorf("%s: %v", c.value, reject)
			continue
		}
		got := []string{
			rec.Column(schemas.ColVType).ValueStr(0), rec.Column(schemas.ColValue).ValueStr(0),
			rec.Column(schemas.ColValueInt).ValueStr(0), rec.Column(schemas.ColFlags).ValueStr(0),
		}
		if want := []string{c.vtype, c.number, c.integer, c.flags}; strings.Join(got, " ") != strings.Join(want, " ") {
			t.Errorf("%s: want vtype, value, value_int, flags %v, got %v", c.value, want, got)
		}
	}
}

// Scenario: times in every unit: integers, fractions, exponents, quoted, RFC 3339 with offsets; too early, too far ahead.
// Guarantees: the time is exact to the nanosecond; what can't be believed is kept with clock_suspect, and nothing else is.
func TestDecodeTimes(t *testing.T) {
	const suspect = schemas.FlagClockSuspect
	for _, c := range []struct {
		unit  TSUnit
		ts    string
		want  int64
		flags schemas.Flag
	}{
		{Nanos, "1795521599000000001", 1795521599000000001, 0},
		{Nanos, "1795521599000000001.9", 1795521599000000001, 0},
		{Nanos, `"1795521599000000001"`, 1795521599000000001, 0},
		{Nanos, "1795521599.000000001e9", 1795521599000000001, 0},
		{Micros, "1795521599000001", 1795521599000001000, 0},
		{Micros, "1795521599000001.5", 1795521599000001500, 0},
		{Millis, "1795521599001", 1795521599001000000, 0},
		{Millis, `"1795521599001"`, 1795521599001000000, 0},
		{Millis, "1.795521599001e12", 1795521599001000000, 0},
		{Seconds, "1795521599", 1795521599000000000, 0},
		{Seconds, "1795521599.123456789", 1795521599123456789, 0},
		{Seconds, "1795521599.1234567899", 1795521599123456789, 0},
		{Seconds, "0", 0, suspect},
		{Seconds, "-1.5", -1500000000, suspect},
		{Seconds, "946684799", 946684799000000000, suspect}, // a second before 2000
		{Seconds, "946684800", 946684800000000000, 0},
		{Seconds, "1795522200", now + 600e9, 0}, // ten minutes ahead
		{Seconds, "1795522200.000000001", now + 600e9 + 1, suspect},
		{Nanos, "-9223372036854775808", math.MinInt64, suspect},
		{Nanos, "9223372036854775807", math.MaxInt64, suspect},
		{RFC3339, `"2026-11-24T11:59:59Z"`, 1795521599000000000, 0},
		{RFC3339, `"2026-11-24T12:59:59.5+01:00"`, 1795521599500000000, 0},
		{RFC3339, `"2026-11-24T06:29:59.123456789-05:30"`, 1795521599123456789, 0},
		{RFC3339, `"2026-11-24T11:59:59.1234567899Z"`, 1795521599123456789, 0},
		{RFC3339, `"1970-01-01T00:00:00Z"`, 0, suspect},
		{RFC3339, `"\u0032026-11-24T11:59:59Z"`, 1795521599000000000, 0},
	} {
		config := DefaultConfig()
		config.TS = c.unit
		rec, reject := decodeOne(t, config, `{"ts":`+c.ts+`,"asset":"a","tag":"t","value":1}`)
		if reject != nil {
			t.Errorf("%s %s: %v", c.unit, c.ts, reject)
			continue
		}
		if got := int64(rec.Column(schemas.ColTS).(*array.Timestamp).Value(0)); got != c.want {
			t.Errorf("%s %s: want %d, got %d", c.unit, c.ts, c.want, got)
		}
		if got := schemas.Flag(rec.Column(schemas.ColFlags).(*array.Uint32).Value(0)); got != c.flags {
			t.Errorf("%s %s: want flags %d, got %d", c.unit, c.ts, c.flags, got)
		}
	}
}

// Scenario: every kind of quality, with the bytes of the official OPC DA to UA map (OPC 10000-8, A.3.2.3).
// Guarantees: quality and StatusCode are the map's; the limit bits of a byte change neither; other kinds are refused.
func TestDecodeQuality(t *testing.T) {
	for _, c := range []struct {
		kind    QualityKind
		q       string
		quality schemas.Quality
		status  uint32
	}{
		{QualityAuto, "null", 2, 0}, {QualityAuto, "true", 2, 0}, {QualityAuto, "false", 0, 0x80000000},
		{QualityAuto, "0", 0, 0x80000000}, {QualityAuto, "1", 1, 0x40000000}, {QualityAuto, "2", 2, 0},
		{QualityAuto, "192", 2, 0}, {QualityAuto, "216", 2, 0x00960000}, {QualityAuto, "64", 1, 0x40000000},
		{QualityAuto, "68", 1, 0x40900000}, {QualityAuto, "80", 1, 0x40930000}, {QualityAuto, "84", 1, 0x40940000},
		{QualityAuto, "88", 1, 0x40950000}, {QualityAuto, "4", 0, 0x80890000}, {QualityAuto, "8", 0, 0x808A0000},
		{QualityAuto, "12", 0, 0x808B0000}, {QualityAuto, "16", 0, 0x808C0000}, {QualityAuto, "20", 0, 0x808D0000},
		{QualityAuto, "24", 0, 0x80310000}, {QualityAuto, "28", 0, 0x808D0000}, {QualityAuto, "32", 0, 0x80320000},
		{QualityAuto, "128", 0, 0x80000000}, {QualityAuto, "255", 2, 0}, {QualityAuto, "3", 0, 0x80000000},
		{QualityOPCDA, "0", 0, 0x80000000}, {QualityOPCDA, "1", 0, 0x80000000}, {QualityOPCDA, "2", 0, 0x80000000},
		{QualityOPCDA, "193", 2, 0}, {QualityOPCDA, "194", 2, 0},
		{QualityLevel, "0", 0, 0x80000000}, {QualityLevel, "1", 1, 0x40000000}, {QualityLevel, "2", 2, 0},
		{QualityBool, "true", 2, 0}, {QualityBool, "false", 0, 0x80000000}, {QualityBool, "null", 2, 0},
	} {
		config := DefaultConfig()
		config.Quality = c.kind
		rec, reject := decodeOne(t, config, `{"ts":1795521599000000000,"asset":"a","tag":"t","value":1,"q":`+c.q+`}`)
		if reject != nil {
			t.Errorf("%s %s: %v", c.kind, c.q, reject)
			continue
		}
		quality := schemas.Quality(rec.Column(schemas.ColQuality).(*array.Uint8).Value(0))
		if status := rec.Column(schemas.ColStatus).(*array.Uint32).Value(0); quality != c.quality || status != c.status {
			t.Errorf("%s %s: want %d %#08x, got %d %#08x", c.kind, c.q, c.quality, c.status, quality, status)
		}
	}
	for _, c := range []struct {
		kind QualityKind
		q    string
	}{
		{QualityAuto, "256"}, {QualityAuto, "-1"}, {QualityAuto, `"good"`}, {QualityAuto, "[]"}, {QualityAuto, "1.5"},
		{QualityLevel, "3"}, {QualityLevel, "true"}, {QualityOPCDA, "true"}, {QualityBool, "1"},
	} {
		config := DefaultConfig()
		config.Quality = c.kind
		_, reject := decodeOne(t, config, `{"ts":1795521599000000000,"asset":"a","tag":"t","value":1,"q":`+c.q+`}`)
		if reject == nil || reject.Code != schemas.DeadWrongType || !strings.Contains(reject.Reason, "q: ") {
			t.Errorf("%s %s: want wrong_type that names q, got %v", c.kind, c.q, reject)
		}
	}
}

// Scenario: keys in any order, unknown keys with any value, escapes, a key that comes twice, space everywhere.
// Guarantees: the row is that of the plain message.
func TestDecodeShapes(t *testing.T) {
	for _, message := range []string{
		`{"ts":1795521599000000000,"asset":"a.b","tag":"t","value":1.5,"q":2}`,
		`{"q":2,"value":1.5,"tag":"t","asset":"a.b","ts":1795521599000000000}`,
		" \t\r\n{ \"ts\" : 1795521599000000000 , \"asset\" : \"a.b\" , \"tag\" : \"t\" , \"value\" : 1.5 } \n",
		`{"x":{"ts":7,"y":[1,{"z":"}"},"\"",null]},"ts":1795521599000000000,"asset":"a.b","tag":"t","value":1.5}`,
		`{"x":"\\","ts":1795521599000000000,"asset":"a.b","tag":"t","value":1.5,"seq":-0.5e+7,"ok":true,"n":null}`,
		`{"\u0074s":1795521599000000000,"ass\u0065t":"\u0061\u002eb","tag":"\u0074","value":1.5}`,
		`{"ts":"x","ts":1795521599000000000,"asset":1,"asset":"a.b","tag":"t","value":"no","value":1.5}`,
		`{"":0,"ts":1795521599000000000,"Ts":3,"asset":"a.b","tag":"t","value":1.5,"values":2}`,
	} {
		rec, reject := decodeOne(t, DefaultConfig(), message)
		if reject != nil {
			t.Errorf("%s: %v", message, reject)
			continue
		}
		if ts, v := rec.Column(schemas.ColTS).(*array.Timestamp).Value(0), rec.Column(schemas.ColValue).ValueStr(0); ts != 1795521599000000000 ||
			textAt(rec, schemas.ColAsset) != "a.b" || textAt(rec, schemas.ColTag) != "t" || v != "1.5" {
			t.Errorf("%s: got %d %q %q %s", message, ts, textAt(rec, schemas.ColAsset), textAt(rec, schemas.ColTag), v)
		}
	}
}

// Scenario: messages that no row can be made of.
// Guarantees: each is refused with its code and a sentence that names the field and shows what came; nothing is kept.
func TestDecodeRejects(t *testing.T) {
	const head = `{"ts":1795521599000000000,"asset":"a","tag":"t","value":`
	long := strings.Repeat("x", 1025)
	for _, c := range []struct{ message, code, reason string }{
		{``, schemas.DeadInvalidJSON, "byte 0"},
		{`   `, schemas.DeadInvalidJSON, "byte 3"},
		{`{`, schemas.DeadInvalidJSON, "want a key"},
		{head, schemas.DeadInvalidJSON, "want a value, got the end"},
		{head + `1`, schemas.DeadInvalidJSON, "got the end"},
		{head + `1}}`, schemas.DeadInvalidJSON, `got "}"`},
		{head + `1} {}`, schemas.DeadInvalidJSON, "want the end"},
		{head + `1,}`, schemas.DeadInvalidJSON, "want a key"},
		{head + `01}`, schemas.DeadInvalidJSON, `want a comma or the object's end, got "1}"`},
		{head + `1.}`, schemas.DeadInvalidJSON, "want a digit"},
		{head + `.5}`, schemas.DeadInvalidJSON, "want a value"},
		{head + `+1}`, schemas.DeadInvalidJSON, "want a value"},
		{head + `-}`, schemas.DeadInvalidJSON, "want a digit"},
		{head + `1e}`, schemas.DeadInvalidJSON, "want a digit"},
		{head + `0x10}`, schemas.DeadInvalidJSON, "want a comma"},
		{head + `nan}`, schemas.DeadInvalidJSON, "want a value"},
		{head + `1,"x":NaN}`, schemas.DeadInvalidJSON, "want a value"},
		{head + `1,"x":[1,}`, schemas.DeadInvalidJSON, "array"},
		{head + "1,\"x\":\"\x01\"}", schemas.DeadInvalidJSON, "want a text"},
		{head + `1,"x":"\q"}`, schemas.DeadInvalidJSON, "want a text"},
		{"\xef\xbb\xbf" + head + `1}`, schemas.DeadInvalidJSON, "byte 0"},
		{`[` + head + `1}]`, schemas.DeadWrongType, "want a JSON object"},
		{`12`, schemas.DeadWrongType, `got "12"`},
		{`{}`, schemas.DeadMissing, "ts: "},
		{`{"asset":"a","tag":"t","value":1}`, schemas.DeadMissing, "ts: "},
		{`{"ts":1,"tag":"t","value":1}`, schemas.DeadMissing, "asset: "},
		{`{"ts":1,"asset":"a","value":1}`, schemas.DeadMissing, "tag: "},
		{`{"ts":1,"asset":"a","tag":"t"}`, schemas.DeadMissing, "value: "},
		{`{"ts":1,"asset":"","tag":"t","value":1}`, schemas.DeadMissing, "asset: "},
		{`{"ts":1,"asset":7,"tag":"t","value":1}`, schemas.DeadWrongType, "asset: want a text, got 7"},
		{`{"ts":1,"asset":null,"tag":"t","value":1}`, schemas.DeadWrongType, "asset: want a text, got null"},
		{`{"ts":1,"asset":"a","tag":["t"],"value":1}`, schemas.DeadWrongType, "tag: want a text, got an array"},
		{`{"ts":1,"asset":"` + long + `","tag":"t","value":1}`, schemas.DeadOutOfRange, "want at most 1024 bytes, got 1025"},
		{"{\"ts\":1,\"asset\":\"a\xff\",\"tag\":\"t\",\"value\":1}", schemas.DeadInvalidJSON, `UTF-8, got "a\xff"`},
		{head + `"12"}`, schemas.DeadWrongType, `value: want a number, a bool or null, got the text "12"`},
		{head + `{"a":1}}`, schemas.DeadWrongType, "value: want a number, a bool or null, got an object"},
		{`{"ts":null,"asset":"a","tag":"t","value":1}`, schemas.DeadWrongType, "ts: want a time in ns, got null"},
		{`{"ts":true,"asset":"a","tag":"t","value":1}`, schemas.DeadWrongType, "got true"},
		{`{"ts":"soon","asset":"a","tag":"t","value":1}`, schemas.DeadWrongType, `got the text "soon"`},
		{`{"ts":"","asset":"a","tag":"t","value":1}`, schemas.DeadWrongType, `got the text ""`},
		{`{"ts":9223372036854775808,"asset":"a","tag":"t","value":1}`, schemas.DeadOutOfRange, "got 9223372036854775808"},
		{`{"ts":1e30,"asset":"a","tag":"t","value":1}`, schemas.DeadOutOfRange, "got 1e30"},
		{strings.Repeat(" ", 1<<20) + `{}`, schemas.DeadTooLarge, "want at most 1048576 bytes, got 1048578"},
	} {
		_, reject := decodeOne(t, DefaultConfig(), c.message)
		if reject == nil || reject.Code != c.code || !strings.Contains(reject.Reason, c.reason) {
			t.Errorf("%.80q: want %s with %q, got %v", c.message, c.code, c.reason, reject)
		}
		if reject != nil && len(reject.Reason) > 600 {
			t.Errorf("%.80q: the reason has %d bytes", c.message, len(reject.Reason))
		}
	}
	config := DefaultConfig()
	config.TS = RFC3339
	for ts, code := range map[string]string{
		"1795521599": schemas.DeadWrongType, `"2026-11-24"`: schemas.DeadWrongType, `"2026-13-24T11:59:59Z"`: schemas.DeadWrongType,
		`"2026-11-24T11:59:59"`: schemas.DeadWrongType, `"9999-11-24T11:59:59Z"`: schemas.DeadOutOfRange,
	} {
		if _, reject := decodeOne(t, config, `{"ts":`+ts+`,"asset":"a","tag":"t","value":1}`); reject == nil || reject.Code != code {
			t.Errorf("rfc3339 %s: want %s, got %v", ts, code, reject)
		}
	}
}

// Scenario: more assets and tags than the limits, with known ones among them.
// Guarantees: known ones go on, new ones are refused with cardinality and leave no trace.
func TestDecodeCardinality(t *testing.T) {
	mem := memory.NewCheckedAllocator(memory.NewGoAllocator())
	defer mem.AssertSize(t, 0)
	b := schemas.NewTelemetryBuilder(mem, "plant", 0)
	defer b.Release()
	c := DefaultConfig()
	c.MaxAssets, c.MaxTags = 2, 2
	d, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	for _, step := range []struct{ asset, tag, code string }{
		{"a1", "t1", ""}, {"a2", "t1", ""}, {"a3", "t1", schemas.DeadCardinality}, {"a1", "t2", ""},
		{"a1", "t3", schemas.DeadCardinality}, {"a3", "t3", schemas.DeadCardinality}, {"a2", "t2", ""},
	} {
		err := d.Decode(&formats.Message{Time: now, Value: []byte(`{"ts":0,"asset":"` + step.asset + `","tag":"` + step.tag + `","value":1}`)}, b)
		var reject *formats.Reject
		if errors.As(err, &reject) != (step.code != "") || reject != nil && reject.Code != step.code {
			t.Errorf("%s %s: want %q, got %v", step.asset, step.tag, step.code, err)
		}
	}
	if b.Len() != 4 || b.Assets.Len() != 2 || b.Tags.Len() != 2 {
		t.Errorf("want 4 rows of 2 assets and 2 tags, got %d, %d, %d", b.Len(), b.Assets.Len(), b.Tags.Len())
	}
}

// Scenario: configs with faults in every key.
// Guarantees: each fault is named by its key, all at once; the defaults have none; New refuses a faulty config.
func TestConfigFaults(t *testing.T) {
	c := DefaultConfig()
	if faults := c.Faults(); len(faults) != 0 {
		t.Fatalf("defaults: %v", faults)
	}
	c = Config{TS: "minutes", Quality: "fine", MaxBytes: 0, MaxAssets: -1, MaxTags: 0, MaxSkew: -time.Second}
	var paths []string
	for _, f := range c.Faults() {
		paths = append(paths, f.Path)
	}
	if got := strings.Join(paths, " "); got != "ts quality max_bytes max_assets max_tags max_skew" {
		t.Errorf("got %s", got)
	}
	if _, err := New(c); err == nil || !strings.Contains(err.Error(), `"minutes"`) {
		t.Errorf("New: want an error that names minutes, got %v", err)
	}
	for text, want := range map[string]int64{"2000-01-01": 946684800e9, "2000-01-01T01:00:00+01:00": 946684800e9, "1970-01-01": 0} {
		var at Time
		if err := at.UnmarshalText([]byte(text)); err != nil || int64(at) != want {
			t.Errorf("%s: want %d, got %d, %v", text, want, at, err)
		}
	}
	for _, text := range []string{"", "yesterday", "0001-01-01", "9999-01-01"} {
		var at Time
		if err := at.UnmarshalText([]byte(text)); err == nil {
			t.Errorf("%q: want an error, got %d", text, at)
		}
	}
}
