package kafka

import (
	"bytes"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"io"
	"strings"
	"testing"
	"time"

	kafka "github.com/segmentio/kafka-go"
	"github.com/segmentio/kafka-go/protocol"
	"github.com/tailrace/tailrace/schemas/formats"
	"github.com/twmb/franz-go/pkg/kmsg"
	"pgregory.net/rapid"
)

func castagnoli() *crc32.Table { return crc32.MakeTable(crc32.Castagnoli) }

// rawBatch is a record batch that kafka-go has encoded, moved to offset base.
func rawBatch(t testing.TB, base int64, codec kafka.Compression, records ...record) []byte {
	t.Helper()
	var list []protocol.Record
	for _, r := range records {
		list = append(list, protocol.Record{
			Key: protocol.NewBytes(r.key), Value: protocol.NewBytes(r.value), Headers: r.headers, Time: time.Unix(0, r.time),
		})
	}
	set := protocol.RecordSet{Version: 2, Attributes: protocol.Attributes(codec), Records: protocol.NewRecordReader(list...)}
	var b bytes.Buffer
	if _, err := set.WriteTo(&b); err != nil {
		t.Fatal(err)
	}
	raw := b.Bytes()[4:] // the size before it belongs to the request
	binary.BigEndian.PutUint64(raw, uint64(base))
	return raw
}

// seal gives a batch the checksum that its bytes have.
func seal(raw []byte) {
	binary.BigEndian.PutUint32(raw[17:], crc32.Checksum(raw[21:], castagnoli()))
}

func corruptBatch(t testing.TB) []byte {
	raw := rawBatch(t, 0, 0, record{value: []byte("7")})
	raw[len(raw)-2] ^= 1
	return raw
}

// decodeBatch gives all messages of one batch, copied.
func decodeBatch(raw []byte, limit int) (list []formats.Message, err error) {
	b, _, err := readBatch(raw, castagnoli())
	if err != nil {
		return nil, err
	}
	unpack := decompressor{limit: limit, keep: limit}
	defer unpack.close()
	body, err := unpack.open(b.codec(), b.body)
	if err != nil {
		return nil, err
	}
	var r records
	for r.open(b, body); r.left > 0; {
		var m formats.Message
		if err := r.next(&m); err != nil {
			return list, err
		}
		own(&m)
		list = append(list, m)
	}
	return list, nil
}

// readAll reads a topic's partition 0 from its first offset to its end.
func readAll(t *testing.T, b broker, topic string) (list []formats.Message) {
	t.Helper()
	c := newCluster(b.addrs())
	first, end, err := c.offsets(deadline(t), topic)
	ok(t, err)
	f := newFetcher(c, topic, 0, first[0], fetchLimits{maxWait: 50 * time.Millisecond, maxBytes: 1 << 20, maxBatch: 64 << 20}, &Stats{})
	f.bound = end[0]
	ok(t, f.follow(deadline(t), func(m *formats.Message) error {
		c := *m
		own(&c)
		list = append(list, c)
		return nil
	}))
	ok(t, f.close())
	return list
}

// Scenario: random records, encoded by kafka-go with a random codec.
// Guarantees: they are decoded to what they were, null and empty apart, and a batch's span is its size.
func TestBatchOfKafkaGo(t *testing.T) {
	maybe := rapid.OneOf(rapid.Just([]byte(nil)), rapid.SliceOfN(rapid.Byte(), 0, 300))
	rapid.Check(t, func(rt *rapid.T) {
		var records []record
		base := rapid.Int64Range(0, 1<<40).Draw(rt, "base")
		for range rapid.IntRange(1, 50).Draw(rt, "records") {
			r := record{
				key: maybe.Draw(rt, "key"), value: maybe.Draw(rt, "value"),
				time: rapid.Int64Range(1, 4e12).Draw(rt, "ms") * int64(time.Millisecond),
			}
			for range rapid.IntRange(0, 3).Draw(rt, "headers") {
				r.headers = append(r.headers, kafka.Header{Key: rapid.String().Draw(rt, "name"), Value: maybe.Draw(rt, "header")})
			}
			records = append(records, r)
		}
		codec := kafka.Compression(rapid.IntRange(0, 4).Draw(rt, "codec"))
		raw := rawBatch(t, base, codec, records...)
		size, next, whole := batchSpan(append(raw[:len(raw):len(raw)], 1, 2, 3))
		if !whole || size != len(raw) || next != base+int64(len(records)) {
			rt.Fatalf("span %d, next %d, whole %v", size, next, whole)
		}
		got, err := decodeBatch(raw, 1<<20)
		if err != nil || len(got) != len(records) {
			rt.Fatalf("want %d records, got %d, %v", len(records), len(got), err)
		}
		for i, m := range got {
			want := records[i]
			if m.Offset != base+int64(i) || m.Time != want.time || !same(m.Key, want.key) || !same(m.Value, want.value) ||
				len(m.Headers) != len(want.headers) {
				rt.Fatalf("record %d: want %+v, got %+v", i, want, m)
			}
			for j, h := range m.Headers {
				if h.Key != want.headers[j].Key || !same(h.Value, want.headers[j].Value) {
					rt.Fatalf("record %d: header %v", i, h)
				}
			}
		}
	})
}

