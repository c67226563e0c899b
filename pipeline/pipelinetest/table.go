package pipelinetest

import (
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/apache/arrow/go/v15/arrow"
	"github.com/apache/arrow/go/v15/arrow/array"
	"github.com/apache/arrow/go/v15/arrow/memory"
)

// ReadTable reads rows written as text: a line of column names, then a line a row, words apart by spaces. Columns of
// schema that are not named hold defaults[name], else null if they may, else zero.
//
// Times are durations since 1970 ("3m", "-1.5s"), nanoseconds, "min" or "max"; "-" is null; a list is [1,-,2.5] and a
// map {a=1,b=2}; a text that is empty or has spaces stands in Go quotes.
func ReadTable(mem memory.Allocator, schema *arrow.Schema, defaults map[string]string, text string) (arrow.Record, error) {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	header := strings.Fields(lines[0])
	builders := make([]array.Builder, len(schema.Fields()))
	for i, field := range schema.Fields() {
		builders[i] = array.NewBuilder(mem, field.Type)
		defer builders[i].Release()
	}
	for _, name := range header {
		if len(schema.FieldIndices(name)) == 0 {
			return nil, fmt.Errorf("column %q: want one of the schema's", name)
		}
	}
	for n, line := range lines[1:] {
		words, err := split(line)
		if err != nil || len(words) != len(header) {
			return nil, fmt.Errorf("row %d: want %d words, got %d (%v)", n+1, len(header), len(words), err)
		}
		for i, field := range schema.Fields() {
			word, ok := defaults[field.Name]
			if at := slices.Index(header, field.Name); at >= 0 {
				word, ok = words[at], true
			}
			if err := appendWord(builders[i], field, word, ok); err != nil {
				return nil, fmt.Errorf("row %d: column %q: %w", n+1, field.Name, err)
			}
		}
	}
	columns := make([]arrow.Array, len(builders))
	for i, builder := range builders {
		columns[i] = retype(builder.NewArray(), schema.Field(i).Type)
		defer columns[i].Release()
	}
	return array.NewRecord(schema, columns, int64(len(lines)-1)), nil
}

// retype gives a list the type of its column: its builder forgets whether its items may be null.
func retype(a arrow.Array, t arrow.DataType) arrow.Array {
	if _, ok := t.(*arrow.FixedSizeListType); !ok {
		return a
	}
	defer a.Release()
	data := array.NewData(t, a.Len(), a.Data().Buffers(), a.Data().Children(), a.NullN(), 0)
	defer data.Release()
	return array.NewFixedSizeListData(data)
}

// split cuts a line at spaces that are not inside quotes.
func split(line string) ([]string, error) {
	var words []string
	for {
		line = strings.TrimLeft(line, " \t")
		if line == "" {
			return words, nil
		}
		word, _, _ := strings.Cut(line, " ")
		if line[0] == '"' {
			quoted, err := strconv.QuotedPrefix(line)
			if err != nil {
				return nil, err
			}
			word = quoted
		}
		words = append(words, word)
		line = line[len(word):]
	}
}

func appendWord(b array.Builder, field arrow.Field, word string, given bool) error {
	if word == "-" || !given && field.Nullable {
		b.AppendNull()
		return nil
	}
	if _, text := b.(*array.BinaryDictionaryBuilder); !given && !text {
		b.AppendEmptyValue() // of a dictionary this would be index 0, whatever that is
		return nil
	}
	switch b := b.(type) {
	case *array.TimestampBuilder:
		ns, err := ParseTime(word)
		b.Append(arrow.Timestamp(ns))
		return err
	case *array.BinaryDictionaryBuilder:
		return b.AppendString(unquote(word))
	case *array.StringBuilder:
		b.Append(unquote(word))
		return nil
	case *array.FixedSizeListBuilder:
		b.Append(true)
		item := field.Type.(*arrow.FixedSizeListType).ElemField()
		items := splitList(word, "[]")
		if want := field.Type.(*arrow.FixedSizeListType).Len(); int(want) != len(items) {
			return fmt.Errorf("want %d items, got %d", want, len(items))
		}
		for _, w := range items {
			if err := appendWord(b.ValueBuilder(), item, w, true); err != nil {
				return err
			}
		}
		return nil
	case *array.MapBuilder:
		b.Append(true)
		for _, pair := range splitList(word, "{}") {
			key, value, _ := strings.Cut(pair, "=")
			if err := b.KeyBuilder().AppendValueFromString(key); err != nil {
				return err
			}
			if err := b.ItemBuilder().AppendValueFromString(value); err != nil {
				return err
			}
		}
		return nil
	}
	return b.AppendValueFromString(word)
}

