package kafka

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"net"
	"sync"
	"time"

	kafka "github.com/segmentio/kafka-go"
	"github.com/tailrace/tailrace/pipeline"
)

// Fetch version 13 is in every broker from 3.1 to 4.x. It names a topic by its id, so that a topic made anew under the same
// name is not read on from where the old one was.
const (
	fetchKey     = 1
	fetchVersion = 13
)

// responseSlack is what a response has beside its record batches, with a thousand aborted transactions.
const responseSlack = 64 << 10

type fetchLimits struct {
	maxWait  time.Duration // a broker holds a fetch at the end
	maxBytes int           // a response, if no single batch is larger
	maxBatch int           // a batch, as fetched and decompressed
}

// fetcher reads one partition: it asks its leader, and gives out messages one by one. It is for one goroutine.
type fetcher struct {
	cluster   *cluster
	topic     string
	partition int32
	limits    fetchLimits
	stats     *Stats

	next     int64 // the first offset that was not given out
	bound    int64 // exclusive
	end      int64 // last stable offset, as last seen; -1 before that
	logStart int64

	id          topicID // of the topic, as the leader knows it
	conn        net.Conn
	stopped     sync.Mutex // guards interrupted, and the deadlines of conn against it
	interrupted bool
	asked       bool // a request is on its way or answered
	correlation int32
	request     []byte
	response    []byte // reused
	batches     []byte // what is not yet given out of response, from a batch's start
	aborted     []abortedTransaction
	aborting    map[int64]struct{} // producers whose transactional records are left out
	records     records
	skip        bool // the open batch's records are left out
	unpack      decompressor
	castagnoli  *crc32.Table
}

type abortedTransaction struct{ producer, first int64 }

func newFetcher(c *cluster, topic string, partition int32, next int64, limits fetchLimits, stats *Stats) *fetcher {
	return &fetcher{
		cluster: c, topic: topic, partition: partition, limits: limits, stats: stats,
		next: next, bound: noBound, end: -1,
		aborting: map[int64]struct{}{}, castagnoli: crc32.MakeTable(crc32.Castagnoli),
		unpack: decompressor{limit: limits.maxBatch, keep: 4 * limits.maxBytes},
	}
}

var (
	errOutOfRange = errors.New("offset is out of range")
	errDrained    = errors.New("response is drained") // there is no message left in the response
)

// drained says that all of the last response was given out.
func (f *fetcher) drained() bool { return f.records.left == 0 && len(f.batches) == 0 }

// waiting is how many records the response says are left in it.
func (f *fetcher) waiting() int {
	n := int(f.records.left)
	for rest := f.batches; ; {
		size, _, ok := batchSpan(rest)
		if !ok {
			return n
		}
		n += int(max(0, int32(binary.BigEndian.Uint32(rest[57:]))))
		rest = rest[size:]
	}
}

// receive waits for the next response, asking for it if need be. The response before must be drained. If ctx ends while
// nothing of the answer is there, the connection stays good. After any other error it is closed.
func (f *fetcher) receive(ctx context.Context) error {
	if cap(f.response) > f.limits.maxBytes+responseSlack {
		f.response = nil // it was for one large batch
	}
	if f.conn == nil {
		if err := f.connect(ctx); err != nil {
			return err
		}
	}
	release := f.interruptible(ctx)
	defer release()
	if !f.asked {
		if err := f.ask(f.next); err != nil {
			return f.broken(ctx, err)
		}
	}
	if !f.deadline() {
		return ctx.Err()
	}
	var frame [4]byte
	if n, err := io.ReadFull(f.conn, frame[:]); err != nil {
		if n == 0 && ctx.Err() != nil {
			return ctx.Err() // the answer is still to come, and will be read by the next call
		}
		return f.broken(ctx, err)
	}
	size := int(int32(binary.BigEndian.Uint32(frame[:])))
	if limit := f.limits.maxBatch + responseSlack; size < 0 || size > limit {
		f.drop()
		f.stats.OversizeFetches.Add(1)
		return fmt.Errorf("%w: offset %d: a response of %d bytes is over max_message_bytes (%d)",
			pipeline.ErrConfig, f.next, size, f.limits.maxBatch)
	}
	if cap(f.response) < size {
		f.response = make([]byte, max(size, min(2*cap(f.response), f.limits.maxBytes+responseSlack)))
	}
	f.response = f.response[:size]
	if _, err := io.ReadFull(f.conn, f.response); err != nil {
		return f.broken(ctx, err)
	}
	f.asked = false
	f.stats.Fetches.Add(1)
	f.stats.FetchedBytes.Add(int64(size))
	if err := f.open(f.response); err != nil {
		f.drop()
		return err
	}
	if err := f.prefetch(); err != nil {
		f.lose() // what was received is whole; the next call connects again
	}
	return nil
}

// prefetch asks for what follows the response before it is decoded.
func (f *fetcher) prefetch() error {
	next := f.next
	for rest := f.batches; ; {
		size, after, ok := batchSpan(rest)
		if !ok {
			break
		}
		next = max(next, after)
		rest = rest[size:]
	}
	if next == f.next || next >= f.bound {
		return nil
	}
	return f.ask(next)
}

