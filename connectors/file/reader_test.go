package file

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/apache/arrow/go/v15/arrow"
	"github.com/apache/arrow/go/v15/arrow/array"
	"github.com/apache/arrow/go/v15/arrow/memory"
	"github.com/tailrace/tailrace/pipeline"
	"github.com/tailrace/tailrace/schemas"
	"pgregory.net/rapid"
)

// files makes a file system of texts.
func files(texts map[string]string) fs.FS {
	root := fstest.MapFS{}
	for name, text := range texts {
		root[name] = &fstest.MapFile{Data: []byte(text)}
	}
	return root
}

func config(format string, change func(*Config), names ...string) Config {
	c := DefaultConfig()
	c.Format, c.Files = format, names
	if change != nil {
		change(&c)
	}
	return c
}

// read gives every row as "seconds asset tag value[ flags][ q]" and the error that ended reading, nil for io.EOF.
func read(t testing.TB, root fs.FS, c Config) (rows []string, err error) {
	t.Helper()
	mem := memory.NewCheckedAllocator(memory.NewGoAllocator())
	defer mem.AssertSize(t, 0)
	r, err := Open(root, c, mem)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	offset := int64(0)
	for {
		rec, err := r.Next(context.Background())
		if errors.Is(err, io.EOF) {
			return rows, nil
		}
		if err != nil {
			return rows, err
		}
		if !rec.Schema().Equal(schemas.Telemetry()) {
			t.Fatalf("want telemetry.v1, got %s", rec.Schema())
		}
		for i := range int(rec.NumRows()) {
			if got := rec.Column(schemas.ColKOffset).(*array.Int64).Value(i); got != offset {
				t.Fatalf("want k_offset %d, got %d", offset, got)
			}
			offset++
			rows = append(rows, row(rec, i))
		}
		rec.Release()
	}
}

func row(rec arrow.Record, i int) string {
	text := func(col int) string {
		d := rec.Column(col).(*array.Dictionary)
		return d.Dictionary().(*array.String).Value(d.GetValueIndex(i))
	}
	at := time.Unix(0, int64(rec.Column(schemas.ColTS).(*array.Timestamp).Value(i))).UTC()
	s := fmt.Sprintf("%s %s %s %s", at.Format("15:04:05.999999999"), text(schemas.ColAsset), text(schemas.ColTag),
		rec.Column(schemas.ColValue).ValueStr(i))
	if f := rec.Column(schemas.ColFlags).ValueStr(i); f != "0" {
		s += " flags " + f
	}
	if q := rec.Column(schemas.ColQuality).ValueStr(i); q != "2" {
		s += " q " + q
	}
	return s
}

func equal(t *testing.T, got []string, err error, want ...string) {
	t.Helper()
	if err != nil {
		t.Error(err)
	}
	if !slices.Equal(got, want) {
		t.Errorf("want\n%s\ngot\n%s", strings.Join(want, "\n"), strings.Join(got, "\n"))
	}
}

// Scenario: a wide CSV as SKAB's: semicolons, 'YYYY-MM-DD hh:mm:ss', names with spaces, labels to leave out, an empty
// cell and NaN.
// Guarantees: a row per cell that holds something, in the order of the columns; NaN is null with not_finite.
func TestWideSKAB(t *testing.T) {
	root := files(map[string]string{"other/5.csv": "\ufeffdatetime;Current;Volume Flow RateRMS;anomaly;changepoint\r\n" +
		"2020-02-08 16:06:48;2.5889;125.324;0.0;0.0\r\n2020-02-08 16:06:49;;nan;1.0;0.0\r\n"})
	got, err := read(t, root, config(FormatCSV, func(c *Config) {
		c.Separator, c.TimeColumn, c.Time, c.Ignore = ";", "datetime", time.DateTime, []string{"anomaly", "changepoint"}
		c.Asset = "skab.{file}.valve"
	}, "other/5.csv"))
	equal(t, got, err,
		"16:06:48 skab.5.valve Current 2.5889",
		"16:06:48 skab.5.valve Volume Flow RateRMS 125.324",
		"16:06:49 skab.5.valve Volume Flow RateRMS (null) flags 8192")
}

