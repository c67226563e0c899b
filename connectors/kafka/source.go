package kafka

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	kafka "github.com/segmentio/kafka-go"
	"github.com/tailrace/tailrace/connectors/credentials"
	"github.com/tailrace/tailrace/pipeline"
)

// rejoinPause is how long kafka-go waits after a failed attempt to join. Its own default of 5 s is too long for a
// broker's restart.
const rejoinPause = 250 * time.Millisecond

// leaveTime is how long Close tries each of the two ways to leave the group. With limits.drain a stop stays within 5 s.
const leaveTime = 750 * time.Millisecond

// Source reads a topic as a member of a consumer group. All methods but Close may be called before Next and while it
// runs.
type Source struct {
	reader
	group   *kafka.ConsumerGroup
	line    *line
	current *generation
	slot    *slot // nil if there is none
	trouble outage
	closed  bool

	fresh  int // the topic's partitions before this member joined, if the group had committed nothing then
	mu     sync.Mutex
	bounds map[int32]int64
	ended  bool // bounds have been read from the topic's end
}

var _ pipeline.Source = (*Source)(nil)

// NewSource returns a source that has not connected yet.
func NewSource(c SourceConfig, set pipeline.Settings, decoder pipeline.NewDecoder) (*Source, error) {
	if c.Group == "" {
		if set.Pipeline == "" {
			return nil, fmt.Errorf("%w: kafka: group: want a name, as the pipeline has no id", pipeline.ErrConfig)
		}
		c.Group = "tailrace." + set.Pipeline
	}
	s := &Source{trouble: outage{log: set.Log, what: "kafka group", args: []any{"group", c.Group, "topic", c.Topic}}}
	s.open(c, set, decoder)
	s.trouble.board = &s.troubles
	s.line = &line{cluster: s.cluster, cuts: map[int]func(){}}
	return s, nil
}

// Until bounds partitions: each ends with io.EOF once its offset has reached the bound. It may be called again; a
// partition that is not named is not changed.
func (s *Source) Until(bounds map[int32]int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.bounds == nil {
		s.bounds = map[int32]int64{}
	}
	maps.Copy(s.bounds, bounds)
}

func (s *Source) bound(partition int32) int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	if b, ok := s.bounds[partition]; ok {
		return b
	}
	return noBound
}

// Next joins the group, or joins it anew. See [pipeline.Source].
func (s *Source) Next(ctx context.Context) (pipeline.Generation, error) {
	if s.closed {
		return nil, errors.New("kafka: the source is closed")
	}
	s.finish()
	t, err := s.cluster.awaitWith(ctx, s.config.Topic, s.settings.Log, &s.troubles)
	if err != nil {
		return nil, fmt.Errorf("kafka: %w", err)
	}
	if err := s.cluster.final(s.cluster.lacks(t, opRead, s.config.Topic)); errors.Is(err, pipeline.ErrConfig) {
		return nil, fmt.Errorf("kafka: %w", err)
	}
	var pause backoff
	refused := 0
	for {
		g, err := s.join(ctx, t)
		if err == nil {
			s.trouble.works()
			s.current = g
			s.Stats.Rebalances.Add(1)
			return g, nil
		}
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		if hopeless(err) {
			return nil, fmt.Errorf("%w: kafka: group %q: %w", pipeline.ErrConfig, s.config.Group, err)
		}
		err = s.cluster.grant(err, "Read", s.config.Topic, s.config.Group)
		if credentials.Refused(err) {
			if refused++; refused < refusedTries && credentials.Fresh(err) {
				err = kafka.RebalanceInProgress // not worth a line yet
			} else if err := s.cluster.final(err); errors.Is(err, pipeline.ErrConfig) {
				return nil, fmt.Errorf("kafka: group %q: %w", s.config.Group, err)
			}
		}
		if !errors.Is(err, kafka.RebalanceInProgress) {
			s.trouble.failed(err)
		}
		closeClient(s.client)
		if err := pause.wait(ctx); err != nil {
			return nil, err
		}
	}
}

// hopeless tells errors of the group that no retry mends.
func hopeless(err error) bool {
	for _, e := range []kafka.Error{
		kafka.InvalidGroupId, kafka.InvalidSessionTimeout, kafka.InconsistentGroupProtocol, kafka.UnsupportedVersion,
	} {
		if errors.Is(err, e) {
			return true
		}
	}
	return errors.Is(err, pipeline.ErrConfig)
}

func (s *Source) newGroup() (*kafka.ConsumerGroup, error) {
	return kafka.NewConsumerGroup(kafka.ConsumerGroupConfig{
		ID:      s.config.Group,
		Brokers: s.config.Brokers,
		Topics:  []string{s.config.Topic},
		Dialer:  s.cluster.dialer(s.line.dial),
		// Range keeps the same partition numbers of co-partitioned topics with one member.
		GroupBalancers:        []kafka.GroupBalancer{kafka.RangeGroupBalancer{}},
		HeartbeatInterval:     s.config.HeartbeatInterval,
		SessionTimeout:        s.config.SessionTimeout,
		RebalanceTimeout:      s.config.RebalanceTimeout,
		JoinGroupBackoff:      rejoinPause,
		Timeout:               s.config.RequestTimeout,
		WatchPartitionChanges: true, PartitionWatchInterval: s.config.PartitionWatchInterval,
	})
}

