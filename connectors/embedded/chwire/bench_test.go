package chwire

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"testing"
	"time"

	chproto "github.com/ClickHouse/ch-go/proto"
	chcolumn "github.com/ClickHouse/clickhouse-go/v2/lib/column"
	"github.com/ClickHouse/clickhouse-go/v2/lib/proto"
)

func column(typ string) chcolumn.Type { return chcolumn.Type(typ) }

// telemetryBlock is a block as the pipeline inserts them.
func telemetryBlock(t testing.TB, rows int) *proto.Block {
	t.Helper()
	block := proto.NewBlock()
	for _, c := range []Column{
		{"ts", "DateTime64(6, 'UTC')"}, {"asset", "LowCardinality(String)"}, {"tag", "LowCardinality(String)"},
		{"value", "Nullable(Float64)"}, {"text", "Nullable(String)"}, {"q", "UInt8"}, {"k_offset", "Int64"}, {"run", "String"},
	} {
		if err := block.AddColumn(c.Name, column(c.Type)); err != nil {
			t.Fatal(err)
		}
	}
	value := 1.5
	for i := range rows {
		if err := block.Append(time.Unix(int64(i), 0), fmt.Sprintf("pump-%d", i%1000), fmt.Sprintf("tag-%d", i%20), &value,
			(*string)(nil), uint8(1), int64(i), "0123456789abcdef"); err != nil {
			t.Fatal(err)
		}
	}
	return block
}

// BenchmarkCopyBlock compares the copy with the decode and encode that it stands for.
func BenchmarkCopyBlock(b *testing.B) {
	const rows = 100_000
	var buf chproto.Buffer
	if err := telemetryBlock(b, rows).Encode(&buf, Revision); err != nil {
		b.Fatal(err)
	}
	run := func(name string, once func() error) {
		b.Run(name, func(b *testing.B) {
			b.SetBytes(int64(len(buf.Buf)))
			b.ReportAllocs()
			for b.Loop() {
				if err := once(); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/rows, "ns/row")
		})
	}
	src, dst := NewReader(nil, 64<<10), bufio.NewWriterSize(io.Discard, 256<<10)
	run("copy", func() error {
		src.src = bytes.NewReader(buf.Buf)
		src.Budget("block", int64(len(buf.Buf)))
		block, err := ReadBlock(src, Revision, anyLimits)
		if err != nil {
			return err
		}
		if err := block.Start(dst, 0); err != nil {
			return err
		}
		_, err = block.Copy(dst, src, Revision, 0)
		return err
	})
	run("decode and encode", func() error {
		block := proto.NewBlock()
		if err := block.Decode(chproto.NewReader(bytes.NewReader(buf.Buf)), Revision); err != nil {
			return err
		}
		var out chproto.Buffer
		return block.Encode(&out, 0)
	})
}
