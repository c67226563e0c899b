package kafka

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	kafka "github.com/segmentio/kafka-go"
	"github.com/tailrace/tailrace/connectors/credentials"
	"github.com/tailrace/tailrace/pipeline"
)

// generation is one assignment. It holds kafka-go's generation open until the source goes on to the next, so that
// nothing is joined anew between a Close and the source's own Close.
type generation struct {
	source     *Source
	raw        *kafka.Generation
	partitions []*partition
	revoked    chan struct{}
	release    chan struct{} // closed by end
	held       chan struct{} // closed when hold has returned
	once       sync.Once
}

var _ pipeline.Generation = (*generation)(nil)

func newGeneration(s *Source, raw *kafka.Generation) *generation {
	g := &generation{
		source: s, raw: raw,
		revoked: make(chan struct{}), release: make(chan struct{}), held: make(chan struct{}),
	}
	raw.Start(g.hold)
	return g
}

// hold keeps the member in the group: kafka-go goes on to the next generation only when it returns. kafka-go's own
// heartbeats end when ctx does, so from then on they are sent from here.
func (g *generation) hold(ctx context.Context) {
	defer close(g.held)
	select {
	case <-g.release:
		return
	case <-ctx.Done():
	}
	close(g.revoked)
	tick := time.NewTicker(g.source.config.HeartbeatInterval)
	defer tick.Stop()
	for {
		select {
		case <-g.release:
			return
		case <-tick.C:
			g.heartbeat()
		}
	}
}

func (g *generation) heartbeat() {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	sent := make(chan struct{})
	go func() {
		defer close(sent)
		// The answer is that a rebalance is in progress, which is known. If it is that we were evicted, the commit will
		// be told the same.
		_, _ = g.source.client.Heartbeat(ctx, &kafka.HeartbeatRequest{
			GroupID: g.raw.GroupID, GenerationID: g.raw.ID, MemberID: g.raw.MemberID,
		})
	}()
	select {
	case <-sent:
	case <-g.release:
		cancel()
		<-sent
	}
}

// end lets kafka-go go on.
func (g *generation) end() {
	g.once.Do(func() { close(g.release) })
	<-g.held
}

func (g *generation) Revoked() <-chan struct{} { return g.revoked }

func (g *generation) Partitions() []pipeline.Partition {
	list := make([]pipeline.Partition, len(g.partitions))
	for i, p := range g.partitions {
		list[i] = p
	}
	return list
}

// Close closes the readers. Heartbeats go on until the source's next Next or Close.
func (g *generation) Close() error {
	var faults []error
	for _, p := range g.partitions {
		faults = append(faults, p.Close())
	}
	return errors.Join(faults...)
}

// Commit stores offsets. It retries until ctx ends, the broker says that this member was fenced, or the session has
// timed out, which comes to the same.
func (g *generation) Commit(ctx context.Context, next map[int32]pipeline.Commit) error {
	if len(next) == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, g.source.config.SessionTimeout)
	defer cancel()
	trouble := outage{
		log: g.source.settings.Log, what: "kafka commit", grace: 1,
		args: []any{"group", g.raw.GroupID, "topic", g.source.config.Topic},
	}
	var pause backoff
	for {
		err := g.commit(ctx, next)
		if err == nil {
			trouble.works()
			return nil
		}
		err = g.source.cluster.grant(err, "Read", g.source.config.Topic, g.raw.GroupID)
		if fenced(err) || hopeless(err) || credentials.Refused(err) || ctx.Err() != nil {
			return fmt.Errorf("kafka: group %q, generation %d: commit: %w", g.raw.GroupID, g.raw.ID, err)
		}
		trouble.failed(err)
		closeClient(g.source.client)
		if pause.wait(ctx) != nil {
			return fmt.Errorf("kafka: group %q, generation %d: commit: %w", g.raw.GroupID, g.raw.ID, err)
		}
	}
}

// fenced tells that another generation has begun, in which the partitions may be someone else's.
func fenced(err error) bool {
	return errors.Is(err, kafka.IllegalGeneration) || errors.Is(err, kafka.UnknownMemberId) ||
		errors.Is(err, kafka.RebalanceInProgress) || errors.Is(err, kafka.FencedInstanceID)
}

// commit sends one request. It returns nil only if every offset was stored.
func (g *generation) commit(ctx context.Context, next map[int32]pipeline.Commit) error {
	commits := make([]kafka.OffsetCommit, 0, len(next))
	for p, c := range next {
		commits = append(commits, kafka.OffsetCommit{Partition: int(p), Offset: c.Offset, Metadata: c.Metadata})
	}
	topic := g.source.config.Topic
	res, err := g.source.client.OffsetCommit(ctx, &kafka.OffsetCommitRequest{
		GroupID: g.raw.GroupID, GenerationID: int(g.raw.ID), MemberID: g.raw.MemberID,
		Topics: map[string][]kafka.OffsetCommit{topic: commits},
	})
	if err != nil {
		return err
	}
	stored := 0
	var faults []error
	for _, p := range res.Topics[topic] {
		if p.Error != nil {
			faults = append(faults, fmt.Errorf("partition %d: %w", p.Partition, p.Error))
		} else if _, ok := next[int32(p.Partition)]; ok {
			stored++
		}
	}
	if stored != len(next) && len(faults) == 0 {
		faults = append(faults, fmt.Errorf("want %d offsets stored, got %d", len(next), stored))
	}
	return errors.Join(faults...)
}

// line dials for kafka-go's group, whose requests take no context, and can be cut to make what they wait for fail.
type line struct {
	cluster *cluster
	mu      sync.Mutex
	severed bool
	last    int
	cuts    map[int]func() // of every connection and every attempt at one
}

func (l *line) add(cut func()) (id int, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.severed {
		return 0, net.ErrClosed
	}
	l.last++
	l.cuts[l.last] = cut
	return l.last, nil
}

func (l *line) remove(id int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.cuts, id)
}

func (l *line) dial(ctx context.Context, network, address string) (net.Conn, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	attempt, err := l.add(cancel)
	if err != nil {
		return nil, err
	}
	defer l.remove(attempt)
	conn, err := l.cluster.open(ctx, network, address)
	if err != nil {
		return nil, err
	}
	id, err := l.add(func() { _ = conn.Close() }) // its user is told by the failing read
	if err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	return &lineConn{Conn: conn, line: l, id: id}, nil
}

func (l *line) cut() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.severed = true
	for _, cut := range l.cuts {
		cut()
	}
}

// lineConn is forgotten when it is closed.
type lineConn struct {
	net.Conn
	line *line
	id   int
}

func (c *lineConn) Close() error {
	c.line.remove(c.id)
	return c.Conn.Close()
}
