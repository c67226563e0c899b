package train_test

import (
	"bufio"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"io/fs"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/apache/arrow/go/v15/arrow"
	"github.com/apache/arrow/go/v15/arrow/array"
	"github.com/apache/arrow/go/v15/arrow/memory"

	"github.com/tailrace/tailrace/deploy"
	"github.com/tailrace/tailrace/operators/model"
	"github.com/tailrace/tailrace/operators/train"
	"github.com/tailrace/tailrace/pipeline/pipelinetest"
	"github.com/tailrace/tailrace/schemas"
)

const (
	tepChannels = 52
	tepGrid     = 3 * time.Minute
	demoData    = "demo/tep"
	demoBundle  = "demo/models/tep-pca/1.0.0"
)

// tepStart is where deploy/demo/tep.yaml places the training run.
var tepStart = time.Date(2000, 1, 3, 0, 0, 0, 0, time.UTC)

// readRun reads a run, rows of 52 values. d00 is stored transposed.
func readRun(t testing.TB, fsys fs.FS, name string) (rows [][]float64, sum string) {
	t.Helper()
	packed, err := fs.ReadFile(fsys, name)
	if err != nil {
		t.Fatal(err)
	}
	z, err := gzip.NewReader(strings.NewReader(string(packed)))
	if err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(z)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var row []float64
		for _, word := range strings.Fields(lines.Text()) {
			v, err := strconv.ParseFloat(word, 64)
			if err != nil {
				t.Fatal(err)
			}
			row = append(row, v)
		}
		if len(row) > 0 {
			rows = append(rows, row)
		}
	}
	if lines.Err() != nil {
		t.Fatal(lines.Err())
	}
	if len(rows) == tepChannels && len(rows[0]) > tepChannels {
		turned := make([][]float64, len(rows[0]))
		for i := range turned {
			for _, channel := range rows {
				turned[i] = append(turned[i], channel[i])
			}
		}
		rows = turned
	}
	return rows, fmt.Sprintf("%x", sha256.Sum256(packed))
}

// tepLayout is what deploy/demo/tep.yaml gives. Units: Downs and Vogel, Computers and Chemical Engineering 17 (1993),
// tables 3 to 5.
func tepLayout() schemas.Layout {
	units := strings.Fields("kscmh kg/h kg/h kscmh kscmh kscmh kPa % degC kscmh degC % kPa m3/h % kPa m3/h degC kg/h kW degC degC")
	l := schemas.Layout{Grid: tepGrid, Size: 1, Hop: 1}
	for i := range 41 {
		unit := "mol%"
		if i < len(units) {
			unit = units[i]
		}
		l.Channels = append(l.Channels, schemas.Channel{Tag: fmt.Sprintf("xmeas_%02d", i+1), Unit: unit})
	}
	for i := range 11 {
		l.Channels = append(l.Channels, schemas.Channel{Tag: fmt.Sprintf("xmv_%02d", i+1), Unit: "%"})
	}
	return l
}

// tepConfig is the section train of deploy/demo/tep.yaml.
func tepConfig() train.Config {
	c := train.DefaultConfig()
	c.Name, c.Version, c.Output = "tep-pca", "1.0.0", "models"
	c.PCA.Components = 11
	return c
}

// sample is a window as the tests write it. A NaN is a missing cell.
type sample struct {
	asset    string
	at       int // start, in rows of the grid
	values   []float64
	coverage float32
	cut      string
}

