package kafka

import (
	"cmp"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"iter"
	"maps"
	"slices"
	"strconv"
	"time"

	kafka "github.com/segmentio/kafka-go"
	"github.com/tailrace/tailrace/pipeline"
	"github.com/tailrace/tailrace/schemas"
	"github.com/tailrace/tailrace/schemas/formats"
)

// Letter is a dead letter as its topic has it.
type Letter struct {
	Partition int32     // of the dead letters' topic
	Offset    int64     //
	Time      time.Time // when it was refused

	Code         string // one of the schemas.Dead constants
	Reason       string
	Stage        string // "decode" or "sink"
	Pipeline     string
	SrcTopic     string
	SrcPartition int32
	SrcOffset    int64
	SrcTime      time.Time // the message's own

	Key     []byte
	Value   []byte
	Headers []formats.Header // the message's own
	// Truncated says that Value is only the beginning of the message's, or nothing of it, whose length and SHA-256
	// (lowercase hex) follow.
	Truncated bool
	SrcLength int64
	SrcSHA256 string
	// Fault says what is wrong with the letter's own headers: it was not written by this program. "" if nothing is.
	Fault string
}

// LetterFilter picks dead letters. A zero field picks all.
type LetterFilter struct {
	Code      string
	Stage     string
	Pipeline  string
	Topic     string // where the message came from
	Partition *int32 // where the message came from
	From, To  time.Time
	Limit     int
}

// takes says whether l is picked. From is inclusive and To is not; both are of the time of refusal.
func (f *LetterFilter) takes(l *Letter) bool {
	return (f.Code == "" || l.Code == f.Code) && (f.Stage == "" || l.Stage == f.Stage) &&
		(f.Pipeline == "" || l.Pipeline == f.Pipeline) && (f.Topic == "" || l.SrcTopic == f.Topic) &&
		(f.Partition == nil || l.SrcPartition == *f.Partition) &&
		(f.From.IsZero() || !l.Time.Before(f.From)) && (f.To.IsZero() || l.Time.Before(f.To))
}

// DeadLetters reads the topic of dead letters and sends what is in it back. It joins no group. It is for one goroutine.
type DeadLetters struct {
	cluster *cluster
	client  *kafka.Client
	topic   string
	sent    map[string]*returns // by topic that letters were sent back to
	sender  sender
}

// returns is a topic that letters are sent back to.
type returns struct {
	client *kafka.Client
	lanes  []*lane
}

// OpenDeadLetters looks the topic up, whose name prefix stands before. If there is none the error wraps
// pipeline.ErrConfig.
func OpenDeadLetters(ctx context.Context, a Access, prefix string) (*DeadLetters, error) {
	d := &DeadLetters{cluster: a.cluster(), topic: prefix + schemas.TopicDeadLetters, sent: map[string]*returns{}}
	if _, err := d.cluster.await(ctx, d.topic, nil); err != nil {
		return nil, fmt.Errorf("kafka: %w", err)
	}
	d.client = d.cluster.client(d.topic)
	return d, nil
}

// Close closes the connections.
func (d *DeadLetters) Close() error {
	closeClient(d.client)
	for _, to := range d.sent {
		closeClient(to.client)
	}
	return nil
}

// List gives the letters that are there as it begins, the oldest first. An error is the last thing that it gives. The
// letters are the receiver's.
func (d *DeadLetters) List(ctx context.Context, filter LetterFilter) iter.Seq2[*Letter, error] {
	return func(yield func(*Letter, error) bool) {
		first, end, err := d.cluster.offsets(ctx, d.topic)
		if err == nil && !filter.From.IsZero() {
			first, err = patiently(ctx, d.client, func() (map[int32]int64, error) {
				return offsetsAt(ctx, d.client, d.topic, ids(end), filter.From)
			})
		}
		if err != nil {
			yield(nil, err)
			return
		}
		var heads []*cursor
		for id := range end {
			c := d.follow(ctx, id, first[id], end[id], &filter)
			defer c.stop()
			if !c.advance() {
				if c.err != nil {
					yield(nil, c.err)
					return
				}
				continue
			}
			heads = append(heads, c)
		}
		for given := 0; len(heads) > 0 && (filter.Limit == 0 || given < filter.Limit); given++ {
			oldest := slices.MinFunc(heads, func(a, b *cursor) int {
				return cmp.Or(a.letter.Time.Compare(b.letter.Time), cmp.Compare(a.letter.Partition, b.letter.Partition))
			})
			if !yield(oldest.letter, nil) {
				return
			}
			if oldest.advance() {
				continue
			}
			if oldest.err != nil {
				yield(nil, oldest.err)
				return
			}
			heads = slices.DeleteFunc(heads, func(c *cursor) bool { return c == oldest })
		}
	}
}

