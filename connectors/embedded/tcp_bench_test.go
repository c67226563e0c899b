package embedded

import (
	"context"
	"fmt"
	"io"
	"testing"
	"time"

	"github.com/ClickHouse/ch-go"
	"github.com/ClickHouse/ch-go/proto"

	"github.com/tailrace/tailrace/connectors/embedded/chdb"
)

// BenchmarkNativeInsert is 100,000-row blocks of ch-go through the face: one block an INSERT, into the engine and into
// nothing, so that the face's own share shows.
func BenchmarkNativeInsert(b *testing.B) {
	const rows = 100_000
	real := openEngine(b)
	for _, sql := range []string{
		"CREATE TABLE plant.to_null (ts DateTime64(3, 'UTC'), asset LowCardinality(String), value Float64) ENGINE = Null",
		"CREATE TABLE plant.to_disk (ts DateTime64(3, 'UTC'), asset LowCardinality(String), value Float64) ENGINE = MergeTree ORDER BY (asset, ts)",
	} {
		if _, _, err := real.Query(b.Context(), chdb.Request{SQL: sql}); err != nil {
			b.Fatal(err)
		}
	}
	discard := &fakeEngine{insert: func(_ context.Context, _ chdb.Request, data io.Reader) (chdb.Stats, error) {
		_, err := io.CopyBuffer(struct{ io.Writer }{io.Discard}, data, make([]byte, 1<<20))
		return chdb.Stats{}, err
	}}
	ts, asset, value := new(proto.ColDateTime64).WithPrecision(3), new(proto.ColStr).LowCardinality(), proto.ColFloat64{}
	for i := range rows {
		ts.Append(time.Unix(int64(i), 0))
		asset.Append(fmt.Sprintf("pump-%d", i%1000))
		value.Append(float64(i))
	}
	in := proto.Input{{Name: "ts", Data: ts}, {Name: "asset", Data: asset}, {Name: "value", Data: &value}}
	for _, c := range []struct {
		name, table string
		engine      engine
	}{{"nothing", "to_null", discard}, {"null", "to_null", embeddedEngine{real}}, {"mergetree", "to_disk", embeddedEngine{real}}} {
		for _, compression := range compressions() {
			b.Run(c.name+"/"+compression.name, func(b *testing.B) {
				client := dialCh(b, serveNative(b, c.engine, NativeLimits{}), compression.ch)
				for b.Loop() {
					if err := client.Do(b.Context(), ch.Query{Body: in.Into(c.table), Input: in}); err != nil {
						b.Fatal(err)
					}
				}
				b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/rows, "ns/row")
			})
		}
	}
}
