package align

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/apache/arrow/go/v15/arrow"
	"github.com/apache/arrow/go/v15/arrow/memory"

	"github.com/tailrace/tailrace/pipeline"
	"github.com/tailrace/tailrace/pipeline/pipelinetest"
	"github.com/tailrace/tailrace/pipeline/state"
	"github.com/tailrace/tailrace/schemas"
)

// plant makes one sample a second for each of channels of each of assets.
type plant struct {
	config  Config
	builder *schemas.TelemetryBuilder
	names   []string
}

func newPlant(b *testing.B, assets, channels int) *plant {
	p := &plant{config: defaults(), builder: schemas.NewTelemetryBuilder(memory.DefaultAllocator, "telemetry", 0)}
	b.Cleanup(p.builder.Release)
	p.config.Grid, p.config.MaxAssets, p.config.MaxOpenSamples = time.Second, assets, 100*assets*channels
	for k := range channels {
		p.config.Channels = append(p.config.Channels, schemas.Channel{Tag: fmt.Sprintf("tag%02d", k)})
	}
	for a := range assets {
		p.names = append(p.names, fmt.Sprintf("site.area.line.asset%d", a))
	}
	return p
}

func (p *plant) operator(b *testing.B, lateness time.Duration) *Operator {
	o := New(p.config, pipeline.Settings{Alloc: memory.DefaultAllocator, Lateness: lateness})
	b.Cleanup(func() { o.Close() })
	if _, err := o.Bind(schemas.Telemetry()); err != nil {
		b.Fatal(err)
	}
	return o
}

func (p *plant) seconds(from, to int64) arrow.Record {
	var list []in
	for s := from; s < to; s++ {
		for _, name := range p.names {
			for _, channel := range p.config.Channels {
				list = append(list, in{name, channel.Tag, s * int64(time.Second), 1.5})
			}
		}
	}
	return records(memory.DefaultAllocator, p.builder, list)
}

// feed takes a record and the rows up to a second.
func feed(b *testing.B, o *Operator, rec arrow.Record, second int64) {
	var out pipelinetest.Collector
	if err := o.Process(context.Background(), rec, &out); err != nil {
		b.Fatal(err)
	}
	if err := o.Advance(context.Background(), second*int64(time.Second), &out); err != nil {
		b.Fatal(err)
	}
	out.Release()
}

// BenchmarkAlign takes 100 assets with 50 channels through 8 grid times of one sample each, the shape of a plant's data.
func BenchmarkAlign(b *testing.B) {
	for _, lateness := range []time.Duration{0, time.Minute} {
		b.Run("lateness="+lateness.String(), func(b *testing.B) {
			const seconds = 8
			p := newPlant(b, 100, 50)
			o := p.operator(b, lateness)
			rows := 0
			b.ReportAllocs()
			for round := range int64(b.N) {
				b.StopTimer()
				rec := p.seconds(round*seconds, (round+1)*seconds)
				b.StartTimer()
				feed(b, o, rec, round*seconds+seconds-1)
				b.StopTimer()
				rows += int(rec.NumRows())
				rec.Release()
				b.StartTimer()
			}
			b.ReportMetric(float64(rows)/b.Elapsed().Seconds(), "samples/s")
		})
	}
}

// BenchmarkSnapshot writes the state of assets with 10 channels, all changed, with two seconds of samples that wait: once
// without a lateness and once with one of 10 s.
func BenchmarkSnapshot(b *testing.B) {
	for _, lateness := range []time.Duration{0, 10 * time.Second} {
		for _, assets := range []int{100, 1_000, 10_000} {
			b.Run(fmt.Sprintf("lateness=%v/assets=%d", lateness, assets), func(b *testing.B) {
				p := newPlant(b, assets, 10)
				o := p.operator(b, lateness)
				rec := p.seconds(0, 20)
				defer rec.Release()
				feed(b, o, rec, 17)
				bytes := 0
				for b.Loop() {
					w := state.NewWriter()
					if err := o.Snapshot(w, true); err != nil {
						b.Fatal(err)
					}
					bytes = w.Bytes()
				}
				b.ReportMetric(float64(bytes)/float64(assets), "bytes/asset")
			})
		}
	}
}