// Scenario: batches cut at every length, of old formats, with a flipped bit anywhere, and with wrong counts.
// Guarantees: each has its own error; none is taken for data.
func TestBatchFaults(t *testing.T) {
	raw := rawBatch(t, 5, 0, record{value: []byte("1")}, record{value: []byte("2")})
	for n := range raw {
		if _, err := decodeBatch(raw[:n], 1<<20); !errors.Is(err, errTruncated) {
			t.Fatalf("cut to %d: got %v", n, err)
		}
	}
	for magic := range byte(2) {
		old := bytes.Clone(raw)
		old[16] = magic
		if _, err := decodeBatch(old, 1<<20); !errors.Is(err, errOldFormat) {
			t.Fatalf("magic %d: got %v", magic, err)
		}
	}
	for i := 17; i < len(raw); i++ {
		bad := bytes.Clone(raw)
		bad[i] ^= 0x10
		if _, err := decodeBatch(bad, 1<<20); !errors.Is(err, errCorrupt) {
			t.Fatalf("byte %d flipped: got %v", i, err)
		}
	}
	for _, count := range []uint32{3, 1 << 31} {
		bad := bytes.Clone(raw)
		binary.BigEndian.PutUint32(bad[57:], count)
		seal(bad)
		if _, err := decodeBatch(bad, 1<<20); !errors.Is(err, errCorrupt) {
			t.Fatalf("count %d: got %v", count, err)
		}
	}
	bad := bytes.Clone(raw)
	bad[22] |= 7
	seal(bad)
	if _, err := decodeBatch(bad, 1<<20); err == nil {
		t.Fatal("an unknown codec was taken")
	}
}

// Scenario: a batch whose attributes say that the broker stamped the time of appending.
// Guarantees: that time is every record's, also where a time does not fit nanoseconds.
func TestLogAppendTime(t *testing.T) {
	raw := rawBatch(t, 0, 0, record{value: []byte("1"), time: 1e9}, record{value: []byte("2"), time: 9e9})
	raw[22] |= attrLogAppendTime
	for ms, want := range map[int64]int64{1_700_000_000_123: 1_700_000_000_123_000_000, 1 << 62: 1<<63 - 1, -1 << 62: -1 << 63} {
		binary.BigEndian.PutUint64(raw[35:], uint64(ms))
		seal(raw)
		list, err := decodeBatch(raw, 1<<20)
		ok(t, err)
		if len(list) != 2 || list[0].Time != want || list[1].Time != want {
			t.Fatalf("want %d, got %v", want, list)
		}
	}
}

// Scenario: values that compress well, a limit on either side of their size, for every codec.
// Guarantees: at the limit they come, one byte under it they are refused, and no more than twice the limit is held.
func TestDecompressionIsBounded(t *testing.T) {
	const size = 20 << 20
	for _, codec := range []kafka.Compression{kafka.Gzip, kafka.Snappy, kafka.Lz4, kafka.Zstd} {
		raw := rawBatch(t, 0, codec, record{value: make([]byte, size)})
		b, _, err := readBatch(raw, castagnoli())
		ok(t, err)
		d := decompressor{limit: 1 << 30, keep: 1 << 30}
		body, err := d.open(b.codec(), b.body)
		ok(t, err)
		whole := len(body)
		d.close()
		for _, limit := range []int{whole, whole - 1, 1 << 10} {
			d := decompressor{limit: limit, keep: limit}
			body, err := d.open(b.codec(), b.body)
			if limit == whole && (err != nil || len(body) != whole) || limit < whole && !errors.Is(err, errTooLarge) {
				t.Fatalf("%v, limit %d of %d: got %d bytes, %v", codec, limit, whole, len(body), err)
			}
			if cap(d.buf) > 2*limit+4096 {
				t.Fatalf("%v, limit %d: holds %d", codec, limit, cap(d.buf))
			}
			d.close()
		}
	}
	d := decompressor{limit: 1 << 20, keep: 1 << 20}
	defer d.close()
	if _, err := d.open(codecSnappy, []byte(xerialMagic)); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Fatalf("got %v", err)
	}
}

