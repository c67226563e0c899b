package simulation

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"github.com/tailrace/tailrace/schemas"
	"github.com/tailrace/tailrace/schemas/formats/jsontelemetry"
	"github.com/twmb/franz-go/pkg/kgo"
)

// poison is a value that the ClickHouse model refuses, and poisonScore the least score; a hundredth of digest's are
// over it.
const (
	poison      = 1e300
	poisonScore = 990
)

// plant makes the messages of some devices, with all that is wrong with real ones.
type plant struct {
	rng     *rand.Rand
	devices []device
	trouble float64 // share of messages with something wrong
	last    []*kgo.Record
}

// device is an asset and the partition that its messages go to.
type device struct {
	asset     string
	partition int32
	from      time.Time // when it is switched on
}

func newPlant(seed uint64, partitions int) *plant {
	rng := rand.New(rand.NewPCG(seed, 4))
	p := &plant{rng: rng, trouble: 0.15 * rng.Float64()}
	for i := range 2 + rng.IntN(2*partitions) {
		p.add(int32(i%partitions), time.Time{})
	}
	return p
}

func (p *plant) add(partition int32, from time.Time) {
	p.devices = append(p.devices, device{fmt.Sprintf("line.cell%d", len(p.devices)), partition, from})
}

// second gives what the plant sends in one second.
func (p *plant) second(now time.Time) []*kgo.Record {
	var records []*kgo.Record
	for _, d := range p.devices {
		if p.rng.IntN(12) == 0 || now.Before(d.from) {
			continue // silent
		}
		for _, tag := range []string{"x", "y", "unused"} {
			records = append(records, p.message(d, tag, now)...)
		}
	}
	p.rng.Shuffle(len(records), func(i, j int) { records[i], records[j] = records[j], records[i] })
	p.last = records
	return records
}

// message is one value, and sometimes the same again or something else that is no good.
func (p *plant) message(from device, tag string, now time.Time) []*kgo.Record {
	asset, partition := from.asset, from.partition
	at := now.Add(-time.Duration(p.rng.IntN(900)) * time.Millisecond)
	value := p.rng.NormFloat64()
	record := func(at time.Time) *kgo.Record {
		text := jsontelemetry.AppendMessage(nil, at.UnixNano(), jsontelemetry.Nanos, asset, tag, value, true, schemas.Good)
		return &kgo.Record{Topic: topic, Partition: partition, Key: []byte(asset), Value: text, Timestamp: now}
	}
	if p.rng.Float64() >= p.trouble {
		return []*kgo.Record{record(at)}
	}
	switch p.rng.IntN(9) {
	case 0: // late, and corrects what is out
		return []*kgo.Record{record(at.Add(-time.Duration(p.rng.IntN(5000)) * time.Millisecond))}
	case 1: // too late for that
		return []*kgo.Record{record(at.Add(-time.Duration(10+p.rng.IntN(60)) * time.Second))}
	case 2: // history
		return []*kgo.Record{record(at.Add(-time.Duration(90+p.rng.IntN(60*24*40)) * time.Minute))}
	case 3: // a clock that is ahead
		return []*kgo.Record{record(at.Add(time.Hour))}
	case 4: // twice
		return []*kgo.Record{record(at), record(at)}
	case 5:
		return []*kgo.Record{{Topic: topic, Partition: partition, Value: []byte(`{"ts":12,"asset":`), Timestamp: now}}
	case 6:
		return []*kgo.Record{{Topic: topic, Partition: partition, Key: []byte(asset), Timestamp: now}}
	case 7:
		value = poison
		return []*kgo.Record{record(at)}
	}
	if len(p.last) > 0 { // a gateway that sends again what it sent before
		again := *p.last[p.rng.IntN(len(p.last))]
		return []*kgo.Record{{Topic: topic, Partition: again.Partition, Key: again.Key, Value: again.Value, Timestamp: now}}
	}
	return nil
}

// producer is another implementation's, as a gateway has.
func (w *world) producer() *kgo.Client {
	client, err := kgo.NewClient(
		kgo.SeedBrokers(w.cluster.ListenAddrs()...), kgo.Dialer(w.network.virtual.DialContext),
		kgo.RecordPartitioner(kgo.ManualPartitioner()),
		kgo.MetadataMinAge(100*time.Millisecond), kgo.MetadataMaxAge(time.Second),
	)
	if err != nil {
		w.t.Fatal(err)
	}
	return client
}

// sentOnce are the messages that came onto a topic, as texts, sorted, each once.
func (w *world) sentOnce(name string, text func(*kgo.Record) string) []string {
	return slices.Sorted(maps.Keys(w.sent(name, text)))
}

// sent are the messages that came onto a topic, as texts, with how often each came.
func (w *world) sent(name string, text func(*kgo.Record) string) map[string]int {
	client, err := kgo.NewClient(
		kgo.SeedBrokers(w.cluster.ListenAddrs()...), kgo.Dialer(w.network.virtual.DialContext), kgo.ConsumeTopics(w.prefix+name),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), kgo.FetchMaxWait(100*time.Millisecond),
	)
	if err != nil {
		w.t.Fatal(err)
	}
	defer client.Close()
	found := map[string]int{}
	for {
		ctx, cancel := context.WithTimeout(w.t.Context(), 2*time.Second)
		fetches := client.PollFetches(ctx)
		cancel()
		if err := fetches.Err(); errors.Is(err, context.DeadlineExceeded) {
			return found
		} else if err != nil {
			w.t.Fatal(err)
		}
		fetches.EachRecord(func(r *kgo.Record) { found[text(r)]++ })
	}
}

func valueOf(r *kgo.Record) string { return string(r.Value) }

// letterOf is what a dead letter says of where it came from and why.
func letterOf(r *kgo.Record) string {
	headers := map[string]string{}
	for _, h := range r.Headers {
		headers[h.Key] = string(h.Value)
	}
	return strings.Join([]string{
		headers[schemas.HeaderStage], headers[schemas.HeaderErrorCode], headers[schemas.HeaderSrcPartition],
		headers[schemas.HeaderSrcOffset], headers[schemas.HeaderError],
	}, " ")
}
