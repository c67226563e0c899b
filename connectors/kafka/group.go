package kafka

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	kafka "github.com/segmentio/kafka-go"
	"github.com/tailrace/tailrace/pipeline"
)

// generation is one assignment. It holds kafka-go's generation open until the source goes on to the next, so that
// nothing is joined anew between a Close and the source's own Close.
type generation struct {
	source     *Source
	raw        *kafka.Generation
	topic      topicID
	all        []int // every partition of the topic
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

func (g *generation) Partitions() []pipeline.Partition { return listed(g.partitions) }

func listed(partitions []*partition) []pipeline.Partition {
	list := make([]pipeline.Partition, len(partitions))
	for i, p := range partitions {
		list[i] = p
	}
	return list
}

// Close closes the readers. Heartbeats go on until the source's next Next or Close.
func (g *generation) Close() error { return closeAll(g.partitions) }

func closeAll(partitions []*partition) error {
	var faults []error
	for _, p := range partitions {
		faults = append(faults, p.Close())
	}
	return errors.Join(faults...)
}

// Commit stores offsets with their metadata. It sends again what the broker has answered that it did not store, for the
// session timeout at most: by then another may have the partitions. What became of a request without an answer nobody
// knows, and it may still be stored after a later one: that error is returned at once.
func (g *generation) Commit(ctx context.Context, commits map[int32]pipeline.Commit) error {
	if len(commits) == 0 {
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
		err := g.commit(ctx, commits)
		if err == nil {
			trouble.works()
			return nil
		}
		if refused := refusal(err); refused != nil {
			trouble.failed(err)
			closeClient(g.source.client) // the coordinator may have moved
			if pause.wait(ctx) == nil {
				continue
			}
		} else if fenced(err) {
			err = fmt.Errorf("%w: %w", pipeline.ErrFenced, err)
		}
		err = g.source.cluster.grant(err, "Read", g.source.config.Topic, g.raw.GroupID)
		return fmt.Errorf("kafka: group %q, generation %d: commit: %w", g.raw.GroupID, g.raw.ID, err)
	}
}

// Width is the number of the topic's partitions as the generation began.
func (g *generation) Width() int { return len(g.all) }

// Committed reads what the group has stored for every partition of the topic.
func (g *generation) Committed(ctx context.Context) (map[int32]pipeline.Commit, error) {
	stored, err := patiently(ctx, g.source.client, func() (map[int32]pipeline.Commit, error) {
		return committed(ctx, g.source.client, g.raw.GroupID, g.source.config.Topic, g.all)
	})
	if err != nil {
		err = g.source.cluster.grant(err, "Read", g.source.config.Topic, g.raw.GroupID)
		return nil, fmt.Errorf("kafka: group %q, topic %q: %w", g.raw.GroupID, g.source.config.Topic, err)
	}
	return stored, nil
}

// Range reads messages that were read before, with a decoder that has seen nothing else.
func (g *generation) Range(_ context.Context, s pipeline.Stretch) (pipeline.Partition, error) {
	p, err := g.source.reread(s, g.topic)
	if err != nil {
		return nil, err
	}
	return p, nil
}

// refusal gives the error of a commit if the coordinator has answered that it stored nothing, or that what it stored
// does not count yet, and sending the same again may be answered otherwise. Of several faults all must be such.
func refusal(err error) error {
	var faults []error
	if joined, ok := err.(interface{ Unwrap() []error }); ok { //nolint:errorlint // commit joins the partitions' faults
		faults = joined.Unwrap()
	} else {
		faults = []error{err}
	}
	for _, fault := range faults {
		var dial *net.OpError
		var answer kafka.Error
		switch {
		case errors.As(fault, &dial) && dial.Op == "dial": // nothing was sent
		case !errors.As(fault, &answer):
			return nil
		default:
			switch answer {
			case kafka.GroupLoadInProgress, kafka.GroupCoordinatorNotAvailable, kafka.NotCoordinatorForGroup,
				kafka.UnknownTopicOrPartition, kafka.BrokerNotAvailable,
				// A member of the right generation hears this while the others are still to take what they were assigned.
				kafka.RebalanceInProgress:
			default:
				return nil
			}
		}
	}
	return err
}

// fenced tells that another generation has begun, in which the partitions may be someone else's.
func fenced(err error) bool {
	return errors.Is(err, kafka.IllegalGeneration) || errors.Is(err, kafka.UnknownMemberId) ||
		errors.Is(err, kafka.FencedInstanceID)
}

// commit sends one request. It returns nil only if every offset was stored. An error of the coordinator's is a
// [kafka.Error], or several joined, one for each partition that was refused.
func (g *generation) commit(ctx context.Context, commits map[int32]pipeline.Commit) error {
	list := make([]kafka.OffsetCommit, 0, len(commits))
	for p, c := range commits {
		list = append(list, kafka.OffsetCommit{Partition: int(p), Offset: c.Offset, Metadata: c.Metadata})
	}
	topic := g.source.config.Topic
	res, err := g.source.client.OffsetCommit(ctx, &kafka.OffsetCommitRequest{
		GroupID: g.raw.GroupID, GenerationID: int(g.raw.ID), MemberID: g.raw.MemberID,
		Topics: map[string][]kafka.OffsetCommit{topic: list},
	})
	if err != nil {
		return err
	}
	stored := 0
	var faults []error
	for _, p := range res.Topics[topic] {
		if p.Error != nil {
			faults = append(faults, fmt.Errorf("partition %d: %w", p.Partition, p.Error))
		} else if _, ok := commits[int32(p.Partition)]; ok {
			stored++
		}
	}
	if stored != len(commits) && len(faults) == 0 {
		faults = append(faults, fmt.Errorf("want %d offsets stored, got %d", len(commits), stored))
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
