package kafka

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/apache/arrow/go/v15/arrow/memory"
	"github.com/tailrace/tailrace/pipeline"
	"github.com/tailrace/tailrace/schemas"
	"github.com/tailrace/tailrace/schemas/formats"
	"github.com/twmb/franz-go/pkg/kgo"
)

func openPublisher(t *testing.T, b broker, change func(*PublisherConfig)) *Publisher {
	t.Helper()
	return openPublisherWith(t, b, pipeline.Settings{Pipeline: "plant"}, change)
}

func openPublisherWith(t *testing.T, b broker, set pipeline.Settings, change func(*PublisherConfig)) *Publisher {
	t.Helper()
	c := DefaultPublisherConfig()
	c.Brokers, c.Prefix, c.Partitions = b.addrs(), fmt.Sprintf("p%d.", time.Now().UnixNano()), 1
	if change != nil {
		change(&c)
	}
	if faults := c.Validate(); len(faults) > 0 {
		t.Fatal(faults)
	}
	p, err := NewPublisher(c, set)
	ok(t, err)
	t.Cleanup(func() {
		if err := p.Close(); err != nil {
			t.Error(err)
		}
	})
	ok(t, p.Open(deadline(t)))
	return p
}

func headerOf(m formats.Message, key string) string {
	for _, h := range m.Headers {
		if h.Key == key {
			return string(h.Value)
		}
	}
	return ""
}

// Scenario: an event and two refused messages are published.
// Guarantees: the topics are made; key, value and headers are as documented.
func suitePublisher(t *testing.T, b broker) {
	p := openPublisher(t, b, nil)
	mem := memory.NewCheckedAllocator(memory.DefaultAllocator)
	defer mem.AssertSize(t, 0)
	batch, err := schemas.NewEvents(mem, []schemas.Event{{
		Schema: schemas.EventSchema, EventID: "e1", Status: schemas.StatusFiring, Asset: "acme.press1",
	}})
	ok(t, err)
	ok(t, p.PublishEvents(deadline(t), batch))
	batch.Release()
	dead := pipeline.DeadLetter{
		Topic: "in", Partition: 3, Stage: "decode", Reject: formats.Rejectf(schemas.DeadInvalidJSON, "bad"),
		Message: formats.Message{
			Offset: 77, Time: 1_700_000_000_123_000_000, Key: []byte("k"), Value: []byte("v"),
			Headers: []formats.Header{{Key: "own", Value: []byte("1")}, {Key: "null"}},
		},
	}
	short := dead
	short.Length, short.SHA256 = 1000, sha256.Sum256([]byte("x"))
	ok(t, p.PublishDead(deadline(t), []pipeline.DeadLetter{dead, short}))
	ok(t, p.Flush(deadline(t)))

	events := readAll(t, b, p.events)
	if len(events) != 1 || string(events[0].Key) != "acme.press1" || !bytes.Contains(events[0].Value, []byte(`"event_id":"e1"`)) ||
		headerOf(events[0], "schema") != "anomaly.v1" || headerOf(events[0], "status") != "firing" || headerOf(events[0], "event-id") != "e1" {
		t.Fatalf("got %+v", events)
	}
	letters := readAll(t, b, p.dead)
	if len(letters) != 2 || string(letters[0].Key) != "k" || string(letters[0].Value) != "v" {
		t.Fatalf("got %+v", letters)
	}
	for key, want := range map[string]string{
		"own": "1", "error-code": "invalid_json", "error": "bad", "stage": "decode", "src-topic": "in", "src-partition": "3",
		"src-offset": "77", "src-timestamp": "2023-11-14T22:13:20.123Z", "pipeline": "plant", "truncated": "",
	} {
		if got := headerOf(letters[0], key); got != want {
			t.Fatalf("header %s: want %q, got %q", key, want, got)
		}
	}
	sum := sha256.Sum256([]byte("x"))
	if headerOf(letters[1], "truncated") != "true" || headerOf(letters[1], "src-length") != "1000" ||
		headerOf(letters[1], "src-sha256") != hex.EncodeToString(sum[:]) {
		t.Fatalf("got %+v", letters[1].Headers)
	}
}

