package kafka

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tailrace/tailrace/pipeline"
	"github.com/tailrace/tailrace/schemas"
	"github.com/tailrace/tailrace/schemas/formats"
	"github.com/twmb/franz-go/pkg/kgo"
	"pgregory.net/rapid"
)

// Scenario: refused messages of two topics are published to three partitions of dead letters, among a message of someone
// else's; they are listed with each filter, and sent back.
// Guarantees: every field comes back; filters pick what they say, the oldest first; a letter sent back has the message's own
// bytes, key, time and headers and says where it is from; one that does not hold its message is refused by name.
func suiteLetters(t *testing.T, b broker) {
	source := makeTopic(t, b, 2, nil)
	numbers(t, b, source, 2, 0, 1)
	p := openPublisher(t, b, func(c *PublisherConfig) { c.Partitions = 3 })
	at := time.Unix(1_700_000_000, 123_000_000).UTC()
	letter := func(topic string, partition int32, offset int64, code string, key string) pipeline.DeadLetter {
		return pipeline.DeadLetter{
			Topic: topic, Partition: partition, Stage: "decode", Reject: formats.Rejectf(code, "bad %d", offset),
			Message: formats.Message{
				Offset: offset, Time: at.UnixNano(), Key: []byte(key), Value: fmt.Append(nil, "value ", offset),
				Headers: []formats.Header{{Key: "own", Value: []byte("1")}, {Key: "null"}, {Key: schemas.HeaderErrorCode, Value: []byte("its own")}},
			},
		}
	}
	letters := []pipeline.DeadLetter{
		letter(source, 1, 10, schemas.DeadInvalidJSON, "a"), letter(source, 0, 11, schemas.DeadWrongType, "b"),
		letter("elsewhere", 0, 12, schemas.DeadInvalidJSON, "c"), letter(source, 1, 13, schemas.DeadTooLarge, "d"),
		letter(source, 1, 14, schemas.DeadRefused, "e"), letter(source, 7, 15, schemas.DeadInvalidJSON, "f"),
		letter(source, 1, 16, schemas.DeadUnreadable, "g"),
	}
	letters[3].Length, letters[3].SHA256 = 5000, [32]byte{0xab}
	letters[4].Stage = "sink"
	for i := range letters {
		ok(t, p.PublishDead(deadline(t), letters[i:i+1]))
		ok(t, p.Flush(deadline(t)))
	}
	ok(t, franz(t, b).ProduceSync(deadline(t), &kgo.Record{Topic: p.dead, Value: []byte("x")}).FirstErr())

	d, err := OpenDeadLetters(deadline(t), Access{Brokers: b.addrs()}, strings.TrimSuffix(p.dead, schemas.TopicDeadLetters))
	ok(t, err)
	defer d.Close()
	list := func(f LetterFilter) (found []*Letter) {
		for l, err := range d.List(deadline(t), f) {
			ok(t, err)
			found = append(found, l)
		}
		return found
	}
	all := list(LetterFilter{})
	if len(all) != 8 || !slices.IsSortedFunc(all, func(a, b *Letter) int { return a.Time.Compare(b.Time) }) {
		t.Fatalf("want 8 letters, the oldest first, got %d", len(all))
	}
	of := func(offset int64) *Letter {
		i := slices.IndexFunc(all, func(l *Letter) bool { return l.SrcOffset == offset })
		if i < 0 {
			t.Fatalf("want the letter of offset %d", offset)
		}
		return all[i]
	}
	l := of(10)
	if l.Code != schemas.DeadInvalidJSON || l.Reason != "bad 10" || l.Stage != "decode" || l.Pipeline != "plant" || l.SrcTopic != source ||
		l.SrcPartition != 1 || !l.SrcTime.Equal(at) || string(l.Key) != "a" || string(l.Value) != "value 10" || len(l.Headers) != 3 ||
		string(l.Headers[2].Value) != "its own" || l.Headers[1].Value != nil || l.Truncated || l.Fault != "" {
		t.Fatalf("got %+v", l)
	}
	if l := of(13); !l.Truncated || l.SrcLength != 5000 || l.SrcSHA256 != "ab"+strings.Repeat("0", 62) {
		t.Fatalf("got %+v", l)
	}
	if l := of(0); l.Fault == "" || string(l.Value) != "x" {
		t.Fatalf("got %+v", l)
	}
	one := int32(1)
	for name, c := range map[string]struct {
		filter LetterFilter
		want   string
	}{
		"code":      {LetterFilter{Code: schemas.DeadInvalidJSON}, "[10 12 15]"},
		"stage":     {LetterFilter{Stage: "sink"}, "[14]"},
		"topic":     {LetterFilter{Topic: "elsewhere"}, "[12]"},
		"partition": {LetterFilter{Topic: source, Partition: &one}, "[10 13 14 16]"},
		"pipeline":  {LetterFilter{Pipeline: "other"}, "[]"},
		"limit":     {LetterFilter{Topic: source, Limit: 2}, "[10 11]"},
		"from":      {LetterFilter{Pipeline: "plant", From: of(15).Time}, fmt.Sprint(since(all, of(15).Time))},
		"to":        {LetterFilter{To: of(10).Time}, "[]"},
	} {
		got := []int64{}
		for _, l := range list(c.filter) {
			got = append(got, l.SrcOffset)
		}
		slices.Sort(got) // letters of one millisecond are in no order
		if fmt.Sprint(got) != c.want && name != "limit" || name == "limit" && len(got) != 2 {
			t.Fatalf("%s: want %s, got %v", name, c.want, got)
		}
	}

	to, err := d.Replay(deadline(t), of(10))
	ok(t, err)
	r := readMessages(t, partitionOf(t, b, source, 1), 2)
	if to != 1 || len(r.dead) != 1 {
		t.Fatalf("want the message at offset 1, got %d, %+v", to, r)
	}
	m := r.dead[0].Message
	if m.Offset != 1 || string(m.Key) != "a" || !bytes.Equal(m.Value, []byte("value 10")) || m.Time != at.UnixNano() && !b.stampsTimes() ||
		len(m.Headers) != 4 || m.Headers[3].Key != schemas.HeaderReplayedFrom ||
		string(m.Headers[3].Value) != fmt.Sprintf("%d/%d", of(10).Partition, of(10).Offset) {
		t.Fatalf("got %+v", m)
	}
	for _, offset := range []int64{13, 14, 16, 0} {
		if _, err := d.Replay(deadline(t), of(offset)); !errors.Is(err, ErrNotReplayable) {
			t.Fatalf("offset %d: got %v", offset, err)
		}
	}
	for _, offset := range []int64{12, 15} { // a topic and a partition that are not there
		if _, err := d.Replay(deadline(t), of(offset)); !errors.Is(err, pipeline.ErrConfig) {
			t.Fatalf("offset %d: got %v", offset, err)
		}
	}
	if _, err := OpenDeadLetters(deadline(t), Access{Brokers: b.addrs()}, "no-such."); !errors.Is(err, pipeline.ErrConfig) {
		t.Fatalf("got %v", err)
	}
}