// connect dials the partition's leader.
func (f *fetcher) connect(ctx context.Context) error {
	t, err := f.cluster.topic(ctx, f.topic)
	if err != nil {
		return err
	}
	leader, ok := t.leaders[f.partition]
	if !ok {
		return fmt.Errorf("%w: want a partition of %d, got %d", errUnknownTopic, len(t.leaders), f.partition)
	}
	if leader == "" {
		return kafka.LeaderNotAvailable
	}
	raw, conn, err := f.cluster.dial(ctx, leader)
	if err != nil {
		return fmt.Errorf("leader %s: %w", leader, err)
	}
	if err := f.cluster.checkVersion(ctx, raw, conn); err != nil {
		return errors.Join(fmt.Errorf("leader %s: %w", leader, err), raw.Close())
	}
	if f.id, err = f.cluster.identify(ctx, raw, f.topic); err != nil {
		return errors.Join(fmt.Errorf("leader %s: offset %d: %w", leader, f.next, err), raw.Close())
	}
	f.conn = raw
	return nil
}

func (c *cluster) checkVersion(ctx context.Context, raw net.Conn, conn *kafka.Conn) error {
	release, err := c.bounded(ctx, raw)
	if err != nil {
		return err
	}
	defer release()
	versions, err := conn.ApiVersions()
	if err != nil {
		return err
	}
	for _, v := range versions {
		if v.ApiKey == fetchKey {
			if v.MinVersion > fetchVersion || v.MaxVersion < fetchVersion {
				return fmt.Errorf("%w: want a broker with Fetch version %d (Kafka 3.1 or later), got versions %d to %d",
					pipeline.ErrConfig, fetchVersion, v.MinVersion, v.MaxVersion)
			}
			return nil
		}
	}
	return fmt.Errorf("%w: want a broker with Fetch version %d, got one without Fetch", pipeline.ErrConfig, fetchVersion)
}

// interruptible lets ctx cut reads and writes short until the function returned is called.
func (f *fetcher) interruptible(ctx context.Context) (release func()) {
	done, conn := make(chan struct{}), f.conn
	stop := context.AfterFunc(ctx, func() {
		defer close(done)
		f.stopped.Lock()
		defer f.stopped.Unlock()
		f.interrupted = true
		_ = conn.SetDeadline(past) // if it fails, so does the read
	})
	return func() {
		if !stop() {
			<-done
		}
		f.interrupted = false
	}
}

// deadline gives the connection time for one answer. It returns false if ctx has ended.
func (f *fetcher) deadline() bool {
	f.stopped.Lock()
	defer f.stopped.Unlock()
	if f.interrupted {
		return false
	}
	_ = f.conn.SetDeadline(time.Now().Add(f.limits.maxWait + f.cluster.timeout)) // if it fails, so does the read
	return true
}

// ask sends a fetch request.
func (f *fetcher) ask(offset int64) error {
	if !f.deadline() {
		return errInterrupted
	}
	f.correlation++
	f.request = appendFetch(f.request[:0], f.correlation, f.id, f.partition, offset, f.limits)
	if _, err := f.conn.Write(f.request); err != nil {
		return err
	}
	f.asked = true
	return nil
}

var errInterrupted = errors.New("interrupted")

func appendFetch(b []byte, correlation int32, topic topicID, partition int32, offset int64, l fetchLimits) []byte {
	i32, i64 := binary.BigEndian.AppendUint32, binary.BigEndian.AppendUint64
	none := ^uint32(0) // -1
	b = appendHeader(b, fetchKey, fetchVersion, correlation)
	b = i32(b, none) // replica id: a consumer
	b = i32(b, uint32(l.maxWait/time.Millisecond))
	b = i32(b, 1) // min bytes
	b = i32(b, uint32(l.maxBytes))
	b = append(b, 1) // isolation level: read committed
	b = i32(b, 0)    // session id
	b = i32(b, none) // session epoch: no session
	b = append(b, 2) // 1 topic: lengths are one more than they say
	b = append(b, topic[:]...)
	b = append(b, 2) // 1 partition
	b = i32(b, uint32(partition))
	b = i32(b, none) // leader epoch: not checked
	b = i64(b, uint64(offset))
	b = i32(b, none)       // last fetched epoch: for followers
	b = i64(b, ^uint64(0)) // log start offset: for followers
	b = i32(b, uint32(l.maxBytes))
	b = append(b, 0, 0) // tags of the partition, of the topic
	b = append(b, 1)    // no forgotten topics
	b = append(b, 1)    // rack: empty
	b = append(b, 0)    // tags
	binary.BigEndian.PutUint32(b, uint32(len(b)-4))
	return b
}

// broken closes the connection after err. If ctx has ended that is what is returned.
func (f *fetcher) broken(ctx context.Context, err error) error {
	f.drop()
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return err
}

// drop closes the connection and forgets the response.
func (f *fetcher) drop() {
	f.lose()
	f.batches, f.records.left = nil, 0
}

// lose closes the connection; what was received stays.
func (f *fetcher) lose() {
	if f.conn != nil {
		_ = f.conn.Close() // nothing was written that is not answered or abandoned
		f.conn = nil
		f.stats.ConnectionsLost.Add(1)
	}
	f.asked = false
}

func (f *fetcher) close() error {
	f.unpack.close()
	if f.conn == nil {
		return nil
	}
	conn := f.conn
	f.conn = nil
	return conn.Close()
}
