package rekeyed

import (
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/apache/arrow/go/v15/arrow"
	"github.com/apache/arrow/go/v15/arrow/array"
	"github.com/apache/arrow/go/v15/arrow/memory"
	"pgregory.net/rapid"

	"github.com/tailrace/tailrace/schemas"
	"github.com/tailrace/tailrace/schemas/formats"
)

func decoder(t testing.TB, c Config) *Decoder {
	t.Helper()
	d, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// texts are the rows of a record, a line of columns each.
func texts(rec arrow.Record) []string {
	var lines []string
	for i := range int(rec.NumRows()) {
		var line []string
		for c, column := range rec.Columns() {
			text := column.ValueStr(i)
			if d, ok := column.(*array.Dictionary); ok && column.IsValid(i) {
				text = d.Dictionary().(*array.String).Value(d.GetValueIndex(i))
			}
			line = append(line, rec.ColumnName(c)+"="+text)
		}
		lines = append(lines, strings.Join(line, " "))
	}
	return lines
}

// messageOf is a message of rows of one asset, all of a record.
func messageOf(t testing.TB, rec arrow.Record, id string) []byte {
	t.Helper()
	rows, err := Read(rec)
	if err != nil {
		t.Fatal(err)
	}
	text := rows.AppendHead(nil, id, 0)
	for i := range rows.Len() {
		text = rows.AppendRow(text, i == 0, i)
	}
	return AppendTail(text)
}

// Scenario: rows with and without each column, written and read.
// Guarantees: every column is as it was, but for those that the Decoder's comment names; a number that is not finite is null with
// its flag.
func TestColumnsStay(t *testing.T) {
	mem := memory.NewCheckedAllocator(memory.NewGoAllocator())
	defer mem.AssertSize(t, 0)
	in := schemas.NewTelemetryBuilder(mem, "plant.telemetry", 3)
	defer in.Release()
	for i, r := range []schemas.Row{
		{TS: -5, Tag: []byte("all \"of\" it"), VType: schemas.TypeInt, HasValue: true, Value: 0.1, HasInt: true, Int: -1 << 63,
			Str: []byte("zu \u00e4\n"), Quality: schemas.Uncertain, Status: 1<<32 - 1, Flags: schemas.FlagSimulated | schemas.FlagLate,
			Unit: []byte("NEW"), Src: []byte("gateway 7"), SrcSeq: 1<<64 - 1, TSKind: schemas.TimeFromKafka, Idx: 2},
		{TS: 1, Tag: []byte("none"), Str: []byte{}, Unit: []byte{}},
		{TS: 2, Tag: []byte("nan"), VType: schemas.TypeFloat, HasValue: true, Value: nan(), Quality: schemas.Good},
	} {
		r.Asset = []byte("press 1")
		in.Append(&r, int64(40+i), 900)
	}
	rec := in.NewRecord()
	defer rec.Release()
	out := schemas.NewTelemetryBuilder(mem, "telemetry.rekeyed.v1", 1)
	defer out.Release()
	if err := decoder(t, DefaultConfig()).Decode(&formats.Message{Offset: 7, Time: 1000, Value: messageOf(t, rec, "id")}, out); err != nil {
		t.Fatal(err)
	}
	got := out.NewRecord()
	defer got.Release()
	lineage := " k_topic=telemetry.rekeyed.v1 k_part=1 k_offset=7 k_idx="
	want := []string{
		"ts=1969-12-31 23:59:59.999999995Z ts_ingest=1970-01-01 00:00:00.000001Z ts_kind=3 asset=press 1 tag=all \"of\" it vtype=2 value=0.1 " +
			"value_int=-9223372036854775808 value_str=zu \u00e4\n quality=1 status=4294967295 flags=4096 unit=NEW " +
			"src=gateway 7@plant.telemetry/3 src_seq=18446744073709551615" + lineage + "0",
		"ts=1970-01-01 00:00:00.000000001Z ts_ingest=1970-01-01 00:00:00.000001Z ts_kind=0 asset=press 1 tag=none vtype=0 value=(null) " +
			"value_int=(null) value_str= quality=0 status=0 flags=0 unit= src=press 1@plant.telemetry/3 src_seq=0" + lineage + "1",
		"ts=1970-01-01 00:00:00.000000002Z ts_ingest=1970-01-01 00:00:00.000001Z ts_kind=0 asset=press 1 tag=nan vtype=4 value=(null) " +
			"value_int=(null) value_str=(null) quality=2 status=0 flags=8192 unit=(null) src=press 1@plant.telemetry/3 src_seq=0" + lineage + "2",
	}
	if got := texts(got); !slices.Equal(got, want) {
		t.Errorf("want\n%s\ngot\n%s", strings.Join(want, "\n"), strings.Join(got, "\n"))
	}
}

func nan() float64 { var zero float64; return zero / zero }

// plain is a message of rows of one asset.
func plain(topic, id string, partition int, asset string, places ...place) *formats.Message {
	var rows []string
	for _, p := range places {
		rows = append(rows, fmt.Sprintf(`{"offset":%d,"idx":%d,"ts":%d,"tag":"%s/%d %d %d","vtype":4,"quality":2}`,
			p.offset, p.idx, p.offset, id, partition, p.offset, p.idx))
	}
	return &formats.Message{Value: fmt.Appendf(nil, `{"topic":%q,"topic_id":%q,"partition":%d,"asset":%q,"rows":[%s]}`,
		topic, id, partition, asset, strings.Join(rows, ","))}
}

// given decodes messages and returns the tags of the rows.
func given(t testing.TB, d *Decoder, messages ...*formats.Message) []string {
	t.Helper()
	mem := memory.NewCheckedAllocator(memory.NewGoAllocator())
	b := schemas.NewTelemetryBuilder(mem, "t", 0)
	for _, m := range messages {
		if err := d.Decode(m, b); err != nil {
			t.Fatalf("%s: %v", m.Value, err)
		}
	}
	rec := b.NewRecord()
	var tags []string
	for _, line := range texts(rec) {
		_, after, _ := strings.Cut(line, " tag=")
		tag, _, _ := strings.Cut(after, " vtype=")
		tags = append(tags, tag)
	}
	rec.Release()
	b.Release()
	mem.AssertSize(t, 0)
	return tags
}

// Scenario: rows of two partitions and of a topic that was made anew; some are sent again, alone and with new ones; one comes back
// from the dead letters.
// Guarantees: each is given once, what is left out is counted, and what `dlq replay` sent back is given.
func TestSentAgain(t *testing.T) {
	d := decoder(t, DefaultConfig())
	back := plain("p", "x", 0, "a", place{1, 5})
	back.Headers = []formats.Header{{Key: schemas.HeaderReplayedFrom, Value: []byte("0/3")}}
	got := given(t, d,
		plain("p", "x", 0, "a", place{1, 0}, place{1, 1}),
		plain("p", "x", 1, "a", place{0, 0}),
		plain("p", "x", 0, "b", place{2, 0}),
		plain("p", "x", 0, "a", place{1, 0}, place{1, 1}),              // again
		plain("p", "x", 0, "a", place{1, 1}, place{3, 0}),              // the second is new
		plain("p", "y", 0, "a", place{0, 0}),                           // made anew
		plain("p", "x", 1, "a", place{0, 0}, place{0, 1}, place{7, 0}), // again, then new
		back,
		plain("p", "x", 0, "b", place{2, 0}, place{4, 0}),
	)
	want := []string{"x/0 1 0", "x/0 1 1", "x/1 0 0", "x/0 2 0", "x/0 3 0", "y/0 0 0", "x/1 0 1", "x/1 7 0", "x/0 1 5", "x/0 4 0"}
	if !slices.Equal(got, want) {
		t.Errorf("want %q, got %q", want, got)
	}
	if n := d.Dropped(); !reflect.DeepEqual(n, map[string]int{Resent: 5}) {
		t.Errorf("want 5 rows counted, got %v", n)
	}
	if n := d.Dropped(); n != nil {
		t.Errorf("want nothing counted twice, got %v", n)
	}
}

// Scenario: several writers send the rows of some source partitions, each in order and from some row on, with the last of them
// reaching the end; a writer begins at or before the first row that nobody has sent. The reader restarts anywhere.
// Guarantees: every row is given once, in the order of its partition.
func TestWritersCross(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		const rows = 12
		partitions := rapid.IntRange(1, 3).Draw(rt, "partitions")
		sent := make([]int, partitions) // rows of each partition that someone has sent
		var writers [][2]int            // partition, next row
		var log []*formats.Message
		for slices.Min(sent) < rows {
			if len(writers) == 0 || rapid.IntRange(0, 4).Draw(rt, "begins") == 0 {
				p := rapid.IntRange(0, partitions-1).Draw(rt, "partition")
				writers = append(writers, [2]int{p, rapid.IntRange(0, sent[p]).Draw(rt, "from")})
			}
			w := &writers[rapid.IntRange(0, len(writers)-1).Draw(rt, "writer")]
			n := min(rapid.IntRange(1, 3).Draw(rt, "rows"), rows-w[1])
			if n <= 0 {
				continue
			}
			var places []place
			for i := range n {
				places = append(places, place{int64(w[1]+i) / 2, int32(w[1]+i) % 2})
			}
			w[1] += n
			sent[w[0]] = max(sent[w[0]], w[1])
			log = append(log, plain("p", "x", w[0], "a", places...))
		}
		d := decoder(t, DefaultConfig())
		got := map[string][]string{}
		for _, m := range log {
			if rapid.IntRange(0, 3).Draw(rt, "restart") == 0 {
				stored := d.Snapshot()
				d = decoder(t, DefaultConfig())
				if err := d.Restore(stored); err != nil {
					rt.Fatal(err)
				}
			}
			for _, tag := range given(t, d, m) {
				key, _, _ := strings.Cut(tag, " ")
				got[key] = append(got[key], tag)
			}
		}
		for p := range partitions {
			key := fmt.Sprintf("x/%d", p)
			var want []string
			for i := range rows {
				want = append(want, fmt.Sprintf("%s %d %d", key, i/2, i%2))
			}
			if !slices.Equal(got[key], want) {
				rt.Fatalf("partition %d: want %q, got %q", p, want, got[key])
			}
		}
	})
}