func splitList(word, brackets string) []string {
	word = strings.Trim(word, brackets)
	if word == "" {
		return nil
	}
	return strings.Split(word, ",")
}

func unquote(word string) string {
	if text, err := strconv.Unquote(word); err == nil {
		return text
	}
	return word
}

// ParseTime reads a time as in [ReadTable], in ns since 1970.
func ParseTime(word string) (int64, error) {
	switch word {
	case "min":
		return math.MinInt64, nil
	case "max":
		return math.MaxInt64, nil
	}
	if ns, err := strconv.ParseInt(word, 10, 64); err == nil {
		return ns, nil
	}
	d, err := time.ParseDuration(word)
	return int64(d), err
}

// WriteTable writes the rows of records of one schema as [ReadTable] reads them, whatever the cuts between records.
// Columns says which to show; none means all.
func WriteTable(records []arrow.Record, columns ...string) string {
	if len(records) == 0 {
		return ""
	}
	if len(columns) == 0 {
		for _, f := range records[0].Schema().Fields() {
			columns = append(columns, f.Name)
		}
	}
	rows := [][]string{columns}
	for _, rec := range records {
		for r := range int(rec.NumRows()) {
			row := make([]string, len(columns))
			for i, name := range columns {
				row[i] = `?`
				if at := rec.Schema().FieldIndices(name); len(at) > 0 {
					row[i] = word(rec.Column(at[0]), r)
				}
			}
			rows = append(rows, row)
		}
	}
	widths := make([]int, len(columns))
	for _, row := range rows {
		for i, w := range row {
			widths[i] = max(widths[i], utf8.RuneCountInString(w))
		}
	}
	var b strings.Builder
	for _, row := range rows {
		for i, w := range row {
			if i == len(row)-1 {
				b.WriteString(w + "\n")
				break
			}
			fmt.Fprintf(&b, "%-*s ", widths[i], w)
		}
	}
	return b.String()
}

// word writes one value.
func word(a arrow.Array, i int) string {
	if a.IsNull(i) {
		return "-"
	}
	switch a := a.(type) {
	case *array.Timestamp:
		return time.Duration(a.Value(i)).String()
	case *array.Dictionary:
		return word(a.Dictionary(), a.GetValueIndex(i))
	case *array.String:
		if v := a.Value(i); v != "" && v != "-" && !strings.ContainsAny(v, " \t\n\"") {
			return v
		}
		return strconv.Quote(a.Value(i))
	case *array.Float64:
		return strconv.FormatFloat(a.Value(i), 'g', -1, 64)
	case *array.Float32:
		return strconv.FormatFloat(float64(a.Value(i)), 'g', -1, 32)
	case *array.FixedSizeList:
		start, end := a.ValueOffsets(i)
		var items []string
		for at := start; at < end; at++ {
			items = append(items, word(a.ListValues(), int(at)))
		}
		return "[" + strings.Join(items, ",") + "]"
	case *array.Map:
		start, end := a.ValueOffsets(i)
		var items []string
		for at := int(start); at < int(end); at++ {
			items = append(items, word(a.Keys(), at)+"="+word(a.Items(), at))
		}
		return "{" + strings.Join(items, ",") + "}"
	}
	return a.ValueStr(i)
}