// Scenario: any bytes, as a batch as they are and again with the checksum they should have.
// Guarantees: no panic; offsets grow inside the batch's range; nothing is larger than the limit.
func FuzzRecordBatch(f *testing.F) {
	for codec := range kafka.Compression(5) {
		f.Add(rawBatch(f, 3, codec, record{key: []byte("k"), value: []byte("value")},
			record{value: bytes.Repeat([]byte("ab"), 100), headers: []kafka.Header{{Key: "h", Value: []byte("v")}}}))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		const limit = 1 << 16
		for range 2 {
			b, _, err := readBatch(raw, castagnoli())
			if err == nil {
				list, _ := decodeBatch(raw, limit)
				total, last := 0, b.first-1
				for _, m := range list {
					if m.Offset <= last || m.Offset > b.last {
						t.Fatalf("offset %d after %d in a batch up to %d", m.Offset, last, b.last)
					}
					last = m.Offset
					total += len(m.Key) + len(m.Value)
				}
				if total > max(limit, len(raw)) {
					t.Fatalf("%d bytes", total)
				}
			}
			if len(raw) < batchHeader {
				return
			}
			raw = bytes.Clone(raw)
			binary.BigEndian.PutUint32(raw[8:], uint32(len(raw)-batchPrefix))
			raw[16] = 2
			seal(raw)
		}
	})
}

// Scenario: a metadata response that franz-go has encoded, whole, cut at every length, and for a topic that is unknown.
// Guarantees: the id is read past brokers and tags; what is cut is no id.
func TestIdentity(t *testing.T) {
	want := topicID{1, 2, 3, 15: 9}
	res := kmsg.NewPtrMetadataResponse()
	res.Version, res.ClusterID, res.ControllerID = identityVersion, kmsg.StringPtr("cluster"), 1
	for range 200 {
		broker := kmsg.NewMetadataResponseBroker()
		broker.NodeID, broker.Host, broker.Port = 7, strings.Repeat("host", 50), 9092
		res.Brokers = append(res.Brokers, broker)
	}
	topic := kmsg.NewMetadataResponseTopic()
	topic.Topic, topic.TopicID = kmsg.StringPtr("t"), want
	res.Topics = append(res.Topics, topic)
	frame := func() []byte { return res.AppendTo([]byte{0, 0, 0, 5, 0}) } // correlation id and tags
	whole := frame()
	if id, err := readIdentity(whole, 5); err != nil || id != want {
		t.Fatalf("got %x, %v", id, err)
	}
	end := bytes.Index(whole, want[:]) + len(want)
	for n := range end {
		if _, err := readIdentity(whole[:n], 5); err == nil {
			t.Fatalf("cut to %d of %d: no error", n, end)
		}
	}
	if _, err := readIdentity(whole, 6); err == nil {
		t.Fatal("the answer to another request was taken")
	}
	res.Topics[0].ErrorCode = int16(kafka.UnknownTopicOrPartition)
	if _, err := readIdentity(frame(), 5); !errors.Is(err, errUnknownTopic) {
		t.Fatalf("got %v", err)
	}
}

// Scenario: any bytes as a fetch response.
// Guarantees: no panic, and messages only inside what was asked for.
func FuzzFetchResponse(f *testing.F) {
	id := topicID{1}
	body := rawBatch(f, 0, 0, record{value: []byte("1")})
	var b []byte
	i32, i64 := binary.BigEndian.AppendUint32, binary.BigEndian.AppendUint64
	b = i32(append(i32(b, 1), 0), 0)       // correlation, tags, throttle
	b = append(i32(append(b, 0, 0), 0), 2) // code, session, 1 topic
	b = append(append(b, id[:]...), 2)     // 1 partition
	b = i64(append(i32(b, 0), 0, 0), 1)    // partition, code, high watermark
	b = append(i64(i64(b, 1), 0), 2)       // end, log start, 1 aborted transaction
	b = append(i64(i64(b, 7), 0), 0)       // producer, first offset, tags
	b = binary.AppendUvarint(i32(b, ^uint32(0)), uint64(len(body)+1))
	b = append(append(b, body...), 0, 0, 0)
	f.Add(b)
	f.Fuzz(func(t *testing.T, data []byte) {
		x := newFetcher(newCluster(nil), "t", 0, 0, fetchLimits{maxBytes: 1 << 16, maxBatch: 1 << 16}, &Stats{})
		defer x.close()
		x.correlation, x.bound, x.id = 1, 1000, id
		if x.open(data) != nil {
			return
		}
		var m formats.Message
		for range 100_000 {
			err := x.message(&m)
			if err == nil && (m.Offset < 0 || m.Offset >= x.bound || m.Offset >= x.next) {
				t.Fatalf("offset %d, next %d", m.Offset, x.next)
			}
			var refused *refusedBatch
			if err != nil && !errors.As(err, &refused) {
				return
			}
		}
	})
}