// windows makes a record of window's rows.
func windows(t testing.TB, mem memory.Allocator, l schemas.Layout, samples []sample) arrow.Record {
	t.Helper()
	schema, err := l.With(schemas.WindowFields(l.Size, len(l.Channels)))
	if err != nil {
		t.Fatal(err)
	}
	b := array.NewRecordBuilder(mem, schema)
	defer b.Release()
	at := func(name string) array.Builder { return b.Field(schema.FieldIndices(name)[0]) }
	text := func(name, v string) {
		if err := at(name).(*array.BinaryDictionaryBuilder).AppendString(v); err != nil {
			t.Fatal(err)
		}
	}
	when := func(name string, v time.Time) {
		at(name).(*array.TimestampBuilder).Append(arrow.Timestamp(v.UnixNano()))
	}
	for _, s := range samples {
		start := tepStart.Add(time.Duration(s.at) * l.Grid)
		end := start.Add(time.Duration(l.Size) * l.Grid)
		text(schemas.NameAsset, s.asset)
		text(schemas.NameCut, s.cut)
		when(schemas.NameWindowStart, start)
		when(schemas.NameWindowEnd, end)
		when(schemas.NameTS, end.Add(-l.Grid))
		when(schemas.NameTSIngest, end)
		at(schemas.NameN).(*array.Int32Builder).Append(int32(l.Size))
		at(schemas.NameCoverage).(*array.Float32Builder).Append(s.coverage)
		at(schemas.NameKFirst).(*array.Int64Builder).Append(0)
		at(schemas.NameKLast).(*array.Int64Builder).Append(0)
		at(schemas.NameRevision).(*array.Uint32Builder).Append(0)
		list := at(schemas.NameSamples).(*array.FixedSizeListBuilder)
		list.Append(true)
		for _, v := range s.values {
			if v != v {
				list.ValueBuilder().(*array.Float64Builder).AppendNull()
			} else {
				list.ValueBuilder().(*array.Float64Builder).Append(v)
			}
		}
	}
	return b.NewRecord()
}

// fit trains on samples, handed over in records of at most per rows.
func fit(t testing.TB, c train.Config, l schemas.Layout, samples []sample, per int, files ...model.TrainedFile) (*model.Bundle, error) {
	t.Helper()
	trainer, err := train.New(c, l)
	if err != nil {
		return nil, err
	}
	if err := add(t, trainer, l, samples, per); err != nil {
		return nil, err
	}
	return trainer.Fit(context.Background(), files)
}

// add hands samples over in records of at most per rows.
func add(t testing.TB, trainer *train.Trainer, l schemas.Layout, samples []sample, per int) error {
	t.Helper()
	mem := pipelinetest.NewAllocator(t)
	for lo := 0; lo < len(samples); lo += per {
		rec := windows(t, mem, l, samples[lo:min(lo+per, len(samples))])
		err := trainer.Add(rec)
		rec.Release()
		if err != nil {
			return err
		}
	}
	return nil
}

// trainTEP trains as the demo does, from the folder of runs in fsys.
func trainTEP(t testing.TB, fsys fs.FS) *model.Bundle {
	t.Helper()
	rows, sum := readRun(t, fsys, "d00.dat.gz")
	b, err := fit(t, tepConfig(), tepLayout(), samplesOf("d00", rows), 128, model.TrainedFile{Name: "d00.dat.gz", SHA256: sum})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func samplesOf(asset string, rows [][]float64) []sample {
	var out []sample
	for i, row := range rows {
		out = append(out, sample{asset: asset, at: i, values: row, coverage: 1})
	}
	return out
}

// sub is a folder of what the program carries.
func sub(t testing.TB, dir string) fs.FS {
	t.Helper()
	fsys, err := fs.Sub(deploy.Demo, dir)
	if err != nil {
		t.Fatal(err)
	}
	return fsys
}

// reference reads what testdata/reference.py gave: T2 and Q by run and row.
func reference(t testing.TB, file io.Reader) map[int][][2]float64 {
	t.Helper()
	z, err := gzip.NewReader(file)
	if err != nil {
		t.Fatal(err)
	}
	out := map[int][][2]float64{}
	lines := bufio.NewScanner(z)
	for lines.Scan() {
		var run, row int
		var v [2]float64
		if _, err := fmt.Sscanf(lines.Text(), "%d,%d,%g,%g", &run, &row, &v[0], &v[1]); err != nil {
			continue // the header
		}
		out[run] = append(out[run], v)
		if row != len(out[run]) {
			t.Fatalf("reference: run %d: want row %d, got %d", run, len(out[run]), row)
		}
	}
	return out
}