// join waits for a generation and finds where its partitions stand.
func (s *Source) join(ctx context.Context, t topic) (*generation, error) {
	if s.group == nil { // as soon as there is one it joins
		if err := s.look(ctx, t); err != nil {
			return nil, err
		}
		s.takeOver(ctx)
		var err error
		if s.group, err = s.newGroup(); err != nil {
			return nil, fmt.Errorf("%w: %w", pipeline.ErrConfig, err)
		}
	}
	raw, err := s.group.Next(ctx)
	if err != nil {
		return nil, err
	}
	s.keep(raw.MemberID)
	g := newGeneration(s, raw)
	var ids []int
	for _, a := range raw.Assignments[s.config.Topic] {
		ids = append(ids, a.ID)
	}
	slices.Sort(ids)
	places, err := s.places(ctx, g, ids)
	if err != nil {
		g.end()
		return nil, err
	}
	for _, id := range ids {
		id := int32(id)
		p, err := s.partition(id, places[id], func() int64 { return s.bound(id) }, &s.Stats)
		if err != nil {
			err = errors.Join(err, g.Close())
			g.end()
			return nil, err
		}
		g.partitions = append(g.partitions, p)
	}
	return g, nil
}

// look sees, before this member joins, whether the group has committed anything. Partitions that are there when it has
// not are no gain of the topic, though other members may commit theirs before this one looks again.
func (s *Source) look(ctx context.Context, t topic) error {
	stored, err := committed(ctx, s.client, s.config.Group, s.config.Topic, t.partitions())
	if err != nil && !errors.Is(err, kafka.GroupIdNotFound) {
		return err
	}
	if len(stored) == 0 {
		s.fresh = len(t.leaders)
	}
	return nil
}

// places finds where partitions stand: the commit of each, its bounds, and where it starts. That is where the group has
// committed, else where the config says, but for partitions that the topic has gained since the group began: those
// start at their first message.
func (s *Source) places(ctx context.Context, g *generation, ids []int) (map[int32]place, error) {
	t, err := s.cluster.topic(ctx, s.config.Topic) // joining may have taken long
	if err != nil {
		return nil, err
	}
	if err := s.readEnds(ctx, t); err != nil {
		return nil, err
	}
	g.all = t.partitions()
	for _, id := range ids {
		for len(g.all) <= id { // the broker that was asked has not heard of it yet
			g.all = append(g.all, len(g.all))
		}
	}
	if len(ids) == 0 {
		return nil, nil
	}
	if g.topic, err = s.cluster.identity(ctx, s.config.Topic); err != nil {
		return nil, err
	}
	stored, err := committed(ctx, s.client, s.config.Group, s.config.Topic, g.all)
	if err != nil {
		return nil, err
	}
	first, end, err := s.offsets(ctx, ids)
	if err != nil {
		return nil, err
	}
	places := map[int32]place{}
	for _, id := range ids {
		id := int32(id)
		p := place{id: g.topic, first: first[id], end: end[id], start: first[id]}
		p.commit, p.committed = stored[id]
		switch gained := len(stored) > 0 && int(id) >= s.fresh; {
		case p.committed:
			p.start = p.commit.Offset
		case s.config.Start == StartLatest && !gained:
			p.start = p.end
		}
		places[id] = p
	}
	return places, nil
}

// readEnds sets the bounds of "until: end", once.
func (s *Source) readEnds(ctx context.Context, t topic) error {
	if s.config.Until != UntilEnd || s.ended {
		return nil
	}
	_, ends, err := s.offsets(ctx, t.partitions())
	if err != nil {
		return err
	}
	s.Until(ends)
	s.ended = true
	return nil
}

// finish ends the generation that Next gave last, so that the group can go on to another one.
func (s *Source) finish() {
	if s.current != nil {
		s.current.end()
		s.current = nil
	}
}

// Close leaves the group. The generation must be closed. It takes at most about 1.5 s, also if no broker answers.
func (s *Source) Close() error {
	if s.closed {
		return nil
	}
	s.closed = true
	defer closeClient(s.client)
	if s.group == nil {
		return s.dropSlot()
	}
	var left error
	unsure := s.current == nil // whether kafka-go, which then leaves by itself, has
	if g := s.current; g != nil {
		// The group's own Close would first join the next generation if this one was revoked, and that waits for
		// other members. Having left already, it can't.
		ctx, cancel := context.WithTimeout(context.Background(), leaveTime)
		left = s.leave(ctx, g.raw.MemberID)
		cancel()
	}
	closed := make(chan struct{})
	go func() {
		defer close(closed)
		_ = s.group.Close() // always nil
	}()
	s.finish()
	timer := time.NewTimer(leaveTime)
	defer timer.Stop()
	select {
	case <-closed:
		unsure = false
	case <-timer.C:
		s.line.cut() // whatever it waits for fails
		<-closed
	}
	if left != nil {
		left = fmt.Errorf("kafka: group %q: leaving: %w; others wait for session_timeout", s.config.Group, left)
	}
	if s.slot != nil && (left != nil || unsure) { // it stays for the next start
		return errors.Join(left, s.slot.file.Close())
	}
	return errors.Join(left, s.dropSlot())
}

func (s *Source) dropSlot() error {
	if s.slot == nil {
		return nil
	}
	return s.slot.remove()
}
