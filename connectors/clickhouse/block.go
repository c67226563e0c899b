package clickhouse

import (
	"cmp"
	"math"
	"slices"
	"time"

	"github.com/apache/arrow/go/v15/arrow"

	"github.com/tailrace/tailrace/pipeline"
)

// piece is the rows [from, to) of a record. It borrows the record.
type piece struct {
	rec      arrow.Record
	from, to int
	topic    string
	part     int32
}

func (p piece) rows() int { return p.to - p.from }

// column is the data of column i, whole: its rows are at data.Offset()+from and on.
func (p piece) column(i int) arrow.ArrayData { return p.rec.Column(i).Data() }

// time is the time in the first row of column i, ns.
func (p piece) time(i int) int64 { return values[int64](p.column(i), p.from, p.from+1)[0] }

// cut is a block before it is sent: pieces of one month, in order.
type cut struct {
	month  int // as ClickHouse's toYYYYMM
	rows   int
	pieces []piece
}

// split cuts the rows of parts into blocks by the month of the timestamp column ts, at most rowsMax rows each, months in
// order. Equal input gives equal cuts, in the same order.
func split(parts []pipeline.Part, ts, rowsMax int) []cut {
	months := map[int]*cut{}
	var span month
	for _, part := range parts {
		for _, rec := range part.Batches {
			times := values[int64](rec.Column(ts).Data(), 0, int(rec.NumRows()))
			for from := 0; from < len(times); {
				if !span.holds(times[from]) {
					span = monthOf(times[from])
				}
				to := from + 1
				for to < len(times) && span.holds(times[to]) {
					to++
				}
				m := months[span.number]
				if m == nil {
					m = &cut{month: span.number}
					months[span.number] = m
				}
				m.rows += to - from
				m.pieces = append(m.pieces, piece{rec: rec, from: from, to: to, topic: part.Topic, part: part.Partition})
				from = to
			}
		}
	}
	var cuts []cut
	for _, m := range months {
		cuts = append(cuts, m.chop(rowsMax)...)
	}
	// Stable: the blocks of a month keep their order.
	slices.SortStableFunc(cuts, func(a, b cut) int { return cmp.Compare(a.month, b.month) })
	return cuts
}

// chop cuts a month into blocks of at most rowsMax rows.
func (c *cut) chop(rowsMax int) []cut {
	if c.rows <= rowsMax {
		return []cut{*c}
	}
	var list []cut
	next := cut{month: c.month}
	for _, p := range c.pieces {
		for p.rows() > 0 {
			take := p
			take.to = min(p.to, p.from+rowsMax-next.rows)
			next.pieces = append(next.pieces, take)
			next.rows += take.rows()
			p.from = take.to
			if next.rows == rowsMax {
				list = append(list, next)
				next = cut{month: c.month}
			}
		}
	}
	if next.rows > 0 {
		list = append(list, next)
	}
	return list
}

// slice is the rows [from, to) of c.
func (c *cut) slice(from, to int) cut {
	if from == 0 && to == c.rows {
		return *c
	}
	part := cut{month: c.month, rows: to - from}
	for _, p := range c.pieces {
		n := p.rows()
		if from < n && to > 0 {
			p.from, p.to = p.from+max(from, 0), min(p.to, p.from+to)
			part.pieces = append(part.pieces, p)
		}
		from, to = from-n, to-n
	}
	return part
}

// month is a calendar month in UTC, both ends inclusive, ns.
type month struct {
	number      int // as ClickHouse's toYYYYMM; 0 for none
	first, last int64
}

func (m month) holds(ns int64) bool { return m.number != 0 && m.first <= ns && ns <= m.last }

func monthOf(ns int64) month {
	t := time.Unix(0, ns).UTC()
	begin := time.Date(t.Year(), t.Month(), 1, 0, 0, 0, 0, time.UTC)
	return month{number: t.Year()*100 + int(t.Month()), first: nanos(begin), last: nanos(begin.AddDate(0, 1, 0).Add(-1))}
}

// nanos is t in ns, or the nearest that an int64 can say: the first and the last month that it can name are not whole.
func nanos(t time.Time) int64 {
	if t.Before(time.Unix(0, math.MinInt64)) {
		return math.MinInt64
	}
	if t.After(time.Unix(0, math.MaxInt64)) {
		return math.MaxInt64
	}
	return t.UnixNano()
}
