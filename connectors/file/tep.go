package file

import (
	"bufio"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/tailrace/tailrace/schemas"
)

// The shape of Tennessee Eastman files: XMEAS(1) to XMEAS(41), then XMV(1) to XMV(11) (Downs and Vogel 1993).
const (
	tepMeasured    = 41
	tepManipulated = 11
	tepColumns     = tepMeasured + tepManipulated
	tepMaxLine     = 1 << 20 // the transposed file has lines of 500 numbers
)

// tepStream is a file of that shape, held whole: a run has some 50,000 numbers.
type tepStream struct {
	asset  []byte
	tags   [][]byte
	rows   [][]float64
	at     int // the row read last
	start  int64
	period int64
	row    schemas.Row
}

// newTEP reads a file with a row per sample, or, told by its shape, the transposed d00 with a row per column.
func newTEP(text io.Reader, asset string, c *Config) (*tepStream, error) {
	s := &tepStream{asset: []byte(asset), at: -1, start: c.Start.UnixNano(), period: int64(c.Period)}
	for i := range tepMeasured {
		s.tags = append(s.tags, fmt.Appendf(nil, "xmeas_%02d", i+1))
	}
	for i := range tepManipulated {
		s.tags = append(s.tags, fmt.Appendf(nil, "xmv_%02d", i+1))
	}
	lines := bufio.NewScanner(text)
	lines.Buffer(nil, tepMaxLine)
	for line := 1; lines.Scan(); line++ {
		fields := strings.Fields(lines.Text())
		if len(fields) == 0 {
			continue
		}
		row := make([]float64, len(fields))
		for i, field := range fields {
			v, err := strconv.ParseFloat(field, 64)
			if err != nil {
				return nil, fmt.Errorf("line %d, column %d: want a number, got %.40q", line, i+1, field)
			}
			row[i] = v
		}
		if len(s.rows) > 0 && len(row) != len(s.rows[0]) {
			return nil, fmt.Errorf("line %d: want %d columns as on the lines before, got %d",
				line, len(s.rows[0]), len(row))
		}
		s.rows = append(s.rows, row)
	}
	if err := lines.Err(); err != nil {
		return nil, err
	}
	if len(s.rows) > 0 && len(s.rows[0]) != tepColumns {
		if len(s.rows) != tepColumns {
			return nil, fmt.Errorf("want %d columns, or %d lines of a transposed file, got %d lines of %d columns",
				tepColumns, tepColumns, len(s.rows), len(s.rows[0]))
		}
		s.rows = transpose(s.rows)
	}
	if n := int64(len(s.rows)); n > 0 && (1<<62)/n < s.period {
		return nil, fmt.Errorf("period: %d rows of %v do not fit in time", n, time.Duration(s.period))
	}
	return s, nil
}

func transpose(rows [][]float64) [][]float64 {
	out := make([][]float64, len(rows[0]))
	for i := range out {
		out[i] = make([]float64, len(rows))
		for j := range rows {
			out[i][j] = rows[j][i]
		}
	}
	return out
}

func (s *tepStream) next() error {
	if s.at++; s.at >= len(s.rows) {
		return io.EOF
	}
	return nil
}

func (s *tepStream) time() int64 { return s.start + int64(s.at)*s.period }

func (s *tepStream) values(each func(*schemas.Row)) {
	for i, v := range s.rows[s.at] {
		s.row = schemas.Row{TS: s.time(), Asset: s.asset, Tag: s.tags[i], Idx: 0}
		number(&s.row, v)
		each(&s.row)
	}
}