// Scenario: messages that lack a field, have one of another type or out of bounds, or are not in order.
// Guarantees: each is refused with its code and a reason that names the field, and nothing of it is remembered.
func TestRefused(t *testing.T) {
	row := `{"offset":1,"ts":1,"tag":"t","vtype":4,"quality":2}`
	whole := `{"topic":"p","partition":0,"asset":"a","rows":[` + row + `]}`
	replace := func(old, by string) string { return strings.Replace(whole, old, by, 1) }
	for _, c := range []struct{ value, code, reason string }{
		{`{"topic":`, schemas.DeadInvalidJSON, "want a JSON object"},
		{whole + "}", schemas.DeadInvalidJSON, "want a JSON object"},
		{`[]`, schemas.DeadWrongType, "want a JSON object"},
		{replace(`"topic":"p",`, ``), schemas.DeadMissing, "topic"},
		{replace(`"topic":"p"`, `"topic":""`), schemas.DeadMissing, "topic"},
		{replace(`"partition":0,`, ``), schemas.DeadMissing, "partition"},
		{replace(`"partition":0`, `"partition":-1`), schemas.DeadOutOfRange, "partition"},
		{replace(`"partition":0`, `"partition":2147483648`), schemas.DeadOutOfRange, "partition"},
		{replace(`"asset":"a"`, `"asset":1`), schemas.DeadWrongType, "asset: want a text"},
		{replace(`"asset":"a"`, `"asset":"`+strings.Repeat("a", 1025)+`"`), schemas.DeadOutOfRange, "asset"},
		{replace(`[`+row+`]`, `[]`), schemas.DeadMissing, "rows: want at least one"},
		{replace(`[`+row+`]`, `{}`), schemas.DeadWrongType, "rows: want a list"},
		{replace(row, `1`), schemas.DeadWrongType, "rows[0]: want an object"},
		{replace(row, row+","+row), schemas.DeadOutOfRange, "rows[1]: want one behind offset 1, idx 0"},
		{replace(`"offset":1,`, ``), schemas.DeadMissing, "rows[0].offset"},
		{replace(`"offset":1`, `"offset":-1`), schemas.DeadOutOfRange, "offset"},
		{replace(`"offset":1`, `"offset":1.5`), schemas.DeadOutOfRange, "offset"},
		{replace(`"ts":1,`, ``), schemas.DeadMissing, "rows[0].ts"},
		{replace(`"tag":"t"`, `"tag":""`), schemas.DeadMissing, "rows[0].tag"},
		{replace(`"vtype":4`, `"vtype":8`), schemas.DeadOutOfRange, "vtype"},
		{replace(`"quality":2`, `"quality":3`), schemas.DeadOutOfRange, "quality"},
		{replace(`"quality":2`, `"quality":"good"`), schemas.DeadWrongType, "quality"},
		{replace(`"ts":1`, `"ts":1,"value":"1"`), schemas.DeadWrongType, "value"},
		{replace(`"ts":1`, `"ts":1,"value":1e999`), schemas.DeadOutOfRange, "value"},
		{replace(`"ts":1`, `"ts":1,"src_seq":-1`), schemas.DeadOutOfRange, "src_seq"},
	} {
		d := decoder(t, DefaultConfig())
		b := schemas.NewTelemetryBuilder(memory.DefaultAllocator, "t", 0)
		err := d.Decode(&formats.Message{Value: []byte(c.value)}, b)
		reject, ok := err.(*formats.Reject)
		if !ok || reject.Code != c.code || !strings.Contains(reject.Reason, c.reason) {
			t.Errorf("%s: want %s with %q, got %v", c.value, c.code, c.reason, err)
		}
		if b.Len() != 0 || len(d.last) != 0 {
			t.Errorf("%s: want nothing kept, got %d rows and %v", c.value, b.Len(), d.last)
		}
		b.Release()
	}
	if got := given(t, decoder(t, DefaultConfig()), &formats.Message{Value: []byte(replace(`"ts":1`, `"new":[{}],"ts":1`))}); len(got) != 1 {
		t.Errorf("a field that is not known: want it passed over, got %d rows", len(got))
	}
}

