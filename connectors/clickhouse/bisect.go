package clickhouse

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/ClickHouse/ch-go"
	"github.com/ClickHouse/ch-go/proto"

	"github.com/tailrace/tailrace/pipeline"
)

// node is a block, or a part of one that the server refused: the rows [from, to) of root, which the table's plan made.
//
// A refused block is halved, a refused half again, down to the rows that the server does not take. Who does it a second
// time must make the same halves under the same numbers, so a node's number, the column "block", is a function of its
// place alone. The low 12 bits are the number of the root; a whole block has nothing else. The 20 bits above are the path to
// a half: 1, then a bit for each halving, 0 for the first half and 1 for the second. Block 5 has the halves 5 + 2*4096 and
// 5 + 3*4096.
type node struct {
	root     uint32
	path     uint32
	from, to int
}

const (
	rootBits = 12
	rootsMax = 1 << rootBits
	pathBits = 32 - rootBits
)

func (n node) number() uint32 { return n.path<<rootBits | n.root }

func (n node) rows() int { return n.to - n.from }

// halves cuts a node of two rows or more. The second half has the odd row.
func (n node) halves() (first, second node) {
	middle := n.from + n.rows()/2
	path := max(n.path, 1) << 1
	return node{n.root, path, n.from, middle}, node{n.root, path | 1, middle, n.to}
}

// holds says whether number is a part of n: a half, or a half of one.
func (n node) holds(number uint32) bool {
	if number%rootsMax != n.root {
		return false
	}
	own := max(n.path, 1)
	for path := number >> rootBits; path > own; path >>= 1 {
		if path>>1 == own {
			return true
		}
	}
	return false
}

// writing is one call of Write.
type writing struct {
	*Sink
	checkpoint *pipeline.Checkpoint
	settled    settling // since this call began
	refused    []pipeline.RefusedRow
}

// table stores the rows of one table, block after block.
func (w *writing) table(ctx context.Context, t table) error {
	rowsMax := w.checkpoint.BlockRows
	if rowsMax == 0 {
		rowsMax = w.config.InsertRowsMax
	}
	blocks, err := t.plan(w.checkpoint.Parts[t.name()], rowsMax)
	if err != nil {
		return err
	}
	defer t.release()
	if blocks > rootsMax {
		return fmt.Errorf("checkpoint %d is %d blocks: want at most %d: a smaller checkpoint, or more rows a block (%d)",
			w.checkpoint.Seq, blocks, rootsMax, rowsMax)
	}
	for i := range blocks {
		n := node{root: uint32(i), to: t.rows(i)}
		var parts []uint32
		if w.checkpoint.Resent {
			if parts, err = w.partsOf(ctx, t, n); err != nil {
				return err
			}
		}
		if err := w.store(ctx, t, n, parts); err != nil {
			return err
		}
	}
	return nil
}

// store stores n or, of what the server refuses, all but the rows that are at fault. parts are the numbers of the halves of
// n's root that are stored already: one that halved the block before may not have come to its end.
func (w *writing) store(ctx context.Context, t table, n node, parts []uint32) error {
	if slices.Contains(parts, n.number()) {
		return nil
	}
	if !slices.ContainsFunc(parts, n.holds) {
		b := t.load(n, w.checkpoint.Run, w.checkpoint.Seq)
		err := w.insert(ctx, t, b, w.checkpoint.Resent, w.settled)
		if err == nil {
			w.reached("block")
			return nil
		}
		if kindOf(err) != refused || ctx.Err() != nil {
			return fmt.Errorf("run %x, checkpoint %d, block %d (%d rows of month %d): %w",
				b.run, b.seq, b.num, b.rows, b.month, err)
		}
		if n.rows() == 1 {
			return w.refuse(t, n, err)
		}
		w.counters.count("blocks_halved", 1)
	}
	first, second := n.halves()
	if err := w.store(ctx, t, first, parts); err != nil {
		return err
	}
	return w.store(ctx, t, second, parts)
}

// refuse takes the one row of n out.
func (w *writing) refuse(t table, n node, cause error) error {
	if len(w.refused) == w.config.RefusedRowsMax {
		return fmt.Errorf("the server refuses more than refused_rows_max (%d) rows of checkpoint %d, at last: %w",
			w.config.RefusedRowsMax, w.checkpoint.Seq, cause)
	}
	row := t.row(n)
	row.Table, row.Reason = t.name(), reasonOf(cause)
	w.refused = append(w.refused, row)
	w.counters.count("rows_refused", 1)
	return nil
}

// reasonMax holds the sentence of an exception. What follows in it are the row's own values, of any length.
const reasonMax = 1 << 10

func reasonOf(err error) string {
	text := err.Error()
	if len(text) > reasonMax {
		text = text[:reasonMax]
	}
	return strings.ToValidUTF8(text, "?")
}

// partsOf looks for n, a whole block, and for halves of it, and returns the numbers of those that are stored. Halves can only
// be found by their checkpoint, which costs more than looking for a witness: it is done if the whole block is not there.
func (w *writing) partsOf(ctx context.Context, t table, n node) ([]uint32, error) {
	b := t.load(n, w.checkpoint.Run, w.checkpoint.Seq)
	var numbers []uint32
	err := w.retry(ctx, func() error {
		there, err := w.there(ctx, t, b, w.settled)
		if err != nil || there {
			return err // insert looks again, and may have to mend a view
		}
		column, first, last := t.span()
		var found proto.ColUInt32
		err = w.do(ctx, ch.Query{
			Body: fmt.Sprintf(`SELECT block FROM %s
				WHERE %s AND bitAnd(block, %d) = %d AND block >= %d AND %s BETWEEN %s AND %s GROUP BY block`,
				t.name(), lineageOf(b.run, b.seq), rootsMax-1, n.root, rootsMax, column, timeText(first), timeText(last)),
			Result:   proto.Results{{Name: "block", Data: &found}},
			OnResult: func(context.Context, proto.Block) error { numbers = append(numbers, found...); return nil },
		})
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("look for parts of block %d: %w", n.root, err)
	}
	return numbers, nil
}
