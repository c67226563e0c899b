package eventtime

import (
	"fmt"
	"testing"
	"time"

	"github.com/apache/arrow/go/v15/arrow"
	"github.com/apache/arrow/go/v15/arrow/array"
	"github.com/apache/arrow/go/v15/arrow/memory"
	"github.com/tailrace/tailrace/pipeline/state"
	"github.com/tailrace/tailrace/schemas"
)

// plant makes batches of 8192 rows: devices in turn give all their tags each second, in order.
func plant(b *schemas.TelemetryBuilder, devices, tags, batches int) []arrow.Record {
	asset, tag := make([][]byte, devices), make([][]byte, tags)
	for i := range asset {
		asset[i] = fmt.Appendf(nil, "plant/line/device%d", i)
	}
	for i := range tag {
		tag[i] = fmt.Appendf(nil, "tag%d", i)
	}
	var out []arrow.Record
	start := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC).UnixNano()
	for n := range batches * 8192 {
		second := start + int64(n/(devices*tags))*int64(time.Second)
		at := n % (devices * tags)
		ts := second + int64(at/tags)*int64(time.Second)/int64(devices)
		b.Append(&schemas.Row{TS: ts, Asset: asset[at/tags], Tag: tag[at%tags]}, int64(n), ts+int64(time.Millisecond))
		if b.Len() == 8192 {
			out = append(out, b.NewRecord())
		}
	}
	return out
}

func benchConfig() Config {
	c := defaults()
	c.MaxDevices = 100_000
	return c
}

// later moves the times of batches on, so that they come after themselves.
func later(batches []arrow.Record) {
	span := batches[len(batches)-1].Column(schemas.ColTS).(*array.Timestamp).Value(8191) + arrow.Timestamp(time.Second) -
		batches[0].Column(schemas.ColTS).(*array.Timestamp).Value(0)
	for _, batch := range batches {
		for _, column := range []int{schemas.ColTS, schemas.ColTSIngest} {
			values := batch.Column(column).(*array.Timestamp).TimestampValues()
			for i := range values {
				values[i] += span
			}
		}
	}
}

// BenchmarkJudge judges rows that are all in order.
func BenchmarkJudge(b *testing.B) {
	for _, size := range []struct{ devices, tags int }{
		{1, 50}, {100, 50}, {1000, 50}, {1000, 1}, {100_000, 1}, {100_000, 5},
	} {
		b.Run(fmt.Sprintf("devices=%d/tags=%d", size.devices, size.tags), func(b *testing.B) {
			builder := schemas.NewTelemetryBuilder(memory.DefaultAllocator, "telemetry", 0)
			defer builder.Release()
			batches := plant(builder, size.devices, size.tags, max(4*size.devices*size.tags/8192, 128))
			c := New(benchConfig(), memory.DefaultAllocator)
			for _, batch := range batches { // the tables are full before it is measured
				c.Judge(batch)
			}
			at := 0
			for b.Loop() {
				if at == 0 {
					b.StopTimer()
					later(batches)
					b.StartTimer()
				}
				c.Judge(batches[at])
				at = (at + 1) % len(batches)
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/8192, "ns/row")
		})
	}
}

// BenchmarkSnapshot writes what changed in a second in which every device sent a row.
func BenchmarkSnapshot(b *testing.B) {
	for _, devices := range []int{100, 10_000, 100_000} {
		b.Run(fmt.Sprintf("devices=%d", devices), func(b *testing.B) {
			builder := schemas.NewTelemetryBuilder(memory.DefaultAllocator, "telemetry", 0)
			defer builder.Release()
			c := New(benchConfig(), memory.DefaultAllocator)
			for _, batch := range plant(builder, devices, 1, devices/8192+1) {
				c.Judge(batch)
			}
			bytes := 0
			for b.Loop() {
				w := state.NewWriter()
				if err := c.Snapshot(w, true); err != nil {
					b.Fatal(err)
				}
				bytes = w.Bytes()
			}
			b.ReportMetric(float64(bytes)/float64(devices), "B/device")
		})
	}
}

// BenchmarkSpread judges rows of 100,000 devices that each live in a step of their own, the worst case for their minimum.
func BenchmarkSpread(b *testing.B) {
	const devices = 100_000
	builder := schemas.NewTelemetryBuilder(memory.DefaultAllocator, "telemetry", 0)
	defer builder.Release()
	start := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC).UnixNano()
	for i := range devices {
		builder.Append(&schemas.Row{
			TS: start - int64(i)*second, Asset: fmt.Appendf(nil, "device%d", i), Tag: []byte("x"),
		}, 0, start)
	}
	batch := builder.NewRecord()
	defer batch.Release()
	times := batch.Column(schemas.ColTS).(*array.Timestamp).TimestampValues()
	config := benchConfig()
	config.LateAfter, config.MaxSkew = devices*time.Second, devices*time.Second
	c := New(config, memory.DefaultAllocator)
	c.Judge(batch)
	for b.Loop() {
		for i := range times { // each goes on by another 1 to 200 steps
			times[i] += arrow.Timestamp((1 + int64(i)*7919%200) * second)
		}
		c.Judge(batch)
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/devices, "ns/row")
}
