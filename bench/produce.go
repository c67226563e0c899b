package main

import (
	"context"
	"fmt"
	"log/slog"
	"math"
	"sync/atomic"
	"time"

	"github.com/tailrace/tailrace/connectors/kafka"
)

// load sends what a generator gives to a topic.
type load struct {
	generator *Generator
	topic     string
	brokers   []string
	rate      float64 // messages a second; 0: as fast as they are taken
	limit     int64   // messages; 0: until ctx ends
	log       *slog.Logger
	sent      atomic.Int64
}

// loadPause is how long the sender rests when it is ahead of the rate: a timer for each message would cost more.
const loadPause = 2 * time.Millisecond

// run sends until the limit, or until stop ends, and returns when all that was sent is acknowledged. ctx bounds both.
// A broker that is away is waited for; what was sent and not acknowledged by then may be in the topic twice.
func (l *load) run(ctx context.Context, stop <-chan struct{}) (err error) {
	c := kafka.DefaultProducerConfig()
	c.Brokers, c.Topics, c.LZ4, c.Log = l.brokers, []string{l.topic}, true, l.log
	p := kafka.NewProducer(c)
	defer p.Close()
	if err := p.Open(ctx); err != nil {
		return err
	}
	limit := l.limit
	if limit == 0 {
		limit = math.MaxInt64
	}
	begin := time.Now()
	for l.sent.Load() < limit && !over(stop) {
		if l.rate > 0 && float64(l.sent.Load()) >= l.rate*time.Since(begin).Seconds() {
			select {
			case <-time.After(loadPause):
			case <-ctx.Done():
				return ctx.Err()
			}
			continue
		}
		m, ok := l.generator.Next()
		if !ok {
			return fmt.Errorf("the generator has used up its numbers after %d messages: want a lower rate or a shorter run",
				l.sent.Load())
		}
		if err := p.Send(ctx, l.topic, m.Key, m.Value, time.Now().UnixNano()); err != nil {
			return err
		}
		l.sent.Add(1)
	}
	return p.Flush(ctx)
}

func over(stop <-chan struct{}) bool {
	select {
	case <-stop:
		return true
	default:
		return false
	}
}

// positions asks how far a group has committed a topic of which each partition ends at end.
type positions struct {
	brokers      []string
	group, topic string
}

// positionsTimeout bounds one question; a broker that is away answers none.
const positionsTimeout = 5 * time.Second

func (p positions) committed(ctx context.Context) (map[int32]int64, error) {
	ctx, cancel := context.WithTimeout(ctx, positionsTimeout)
	defer cancel()
	return kafka.Committed(ctx, p.brokers, p.group, p.topic)
}

// caughtUp waits until the group has committed everything.
func (p positions) caughtUp(ctx context.Context, limit time.Duration) error {
	end, err := kafka.EndOffsets(ctx, p.brokers, p.topic)
	if err != nil {
		return err
	}
	var last map[int32]int64
	err = within(ctx, limit, fmt.Sprintf("group %s to commit all of topic %s", p.group, p.topic), func() (bool, error) {
		committed, err := p.committed(ctx)
		if err != nil {
			return false, err
		}
		last = committed
		for partition, n := range end {
			if committed[partition] < n {
				return false, nil
			}
		}
		return true, nil
	})
	if err != nil {
		return fmt.Errorf("%w; it ends at %v and %v is committed", err, end, last)
	}
	return nil
}
