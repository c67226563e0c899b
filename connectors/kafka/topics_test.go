package kafka

import (
	"bytes"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	kafka "github.com/segmentio/kafka-go"
	"github.com/tailrace/tailrace/pipeline"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// deleteTopic returns once the brokers no longer know it.
func deleteTopic(t *testing.T, b broker, name string) {
	t.Helper()
	req := kmsg.NewPtrDeleteTopicsRequest()
	req.TopicNames = []string{name}
	topic := kmsg.NewDeleteTopicsRequestTopic()
	topic.Topic = kmsg.StringPtr(name)
	req.Topics = append(req.Topics, topic)
	res, err := req.RequestWith(deadline(t), franz(t, b))
	ok(t, err)
	ok(t, kerr.ErrorForCode(res.Topics[0].ErrorCode))
	var pause backoff
	for {
		if _, err := newCluster(b.addrs()).topic(deadline(t), name); errors.Is(err, errUnknownTopic) {
			return
		}
		ok(t, pause.wait(deadline(t)))
	}
}

// deleteRecords removes a partition's messages before an offset, as retention does.
func deleteRecords(t *testing.T, b broker, name string, before int64) {
	t.Helper()
	req := kmsg.NewPtrDeleteRecordsRequest()
	topic, partition := kmsg.NewDeleteRecordsRequestTopic(), kmsg.NewDeleteRecordsRequestTopicPartition()
	topic.Topic, partition.Offset = name, before
	topic.Partitions = append(topic.Partitions, partition)
	req.Topics = append(req.Topics, topic)
	for _, shard := range franz(t, b).RequestSharded(deadline(t), req) {
		ok(t, shard.Err)
		for _, p := range shard.Resp.(*kmsg.DeleteRecordsResponse).Topics[0].Partitions {
			ok(t, kerr.ErrorForCode(p.ErrorCode))
		}
	}
}

// Scenario: the topic is deleted and made anew while it is read, with fewer messages than were read, and with more.
// Guarantees: reading stops with an error of configuration that names the topic; it never goes on in the new one.
func suiteMadeAnew(t *testing.T, b broker) {
	for _, anew := range []int{10, 200} {
		topic := makeTopic(t, b, 1, nil)
		numbers(t, b, topic, 1, 0, 100)
		s := openSource(t, testConfig(b, topic))
		g := join(t, s)
		p := only(t, g)
		readMessages(t, p, 100)
		ok(t, g.Commit(deadline(t), at(0, 100)))
		deleteTopic(t, b, topic)
		ok(t, CreateTopic(deadline(t), b.addrs(), topic, 1, nil))
		numbers(t, b, topic, 1, 1000, anew)
		var err error
		for err == nil {
			var d pipeline.Delivery
			if d, err = p.Read(deadline(t)); d.Messages > 0 {
				t.Fatalf("got %d messages of the new topic", d.Messages)
			}
			d.Release()
		}
		if !errors.Is(err, pipeline.ErrConfig) || !errors.Is(err, errMadeAnew) || !strings.Contains(err.Error(), topic) {
			t.Fatalf("got %v", err)
		}
	}
}

// Scenario: the topic is deleted and made anew while nobody reads it.
// Guarantees: either the group's offsets went with the topic, and all of the new one is read, or the error says that the
// offset is out of range; no message of the new topic is passed over in silence.
func suiteMadeAnewBetween(t *testing.T, b broker) {
	topic := makeTopic(t, b, 1, nil)
	numbers(t, b, topic, 1, 0, 100)
	c := testConfig(b, topic)
	s := openSource(t, c)
	g := join(t, s)
	readMessages(t, only(t, g), 100)
	ok(t, g.Commit(deadline(t), at(0, 100)))
	ok(t, g.Close())
	ok(t, s.Close())
	deleteTopic(t, b, topic)
	ok(t, CreateTopic(deadline(t), b.addrs(), topic, 1, nil))
	numbers(t, b, topic, 1, 1000, 10)
	p := only(t, join(t, openSource(t, c)))
	if p.Start() == 0 {
		if r := readMessages(t, p, 10); !slices.Equal(r.values, sequence(1000, 10)) {
			t.Fatalf("got %v", r.values)
		}
		return
	}
	if _, err := p.Read(deadline(t)); !errors.Is(err, pipeline.ErrConfig) || !errors.Is(err, errOutOfRange) {
		t.Fatalf("start %d: got %v", p.Start(), err)
	}
}

// Scenario: retention deletes messages that the group has not read.
// Guarantees: an error that names the range that is left; messages are not passed over in silence.
func suiteRetention(t *testing.T, b broker) {
	topic := makeTopic(t, b, 1, nil)
	numbers(t, b, topic, 1, 0, 100)
	s := openSource(t, testConfig(b, topic))
	g := join(t, s)
	ok(t, g.Commit(deadline(t), at(0, 10)))
	ok(t, g.Close())
	deleteRecords(t, b, topic, 50)
	_, err := only(t, join(t, s)).Read(deadline(t))
	if !errors.Is(err, pipeline.ErrConfig) || !strings.Contains(err.Error(), "want 50 to 100") {
		t.Fatalf("got %v", err)
	}
	if n, err := CountMessages(deadline(t), b.addrs(), topic); err != nil || n != 50 {
		t.Fatalf("want 50 messages, got %d, %v", n, err)
	}
}

// commitByHand sets an offset of a group that has no members, with metadata of its own.
func commitByHand(t *testing.T, client *kafka.Client, group, topic string, partition int, offset int64) {
	t.Helper()
	res, err := client.OffsetCommit(deadline(t), &kafka.OffsetCommitRequest{
		GroupID: group, GenerationID: -1,
		Topics: map[string][]kafka.OffsetCommit{topic: {{Partition: partition, Offset: offset, Metadata: "set by hand"}}},
	})
	ok(t, err)
	ok(t, res.Topics[topic][0].Error)
}

// Scenario: an operator sets the offsets of the group, which is empty, with metadata of his own.
// Guarantees: reading goes on from there, and our commits take their place.
func suiteOffsetsSet(t *testing.T, b broker) {
	topic := makeTopic(t, b, 1, nil)
	numbers(t, b, topic, 1, 0, 100)
	c := testConfig(b, topic)
	client := newCluster(b.addrs()).client(topic)
	defer closeClient(client)
	commitByHand(t, client, c.Group, topic, 0, 60)
	g := join(t, openSource(t, c))
	if r := readMessages(t, only(t, g), 40); !slices.Equal(r.values, sequence(60, 40)) {
		t.Fatalf("got %v", r.values)
	}
	ok(t, g.Commit(deadline(t), at(0, 100)))
	stored, err := Committed(deadline(t), b.addrs(), c.Group, topic)
	ok(t, err)
	if stored[0] != 100 {
		t.Fatalf("got %v", stored)
	}
}

// Scenario: a topic that stamps the time of appending; messages come with times of long ago.
// Guarantees: rows have the broker's time; on a topic that does not stamp, the producer's.
func suiteTimes(t *testing.T, b broker) {
	for kind, stamps := range map[string]bool{"CreateTime": false, "LogAppendTime": b.stampsTimes()} {
		topic := makeTopic(t, b, 1, map[string]string{"message.timestamp.type": kind})
		before := time.Now().Add(-time.Second)
		old := time.UnixMilli(1_700_000_000_123)
		for i := range 3 {
			ok(t, franz(t, b).ProduceSync(deadline(t), &kgo.Record{
				Topic: topic, Value: []byte{'0' + byte(i)}, Timestamp: old.Add(time.Duration(i) * time.Millisecond),
			}).FirstErr())
		}
		r := readMessages(t, only(t, join(t, openSource(t, testConfig(b, topic)))), 3)
		for i, at := range r.times {
			if want := old.UnixNano() + int64(i)*int64(time.Millisecond); !stamps && at != want || stamps && at < before.UnixNano() {
				t.Fatalf("%s: message %d: got %v, sent %v", kind, i, time.Unix(0, at), time.Unix(0, want))
			}
		}
	}
}

// Scenario: messages of up to 20 MB between small ones, each codec, in a topic that takes them.
// Guarantees: each comes whole and in order.
func suiteLargeWhole(t *testing.T, b broker) {
	topic := makeTopic(t, b, 1, map[string]string{"max.message.bytes": "33554432"})
	var want [][]byte
	for i, codec := range []kgo.CompressionCodec{
		kgo.NoCompression(), kgo.GzipCompression(), kgo.SnappyCompression(), kgo.Lz4Compression(), kgo.ZstdCompression(),
	} {
		c := franz(t, b, kgo.ProducerBatchCompression(codec))
		for _, size := range []int{10, 20_000_000 >> i, 10} {
			want = append(want, bytes.Repeat([]byte("0123456789"), size/10))
			ok(t, c.ProduceSync(deadline(t), &kgo.Record{Topic: topic, Value: want[len(want)-1]}).FirstErr())
		}
	}
	got := readAll(t, b, topic)
	if len(got) != len(want) {
		t.Fatalf("want %d messages, got %d", len(want), len(got))
	}
	for i, m := range got {
		if !bytes.Equal(m.Value, want[i]) {
			t.Fatalf("message %d: want %d bytes, got %d", i, len(want[i]), len(m.Value))
		}
	}
}