// Scenario: wide CSV whose asset is in a column, times as fractions of seconds.
// Guarantees: each line's values are of its asset, at the nanosecond that is written.
func TestWideAssetColumn(t *testing.T) {
	root := files(map[string]string{"a.csv": "machine,t,temp\nm1,0.5,1\nm2,1,2\nm1,2,3\n"})
	got, err := read(t, root, config(FormatCSV, func(c *Config) {
		c.AssetColumn, c.TimeColumn, c.Time = "machine", "t", "s"
	}, "a.csv"))
	equal(t, got, err, "00:00:00.5 m1 temp 1", "00:00:01 m2 temp 2", "00:00:02 m1 temp 3")
}

// Scenario: long CSV with columns in another order, quotes, qualities, an empty value.
// Guarantees: a row per value, with its quality; a line without a value gives none.
func TestLong(t *testing.T) {
	root := files(map[string]string{"a.csv": "q,value,tag,asset,ts\n" +
		"2,1.5,temp,\"a,b\",1970-01-01T00:00:01Z\n" +
		"0,-2,temp,c,1970-01-01T01:00:02.25+01:00\n1,,temp,c,1970-01-01T00:00:03Z\n"})
	got, err := read(t, root, config(FormatLong, nil, "a.csv"))
	equal(t, got, err, "00:00:01 a,b temp 1.5", "00:00:02.25 c temp -2 q 0")
}

// Scenario: three files, one packed, with times that interleave and some that are the same; an empty one.
// Guarantees: rows come in the order of time, and of the files where times are the same.
func TestMerge(t *testing.T) {
	var packed bytes.Buffer
	w := gzip.NewWriter(&packed)
	if _, err := io.WriteString(w, "ts,v\n1,10\n4,40\n"); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	root := files(map[string]string{
		"x/a.csv.gz": packed.String(), "b.csv": "ts,v\n2,20\n4,41\n5,50\n", "c.csv": "ts,v\n", "d.csv": "ts,v\n0,0\n4,42\n",
	})
	got, err := read(t, root, config(FormatCSV, func(c *Config) { c.Time = "s" }, "x/a.csv.gz", "b.csv", "c.csv", "d.csv"))
	equal(t, got, err,
		"00:00:00 d v 0", "00:00:01 a v 10", "00:00:02 b v 20",
		"00:00:04 a v 40", "00:00:04 b v 41", "00:00:04 d v 42", "00:00:05 b v 50")
}

// Scenario: random files with times in order.
// Guarantees: merged, every value of every file is there once, times never go back, and each file keeps its order.
func TestMergeProperty(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		texts, names, total := map[string]string{}, []string{}, 0
		for f := range rapid.IntRange(1, 5).Draw(r, "files") {
			at, text := int64(0), "ts,v\n"
			for i := range rapid.IntRange(0, 20).Draw(r, "lines") {
				at += rapid.Int64Range(0, 3).Draw(r, "step")
				text += fmt.Sprintf("%d,%d\n", at, i)
				total++
			}
			name := fmt.Sprintf("f%d.csv", f)
			texts[name], names = text, append(names, name)
		}
		rows, err := read(t, files(texts), config(FormatCSV, func(c *Config) { c.Time = "s" }, names...))
		if err != nil || len(rows) != total {
			r.Fatalf("want %d rows, got %d, %v", total, len(rows), err)
		}
		next := map[string]int{}
		for i, row := range rows {
			var at, asset, tag string
			var v int
			if _, err := fmt.Sscan(row, &at, &asset, &tag, &v); err != nil {
				r.Fatal(err)
			}
			if i > 0 && at < rows[i-1][:len(at)] || v != next[asset] {
				r.Fatalf("row %d: %s after %s; want value %d of %s", i, row, rows[max(i-1, 0)], next[asset], asset)
			}
			next[asset]++
		}
	})
}

