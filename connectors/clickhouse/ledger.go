package clickhouse

import (
	"context"
	"encoding/binary"
	"fmt"
	"math/big"
	"slices"
	"time"

	"github.com/ClickHouse/ch-go"
	"github.com/ClickHouse/ch-go/proto"

	"github.com/tailrace/tailrace/pipeline"
)

// ledgerTable is where settled checkpoints are written down, a row for each partition.
const ledgerTable = "checkpoints"

// ledgerInput is lines as columns. The server's clock says when they were settled if one of them does not.
func ledgerInput(lines []pipeline.LedgerEntry) proto.Input {
	low := func() *proto.ColLowCardinality[string] { return new(proto.ColStr).LowCardinality() }
	names, ids, topics := low(), low(), low()
	runs, seqs, partitions := new(proto.ColUInt128), new(proto.ColUInt64), new(proto.ColInt32)
	froms, tos, messages, blobs := new(proto.ColInt64), new(proto.ColInt64), new(proto.ColUInt64), new(proto.ColStr)
	settled := new(proto.ColDateTime64).WithPrecision(proto.PrecisionMilli).WithLocation(time.UTC)
	rows := proto.NewMap(low(), new(proto.ColUInt64))
	counters := proto.NewMap(low(), new(proto.ColInt64))
	timed := true
	for _, l := range lines {
		names.Append(l.Pipeline)
		runs.Append(proto.UInt128{High: binary.BigEndian.Uint64(l.Run[:8]), Low: binary.BigEndian.Uint64(l.Run[8:])})
		seqs.Append(l.Seq)
		topics.Append(l.Topic)
		ids.Append(l.TopicID)
		partitions.Append(l.Partition)
		froms.Append(l.From)
		tos.Append(l.To)
		messages.Append(uint64(max(0, l.Messages)))
		settled.Append(l.Settled)
		blobs.Append(l.Blob)
		stored := make(map[string]uint64, len(l.Rows))
		for table, n := range l.Rows {
			stored[string(table)] = uint64(max(0, n))
		}
		rows.Append(stored)
		counters.Append(l.Counters)
		timed = timed && !l.Settled.IsZero()
	}
	input := proto.Input{
		{Name: "pipeline", Data: names}, {Name: "run", Data: runs}, {Name: "seq", Data: seqs},
		{Name: "topic", Data: topics}, {Name: "topic_id", Data: ids}, {Name: "partition", Data: partitions},
		{Name: "from", Data: froms}, {Name: "to", Data: tos}, {Name: "messages", Data: messages},
	}
	if timed {
		input = append(input, proto.InputColumn{Name: "settled", Data: settled})
	}
	return append(input, proto.InputColumn{Name: "blob", Data: blobs},
		proto.InputColumn{Name: "rows", Data: rows}, proto.InputColumn{Name: "counters", Data: counters})
}

// Record adds lines to the ledger, in one INSERT.
//
// Several processes may write down the same checkpoint, each for the partitions that it has now. All use one token for an
// attempt, so that the server takes one of them, and each looks afterwards for the lines that are still not there.
func (s *Sink) Record(ctx context.Context, lines []pipeline.LedgerEntry) error {
	if len(lines) == 0 {
		return nil
	}
	first := lines[0]
	for _, l := range lines {
		if l.Pipeline != first.Pipeline || l.Run != first.Run || l.Seq != first.Seq {
			return fmt.Errorf("table %s: want lines of one checkpoint, got %d of run %x of %s and %d of run %x of %s",
				ledgerTable, first.Seq, first.Run, first.Pipeline, l.Seq, l.Run, l.Pipeline)
		}
	}
	attempt := 0
	err := s.retry(ctx, func() error {
		for ; ; attempt++ {
			rest, err := s.unrecorded(ctx, lines, attempt > 0)
			if err != nil || len(rest) == 0 {
				return err
			}
			if attempt == attemptsMax {
				return fmt.Errorf("%w: %d lines acknowledged under %d tokens", errAbsent, len(rest), attempt)
			}
			if err := s.recordOnce(ctx, rest, attempt); err != nil {
				return err
			}
		}
	})
	if err != nil {
		return fmt.Errorf("%s: table %s: run %x, checkpoint %d: %w", s.config, ledgerTable, first.Run, first.Seq, err)
	}
	return nil
}