// Scenario: one asset, one tag, one source partition and one byte more than the limits.
// Guarantees: the message that has it is refused, those before and after are not.
func TestLimits(t *testing.T) {
	if _, err := New(Config{}); err == nil || strings.Count(err.Error(), "\n") != 3 {
		t.Errorf("want four faults, got %v", err)
	}
	first := plain("p", "x", 0, "a", place{1, 0})
	c := Config{MaxBytes: schemas.Bytes(len(first.Value) + 80), MaxAssets: 1, MaxTags: 2, MaxSources: 1}
	d := decoder(t, c)
	b := schemas.NewTelemetryBuilder(memory.DefaultAllocator, "t", 0)
	defer b.Release()
	for i, step := range []struct {
		m    *formats.Message
		code string
	}{
		{first, ""},
		{plain("p", "x", 1, "a", place{1, 0}), schemas.DeadCardinality},
		{plain("p", "x", 0, "b", place{2, 0}), schemas.DeadCardinality},
		{plain("p", "x", 0, "a", place{2, 0}, place{3, 0}), schemas.DeadCardinality},
		{plain("p", "x", 0, "a", place{2, 0}, place{3, 0}, place{4, 0}), schemas.DeadTooLarge},
		{&formats.Message{}, schemas.DeadWrongType},
		{plain("p", "x", 0, "a", place{2, 0}), ""},
	} {
		err := d.Decode(step.m, b)
		if reject, ok := err.(*formats.Reject); (step.code == "") != (err == nil) || ok && reject.Code != step.code {
			t.Errorf("message %d: want %q, got %v", i, step.code, err)
		}
	}
}

