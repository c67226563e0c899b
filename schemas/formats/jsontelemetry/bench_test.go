package jsontelemetry

import (
	"fmt"
	"testing"

	"github.com/apache/arrow/go/v15/arrow/memory"
	"github.com/tailrace/tailrace/schemas"
	"github.com/tailrace/tailrace/schemas/formats"
)

// benchMessages are rows of a plant of 12 assets with 52 tags each, as the demo sends them.
func benchMessages(n int) [][]byte {
	out := make([][]byte, n)
	for i := range out {
		asset, tag := fmt.Sprintf("demo.tep.d%02d_te", i/52%12), fmt.Sprintf("xmeas_%02d", i%52+1)
		out[i] = AppendMessage(nil, now+int64(i)*1_000_000, Nanos, asset, tag, float64(i%100_000)/1000+0.25, true, schemas.Good)
	}
	return out
}

// BenchmarkDecode reads messages into records of 8192 rows.
func BenchmarkDecode(b *testing.B) {
	messages := benchMessages(8192)
	size := 0
	for _, m := range messages {
		size += len(m)
	}
	d, err := New(DefaultConfig())
	if err != nil {
		b.Fatal(err)
	}
	builder := schemas.NewTelemetryBuilder(memory.NewGoAllocator(), "plant", 0)
	defer builder.Release()
	b.SetBytes(int64(size))
	b.ReportAllocs()
	for b.Loop() {
		builder.Reserve(len(messages))
		for i, m := range messages {
			if err := d.Decode(&formats.Message{Offset: int64(i), Time: now, Value: m}, builder); err != nil {
				b.Fatal(err)
			}
		}
		builder.NewRecord().Release()
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(len(messages)), "ns/row")
}

// BenchmarkScan reads messages without building columns.
func BenchmarkScan(b *testing.B) {
	messages := benchMessages(8192)
	var s scanner
	for b.Loop() {
		for _, m := range messages {
			if err := s.object(m); err != nil {
				b.Fatal(err)
			}
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(len(messages)), "ns/row")
}

// BenchmarkAppendMessage writes messages.
func BenchmarkAppendMessage(b *testing.B) {
	var message []byte
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		message = AppendMessage(message[:0], now+int64(i), Nanos, "demo.tep.d01_te", "xmeas_01", float64(i%100_000)/1000+0.25, true, schemas.Good)
	}
	b.SetBytes(int64(len(message)))
}