// Scenario: the broker stops; dead letters are published, more than the queue takes; the broker comes back.
// Guarantees: publishing waits at the bound, Flush ends with its context, and in the end all are there, in order.
func suitePublisherRestart(t *testing.T, b broker) {
	p := openPublisher(t, b, func(c *PublisherConfig) { c.BatchBytes = 4 << 10 })
	const n, size = 40, 1000
	letter := func(i int) []pipeline.DeadLetter {
		return []pipeline.DeadLetter{{
			Reject: formats.Rejectf(schemas.DeadInvalidJSON, "bad"), Message: formats.Message{Offset: int64(i), Value: make([]byte, size)},
		}}
	}
	b.stop(t)
	for i := range 2 {
		ok(t, p.PublishDead(deadline(t), letter(i)))
	}
	ctx, cancel := context.WithCancel(deadline(t))
	published := make(chan int, 1)
	go func() {
		for i := 2; i < n; i++ {
			if err := p.PublishDead(ctx, letter(i)); err != nil {
				published <- i
				return
			}
		}
		published <- n
	}()
	stopped, stop := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer stop()
	if err := p.Flush(stopped); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("got %v", err)
	}
	cancel()
	got := <-published
	if got == n {
		t.Fatalf("want publishing to wait after some of %d letters, got %d", n, got)
	}
	b.start(t)
	for i := got; i < n; i++ {
		ok(t, p.PublishDead(deadline(t), letter(i)))
	}
	ok(t, p.Flush(deadline(t)))
	next := int64(0)
	for _, m := range readAll(t, b, p.dead) {
		offset, err := strconv.ParseInt(headerOf(m, schemas.HeaderSrcOffset), 10, 64)
		ok(t, err)
		if offset == next {
			next++
		} else if offset > next {
			t.Fatalf("want letter %d, got %d", next, offset)
		}
	}
	if next != n {
		t.Fatalf("want %d letters, got %d", n, next)
	}
}

// Scenario: dead letters over what the topic takes: a value, then headers, each among small ones in one batch.
// Guarantees: the first goes in short form, the second without what it brought, the small ones whole; none is lost.
func suiteShrink(t *testing.T, b broker) {
	prefix := fmt.Sprintf("s%d.", time.Now().UnixNano())
	ok(t, CreateTopic(deadline(t), b.addrs(), prefix+schemas.TopicDeadLetters, 1, map[string]string{"max.message.bytes": "100000"}))
	p := openPublisher(t, b, func(c *PublisherConfig) { c.Prefix, c.Linger = prefix, time.Minute })
	value := make([]byte, 200_000)
	for i := range value {
		value[i] = byte(i * i >> 3)
	}
	messages := []formats.Message{
		{Value: []byte("a")}, {Value: value, Headers: []formats.Header{{Key: "own", Value: []byte("1")}}},
		{Value: []byte("b"), Headers: []formats.Header{{Key: "own", Value: value}}}, {Value: []byte("c")},
	}
	var letters []pipeline.DeadLetter
	for i, m := range messages {
		m.Offset = int64(i)
		letters = append(letters, pipeline.DeadLetter{Message: m, Reject: formats.Rejectf(schemas.DeadInvalidJSON, "bad")})
	}
	ok(t, p.PublishDead(deadline(t), letters))
	ok(t, p.Flush(deadline(t)))
	got := readAll(t, b, p.dead)
	if len(got) != 4 || string(got[0].Value) != "a" || string(got[3].Value) != "c" {
		t.Fatalf("got %d letters", len(got))
	}
	sum := sha256.Sum256(value)
	if m := got[1]; !bytes.Equal(m.Value, value[:64<<10]) || headerOf(m, "own") != "1" || headerOf(m, "truncated") != "true" ||
		headerOf(m, "src-length") != "200000" || headerOf(m, "src-sha256") != hex.EncodeToString(sum[:]) {
		t.Fatalf("got %d bytes", len(m.Value))
	}
	if m := got[2]; m.Value != nil || headerOf(m, "own") != "" || headerOf(m, "src-offset") != "2" || headerOf(m, "src-length") != "1" {
		t.Fatalf("got %+v", m.Headers)
	}
}

// Scenario: records with many keys through the producer, compressed, with a restart in the middle.
// Guarantees: a key's partition is the one that franz-go's Java-compatible hash names; order and times hold; counts and
// end offsets are the topic's.
func suiteProducer(t *testing.T, b broker) {
	const n, partitions = 5000, 5
	topic := makeTopic(t, b, partitions, nil)
	c := DefaultProducerConfig()
	c.Brokers, c.Topics, c.LZ4, c.BatchBytes = b.addrs(), []string{topic}, true, 8<<10
	p := NewProducer(c)
	defer func() { ok(t, p.Close()) }()
	ok(t, p.Open(deadline(t)))
	hash := kgo.StickyKeyPartitioner(nil).ForTopic(topic)
	want := map[int32][]string{}
	for i := range n {
		key, value := []byte("asset"+strconv.Itoa(i%37)), strconv.Itoa(i)
		to := int32(hash.Partition(&kgo.Record{Key: key}, partitions))
		want[to] = append(want[to], value)
		ok(t, p.Send(deadline(t), topic, key, []byte(value), int64(i+1)*int64(time.Millisecond)))
	}
	ok(t, p.Flush(deadline(t)))
	ends, err := EndOffsets(deadline(t), b.addrs(), topic)
	ok(t, err)
	total, err := CountMessages(deadline(t), b.addrs(), topic)
	ok(t, err)
	if total != n {
		t.Fatalf("want %d messages, got %d", n, total)
	}
	for id, done := range p.Produced(topic) {
		if done.Records != int64(len(want[id])) || done.Records > 0 && done.End != ends[id] {
			t.Fatalf("partition %d: want %d records, got %+v, end %d", id, len(want[id]), done, ends[id])
		}
	}
	list := readAll(t, b, topic)
	for i, m := range list {
		number, _ := strconv.Atoi(string(m.Value))
		if string(m.Value) != want[0][i] || m.Time != int64(number+1)*int64(time.Millisecond) {
			t.Fatalf("message %d: got %+v", i, m)
		}
	}
	if err := p.Send(deadline(t), "other", nil, nil, 0); !errors.Is(err, pipeline.ErrConfig) {
		t.Fatalf("got %v", err)
	}
}