// Scenario: any bytes as a message and as a snapshot.
// Guarantees: no panic; what is refused leaves the builder alone; a snapshot that is taken is written as it was read.
func FuzzBytes(f *testing.F) {
	f.Add(plain("p", "x", 0, "a", place{1, 0}, place{1, 1}).Value)
	f.Add([]byte(`{"topic":"p","partition":0,"asset":"\u00e4","rows":[{"offset":1,"ts":1,"tag":"t","vtype":4,"quality":2,"value":1}]}`))
	d, err := New(DefaultConfig())
	if err != nil {
		f.Fatal(err)
	}
	d.last[source{"p", "x", 3}] = place{7, 1}
	f.Add(d.Snapshot())
	f.Fuzz(func(t *testing.T, data []byte) {
		mem := memory.NewCheckedAllocator(memory.NewGoAllocator())
		defer mem.AssertSize(t, 0)
		d := decoder(t, DefaultConfig())
		b := schemas.NewTelemetryBuilder(mem, "t", 0)
		defer b.Release()
		if err := d.Decode(&formats.Message{Value: data}, b); err != nil && b.Len() != 0 {
			t.Errorf("%q: refused, and %d rows given", data, b.Len())
		} else if err == nil && b.Len() == 0 {
			t.Errorf("%q: taken, and no rows given", data)
		}
		if err := d.Restore(data); err == nil {
			again := decoder(t, DefaultConfig())
			if err := again.Restore(d.Snapshot()); err != nil || !reflect.DeepEqual(again.last, d.last) {
				t.Errorf("%x: want %v again, got %v (%v)", data, d.last, again.last, err)
			}
		}
	})
}

