package kafka

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"

	kafka "github.com/segmentio/kafka-go"
	"github.com/tailrace/tailrace/pipeline"
)

// topicID is what a topic has for its life. One that is made anew under the same name gets another.
type topicID [16]byte

var errMadeAnew = errors.New("the topic was made anew")

// Metadata version 12 is in every broker from 3.1 to 4.x, as Fetch version 13 is. kafka-go knows none with topic ids.
const (
	identityKey     = 3
	identityVersion = 12
	// identityBytes is far over what a cluster says about its brokers and one topic.
	identityBytes = 16 << 20
)

// unknownTopicID and inconsistentTopicID are how a broker refuses a fetch from a topic that is gone, or that it has not
// heard of yet. kafka-go has no names for them.
const (
	unknownTopicID      kafka.Error = 100
	inconsistentTopicID kafka.Error = 103
)

// identity asks any broker for a topic's id. See [cluster.identify].
func (c *cluster) identity(ctx context.Context, topic string) (id topicID, err error) {
	var faults []error
	for _, i := range rand.Perm(len(c.brokers)) {
		id, err := c.identityAt(ctx, c.brokers[i], topic)
		switch {
		case err == nil, errors.Is(err, pipeline.ErrConfig):
			return id, err
		case ctx.Err() != nil:
			return id, ctx.Err()
		}
		faults = append(faults, fmt.Errorf("%s: %w", c.brokers[i], err))
	}
	return id, fmt.Errorf("topic %q: %w", topic, errors.Join(faults...))
}

func (c *cluster) identityAt(ctx context.Context, address, topic string) (id topicID, err error) {
	raw, conn, err := c.dial(ctx, address)
	if err != nil {
		return id, err
	}
	defer raw.Close()
	if err := c.checkVersion(ctx, raw, conn); err != nil {
		return id, err
	}
	return c.identify(ctx, raw, topic)
}

// identityCorrelation is that of the one request that identify has on its way.
const identityCorrelation = 1

// identify asks the broker behind conn for a topic's id. The error wraps pipeline.ErrConfig and errMadeAnew if it is
// not the one that the cluster gave first.
func (c *cluster) identify(ctx context.Context, conn net.Conn, topic string) (id topicID, err error) {
	release, err := c.bounded(ctx, conn)
	if err != nil {
		return id, err
	}
	defer release()
	if _, err := conn.Write(appendIdentity(nil, identityCorrelation, topic)); err != nil {
		return id, err
	}
	var frame [4]byte
	if _, err := io.ReadFull(conn, frame[:]); err != nil {
		return id, err
	}
	size := int32(binary.BigEndian.Uint32(frame[:]))
	if size < 0 || size > identityBytes {
		return id, fmt.Errorf("metadata: want a response of at most %d bytes, got %d", identityBytes, size)
	}
	response := make([]byte, size)
	if _, err := io.ReadFull(conn, response); err != nil {
		return id, err
	}
	if id, err = readIdentity(response, identityCorrelation); err != nil {
		return id, fmt.Errorf("metadata: %w", err)
	}
	if first, _ := c.ids.LoadOrStore(topic, id); first != id {
		return id, fmt.Errorf("%w: %w since the program started: set the offsets of the group to where reading is to go on, "+
			"and start again", pipeline.ErrConfig, errMadeAnew)
	}
	return id, nil
}

// appendHeader begins a request. Its size comes last.
func appendHeader(b []byte, key, version uint16, correlation int32) []byte {
	i16, i32 := binary.BigEndian.AppendUint16, binary.BigEndian.AppendUint32
	b = i32(b, 0) // size
	b = i16(b, key)
	b = i16(b, version)
	b = i32(b, uint32(correlation))
	b = append(i16(b, uint16(len(clientID))), clientID...)
	return append(b, 0) // tags
}

func appendIdentity(b []byte, correlation int32, topic string) []byte {
	b = appendHeader(b, identityKey, identityVersion, correlation)
	b = append(b, 2) // 1 topic: lengths are one more than they say
	var none topicID
	b = append(b, none[:]...)
	b = append(binary.AppendUvarint(b, uint64(len(topic)+1)), topic...)
	b = append(b, 0)       // tags of the topic
	b = append(b, 0, 0, 0) // make no topic, say nothing of rights, tags
	binary.BigEndian.PutUint32(b, uint32(len(b)-4))
	return b
}

// readIdentity reads a response up to the first topic's id.
func readIdentity(b []byte, want int32) (id topicID, err error) {
	r := wire{b: b}
	correlation := r.i32()
	r.tags()
	r.i32() // throttle time
	for n := r.length(); n > 0 && !r.short; n-- {
		r.i32()             // node
		r.bytes(r.length()) // host
		r.i32()             // port
		r.bytes(r.length()) // rack
		r.tags()
	}
	r.bytes(r.length()) // cluster
	r.i32()             // controller
	topics := r.length()
	code := r.i16()
	r.bytes(r.length()) // name
	copy(id[:], r.take(len(id)))
	switch {
	case r.short:
		return id, fmt.Errorf("response of %d bytes is cut short", len(b))
	case correlation != want:
		return id, fmt.Errorf("response: want correlation id %d, got %d", want, correlation)
	case topics != 1:
		return id, fmt.Errorf("response: want 1 topic, got %d", topics)
	case kafka.Error(code) == kafka.UnknownTopicOrPartition:
		return id, errUnknownTopic
	case code != 0 && kafka.Error(code) != kafka.LeaderNotAvailable:
		return id, kafka.Error(code)
	case id == topicID{}:
		return id, errors.New("response: want a topic with an id, got none")
	}
	return id, nil
}