func ids(partitions map[int32]int64) []int {
	var list []int
	for _, id := range slices.Sorted(maps.Keys(partitions)) {
		list = append(list, int(id))
	}
	return list
}

// cursor stands on one letter of a partition.
type cursor struct {
	letter *Letter
	err    error
	next   func() (*Letter, error, bool)
	stop   func()
}

// advance is false at the end, or with err.
func (c *cursor) advance() bool {
	letter, err, more := c.next()
	c.letter, c.err = letter, err
	return more && err == nil
}

// letterBytes is what a fetch of dead letters brings.
const letterBytes = 1 << 20

// follow reads the letters of one partition that filter takes.
func (d *DeadLetters) follow(ctx context.Context, id int32, from, to int64, filter *LetterFilter) *cursor {
	var c cursor
	c.next, c.stop = iter.Pull2(func(yield func(*Letter, error) bool) {
		defaults := DefaultSourceConfig()
		var stats Stats
		f := newFetcher(d.cluster, d.topic, id, from, fetchLimits{
			maxWait: defaults.FetchMaxWait, maxBytes: letterBytes, maxBatch: int(defaults.MaxMessageBytes),
		}, &stats)
		f.bound = to
		defer f.close() //nolint:errcheck // nothing is lost by it
		err := f.follow(ctx, func(m *formats.Message) error {
			own(m)
			if l := readLetter(id, m); filter.takes(l) && !yield(l, nil) {
				return io.EOF
			}
			return nil
		})
		if err != nil && !errors.Is(err, io.EOF) {
			yield(nil, err)
		}
	})
	return &c
}

// readLetter parses the headers of a dead letter, which own m.
func readLetter(partition int32, m *formats.Message) *Letter {
	from := len(m.Headers) - 1
	for from >= 0 && m.Headers[from].Key != schemas.HeaderErrorCode { // a message that was a letter itself has several
		from--
	}
	l := &Letter{Partition: partition, Offset: m.Offset, Time: time.Unix(0, m.Time).UTC(), Key: m.Key, Value: m.Value}
	if from < 0 {
		l.Headers, l.Fault = m.Headers, fmt.Sprintf("want the header %s, got none", schemas.HeaderErrorCode)
		return l
	}
	l.Headers = m.Headers[:from:from]
	fault := func(h formats.Header, err error) {
		if err != nil && l.Fault == "" {
			l.Fault = fmt.Sprintf("header %s: want a value that this program writes, got %.100q", h.Key, h.Value)
		}
	}
	for _, h := range m.Headers[from:] {
		text := string(h.Value)
		var err error
		switch h.Key {
		case schemas.HeaderErrorCode:
			l.Code = text
		case schemas.HeaderError:
			l.Reason = text
		case schemas.HeaderStage:
			l.Stage = text
		case schemas.HeaderPipeline:
			l.Pipeline = text
		case schemas.HeaderSrcTopic:
			l.SrcTopic = text
		case schemas.HeaderSrcPartition:
			var n int64
			n, err = strconv.ParseInt(text, 10, 32)
			l.SrcPartition = int32(n)
		case schemas.HeaderSrcOffset:
			l.SrcOffset, err = strconv.ParseInt(text, 10, 64)
		case schemas.HeaderSrcTimestamp:
			l.SrcTime, err = time.Parse(time.RFC3339Nano, text)
		case schemas.HeaderTruncated:
			l.Truncated = text == "true"
		case schemas.HeaderSrcLength:
			l.SrcLength, err = strconv.ParseInt(text, 10, 64)
		case schemas.HeaderSrcSHA256:
			_, err = hex.DecodeString(text)
			l.SrcSHA256 = text
		}
		fault(h, err)
	}
	return l
}

