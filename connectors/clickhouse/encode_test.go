package clickhouse

import (
	"bytes"
	"fmt"
	"math"
	"math/big"
	"reflect"
	"testing"
	"time"

	chproto "github.com/ClickHouse/ch-go/proto"
	"github.com/ClickHouse/clickhouse-go/v2/lib/proto"
	"github.com/apache/arrow/go/v15/arrow"
	"github.com/apache/arrow/go/v15/arrow/array"
	"pgregory.net/rapid"

	"github.com/tailrace/tailrace/pipeline"
	"github.com/tailrace/tailrace/schemas"
)

// encodeBoth encodes the loaded block as for a compressed and as for a plain connection, which must be the same bytes.
func encodeBoth(t rapid.TB, input chproto.Input) []byte {
	t.Helper()
	block := chproto.Block{Columns: len(input), Rows: input[0].Data.Rows()}
	var whole chproto.Buffer
	if err := block.EncodeRawBlock(&whole, 0, input); err != nil {
		t.Fatal(err)
	}
	var sent bytes.Buffer
	w := chproto.NewWriter(&sent, new(chproto.Buffer))
	if err := block.WriteBlock(w, 0, input); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Flush(); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(whole.Buf, sent.Bytes()) {
		t.Fatalf("buffer of %d bytes and vectored write of %d bytes differ", len(whole.Buf), sent.Len())
	}
	return whole.Buf
}

// decode reads a block with clickhouse-go, which shares no code with the encoders.
func decode(t rapid.TB, raw []byte) *proto.Block {
	t.Helper()
	b := proto.NewBlock()
	r := chproto.NewReader(bytes.NewReader(raw))
	if err := b.Decode(r, 0); err != nil {
		t.Fatal(err)
	}
	if n, err := r.ReadByte(); err == nil {
		t.Fatalf("bytes after the block, the first is %d", n)
	}
	return b
}

// plain is a value as Arrow's accessors and clickhouse-go's readers both can give it.
func plain(v any) any {
	switch x := v.(type) {
	case time.Time:
		return x.UTC().Format("2006-01-02T15:04:05.000000000")
	case *float64:
		if x == nil {
			return nil
		}
		return plain(*x)
	case *float32:
		if x == nil {
			return nil
		}
		return *x
	case *int64:
		if x == nil {
			return nil
		}
		return *x
	case *string:
		if x == nil {
			return nil
		}
		return *x
	case float64:
		return math.Float64bits(x)
	case big.Int:
		return x.Text(16)
	}
	return v
}

// arrowValue is row i of an Arrow column as ClickHouse should have it, for the ClickHouse type kind.
func arrowValue(a arrow.Array, i int, kind chproto.ColumnType) any {
	if a.IsNull(i) {
		if kind == lowText {
			return ""
		}
		return nil
	}
	switch a := a.(type) {
	case *array.Timestamp:
		// time.Time's own Truncate rounds towards year 1, hence down.
		unit := map[chproto.ColumnType]time.Duration{time6: time.Microsecond, time3: time.Millisecond}[kind]
		return plain(time.Unix(0, int64(a.Value(i))).UTC().Truncate(unit))
	case *array.Dictionary:
		return a.Dictionary().(*array.String).Value(a.GetValueIndex(i))
	case *array.String:
		return a.Value(i)
	case *array.Uint8:
		return a.Value(i)
	case *array.Uint32:
		return a.Value(i)
	case *array.Uint64:
		return a.Value(i)
	case *array.Int64:
		return a.Value(i)
	case *array.Int32:
		if kind == "UInt32" {
			return uint32(a.Value(i))
		}
		return a.Value(i)
	case *array.Float32:
		return a.Value(i)
	case *array.Float64:
		return plain(a.Value(i))
	case *array.Boolean:
		return a.Value(i)
	case *array.Map:
		from, to := a.ValueOffsets(i)
		m := map[string]float32{}
		for k := from; k < to; k++ {
			m[a.Keys().(*array.String).Value(int(k))] = a.Items().(*array.Float32).Value(int(k))
		}
		return m
	}
	panic(fmt.Sprintf("no accessor for %T", a))
}

