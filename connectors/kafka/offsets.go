package kafka

import (
	"context"
	"fmt"
	"time"

	kafka "github.com/segmentio/kafka-go"
	"github.com/tailrace/tailrace/pipeline"
)

// committed reads what a group has stored for partitions of a topic. A partition without a commit is absent. kafka-go's
// group reads the same without looking at the error of a partition.
func committed(ctx context.Context, client *kafka.Client, group, topic string, ids []int) (
	map[int32]pipeline.Commit, error,
) {
	res, err := client.OffsetFetch(ctx, &kafka.OffsetFetchRequest{GroupID: group, Topics: map[string][]int{topic: ids}})
	if err != nil {
		return nil, err
	}
	if res.Error != nil {
		return nil, res.Error
	}
	found := map[int32]pipeline.Commit{}
	for _, p := range res.Topics[topic] {
		switch {
		case p.Error != nil:
			return nil, fmt.Errorf("committed offset of partition %d: %w", p.Partition, p.Error)
		case p.CommittedOffset >= 0:
			found[int32(p.Partition)] = pipeline.Commit{Offset: p.CommittedOffset, Metadata: p.Metadata}
		}
	}
	if len(res.Topics[topic]) != len(ids) {
		return nil, fmt.Errorf("want committed offsets of %d partitions, got %d", len(ids), len(res.Topics[topic]))
	}
	return found, nil
}

// offsets reads the first offset and the last stable offset of partitions.
func offsets(ctx context.Context, client *kafka.Client, topic string, ids []int) (
	first, end map[int32]int64, err error,
) {
	requests := make([]kafka.OffsetRequest, 0, 2*len(ids))
	for _, id := range ids {
		requests = append(requests, kafka.FirstOffsetOf(id), kafka.LastOffsetOf(id))
	}
	list, err := listOffsets(ctx, client, topic, requests, len(ids))
	if err != nil {
		return nil, nil, err
	}
	first, end = map[int32]int64{}, map[int32]int64{}
	for _, p := range list {
		first[int32(p.Partition)], end[int32(p.Partition)] = p.FirstOffset, p.LastOffset
	}
	return first, end, nil
}

// offsetsAt reads the offset of the first message of each partition whose time is at or after at, else the partition's
// end.
func offsetsAt(ctx context.Context, client *kafka.Client, topic string, ids []int, at time.Time) (
	map[int32]int64, error,
) {
	_, found, err := offsets(ctx, client, topic, ids)
	if err != nil {
		return nil, err
	}
	// The protocol counts in milliseconds, and negative ones have a meaning of their own.
	ms := max(0, -floorDiv(-at.UnixNano(), int64(time.Millisecond)))
	requests := make([]kafka.OffsetRequest, 0, len(ids))
	for _, id := range ids {
		requests = append(requests, kafka.OffsetRequest{Partition: id, Timestamp: ms})
	}
	list, err := listOffsets(ctx, client, topic, requests, len(ids))
	if err != nil {
		return nil, err
	}
	for _, p := range list {
		for offset := range p.Offsets {
			if offset >= 0 { // -1: there is no such message
				found[int32(p.Partition)] = offset
			}
		}
	}
	return found, nil
}

// floorDiv is a/b rounded down; b is positive.
func floorDiv(a, b int64) int64 {
	q := a / b
	if a%b < 0 {
		q--
	}
	return q
}

// listOffsets fails if any of the partitions that requests are about has a fault.
func listOffsets(
	ctx context.Context, client *kafka.Client, topic string, requests []kafka.OffsetRequest, partitions int,
) ([]kafka.PartitionOffsets, error) {
	res, err := client.ListOffsets(ctx, &kafka.ListOffsetsRequest{
		Topics: map[string][]kafka.OffsetRequest{topic: requests}, IsolationLevel: kafka.ReadCommitted,
	})
	if err != nil {
		return nil, err
	}
	list := res.Topics[topic]
	for _, p := range list {
		if p.Error != nil {
			return nil, fmt.Errorf("offsets of partition %d: %w", p.Partition, p.Error)
		}
	}
	if len(list) != partitions {
		return nil, fmt.Errorf("want offsets of %d partitions, got %d", partitions, len(list))
	}
	return list, nil
}