// since are the source offsets of our letters from a time on, in order.
func since(all []*Letter, from time.Time) []int64 {
	list := []int64{}
	for _, l := range all {
		if l.Pipeline == "plant" && !l.Time.Before(from) {
			list = append(list, l.SrcOffset)
		}
	}
	slices.Sort(list)
	return list
}

// partitionOf reads one partition from its first message.
func partitionOf(t *testing.T, b broker, topic string, id int32) pipeline.Partition {
	t.Helper()
	for _, p := range join(t, openSource(t, testConfig(b, topic))).Partitions() {
		if p.ID() == id {
			return p
		}
	}
	t.Fatalf("want partition %d of %q", id, topic)
	return nil
}

// Scenario: dead letters with any code, texts, place and headers of the message's own, also such as are named like ours.
// Guarantees: what the publisher writes into headers is what is read back, and none of the message's own is lost or taken for ours.
func TestLetterHeaders(t *testing.T) {
	publisher := &Publisher{settings: pipeline.Settings{Pipeline: "p"}}
	rapid.Check(t, func(t *rapid.T) {
		names := rapid.SampledFrom([]string{"own", "", schemas.HeaderErrorCode, schemas.HeaderTruncated, schemas.HeaderSrcOffset})
		letter := pipeline.DeadLetter{
			Topic: rapid.StringN(1, 20, -1).Draw(t, "topic"), Partition: rapid.Int32Min(0).Draw(t, "partition"),
			Stage:  rapid.SampledFrom([]string{"decode", "sink"}).Draw(t, "stage"),
			Reject: formats.Rejectf(rapid.String().Draw(t, "code"), "%s", rapid.String().Draw(t, "reason")),
			Message: formats.Message{
				Offset: rapid.Int64Min(0).Draw(t, "offset"), Time: rapid.Int64Range(0, 1<<62).Draw(t, "time"),
			},
			Length: rapid.Int64Range(0, 1<<40).Draw(t, "length"),
		}
		for range rapid.IntRange(0, 5).Draw(t, "headers") {
			letter.Message.Headers = append(letter.Message.Headers,
				formats.Header{Key: names.Draw(t, "name"), Value: rapid.SliceOfN(rapid.Byte(), 0, 5).Draw(t, "value")})
		}
		var stored formats.Message
		for _, h := range publisher.deadHeaders(&letter) {
			stored.Headers = append(stored.Headers, formats.Header{Key: h.Key, Value: h.Value})
		}
		l := readLetter(4, &stored)
		if l.Fault != "" || l.Code != letter.Reject.Code || l.Reason != letter.Reject.Reason || l.Stage != letter.Stage ||
			l.SrcTopic != letter.Topic || l.SrcPartition != letter.Partition || l.SrcOffset != letter.Message.Offset ||
			l.SrcTime.UnixNano() != letter.Message.Time || l.Pipeline != "p" || l.Truncated != (letter.Length > 0) || l.SrcLength != letter.Length {
			t.Fatalf("want %+v, got %+v", letter, l)
		}
		if !slices.EqualFunc(l.Headers, letter.Message.Headers, func(a, b formats.Header) bool {
			return a.Key == b.Key && bytes.Equal(a.Value, b.Value)
		}) {
			t.Fatalf("want the message's own headers %v, got %v", letter.Message.Headers, l.Headers)
		}
	})
}

// Scenario: messages in the topic of dead letters whose headers someone else wrote.
// Guarantees: the first header that is wrong is named, and the letter is not sent back.
func TestForeignLetters(t *testing.T) {
	for key, value := range map[string]string{
		schemas.HeaderSrcPartition: "99999999999", schemas.HeaderSrcOffset: "x", schemas.HeaderSrcTimestamp: "yesterday",
		schemas.HeaderSrcLength: "1.5", schemas.HeaderSrcSHA256: "xyz",
	} {
		l := readLetter(0, &formats.Message{Headers: []formats.Header{
			{Key: schemas.HeaderErrorCode, Value: []byte("bad")}, {Key: schemas.HeaderSrcTopic, Value: []byte("t")}, {Key: key, Value: []byte(value)},
		}})
		if !strings.Contains(l.Fault, key) || !strings.Contains(l.Fault, value) || !errors.Is(l.Replayable(), ErrNotReplayable) {
			t.Fatalf("%s: got %q", key, l.Fault)
		}
	}
}