func (s *Sink) recordOnce(ctx context.Context, lines []pipeline.LedgerEntry, attempt int) error {
	waited, err := s.pace.take(ctx)
	if err != nil {
		return err
	}
	s.counters.waited(waited)
	token := tokenOf(lines[0].Pipeline, ledgerTable, lines[0].Run, lines[0].Seq, 0)
	if attempt > 0 {
		token = fmt.Sprintf("%s/%d", token, attempt)
	}
	return s.send(ctx, ledgerTable, ledgerInput(lines), token, false)
}

// unrecorded are those of lines that the ledger does not have; acknowledged lines get the time to settle.
func (s *Sink) unrecorded(ctx context.Context, lines []pipeline.LedgerEntry, acknowledged bool) ([]pipeline.LedgerEntry, error) {
	rest, err := s.notFound(ctx, lines)
	if err != nil || len(rest) == 0 || !acknowledged {
		return rest, err
	}
	if err := wait(ctx, s.config.Settle); err != nil {
		return nil, err
	}
	return s.notFound(ctx, rest)
}

func (s *Sink) notFound(ctx context.Context, lines []pipeline.LedgerEntry) ([]pipeline.LedgerEntry, error) {
	s.counters.count("lookups", 1)
	type place struct {
		topic     string
		partition int32
	}
	var topics proto.ColStr
	var partitions proto.ColInt32
	known := map[place]bool{}
	err := s.do(ctx, ch.Query{
		Body: fmt.Sprintf("SELECT CAST(topic, 'String') AS topic, partition FROM %s WHERE %s AND %s", ledgerTable,
			equalText("pipeline", []byte(lines[0].Pipeline)), lineageOf(lines[0].Run, lines[0].Seq)),
		Result: proto.Results{{Name: "topic", Data: &topics}, {Name: "partition", Data: &partitions}},
		OnResult: func(context.Context, proto.Block) error {
			for i := range partitions {
				known[place{topics.Row(i), partitions[i]}] = true
			}
			return nil
		},
	})
	return slices.DeleteFunc(slices.Clone(lines), func(l pipeline.LedgerEntry) bool {
		return known[place{l.Topic, l.Partition}]
	}), err
}

// Ledger returns the newest line of each partition of a topic that a pipeline has settled, by partition.
func (s *Sink) Ledger(ctx context.Context, id, topic string) (lines []pipeline.LedgerEntry, err error) {
	err = s.retry(ctx, func() error {
		lines, err = s.readLedger(ctx, id, topic)
		return err
	})
	return lines, err
}

func (s *Sink) readLedger(ctx context.Context, id, topic string) ([]pipeline.LedgerEntry, error) {
	conn, err := connect(ctx, s.config, s.config.Database)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	fail := func(err error) ([]pipeline.LedgerEntry, error) {
		return nil, fmt.Errorf("%s: table %s: %w", s.config, ledgerTable, err)
	}
	rows, err := conn.Query(ctx, "SELECT pipeline, run, seq, topic, topic_id, partition, `from`, `to`, messages, settled, blob, rows, counters"+`
		FROM `+ledgerTable+`
		WHERE pipeline = ? AND topic = ? AND (partition, settled) IN (
			SELECT partition, max(settled) FROM `+ledgerTable+` WHERE pipeline = ? AND topic = ? GROUP BY partition)
		ORDER BY partition, settled DESC, seq DESC
		LIMIT 1 BY partition`, id, topic, id, topic)
	if err != nil {
		return fail(err)
	}
	defer rows.Close()
	var lines []pipeline.LedgerEntry
	for rows.Next() {
		var l pipeline.LedgerEntry
		var run big.Int
		var messages uint64
		var stored map[string]uint64
		err := rows.Scan(&l.Pipeline, &run, &l.Seq, &l.Topic, &l.TopicID, &l.Partition, &l.From, &l.To, &messages,
			&l.Settled, &l.Blob, &stored, &l.Counters)
		if err != nil {
			return fail(err)
		}
		run.FillBytes(l.Run[:])
		l.Messages, l.Settled, l.Rows = int64(messages), l.Settled.UTC(), make(map[pipeline.Table]int64, len(stored))
		for table, n := range stored {
			l.Rows[pipeline.Table(table)] = int64(n)
		}
		lines = append(lines, l)
	}
	if err := rows.Err(); err != nil {
		return fail(err)
	}
	return lines, nil
}