// ErrNotReplayable marks a letter that does not hold the message it is of.
var ErrNotReplayable = errors.New("can't be sent back")

// Replay sends a letter's message back to the partition it came from, with its own bytes, key, time and headers and
// with schemas.HeaderReplayedFrom, and gives the offset that it has there. The letter stays where it is, and a letter
// that is sent twice comes twice: its source reads each as a new message. A letter that does not hold its message gives
// an error that wraps [ErrNotReplayable]; a topic or partition that is gone one that wraps pipeline.ErrConfig. What is
// transient is retried until ctx ends.
func (d *DeadLetters) Replay(ctx context.Context, l *Letter) (offset int64, err error) {
	if err := l.Replayable(); err != nil {
		return 0, err
	}
	to, ok := d.sent[l.SrcTopic]
	if !ok {
		t, err := d.cluster.await(ctx, l.SrcTopic, nil)
		if err == nil {
			err = d.cluster.final(d.cluster.lacks(t, opWrite, l.SrcTopic))
		}
		if err != nil {
			return 0, fmt.Errorf("kafka: dead letter %s: %w", l.place(), err)
		}
		to = &returns{client: d.cluster.client(l.SrcTopic)}
		for _, id := range t.partitions() {
			to.lanes = append(to.lanes, newLane(l.SrcTopic, id, d.cluster, to.client, laneOptions{}))
		}
		d.sent[l.SrcTopic] = to
	}
	if l.SrcPartition < 0 || int(l.SrcPartition) >= len(to.lanes) {
		return 0, fmt.Errorf("kafka: dead letter %s: %w: topic %q: want partition %d, got a topic of %d",
			l.place(), pipeline.ErrConfig, l.SrcTopic, l.SrcPartition, len(to.lanes))
	}
	headers := make([]kafka.Header, 0, len(l.Headers)+1)
	for _, h := range l.Headers {
		headers = append(headers, kafka.Header{Key: h.Key, Value: h.Value})
	}
	headers = append(headers, kafka.Header{Key: schemas.HeaderReplayedFrom, Value: []byte(l.place())})
	end, err := d.sender.send(ctx, to.lanes[l.SrcPartition], []record{{
		key: l.Key, value: l.Value, headers: headers, time: l.SrcTime.UnixNano(),
	}})
	if err != nil {
		return 0, fmt.Errorf("kafka: dead letter %s: %w", l.place(), err)
	}
	return end - 1, nil
}

// Replayable is nil if the letter holds its message, else an error that wraps [ErrNotReplayable] and says what is
// missing.
func (l *Letter) Replayable() error {
	if reason := l.lacking(); reason != "" {
		return fmt.Errorf("kafka: dead letter %s: %w: %s", l.place(), ErrNotReplayable, reason)
	}
	return nil
}

// place is what schemas.HeaderReplayedFrom says.
func (l *Letter) place() string { return fmt.Sprintf("%d/%d", l.Partition, l.Offset) }

// lacking says why the letter's message can't be sent back, or "".
func (l *Letter) lacking() string {
	switch {
	case l.Fault != "":
		return l.Fault
	case l.SrcTopic == "":
		return "it does not say which topic it came from"
	case l.Truncated:
		return fmt.Sprintf("it has %d of the message's %d bytes; the message is at topic %q, partition %d, offset %d, "+
			"as long as it is kept there", len(l.Value), l.SrcLength, l.SrcTopic, l.SrcPartition, l.SrcOffset)
	case l.Stage == "sink":
		return fmt.Sprintf("it is a row that the store refused, and other rows of its message may be stored; the message "+
			"is at topic %q, partition %d, offset %d, as long as it is kept there", l.SrcTopic, l.SrcPartition, l.SrcOffset)
	case l.Code == schemas.DeadUnreadable:
		return "it is a record batch whose messages can't be read"
	}
	return ""
}
