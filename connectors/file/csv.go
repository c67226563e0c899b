package file

import (
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/tailrace/tailrace/schemas"
)

// number makes v the row's value: null with a flag if it is not finite.
func number(row *schemas.Row, v float64) {
	row.Quality, row.VType = schemas.Good, schemas.TypeFloat
	if math.IsNaN(v) || math.IsInf(v, 0) {
		row.VType, row.Flags = schemas.TypeNull, schemas.FlagNotFinite
		return
	}
	row.Value, row.HasValue = v, true
}

// cell makes the text of a CSV cell the row's value. An empty cell is no value at all, and false is returned.
func cell(row *schemas.Row, text string) (bool, error) {
	text = strings.TrimSpace(text)
	if text == "" {
		return false, nil
	}
	v, err := strconv.ParseFloat(text, 64)
	if err != nil && !errors.Is(err, strconv.ErrRange) {
		return false, fmt.Errorf("want a number, got %.40q", text)
	}
	number(row, v)
	return true, nil
}

// scales are the units of times written as numbers, in ns.
var scales = map[string]int64{"ns": 1, "us": 1e3, "ms": 1e6, "s": 1e9}

// parseTime reads a time written as kind says, in ns UTC.
func parseTime(kind, text string) (int64, error) {
	text = strings.TrimSpace(text)
	if scale, ok := scales[kind]; ok {
		if n, err := strconv.ParseInt(text, 10, 64); err == nil {
			if n > math.MaxInt64/scale || n < math.MinInt64/scale {
				return 0, fmt.Errorf("want a time in %s within years 1678 to 2262, got %.40q", kind, text)
			}
			return n * scale, nil
		}
		f, err := strconv.ParseFloat(text, 64)
		if err != nil || math.Abs(f) > float64(math.MaxInt64/scale) || math.IsNaN(f) {
			return 0, fmt.Errorf("want a time in %s, got %.40q", kind, text)
		}
		return int64(math.Round(f * float64(scale))), nil
	}
	layout := kind
	if kind == "rfc3339" {
		layout = time.RFC3339Nano
	}
	t, err := time.Parse(layout, text)
	if err != nil {
		return 0, fmt.Errorf("want a time such as %s, got %.40q", layout, text)
	}
	if y := t.Year(); y < 1678 || y > 2261 {
		return 0, fmt.Errorf("want a year from 1678 to 2261, got %d", y)
	}
	return t.UnixNano(), nil
}

// table reads the lines of a CSV file with a header.
type table struct {
	lines  *csv.Reader
	header []string
	fields []string
	kind   string // of times
	ts     int64
}

func newTable(text io.Reader, c *Config) (table, error) {
	lines := csv.NewReader(text)
	lines.Comma = []rune(c.Separator)[0]
	lines.ReuseRecord = true
	lines.FieldsPerRecord = -1 // read counts them, to say what was wanted
	header, err := lines.Read()
	if errors.Is(err, io.EOF) {
		return table{}, errors.New("want a header line, got an empty file")
	}
	header = slices.Clone(header)
	for i := range header {
		header[i] = strings.TrimSpace(strings.TrimPrefix(header[i], "\ufeff"))
		if err == nil && header[i] == "" {
			err = fmt.Errorf("line 1, column %d: want a name, got nothing", i+1)
		}
		if err == nil && slices.Contains(header[:i], header[i]) {
			err = fmt.Errorf("line 1, column %d: want each name once, got %q again", i+1, header[i])
		}
	}
	return table{lines: lines, header: header, kind: c.Time}, err
}

// column finds a column by its name.
func (t *table) column(name string) (int, error) {
	i := slices.Index(t.header, name)
	if i < 0 {
		return 0, fmt.Errorf("line 1: want a column %q, got %q", name, t.header)
	}
	return i, nil
}

// read reads a line and its time.
func (t *table) read(timeColumn int) (err error) {
	if t.fields, err = t.lines.Read(); err != nil {
		return err
	}
	if len(t.fields) != len(t.header) {
		line, _ := t.lines.FieldPos(0)
		return fmt.Errorf("line %d: want %d columns as in the header, got %d", line, len(t.header), len(t.fields))
	}
	if t.ts, err = parseTime(t.kind, t.fields[timeColumn]); err != nil {
		return t.at(timeColumn, err)
	}
	return nil
}

