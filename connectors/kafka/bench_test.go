package kafka

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/apache/arrow/go/v15/arrow/memory"
	"github.com/tailrace/tailrace/pipeline"
	"github.com/tailrace/tailrace/schemas"
	"github.com/tailrace/tailrace/schemas/formats"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
)

// brokerCodec, when set, makes the test binary a broker that serves one batch of records of 100 bytes for ever, so that
// the benchmarks have a process of their own.
const brokerCodec = "TAILRACE_BENCH_BROKER"

func serveBench(codec string) error {
	codecs := map[string]kgo.CompressionCodec{
		"none": kgo.NoCompression(), "lz4": kgo.Lz4Compression(), "zstd": kgo.ZstdCompression(), "snappy": kgo.SnappyCompression(),
	}
	c, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.SeedTopics(1, "bench"),
		kfake.SyntheticFetch(kfake.SyntheticBatch{RecordBytes: 100, RandomFrac: 0.5, Compression: codecs[codec]}))
	if err != nil {
		return err
	}
	defer c.Close()
	fmt.Println(c.ListenAddrs()[0])
	_, err = io.Copy(io.Discard, os.Stdin) // until the benchmark ends
	return err
}

func benchBroker(b *testing.B, codec string) string {
	b.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), brokerCodec+"="+codec)
	in, err := cmd.StdinPipe()
	if err != nil {
		b.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		b.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		in.Close()
		if err := cmd.Wait(); err != nil {
			b.Error(err)
		}
	})
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		b.Fatal(err)
	}
	return strings.TrimSpace(line)
}

func cpu(b *testing.B) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// BenchmarkFetch reads records of 100 bytes off a broker in another process, checksums and decompression included, and
// looks at their length. One operation is one record.
func BenchmarkFetch(b *testing.B) {
	for _, codec := range []string{"none", "lz4", "snappy", "zstd"} {
		b.Run(codec, func(b *testing.B) {
			c := newCluster([]string{benchBroker(b, codec)})
			f := newFetcher(c, "bench", 0, 0, fetchLimits{maxWait: time.Second, maxBytes: 4 << 20, maxBatch: 64 << 20}, &Stats{})
			defer f.close()
			enough := errors.New("enough")
			n, bytes := 0, 0
			b.ReportAllocs()
			b.ResetTimer()
			before := cpu(b)
			err := f.follow(b.Context(), func(m *formats.Message) error {
				bytes += len(m.Value)
				if n++; n == b.N {
					return enough
				}
				return nil
			})
			if !errors.Is(err, enough) {
				b.Fatal(err)
			}
			b.SetBytes(int64(bytes / n))
			b.ReportMetric(float64(cpu(b)-before)/float64(b.N), "cpu-ns/op")
		})
	}
}

// oneRow appends the same row for every message: what is left is the cost of everything but the decoder.
type oneRow struct{ row schemas.Row }

func (d *oneRow) Decode(m *formats.Message, b *schemas.TelemetryBuilder) error {
	d.row.TS = m.Time
	b.Append(&d.row, m.Offset, m.Time)
	return nil
}

// BenchmarkRead is BenchmarkFetch with Arrow batches built of the records, through Partition.Read.
func BenchmarkRead(b *testing.B) {
	for _, codec := range []string{"none", "lz4"} {
		b.Run(codec, func(b *testing.B) {
			c := DefaultSourceConfig()
			c.Brokers, c.Topic, c.Group = []string{benchBroker(b, codec)}, "bench", "g"
			s, err := NewSource(c, pipeline.Settings{Alloc: memory.DefaultAllocator}, func() (formats.Decoder, error) {
				return &oneRow{schemas.Row{Asset: []byte("acme.press"), Tag: []byte("temp"), VType: schemas.TypeFloat, Value: 1, HasValue: true}}, nil
			})
			if err != nil {
				b.Fatal(err)
			}
			g, err := s.Next(b.Context())
			if err != nil {
				b.Fatal(err)
			}
			p := g.Partitions()[0]
			b.ReportAllocs()
			b.ResetTimer()
			before := cpu(b)
			for n := 0; n < b.N; {
				d, err := p.Read(b.Context())
				if err != nil {
					b.Fatal(err)
				}
				n += d.Messages
				d.Release()
			}
			b.ReportMetric(float64(cpu(b)-before)/float64(b.N), "cpu-ns/op")
			b.StopTimer()
			if err := errors.Join(g.Close(), s.Close()); err != nil {
				b.Fatal(err)
			}
		})
	}
}
