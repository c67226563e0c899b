package chwire

import (
	"bufio"
	"io"
	"runtime"
	"testing"

	"github.com/ClickHouse/ch-go/compress"
	chproto "github.com/ClickHouse/ch-go/proto"
)

// fuzzBudget is the limit that the fuzzed packets are read under.
const fuzzBudget = 256 << 10

// FuzzPackets reads bytes as a server does: a hello, an addendum, and then packets by their code until one is wrong.
//
// Scenario: any bytes, as plain blocks and as compressed frames.
// Guarantees: an end without a panic, and memory within the budget and a multiple of what came, whatever lengths say.
func FuzzPackets(f *testing.F) {
	session := func(compressed bool) []byte {
		var b chproto.Buffer
		chproto.ClientHello{Name: "x", ProtocolVersion: Revision, Database: "d", User: "u", Password: "p"}.Encode(&b)
		b.PutString("") // addendum
		chproto.Query{
			ID: "1", Body: "INSERT INTO t VALUES", Stage: chproto.StageComplete,
			Info:       chproto.ClientInfo{Interface: chproto.InterfaceTCP, Query: chproto.ClientQueryInitial},
			Settings:   []chproto.Setting{{Key: "a", Value: "1"}, {Key: "b", Value: `'it\'s'`, Custom: true}},
			Parameters: []chproto.Parameter{{Key: "p", Value: "'x'"}},
		}.EncodeAware(&b, Revision)
		var block chproto.Buffer
		if err := telemetryBlock(f, 3).Encode(&block, Revision); err != nil {
			f.Fatal(err)
		}
		b.PutUVarInt(ClientData)
		b.PutString("")
		if compressed {
			w := compress.NewWriter(compress.LevelZero, compress.LZ4)
			if err := w.Compress(block.Buf); err != nil {
				f.Fatal(err)
			}
			block.Buf = w.Data
		}
		b.Buf = append(b.Buf, block.Buf...)
		b.PutUVarInt(ClientPing)
		return b.Buf
	}
	f.Add(session(false), false)
	f.Add(session(true), true)
	f.Fuzz(func(t *testing.T, in []byte, compressed bool) {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		readSession(in, compressed)
		runtime.ReadMemStats(&after)
		// Two buffers, the decompressor's two, a decoder of ZSTD (its window is bounded by the frame's size, its tables
		// are not small), and types, whose shapes are larger than their names.
		if used := after.TotalAlloc - before.TotalAlloc; used > 8<<20+uint64(len(in))*256 {
			t.Errorf("%d bytes took %d bytes of memory", len(in), used)
		}
	})
}

func readSession(in []byte, compressed bool) {
	r := NewReader(&steps{b: in, step: 1000}, 4<<10)
	if _, err := ReadHello(r); err != nil {
		return
	}
	if err := ReadAddendum(r, Revision); err != nil {
		return
	}
	blocks := r
	if compressed {
		blocks = NewFrameReader(r, fuzzBudget)
	}
	dst := bufio.NewWriter(io.Discard)
	for {
		r.Budget("packet", fuzzBudget)
		code, err := r.Byte()
		if err != nil {
			return
		}
		switch code {
		case ClientQuery:
			_, err = ReadQuery(r, Revision)
		case ClientData:
			if _, err = r.String(); err != nil {
				return
			}
			blocks.Budget("block", fuzzBudget)
			var b Block
			if b, err = ReadBlock(blocks, Revision, Limits{Columns: 1000, Rows: 1 << 20}); err == nil {
				_, err = b.Copy(dst, blocks, Revision, 0)
			}
		case ClientPing, ClientCancel:
		default:
			return
		}
		if err != nil {
			return
		}
	}
}
