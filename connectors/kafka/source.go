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
	"github.com/tailrace/tailrace/schemas"
)

// rejoinPause is how long kafka-go waits after a failed attempt to join. Its own default of 5 s is too long for a
// broker's restart.
const rejoinPause = 250 * time.Millisecond

// leaveTime is how long Close tries each of the two ways to leave the group. With limits.drain a stop stays within 5 s.
const leaveTime = 750 * time.Millisecond

// Source reads a topic as a member of a consumer group. All methods but Close may be called before Next and while it
// runs.
type Source struct {
	Stats Stats

	config   SourceConfig
	settings pipeline.Settings
	decoder  pipeline.NewDecoder
	cluster  *cluster
	client   *kafka.Client
	group    *kafka.ConsumerGroup
	line     *line
	current  *generation
	trouble  outage
	troubles troubles // of the partitions
	closed   bool

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
	cl := &cluster{brokers: c.Brokers, timeout: c.RequestTimeout, tls: c.TLS.In(set.Dir), sasl: c.SASL.in(set.Dir)}
	return &Source{
		config: c, settings: set, decoder: decoder, cluster: cl, client: cl.client(c.Topic),
		line:    &line{cluster: cl, cuts: map[int]func(){}},
		trouble: outage{log: set.Log, what: "kafka group", args: []any{"group", c.Group, "topic", c.Topic}},
	}, nil
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

// Trouble says why a partition gets nothing, though it is retried, or "". It may be called at any time.
func (s *Source) Trouble() string { return s.troubles.first() }

// Counters gives Stats by name.
func (s *Source) Counters() map[string]int64 { return s.Stats.Counters() }

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
	t, err := s.cluster.await(ctx, s.config.Topic, s.settings.Log)
	if err != nil {
		return nil, fmt.Errorf("kafka: %w", err)
	}
	if err := s.cluster.final(s.cluster.lacks(t, opRead, s.config.Topic)); errors.Is(err, pipeline.ErrConfig) {
		return nil, fmt.Errorf("kafka: %w", err)
	}
	if s.group == nil {
		if s.group, err = s.newGroup(); err != nil {
			return nil, fmt.Errorf("%w: kafka: %w", pipeline.ErrConfig, err)
		}
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
		WatchPartitionChanges: true,
	})
}

// join waits for a generation and finds where its partitions start.
func (s *Source) join(ctx context.Context, t topic) (*generation, error) {
	raw, err := s.group.Next(ctx)
	if err != nil {
		return nil, err
	}
	g := newGeneration(s, raw)
	var ids []int
	for _, a := range raw.Assignments[s.config.Topic] {
		ids = append(ids, a.ID)
	}
	slices.Sort(ids)
	starts, err := s.starts(ctx, g, ids, t)
	if err != nil {
		g.end()
		return nil, err
	}
	limits := fetchLimits{
		maxWait: s.config.FetchMaxWait, maxBytes: int(s.config.FetchMaxBytes), maxBatch: int(s.config.MaxMessageBytes),
	}
	for _, id := range ids {
		d, err := s.decoder()
		if err != nil {
			g.end()
			return nil, fmt.Errorf("%w: decoder: %w", pipeline.ErrConfig, err)
		}
		p := &partition{
			source:  s,
			fetch:   newFetcher(s.cluster, s.config.Topic, int32(id), starts[int32(id)], limits, &s.Stats),
			start:   starts[int32(id)],
			decoder: d,
			rows:    schemas.NewTelemetryBuilder(s.settings.Alloc, s.config.Topic, int32(id)),
			trouble: outage{
				log: s.settings.Log, what: "kafka partition", args: []any{"topic", s.config.Topic, "partition", id}, grace: 1,
				board: &s.troubles,
			},
		}
		g.partitions = append(g.partitions, p)
	}
	return g, nil
}