// at says where in the file err is.
func (t *table) at(column int, err error) error {
	line, _ := t.lines.FieldPos(column)
	return fmt.Errorf("line %d, column %q: %w", line, t.header[column], err)
}

// wideStream is a CSV file with a column per tag.
type wideStream struct {
	table
	asset       []byte
	assetColumn int // -1 if asset is fixed
	timeColumn  int
	tags        [][]byte // by column; nil if it holds no tag
	rows        []schemas.Row
}

func newWide(text io.Reader, asset string, c *Config) (*wideStream, error) {
	t, err := newTable(text, c)
	if err != nil {
		return nil, err
	}
	s := &wideStream{table: t, asset: []byte(asset), assetColumn: -1, tags: make([][]byte, len(t.header))}
	if s.timeColumn, err = t.column(c.TimeColumn); err != nil {
		return nil, err
	}
	if c.AssetColumn != "" {
		if s.assetColumn, err = t.column(c.AssetColumn); err != nil {
			return nil, err
		}
	}
	for _, name := range c.Ignore {
		if _, err := t.column(name); err != nil {
			return nil, fmt.Errorf("ignore: %w", err)
		}
	}
	for i, name := range t.header {
		if i != s.timeColumn && i != s.assetColumn && !slices.Contains(c.Ignore, name) {
			s.tags[i] = []byte(name)
		}
	}
	return s, nil
}

func (s *wideStream) time() int64 { return s.ts }

func (s *wideStream) next() error {
	if err := s.read(s.timeColumn); err != nil {
		return err
	}
	if s.assetColumn >= 0 {
		if s.asset = append(s.asset[:0], s.fields[s.assetColumn]...); len(s.asset) == 0 {
			return s.at(s.assetColumn, errors.New("want an asset, got nothing"))
		}
	}
	s.rows = s.rows[:0]
	for i, tag := range s.tags {
		if tag == nil {
			continue
		}
		row := schemas.Row{TS: s.ts, Asset: s.asset, Tag: tag}
		ok, err := cell(&row, s.fields[i])
		if err != nil {
			return s.at(i, err)
		}
		if ok {
			s.rows = append(s.rows, row)
		}
	}
	return nil
}

func (s *wideStream) values(each func(*schemas.Row)) {
	for i := range s.rows {
		each(&s.rows[i])
	}
}

// longStream is a CSV file with a value per line.
type longStream struct {
	table
	timeColumn, asset, tag, value int
	quality                       int // -1 if there is none
	row                           schemas.Row
	has                           bool
}

func newLong(text io.Reader, c *Config) (*longStream, error) {
	t, err := newTable(text, c)
	if err != nil {
		return nil, err
	}
	s := &longStream{table: t, quality: slices.Index(t.header, "q")}
	var faults []error
	find := func(name string) int {
		i, err := t.column(name)
		if err != nil {
			faults = append(faults, err)
		}
		return i
	}
	s.timeColumn, s.asset, s.tag, s.value = find("ts"), find("asset"), find("tag"), find("value")
	return s, errors.Join(faults...)
}

func (s *longStream) time() int64 { return s.ts }

func (s *longStream) next() (err error) {
	if err := s.read(s.timeColumn); err != nil {
		return err
	}
	s.row = schemas.Row{
		TS: s.ts, Asset: append(s.row.Asset[:0], s.fields[s.asset]...), Tag: append(s.row.Tag[:0], s.fields[s.tag]...),
	}
	if len(s.row.Asset) == 0 {
		return s.at(s.asset, errors.New("want an asset, got nothing"))
	}
	if len(s.row.Tag) == 0 {
		return s.at(s.tag, errors.New("want a tag, got nothing"))
	}
	if s.has, err = cell(&s.row, s.fields[s.value]); err != nil {
		return s.at(s.value, err)
	}
	if s.quality >= 0 {
		q, err := strconv.ParseUint(strings.TrimSpace(s.fields[s.quality]), 10, 8)
		if err != nil || q > uint64(schemas.Good) {
			return s.at(s.quality, fmt.Errorf("want 0 bad, 1 uncertain or 2 good, got %.40q", s.fields[s.quality]))
		}
		s.row.Quality = schemas.Quality(q)
	}
	return nil
}

func (s *longStream) values(each func(*schemas.Row)) {
	if s.has {
		each(&s.row)
	}
}