// Scenario: the Tennessee Eastman runs that the demo carries: one as published, one stored transposed.
// Guarantees: 52 tags a row, a row every three minutes, values at their places (looked up with awk and cut).
func TestTEP(t *testing.T) {
	root := os.DirFS("../../deploy/demo/tep")
	got, err := read(t, root, config(FormatTEP, nil, "d00_te.dat.gz"))
	if err != nil || len(got) != 960*52 {
		t.Fatalf("d00_te: want %d rows, got %d, %v", 960*52, len(got), err)
	}
	for i, want := range map[int]string{ // line 161: fields 1, 41, 42, 52; 160 * 3m = 8h
		160 * 52: "08:00:00 d00_te xmeas_01 0.23807", 160*52 + 40: "08:00:00 d00_te xmeas_41 44.157",
		160*52 + 41: "08:00:00 d00_te xmv_01 63.315", 160*52 + 51: "08:00:00 d00_te xmv_11 19.053",
	} {
		if got[i] != want {
			t.Errorf("row %d: want %s, got %s", i, want, got[i])
		}
	}
	if got, err = read(t, root, config(FormatTEP, nil, "d00.dat.gz")); err != nil || len(got) != 500*52 {
		t.Fatalf("d00: want %d rows, got %d, %v", 500*52, len(got), err)
	}
	for i, want := range []string{"0.24987", "0.25118", "0.25185", "0.25147"} { // line 1, fields 1 to 4
		if want = fmt.Sprintf("00:%02d:00 d00 xmeas_01 %s", 3*i, want); got[i*52] != want {
			t.Errorf("d00, sample %d: want %s, got %s", i, want, got[i*52])
		}
	}
}

// Scenario: files that are not what the config says.
// Guarantees: an error that names the file, the line and the column, what was wanted and what came; what is wrong at
// Open is marked as a configuration's fault; memory is given back.
func TestFaults(t *testing.T) {
	root := files(map[string]string{
		"empty.csv": "", "head.csv": "time,v\n1,2\n", "number.csv": "ts,v\n1,2\n2,soon\n",
		"time.csv": "ts,v\n1,2\nnoon,3\n", "short.csv": "ts,v,w\n1,2,3\n2,3\n",
		"quote.csv": "ts,v\n1,\"2\n", "twice.csv": "ts,v,v\n1,2,3\n", "unnamed.csv": "ts,v,\n1,2,3\n",
		"bad.csv.gz": "ts,v\n", "text.dat": "1 2 3\n4 5 x\n",
		"shape.dat": "1 2 3\n4 5 6\n", "ragged.dat": "1 2 3\n4 5\n", "long.csv": "ts,tag,value\n1,a,2\n",
		"noasset.csv": "ts,asset,tag,value\n1,,t,2\n", "notag.csv": "ts,asset,tag,value\n1,a,,2\n",
		"quality.csv": "ts,asset,tag,value,q\n1,a,t,2,9\n", "large.csv": "ts,v\n1,2\n3,4\n",
		"range.csv": "ts,v\n10000000000,2\n",
	})
	seconds := func(c *Config) { c.Time = "s" }
	for _, c := range []struct {
		config Config
		start  bool // found by Open
		want   string
	}{
		{config(FormatCSV, seconds, "gone.csv"), true, "gone.csv: open gone.csv: file does not exist"},
		{config(FormatCSV, seconds, "empty.csv"), true, "empty.csv: want a header line, got an empty file"},
		{config(FormatCSV, seconds, "head.csv"), true, `head.csv: line 1: want a column "ts", got ["time" "v"]`},
		{config(FormatCSV, seconds, "number.csv"), false, `number.csv: line 3, column "v": want a number, got "soon"`},
		{config(FormatCSV, seconds, "time.csv"), false, `time.csv: line 3, column "ts": want a time in s, got "noon"`},
		{config(FormatCSV, seconds, "short.csv"), false, `short.csv: line 3: want 3 columns as in the header, got 2`},
		{config(FormatCSV, seconds, "quote.csv"), true, `quote.csv: parse error on line 2, column 6`},
		{config(FormatCSV, seconds, "twice.csv"), true,
			`twice.csv: line 1, column 3: want each name once, got "v" again`},
		{config(FormatCSV, seconds, "unnamed.csv"), true, `unnamed.csv: line 1, column 3: want a name, got nothing`},
		{config(FormatCSV, seconds, "bad.csv.gz"), true, `bad.csv.gz: gzip: `},
		{config(FormatCSV, seconds, "range.csv"), true,
			`range.csv: line 2, column "ts": want a time in s within years 1678 to 2262, got "10000000000"`},
		{config(FormatCSV, func(c *Config) { c.Time, c.AssetColumn = "s", "machine" }, "number.csv"), true,
			`number.csv: line 1: want a column "machine"`},
		{config(FormatCSV, func(c *Config) { c.Time, c.Ignore = "s", []string{"label"} }, "number.csv"), true,
			`ignore: line 1: want a column "label"`},
		{config(FormatCSV, func(c *Config) { c.Time, c.MaxFile = "s", 12 }, "large.csv"), true,
			`large.csv: max_file: want a smaller file`},
		{config(FormatTEP, nil, "text.dat"), true, `text.dat: line 2, column 3: want a number, got "x"`},
		{config(FormatTEP, nil, "shape.dat"), true,
			`shape.dat: want 52 columns, or 52 lines of a transposed file, got 2 lines of 3 columns`},
		{config(FormatTEP, nil, "ragged.dat"), true, `ragged.dat: line 2: want 3 columns as on the lines before, got 2`},
		{config(FormatLong, seconds, "long.csv"), true,
			`long.csv: line 1: want a column "asset", got ["ts" "tag" "value"]`},
		{config(FormatLong, seconds, "noasset.csv"), true,
			`noasset.csv: line 2, column "asset": want an asset, got nothing`},
		{config(FormatLong, seconds, "notag.csv"), true, `notag.csv: line 2, column "tag": want a tag, got nothing`},
		{config(FormatLong, seconds, "quality.csv"), true,
			`quality.csv: line 2, column "q": want 0 bad, 1 uncertain or 2 good, got "9"`},
	} {
		_, err := read(t, root, c.config)
		if err == nil || !strings.Contains(err.Error(), c.want) || errors.Is(err, pipeline.ErrConfig) != c.start {
			t.Errorf("want %s, got %v", c.want, err)
		}
	}
	rows, err := read(t, root, config(FormatCSV, func(c *Config) { c.Time, c.MaxFile = "s", 13 }, "large.csv"))
	if err != nil || len(rows) != 2 {
		t.Errorf("a file of just max_file: got %q, %v", rows, err)
	}
}

