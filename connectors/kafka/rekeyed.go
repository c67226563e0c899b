package kafka

import (
	"context"
	"fmt"
	"time"

	"github.com/apache/arrow/go/v15/arrow"
	"github.com/tailrace/tailrace/pipeline"
	"github.com/tailrace/tailrace/schemas/formats/rekeyed"
)

// rekeyedBytes is from which size on a message of rekeyed rows is sent. The head of a message is under a hundredth of it, and it
// is far under what a topic takes.
const rekeyedBytes = 32 << 10

// openMessage is a message of rekeyed rows that fills.
type openMessage struct {
	asset int // index in the batch's dictionary; -1 for no message
	first int // row
	value []byte
}

// PublishRekeyed queues the rows of batch, keyed by asset. Within each partition of the topic they stay in order: rows of one asset
// share a message only as long as no other asset's row, for the same partition, is between them.
func (p *Publisher) PublishRekeyed(ctx context.Context, topicID string, batch arrow.Record) error {
	l, ok := p.producer.topics[p.rekeyed]
	if !ok {
		return fmt.Errorf("%w: kafka: topic %q: want a pipeline with the step that writes it, or an open publisher",
			pipeline.ErrConfig, p.rekeyed)
	}
	rows, err := rekeyed.Read(batch)
	if err != nil {
		return fmt.Errorf("kafka: %w", err)
	}
	now := time.Now().UnixNano()
	messages := make([]openMessage, len(l.list))
	for i := range messages {
		messages[i].asset = -1
	}
	send := func(to int) error {
		m := &messages[to]
		if m.asset < 0 {
			return nil
		}
		m.asset, m.value = -1, rekeyed.AppendTail(m.value)
		return l.list[to].add(ctx, record{key: []byte(rows.Asset(m.first)), value: m.value, time: now})
	}
	to := map[int]int{} // the partition, by index of the asset
	for row := range rows.Len() {
		asset := rows.AssetIndex(row)
		at, ok := to[asset]
		if !ok {
			at = l.of([]byte(rows.Asset(row)))
			to[asset] = at
		}
		m := &messages[at]
		if m.asset != asset || len(m.value) >= rekeyedBytes {
			if err := send(at); err != nil {
				return err
			}
			m.asset, m.first = asset, row
			m.value = rows.AppendHead(m.value[:0], topicID, row)
		}
		m.value = rows.AppendRow(m.value, m.first == row, row)
	}
	for at := range messages {
		if err := send(at); err != nil {
			return err
		}
	}
	return nil
}
