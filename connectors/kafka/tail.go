package kafka

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/tailrace/tailrace/pipeline"
	"github.com/tailrace/tailrace/schemas/formats"
	"golang.org/x/sync/errgroup"
)

// Tail reads a topic from its beginning, without a group, and goes on as messages come. It waits for the topic if there
// is none, and leaves out what can't be read. It returns ctx's error, or the first of each; each is called by one
// goroutine at a time, and value is lent.
func Tail(ctx context.Context, brokers []string, topic string, each func(value []byte) error) error {
	c := newCluster(brokers)
	_, err := c.await(ctx, topic, nil)
	for errors.Is(err, errUnknownTopic) {
		_, err = c.await(ctx, topic, nil)
	}
	if err != nil {
		return fmt.Errorf("kafka: %w", err)
	}
	first, err := firstOffsets(ctx, c, topic)
	if err != nil {
		return err
	}
	defaults := DefaultSourceConfig()
	limits := fetchLimits{
		maxWait: defaults.FetchMaxWait, maxBytes: 1 << 20, maxBatch: int(defaults.MaxMessageBytes),
	}
	var one sync.Mutex
	group, ctx := errgroup.WithContext(ctx)
	for id, start := range first {
		group.Go(func() (err error) {
			var stats Stats
			f := newFetcher(c, topic, id, start, limits, &stats)
			defer func() { err = errors.Join(err, f.close()) }()
			return f.follow(ctx, func(m *formats.Message) error {
				one.Lock()
				defer one.Unlock()
				return each(m.Value)
			})
		})
	}
	return group.Wait()
}

// firstOffsets retries until it has them: a topic that was just made has no leader yet.
func firstOffsets(ctx context.Context, c *cluster, topic string) (map[int32]int64, error) {
	var pause backoff
	for {
		first, _, err := c.offsets(ctx, topic)
		if err == nil || errors.Is(err, pipeline.ErrConfig) {
			return first, err
		}
		if err := pause.wait(ctx); err != nil {
			return nil, err
		}
	}
}

// follow gives message after message until ctx ends, the bound is reached, or each fails.
func (f *fetcher) follow(ctx context.Context, each func(*formats.Message) error) error {
	var m formats.Message
	var pause backoff
	for {
		err := f.message(&m)
		if err == nil {
			if err := each(&m); err != nil {
				return err
			}
			continue
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if errors.Is(err, errDrained) {
			err = f.receive(ctx)
		}
		switch {
		case err == nil:
			pause.reset()
			continue
		case ctx.Err() != nil:
			return ctx.Err()
		case errors.Is(err, pipeline.ErrConfig), errors.Is(err, errOutOfRange), errors.Is(err, errOldFormat):
			return fmt.Errorf("kafka: topic %q, partition %d: %w", f.topic, f.partition, err)
		}
		if err := pause.wait(ctx); err != nil {
			return err
		}
	}
}