// Scenario: configs with faults.
// Guarantees: every fault is named by its key, all at once, and the defaults plus format and files have none.
func TestValidate(t *testing.T) {
	c := config(FormatCSV, nil, "a.csv")
	if faults := c.Validate(); len(faults) > 0 {
		t.Errorf("defaults: %v", faults)
	}
	for want, c := range map[string]Config{
		"format files":                  {MaxFile: 1, Asset: "a"},
		"separator time time_column":    {Format: FormatCSV, Files: []string{"a"}, Asset: "a", MaxFile: 1, Time: "hours"},
		"period start files[1] asset":   {Format: FormatTEP, Files: []string{"a", ""}, MaxFile: 1},
		"separator time files max_file": {Format: FormatLong, Separator: ";;", Time: "", TimeColumn: "ts"},
	} {
		var paths []string
		for _, f := range c.Validate() {
			paths = append(paths, f.Path)
		}
		if got := strings.Join(paths, " "); got != want {
			t.Errorf("want faults at %s, got %s", want, got)
		}
	}
}

// Scenario: any bytes as a file of each form.
// Guarantees: reading ends, with rows or with an error, and gives all memory back.
func FuzzReader(f *testing.F) {
	f.Add("ts,v\n1,2\n", uint8(0))
	f.Add("ts,asset,tag,value,q\n1,a,t,2,1\n", uint8(1))
	f.Add(strings.Repeat("1 ", 52)+"\n", uint8(2))
	f.Fuzz(func(t *testing.T, text string, form uint8) {
		c := config([]string{FormatCSV, FormatLong, FormatTEP}[form%3], func(c *Config) { c.Time = "s" }, "a.csv", "a.csv")
		rows, err := read(t, files(map[string]string{"a.csv": text}), c)
		if err == nil && len(rows)%2 != 0 {
			t.Errorf("%q: two readings gave %d rows together", text, len(rows))
		}
	})
}

// BenchmarkReader reads a Tennessee Eastman run.
func BenchmarkReader(b *testing.B) {
	root := os.DirFS("../../deploy/demo/tep")
	rows := int64(0)
	for b.Loop() {
		r, err := Open(root, config(FormatTEP, nil, "d00_te.dat.gz"), memory.NewGoAllocator())
		if err != nil {
			b.Fatal(err)
		}
		for {
			rec, err := r.Next(b.Context())
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				b.Fatal(err)
			}
			rows += rec.NumRows()
			rec.Release()
		}
		if err := r.Close(); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(rows)/b.Elapsed().Seconds(), "rows/s")
}