// starts finds where partitions start: where the group has committed, else where the config says, and that is
// committed at once, so that a restart before the first commit starts at the same place.
func (s *Source) starts(ctx context.Context, g *generation, ids []int, t topic) (map[int32]int64, error) {
	if err := s.readEnds(ctx, t); err != nil {
		return nil, err
	}
	if len(ids) == 0 {
		return nil, nil
	}
	starts, err := committed(ctx, s.client, s.config.Group, s.config.Topic, ids)
	if err != nil {
		return nil, err
	}
	var fresh []int
	for _, id := range ids {
		if _, ok := starts[int32(id)]; !ok {
			fresh = append(fresh, id)
		}
	}
	if len(fresh) == 0 {
		return starts, nil
	}
	at, end, err := s.offsets(ctx, fresh)
	if err != nil {
		return nil, err
	}
	if s.config.Start == StartLatest {
		at = end
	}
	if err := g.commit(ctx, at); err != nil {
		return nil, err
	}
	maps.Copy(starts, at)
	return starts, nil
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

// offsets reads the first offset and the end of partitions.
func (s *Source) offsets(ctx context.Context, ids []int) (first, end map[int32]int64, err error) {
	return offsets(ctx, s.client, s.config.Topic, ids)
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
		return nil
	}
	var left error
	if g := s.current; g != nil {
		// The group's own Close would first join the next generation if this one was revoked, and that waits for
		// other members. Having left already, it can't.
		left = s.leave(g)
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
	case <-timer.C:
		s.line.cut() // whatever it waits for fails
		<-closed
	}
	if left != nil {
		return fmt.Errorf("kafka: group %q: leaving: %w; others wait for session_timeout", s.config.Group, left)
	}
	return nil
}

// leave takes the member out of the group. The client may hold connections from before a restart of the broker, which it
// finds out by using them: a failure that is not the broker's answer is tried again on new ones.
func (s *Source) leave(g *generation) error {
	ctx, cancel := context.WithTimeout(context.Background(), leaveTime)
	defer cancel()
	var pause backoff
	for {
		res, err := s.client.LeaveGroup(ctx, &kafka.LeaveGroupRequest{
			GroupID: s.config.Group, Members: []kafka.LeaveGroupRequestMember{{ID: g.raw.MemberID}},
		})
		if err == nil {
			err = res.Error
		}
		var answer kafka.Error
		switch {
		case err == nil, errors.Is(err, kafka.UnknownMemberId): // evicted before
			return nil
		case errors.As(err, &answer):
			return err
		}
		closeClient(s.client)
		if pause.wait(ctx) != nil {
			return err
		}
	}
}

// committed reads a group's offsets for partitions of a topic. A partition without one is absent.
func committed(ctx context.Context, client *kafka.Client, group, topic string, ids []int) (map[int32]int64, error) {
	res, err := client.OffsetFetch(ctx, &kafka.OffsetFetchRequest{GroupID: group, Topics: map[string][]int{topic: ids}})
	if err != nil {
		return nil, err
	}
	if res.Error != nil {
		return nil, res.Error
	}
	found := map[int32]int64{}
	for _, p := range res.Topics[topic] {
		switch {
		case p.Error != nil:
			return nil, fmt.Errorf("committed offset of partition %d: %w", p.Partition, p.Error)
		case p.CommittedOffset >= 0:
			found[int32(p.Partition)] = p.CommittedOffset
		}
	}
	if len(res.Topics[topic]) != len(ids) {
		return nil, fmt.Errorf("want committed offsets of %d partitions, got %d", len(ids), len(res.Topics[topic]))
	}
	return found, nil
}

// offsets reads the first offset and the last stable offset of partitions.
func offsets(ctx context.Context, client *kafka.Client, topic string, ids []int) (first, end map[int32]int64, err error) {
	requests := make([]kafka.OffsetRequest, 0, 2*len(ids))
	for _, id := range ids {
		requests = append(requests, kafka.FirstOffsetOf(id), kafka.LastOffsetOf(id))
	}
	res, err := client.ListOffsets(ctx, &kafka.ListOffsetsRequest{
		Topics: map[string][]kafka.OffsetRequest{topic: requests}, IsolationLevel: kafka.ReadCommitted,
	})
	if err != nil {
		return nil, nil, err
	}
	first, end = map[int32]int64{}, map[int32]int64{}
	for _, p := range res.Topics[topic] {
		if p.Error != nil {
			return nil, nil, fmt.Errorf("offsets of partition %d: %w", p.Partition, p.Error)
		}
		first[int32(p.Partition)], end[int32(p.Partition)] = p.FirstOffset, p.LastOffset
	}
	if len(first) != len(ids) {
		return nil, nil, fmt.Errorf("want offsets of %d partitions, got %d", len(ids), len(first))
	}
	return first, end, nil
}
