package kafka

import "sync/atomic"

// Stats counts what a source met beside messages, and the limits that were hit. It may be read at any time.
type Stats struct {
	Fetches          atomic.Int64 // responses
	FetchedBytes     atomic.Int64 // their size
	ConnectionsLost  atomic.Int64 // by the broker, the network or a fault in what it sent
	Rebalances       atomic.Int64 // generations
	ControlBatches   atomic.Int64 // markers of transactions, which carry no data
	AbortedMessages  atomic.Int64 // messages of aborted transactions, left out
	CorruptBatches   atomic.Int64 // batches whose checksum was wrong
	OversizeFetches  atomic.Int64 // responses over max_message_bytes
	RefusedBatches   atomic.Int64 // batches refused whole: a decompression bomb or malformed records
	RefusedRecords   atomic.Int64 // records that such batches said they have
	RefusedMessages  atomic.Int64 // messages refused, by their size or by the decoder
	ShortDeadLetters atomic.Int64 // refused messages that were too large to be kept whole
}

// Counters gives all of it by name.
func (s *Stats) Counters() map[string]int64 {
	return map[string]int64{
		"fetches": s.Fetches.Load(), "fetched_bytes": s.FetchedBytes.Load(), "connections_lost": s.ConnectionsLost.Load(),
		"rebalances": s.Rebalances.Load(), "control_batches": s.ControlBatches.Load(),
		"aborted_messages": s.AbortedMessages.Load(), "corrupt_batches": s.CorruptBatches.Load(),
		"oversize_fetches": s.OversizeFetches.Load(), "refused_batches": s.RefusedBatches.Load(),
		"refused_records": s.RefusedRecords.Load(), "refused_messages": s.RefusedMessages.Load(),
		"short_dead_letters": s.ShortDeadLetters.Load(),
	}
}
