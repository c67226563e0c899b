package cli

import (
	"bytes"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/apache/arrow/go/v15/arrow"
	"github.com/apache/arrow/go/v15/arrow/array"
	"github.com/apache/arrow/go/v15/arrow/memory"

	"github.com/tailrace/tailrace/operators/train"
	"github.com/tailrace/tailrace/schemas"
)

// Scenario: two nets of three passes, shown where nothing is a terminal.
// Guarantees: plain lines, the last pass of each among them, with loss, rate and time left; no control characters.
func TestPassesAreLinesOffTheTerminal(t *testing.T) {
	var out bytes.Buffer
	p := &passes{env: &env{App: App{Out: &out}}}
	for part := 1; part <= 2; part++ {
		for epoch := 1; epoch <= 3; epoch++ {
			p.show(train.Progress{Part: part, Parts: 2, Epoch: epoch, Epochs: 3, Windows: 10, Loss: 0.5, Validation: math.NaN()})
		}
	}
	p.done()
	lines := strings.Split(strings.TrimSuffix(out.String(), "\n"), "\n")
	for _, part := range []string{"net 1 of 2: ", "net 2 of 2: "} {
		found := false
		for _, l := range lines {
			found = found || strings.HasPrefix(l, part+"pass 3 of at most 3, loss 0.5, ") && strings.HasSuffix(l, "at most 0s left")
		}
		if !found {
			t.Errorf("want the last pass of %q, got %q", part, lines)
		}
	}
	if strings.ContainsAny(out.String(), "\r\x1b") {
		t.Errorf("want plain lines, got %q", out.String())
	}
}

// Scenario: scored windows of the normal run and of a fault's, before and after its beginning, one without a score.
// Guarantees: the normal run's count from the first, the fault's from sample 161, and no window without a score.
func TestTally(t *testing.T) {
	mem := memory.NewCheckedAllocator(memory.DefaultAllocator)
	defer mem.AssertSize(t, 0)
	schema := arrow.NewSchema([]arrow.Field{
		{Name: schemas.NameAsset, Type: schemas.Dict},
		{Name: schemas.NameTS, Type: schemas.NanosUTC},
		{Name: schemas.NameScore, Type: arrow.PrimitiveTypes.Float32, Nullable: true},
	}, nil)
	b := array.NewRecordBuilder(mem, schema)
	defer b.Release()
	start := time.Date(2000, 1, 3, 0, 0, 0, 0, time.UTC)
	for _, row := range []struct {
		run    string
		sample int
		score  float32
	}{
		{"d00_te", 5, 2}, {"d00_te", 6, 0.5}, {"d00_te", 7, 1}, {"d00_te", 8, -1}, // 1 of 3 over
		{"d04_te", 160, 2}, {"d04_te", 161, 2}, {"d04_te", 162, 0}, {"d04_te", 163, 3}, {"d04_te", 164, 3}, // 3 of 4
	} {
		if err := b.Field(0).(*array.BinaryDictionaryBuilder).AppendString(row.run); err != nil {
			t.Fatal(err)
		}
		at := start.Add(time.Duration(row.sample-1) * demoPeriod)
		b.Field(1).(*array.TimestampBuilder).Append(arrow.Timestamp(at.UnixNano()))
		if row.score < 0 {
			b.Field(2).AppendNull()
		} else {
			b.Field(2).(*array.Float32Builder).Append(row.score)
		}
	}
	rec := b.NewRecord()
	defer rec.Release()
	sums := &tally{start: start, threshold: 1, runs: map[string]*runTally{}}
	if err := sums.add(rec); err != nil {
		t.Fatal(err)
	}
	got, err := sums.result()
	if err != nil {
		t.Fatal(err)
	}
	if got.FalseAlarmRate != 0.3333 || len(got.Detection) != 1 || got.Detection["4"] != 0.75 {
		t.Errorf("want .3333 and .75 for fault 4, got %+v", got)
	}
}