// compare checks every block of parts, in order, against the records. Pieces say which row is which.
func compare(t rapid.TB, table *columnar, parts []pipeline.Part, rowsMax int) {
	t.Helper()
	n, err := table.plan(parts, rowsMax)
	if err != nil {
		t.Fatal(err)
	}
	defer table.release()
	var nodes []node
	for i := range n {
		whole := node{root: uint32(i), to: table.rows(i)}
		nodes = append(nodes, whole)
		if whole.rows() > 1 {
			first, second := whole.halves()
			nodes = append(nodes, first, second)
		}
	}
	for _, each := range nodes {
		i := each.number()
		b := table.load(each, testRun, 5)
		got := decode(t, encodeBoth(t, table.input()))
		if got.Rows() != b.rows || b.rows != each.rows() {
			t.Fatalf("block %d: want %d rows, got %d (says %d)", i, each.rows(), got.Rows(), b.rows)
		}
		for c, in := range table.input() {
			kind := in.Data.Type()
			column := got.Columns[c]
			row := 0
			for _, p := range b.pieces {
				for r := p.from; r < p.to; r++ {
					var want any
					switch in.Name {
					case "run":
						want = "123456789abcdeffedcba9876543210" // testRun as a number, in hex
					case "seq":
						want = uint64(5)
					case "block":
						want = i
					case "k_topic":
						want = p.topic
					case "k_part":
						want = p.part
					default:
						want = arrowValue(p.rec.Column(p.rec.Schema().FieldIndices(in.Name)[0]), r, kind)
					}
					value := plain(column.Row(row, false))
					if !reflect.DeepEqual(value, want) {
						t.Fatalf("block %d, row %d, column %s: want %#v, got %#v", i, row, in.Name, want, value)
					}
					row++
				}
			}
		}
	}
}

// Scenario: batches of random rows from two builders, whose dictionaries grow between batches, are cut into slices at
// random rows and into blocks of random size.
// Guarantees: another client's decoder finds every value of every column where it was, nulls and slices included; and a
// plain and a compressed connection get the same bytes.
func TestTelemetryEncodes(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		mem := rapidAllocator(t)
		var parts []pipeline.Part
		for id := range int32(2) {
			b := schemas.NewTelemetryBuilder(mem, "telemetry", id)
			defer b.Release()
			part := pipeline.Part{Topic: "telemetry", Partition: id}
			for range rapid.IntRange(0, 3).Draw(t, "batches") {
				appendRandom(t, b, rapid.IntRange(0, 40).Draw(t, "rows"))
				whole := b.NewRecord()
				defer whole.Release()
				from := rapid.Int64Range(0, whole.NumRows()).Draw(t, "from")
				slice := whole.NewSlice(from, rapid.Int64Range(from, whole.NumRows()).Draw(t, "to"))
				defer slice.Release()
				part.Batches = append(part.Batches, slice)
			}
			parts = append(parts, part)
		}
		compare(t, newTelemetry(), parts, rapid.IntRange(1, 60).Draw(t, "rowsMax"))
	})
}

func appendRandom(t *rapid.T, b *schemas.TelemetryBuilder, n int) {
	name := rapid.SampledFrom([]string{"", "a", "plant.line", "täg", "a-name-longer-than-sixteen-bytes"})
	// Times around a month's end and around 1970, so that blocks are split and fractions of both signs come up.
	second := rapid.SampledFrom([]int64{0, time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC).Unix()})
	texts := rapid.Bool().Draw(t, "texts")
	for i := range n {
		r := schemas.Row{
			TS:    second.Draw(t, "second")*1e9 + rapid.Int64Range(-3e6, 3e6).Draw(t, "ns"),
			Asset: []byte(name.Draw(t, "asset")), Tag: []byte(name.Draw(t, "tag")), Src: []byte(name.Draw(t, "src")),
			Quality: schemas.Quality(rapid.Uint8().Draw(t, "quality")), Flags: schemas.Flag(rapid.Uint32().Draw(t, "flags")),
			Idx: rapid.Int32Range(0, math.MaxInt32).Draw(t, "idx"), SrcSeq: rapid.Uint64().Draw(t, "seq"),
			HasValue: rapid.Bool().Draw(t, "hasValue"), HasInt: rapid.Bool().Draw(t, "hasInt"),
			Value: rapid.Float64().Draw(t, "value"), Int: rapid.Int64().Draw(t, "int"),
		}
		if texts && rapid.Bool().Draw(t, "hasText") {
			r.Str = []byte(name.Draw(t, "text"))
		}
		if rapid.Bool().Draw(t, "hasUnit") {
			r.Unit = []byte(name.Draw(t, "unit"))
		}
		b.Append(&r, int64(i), second.Draw(t, "arrival")*1e9+rapid.Int64Range(-3e6, 3e6).Draw(t, "ns"))
	}
}