// Scenario: messages of 50 rows.
// Guarantees: none; it measures reading.
func BenchmarkDecode(b *testing.B) {
	var places []place
	for i := range 50 {
		places = append(places, place{int64(i), 0})
	}
	m := plain("plant.telemetry", "x", 0, "press 1", places...)
	rows := schemas.NewTelemetryBuilder(memory.DefaultAllocator, "t", 0)
	defer rows.Release()
	d := decoder(b, DefaultConfig())
	b.SetBytes(int64(len(m.Value)))
	b.ReportAllocs()
	for b.Loop() {
		clear(d.last)
		if err := d.Decode(m, rows); err != nil {
			b.Fatal(err)
		}
		rows.NewRecord().Release()
	}
	b.ReportMetric(float64(b.N)*50/b.Elapsed().Seconds(), "rows/s")
}

// Scenario: messages of 50 rows.
// Guarantees: none; it measures writing.
func BenchmarkEncode(b *testing.B) {
	in := schemas.NewTelemetryBuilder(memory.DefaultAllocator, "plant.telemetry", 0)
	defer in.Release()
	for i := range 50 {
		in.Append(&schemas.Row{
			TS: 1_700_000_000_000_000_000 + int64(i), Asset: []byte("press 1"), Tag: fmt.Appendf(nil, "xmeas_%02d", i), VType: schemas.TypeFloat,
			HasValue: true, Value: float64(i) * 1.1, Quality: schemas.Good,
		}, int64(1_000_000+i), 1_700_000_000_010_000_000)
	}
	rec := in.NewRecord()
	defer rec.Release()
	b.ReportAllocs()
	var text []byte
	for b.Loop() {
		rows, err := Read(rec)
		if err != nil {
			b.Fatal(err)
		}
		text = rows.AppendHead(text[:0], "0123456789abcdef0123456789abcdef", 0)
		for i := range rows.Len() {
			text = rows.AppendRow(text, i == 0, i)
		}
		text = AppendTail(text)
	}
	b.SetBytes(int64(len(text)))
	b.ReportMetric(float64(b.N)*50/b.Elapsed().Seconds(), "rows/s")
}
