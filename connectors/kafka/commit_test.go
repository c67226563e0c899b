package kafka

import (
	"context"
	"errors"
	"maps"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	kafka "github.com/segmentio/kafka-go"
	"github.com/tailrace/tailrace/pipeline"
	"github.com/tailrace/tailrace/pipeline/state"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// Scenario: offsets of two partitions are committed with metadata of the longest text; the member leaves, another joins.
// Guarantees: both come back with every byte, from the partition, the generation and for tools; a third partition has none.
func suiteMetadata(t *testing.T, b broker) {
	topic := makeTopic(t, b, 3, nil)
	numbers(t, b, topic, 3, 0, 10)
	c := testConfig(b, topic)
	want := map[int32]pipeline.Commit{
		0: {Offset: 3, Metadata: `{"v":1,"state":"plan"}`},
		2: {Offset: 10, Metadata: strings.Repeat("x", state.MaxMeta)},
	}
	s := openSource(t, c)
	g := join(t, s)
	if stored, err := g.Committed(deadline(t)); err != nil || len(stored) > 0 {
		t.Fatalf("want nothing, got %v, %v", stored, err)
	}
	ok(t, g.Commit(deadline(t), want))
	ok(t, g.Close())
	ok(t, s.Close())

	g = join(t, openSource(t, c))
	stored, err := g.Committed(deadline(t))
	ok(t, err)
	if !maps.Equal(stored, want) {
		t.Fatalf("want %v, got %v", want, stored)
	}
	if stored, err = (Access{Brokers: b.addrs()}).Committed(deadline(t), c.Group, topic); err != nil || !maps.Equal(stored, want) {
		t.Fatalf("want %v, got %v, %v", want, stored, err)
	}
	var id string
	for _, p := range g.Partitions() {
		commit, has := p.Committed()
		if wanted, wants := want[p.ID()]; has != wants || commit != wanted || p.Start() != wanted.Offset {
			t.Fatalf("partition %d: want %v, got %v, %v, start %d", p.ID(), wanted, commit, has, p.Start())
		}
		if first, end := p.Bounds(); first != 0 || end != 10 {
			t.Fatalf("partition %d: want bounds 0 and 10, got %d and %d", p.ID(), first, end)
		}
		if id == "" {
			id = p.TopicID()
		}
		if len(id) != 32 || p.TopicID() != id {
			t.Fatalf("partition %d: want the topic's id as 32 hex digits, got %q and %q", p.ID(), p.TopicID(), id)
		}
	}
}

// Scenario: a member is evicted, its partition is taken over, and then it commits; so does a member of the generation before.
// Guarantees: both are refused as fenced, and what the new owner committed stands.
func suiteZombie(t *testing.T, b broker) {
	topic := makeTopic(t, b, 1, nil)
	numbers(t, b, topic, 1, 0, 10)
	c := testConfig(b, topic)
	zombie := openSource(t, c)
	old := join(t, zombie)
	ok(t, old.Commit(deadline(t), at(0, 1)))
	ok(t, leaveGroup(deadline(t), zombie.client, c.Group, zombie.current.raw.MemberID)) // as after a session timeout
	g := join(t, openSource(t, c))
	ok(t, g.Commit(deadline(t), map[int32]pipeline.Commit{0: {Offset: 5, Metadata: "new"}}))
	if err := old.Commit(deadline(t), at(0, 2)); !errors.Is(err, pipeline.ErrFenced) {
		t.Fatalf("want a fenced commit, got %v", err)
	}
	ok(t, old.Close())
	stored, err := g.Committed(deadline(t))
	ok(t, err)
	if want := (pipeline.Commit{Offset: 5, Metadata: "new"}); stored[0] != want {
		t.Fatalf("want %v, got %v", want, stored[0])
	}
}

// refusing answers the next commits of one cluster.
type refusing struct {
	mu    sync.Mutex
	left  int // how many
	code  kafka.Error
	only  int32 // the partition that is refused; the others are told that they are stored
	count int   // commits that came
}

func refuse(b *fake) *refusing {
	var r refusing
	b.cluster.ControlKey(int16(kmsg.OffsetCommit), func(req kmsg.Request) (kmsg.Response, error, bool) {
		b.cluster.KeepControl()
		r.mu.Lock()
		defer r.mu.Unlock()
		r.count++
		if r.left == 0 {
			return nil, nil, false
		}
		r.left--
		asked := req.(*kmsg.OffsetCommitRequest)
		res := asked.ResponseKind().(*kmsg.OffsetCommitResponse)
		for _, topic := range asked.Topics {
			answer := kmsg.NewOffsetCommitResponseTopic()
			answer.Topic = topic.Topic
			for _, p := range topic.Partitions {
				partition := kmsg.NewOffsetCommitResponseTopicPartition()
				partition.Partition = p.Partition
				if p.Partition == r.only {
					partition.ErrorCode = int16(r.code)
				}
				answer.Partitions = append(answer.Partitions, partition)
			}
			res.Topics = append(res.Topics, answer)
		}
		return res, nil, true
	})
	return &r
}

// next sets what is answered, and gives how many commits came since it was set before.
func (r *refusing) next(left int, code kafka.Error, only int32) (count int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	count = r.count
	r.left, r.code, r.only, r.count = left, code, only, 0
	return count
}

// Scenario: the coordinator refuses a commit for one of two partitions, with each kind of answer.
// Guarantees: what passes is sent again until it is stored; a fence and anything else is returned at once, the fence by name.
func TestCommitRefused(t *testing.T) {
	b := newFake(t)
	topic := makeTopic(t, b, 2, nil)
	g := join(t, openSource(t, testConfig(b, topic)))
	coordinator := refuse(b)
	both := map[int32]pipeline.Commit{0: {Offset: 1}, 1: {Offset: 2}}
	for _, c := range []struct {
		code   kafka.Error
		sent   int // requests
		stored bool
		fenced bool
	}{
		{kafka.GroupLoadInProgress, 3, true, false}, {kafka.GroupCoordinatorNotAvailable, 3, true, false},
		{kafka.NotCoordinatorForGroup, 3, true, false}, {kafka.RebalanceInProgress, 3, true, false},
		{kafka.IllegalGeneration, 1, false, true}, {kafka.UnknownMemberId, 1, false, true}, {kafka.FencedInstanceID, 1, false, true},
		{kafka.OffsetMetadataTooLarge, 1, false, false}, {kafka.RequestTimedOut, 1, false, false},
	} {
		coordinator.next(2, c.code, 1)
		err := g.Commit(deadline(t), both)
		count := coordinator.next(0, 0, 0)
		if (err == nil) != c.stored || errors.Is(err, pipeline.ErrFenced) != c.fenced || count != c.sent {
			t.Fatalf("%v: want it sent %d times, stored %v, fenced %v, got %d times, %v", c.code, c.sent, c.stored, c.fenced, count, err)
		}
		if err != nil && (!errors.Is(err, c.code) || !strings.Contains(err.Error(), "partition 1")) {
			t.Fatalf("want %v of partition 1, got %v", c.code, err)
		}
	}
}

// Scenario: the coordinator takes a commit and the connection breaks before its answer; then it refuses both of two
// partitions, one for good.
// Guarantees: neither is sent again: nobody knows what became of the first, and the second is not transient as a whole.
func TestCommitUnknown(t *testing.T) {
	b := newFake(t)
	topic := makeTopic(t, b, 1, nil)
	g := join(t, openSource(t, testConfig(b, topic)))
	var count atomic.Int32
	b.cluster.ControlKey(int16(kmsg.OffsetCommit), func(kmsg.Request) (kmsg.Response, error, bool) {
		b.cluster.KeepControl()
		count.Add(1)
		return nil, errors.New("the connection breaks"), true
	})
	if err := g.Commit(deadline(t), at(0, 1)); err == nil || errors.Is(err, pipeline.ErrFenced) || count.Load() != 1 {
		t.Fatalf("want it sent once, got %d times, %v", count.Load(), err)
	}
	mixed := errors.Join(kafka.GroupLoadInProgress, kafka.OffsetMetadataTooLarge)
	if refusal(mixed) != nil || refusal(errors.Join(kafka.GroupLoadInProgress, kafka.NotCoordinatorForGroup)) == nil {
		t.Fatal("want a commit sent again only if every partition's fault passes")
	}
}

// Scenario: the coordinator loads its log for longer than the caller's context lasts.
// Guarantees: the commit ends with its context, unstored and not fenced.
func TestCommitEnds(t *testing.T) {
	b := newFake(t)
	topic := makeTopic(t, b, 1, nil)
	g := join(t, openSource(t, testConfig(b, topic)))
	ctx, cancel := context.WithCancel(deadline(t))
	coordinator := refuse(b)
	coordinator.next(1<<30, kafka.GroupLoadInProgress, 0)
	go cancel()
	if err := g.Commit(ctx, at(0, 1)); err == nil || errors.Is(err, pipeline.ErrFenced) {
		t.Fatalf("got %v", err)
	}
}