// Scenario: predictions, whole and in slices that begin inside the maps, from two partitions.
// Guarantees: another client's decoder finds every value, maps and nulls included; topic and partition are the part's.
func TestPredictionsEncode(t *testing.T) {
	mem := allocator(t)
	whole := predictions(t, mem)
	for from := range whole.NumRows() + 1 {
		for to := from; to <= whole.NumRows(); to++ {
			slice := whole.NewSlice(from, to)
			compare(t, newPredictions(), []pipeline.Part{
				{Topic: "in", Partition: 3, Batches: []arrow.Record{slice, whole}},
				{Topic: "in2", Partition: 4, Batches: []arrow.Record{slice}},
			}, 4)
			slice.Release()
		}
	}
}

// Scenario: rows with 1, 256, 257, 65,536 and 65,537 distinct tags.
// Guarantees: keys of one, two and four bytes decode to the same texts.
func TestDictionaryKeyWidths(t *testing.T) {
	for _, distinct := range []int{1, 256, 257, 65536, 65537} {
		mem := allocator(t)
		b := schemas.NewTelemetryBuilder(mem, "telemetry", 0)
		for i := range distinct {
			r := schemas.Row{TS: october.UnixNano(), Asset: []byte("a"), Tag: fmt.Appendf(nil, "tag%d", i)}
			b.Append(&r, int64(i), october.UnixNano())
		}
		rec := b.NewRecord()
		compare(t, newTelemetry(), []pipeline.Part{{Topic: "telemetry", Batches: []arrow.Record{rec}}}, insertRowsLimit)
		rec.Release()
		b.Release()
	}
}

// Scenario: a record whose columns are not the table's.
// Guarantees: an error that names the table and both sets of columns, before anything is sent.
func TestForeignRecord(t *testing.T) {
	mem := allocator(t)
	parts := []pipeline.Part{{Batches: []arrow.Record{predictions(t, mem)}}}
	_, err := newTelemetry().plan(parts, 10)
	wantError(t, err, "table telemetry: want columns", "window_start")
	_, err = newEvents().plan(parts, 10)
	wantError(t, err, "table anomaly_events")
}

// Scenario: telemetry of 100,000 rows, 30 assets of 50 tags, no texts, is encoded without a server.
// Guarantees: a figure for the client's cost of a row, ns/row.
func BenchmarkEncodeTelemetry(b *testing.B) {
	const rows = 100_000
	builder := schemas.NewTelemetryBuilder(arrowHeap(), "telemetry", 0)
	defer builder.Release()
	part := pipeline.Part{Topic: "telemetry"}
	for i := range rows {
		r := schemas.Row{
			TS: october.UnixNano() + int64(i)*1000, Asset: fmt.Appendf(nil, "plant.line.machine%d", i/50%30),
			Tag: fmt.Appendf(nil, "tag%d", i%50), Value: float64(i), HasValue: true, Unit: []byte("CEL"),
		}
		builder.Append(&r, int64(i), october.UnixNano())
		if builder.Len() == 16384 || i == rows-1 {
			rec := builder.NewRecord()
			defer rec.Release()
			part.Batches = append(part.Batches, rec)
		}
	}
	table := newTelemetry()
	w := chproto.NewWriter(discard{}, new(chproto.Buffer))
	for b.Loop() {
		n, err := table.plan([]pipeline.Part{part}, insertRowsLimit)
		if err != nil || n != 1 {
			b.Fatal(n, err)
		}
		table.load(node{to: table.rows(0)}, testRun, 1)
		input := table.input()
		if err := (chproto.Block{Columns: len(input), Rows: rows}).WriteBlock(w, 54460, input); err != nil {
			b.Fatal(err)
		}
		if _, err := w.Flush(); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/rows, "ns/row")
}

type discard struct{}

func (discard) Write(p []byte) (int, error) { return len(p), nil }