// Scenario: topics made twice, with wrong numbers, and asked for while missing.
// Guarantees: the second time is no error; the others are errors of configuration that name the topic.
func suiteAdmin(t *testing.T, b broker) {
	topic := makeTopic(t, b, 3, nil)
	ok(t, CreateTopic(deadline(t), b.addrs(), topic, 3, nil))
	ends, err := EndOffsets(deadline(t), b.addrs(), topic)
	ok(t, err)
	if len(ends) != 3 || ends[2] != 0 {
		t.Fatalf("got %v", ends)
	}
	for _, err := range []error{
		CreateTopic(deadline(t), b.addrs(), topic+"x", 0, nil),
		func() error { _, err := EndOffsets(deadline(t), b.addrs(), "nope"+topic); return err }(),
		func() error { _, err := Committed(deadline(t), b.addrs(), "g", "nope"+topic); return err }(),
	} {
		if !errors.Is(err, pipeline.ErrConfig) || !strings.Contains(err.Error(), topic) {
			t.Fatalf("got %v", err)
		}
	}
	c := DefaultPublisherConfig()
	c.Brokers, c.CreateTopics, c.Prefix = b.addrs(), false, "none."
	p, err := NewPublisher(c, pipeline.Settings{})
	ok(t, err)
	if err := p.Open(deadline(t)); !errors.Is(err, pipeline.ErrConfig) || !strings.Contains(err.Error(), "none.anomaly.events.v1") {
		t.Fatalf("got %v", err)
	}
	ok(t, p.Close())
}

// Scenario: Tail is started before the topic exists; then it is made and written to.
// Guarantees: all messages come, and the error of the function ends it.
func suiteTail(t *testing.T, b broker) {
	topic := fmt.Sprintf("tail-%d", time.Now().UnixNano())
	enough := errors.New("enough")
	done := make(chan error, 1)
	sum := 0
	go func() {
		done <- Tail(deadline(t), b.addrs(), topic, func(value []byte) error {
			n, err := strconv.Atoi(string(value))
			if sum += n; sum == 2*45 {
				return enough
			}
			return err
		})
	}()
	ok(t, CreateTopic(deadline(t), b.addrs(), topic, 2, nil))
	numbers(t, b, topic, 2, 0, 10)
	if err := <-done; !errors.Is(err, enough) {
		t.Fatalf("got %v", err)
	}
}

// Scenario: configs with every kind of fault at once.
// Guarantees: each fault is named by its key, all together; the defaults have none but the missing names.
func TestConfigFaults(t *testing.T) {
	paths := func(faults []pipeline.Fault) (list []string) {
		for _, f := range faults {
			list = append(list, f.Path)
		}
		return list
	}
	c := DefaultSourceConfig()
	if got := fmt.Sprint(paths(c.Validate())); got != "[brokers topic]" {
		t.Fatalf("got %s", got)
	}
	c = SourceConfig{Brokers: []string{"nope"}, Topic: "t", Start: "middle", Until: "x", HeartbeatInterval: time.Hour, FetchMaxBytes: 2048}
	want := "[brokers[0] start until session_timeout rebalance_timeout partition_watch_interval request_timeout fetch_max_wait heartbeat_interval " +
		"max_message_bytes max_decode_bytes dead_letter_max_value max_message_bytes batch_rows]"
	if got := fmt.Sprint(paths(c.Validate())); got != want {
		t.Fatalf("want %s, got %s", want, got)
	}
	p := PublisherConfig{Brokers: []string{"a:1"}, Linger: -1}
	if got := fmt.Sprint(paths(p.Validate())); got != "[partitions rekeyed_partitions replication batch_bytes linger request_timeout]" {
		t.Fatalf("got %s", got)
	}
	if _, err := NewSource(DefaultSourceConfig(), pipeline.Settings{}, newDigits); !errors.Is(err, pipeline.ErrConfig) {
		t.Fatalf("got %v", err)
	}
	for name, made := range map[string]func() error{
		"source":    func() error { _, err := SourceComponent().New(SourceComponent().NewConfig()); return err },
		"publisher": func() error { _, err := PublisherComponent().New(PublisherComponent().NewConfig()); return err },
	} {
		if err := made(); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
	}
}
