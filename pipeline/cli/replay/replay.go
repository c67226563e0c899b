// Package replay sends recorded telemetry to a topic as JSON messages, at the pace of its own times or at another.
package replay

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"strconv"
	"time"

	"github.com/apache/arrow/go/v15/arrow"
	"github.com/apache/arrow/go/v15/arrow/array"
	"github.com/tailrace/tailrace/schemas"
	"github.com/tailrace/tailrace/schemas/formats/jsontelemetry"
)

// Stream gives records of telemetry.v1 in the order of time, io.EOF at its end. The caller owns each record.
type Stream interface {
	Next(ctx context.Context) (arrow.Record, error)
}

// Producer takes messages. Send copies key and value and may wait for room; at is the record's time, ns UTC. Flush
// returns nil when all that was sent is acknowledged.
type Producer interface {
	Send(ctx context.Context, topic string, key, value []byte, at int64) error
	Flush(ctx context.Context) error
}

// Options says what to send, and when. With neither Rate nor Factor everything goes out as fast as it is taken.
type Options struct {
	Topic  string
	TS     jsontelemetry.TSUnit // how times are written; default ns
	Rate   float64              // messages per second; 0 for none
	Factor float64              // event times pass so many times as fast as the clock: 1 is real time; 0 for none
	Shift  time.Duration        // added to every event time, see Span
	Rename func(asset string) string
	// Copies sends every value so many times, as a plant with so many times the assets would. Copy n of an asset is
	// named asset.n, from 1; one copy (or 0) keeps the name.
	Copies int
	// Progress is called about once in Every (default 1s), and at the end, from the goroutine that sends.
	Progress func(Progress)
	Every    time.Duration
	Total    int64 // messages to come, for Progress; 0 if unknown
}

// Progress is how far a replay has come.
type Progress struct {
	Sent      int64
	Total     int64   // 0 if unknown
	PerSecond float64 // since the last report
}

// Result is what a replay has done. Sent counts what the producer has taken; without an error all of it is
// acknowledged.
type Result struct {
	Sent  int64
	First time.Time // earliest event time sent; zero if nothing was
	Last  time.Time // latest
	Took  time.Duration
}

// tick is how long a message may wait for others that are due after it: a timer for each would cost more than sending.
const tick = time.Millisecond

// Run sends the values of in through p until in ends or ctx does, and then returns ctx's error with what was done.
//
// The schedule is fixed when Run begins: a message is sent at its time or, by up to a tick or when p was slow, later,
// never earlier, and being late moves no other message's time. Messages of one time keep their order.
func Run(ctx context.Context, in Stream, p Producer, o Options) (Result, error) {
	if err := o.check(); err != nil {
		return Result{}, err
	}
	r := replayer{Options: o, producer: p, begin: time.Now(), first: math.MaxInt64, last: math.MinInt64}
	r.now, r.reported = r.begin, r.begin
	err := r.run(ctx, in)
	if err == nil {
		err = p.Flush(ctx)
	}
	r.now = time.Now()
	r.report()
	result := Result{Sent: r.sent, Took: r.now.Sub(r.begin)}
	if r.sent > 0 {
		result.First, result.Last = time.Unix(0, r.first).UTC(), time.Unix(0, r.last).UTC()
	}
	return result, err
}

func (o *Options) check() error {
	switch {
	case !(o.Rate >= 0) || math.IsInf(o.Rate, 0):
		return fmt.Errorf("rate: want messages per second, got %v", o.Rate)
	case !(o.Factor >= 0) || math.IsInf(o.Factor, 0):
		return fmt.Errorf("factor: want a number over 0, got %v", o.Factor)
	case o.Rate > 0 && o.Factor > 0:
		return fmt.Errorf("want a rate or a factor, got both: %v/s and %vx", o.Rate, o.Factor)
	case o.Copies < 0:
		return fmt.Errorf("copies: want 1 or more, got %d", o.Copies)
	}
	if o.TS == "" {
		o.TS = jsontelemetry.Nanos
	}
	if o.Every <= 0 {
		o.Every = time.Second
	}
	o.Copies = max(o.Copies, 1)
	return nil
}

// replayer is one Run.
type replayer struct {
	Options
	producer Producer
	begin    time.Time // time 0 of the schedule
	now      time.Time // read last
	origin   int64     // event time of the first message, which is sent at begin

	sent        int64
	first, last int64 // of the event times sent

	reported     time.Time // when Progress was called last
	reportedSent int64

	message []byte
}

func (r *replayer) run(ctx context.Context, in Stream) error {
	for {
		rec, err := in.Next(ctx)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		err = r.record(ctx, rec)
		rec.Release()
		if err != nil {
			return err
		}
	}
}

// record sends the rows of one record.
func (r *replayer) record(ctx context.Context, rec arrow.Record) error {
	c, err := columnsOf(rec)
	if err != nil {
		return err
	}
	names := r.names(c.assets)
	tags := c.tags
	for row := range int(rec.NumRows()) {
		ts := int64(c.ts.Value(row)) + int64(r.Shift)
		if r.sent == 0 {
			r.origin = ts
		}
		r.first, r.last = min(r.first, ts), max(r.last, ts)
		value, has, quality := c.value.Value(row), c.value.IsValid(row), schemas.Quality(c.quality.Value(row))
		tag := tags.text(row)
		for _, asset := range names[c.assets.index(row)] {
			if err := r.await(ctx, ts); err != nil {
				return err
			}
			r.message = jsontelemetry.AppendMessage(r.message[:0], ts, r.TS, asset.name, tag, value, has, quality)
			if err := r.producer.Send(ctx, r.Topic, asset.key, r.message, r.now.UnixNano()); err != nil {
				return err
			}
			r.sent++
		}
	}
	return nil
}

// name is an asset as it is sent: in messages and as their key.
type name struct {
	name string
	key  []byte
}

// names gives the names to send for each asset of a dictionary.
func (r *replayer) names(assets texts) [][]name {
	out := make([][]name, assets.dictionary.Len())
	for i := range out {
		base := assets.dictionary.Value(i)
		if r.Rename != nil {
			base = r.Rename(base)
		}
		for n := range r.Copies {
			one := base
			if r.Copies > 1 {
				one += "." + strconv.Itoa(n+1)
			}
			out[i] = append(out[i], name{name: one, key: []byte(one)})
		}
	}
	return out
}

// await waits until the next message, of event time ts, is due, and reads the clock.
func (r *replayer) await(ctx context.Context, ts int64) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	var due time.Duration
	switch {
	case r.Rate > 0:
		due = nanos(float64(r.sent) / r.Rate * 1e9)
	case r.Factor > 0:
		due = nanos(float64(ts-r.origin) / r.Factor)
	}
	for {
		r.now = time.Now()
		wait := due - r.now.Sub(r.begin)
		if left := r.Every - r.now.Sub(r.reported); r.Progress != nil {
			if left <= 0 {
				r.report()
				left = r.Every
			}
			wait = min(wait, left)
		}
		if due <= r.now.Sub(r.begin) {
			return nil
		}
		timer := time.NewTimer(wait + tick)
		select {
		case <-ctx.Done():
			timer.Stop()
			return ctx.Err()
		case <-timer.C:
		}
	}
}

// nanos makes a duration of nanoseconds that may be too many for one.
func nanos(ns float64) time.Duration {
	if ns >= math.MaxInt64 {
		return math.MaxInt64
	}
	return time.Duration(ns)
}

// report calls Progress.
func (r *replayer) report() {
	if r.Progress == nil {
		return
	}
	p := Progress{Sent: r.sent, Total: r.Total}
	if d := r.now.Sub(r.reported); d > 0 {
		p.PerSecond = float64(r.sent-r.reportedSent) / d.Seconds()
	}
	r.reported, r.reportedSent = r.now, r.sent
	r.Progress(p)
}

// columns are the columns of telemetry.v1 that a message holds.
type columns struct {
	ts           *array.Timestamp
	assets, tags texts
	value        *array.Float64
	quality      *array.Uint8
}

// texts is a dictionary column.
type texts struct {
	indices    *array.Int32
	dictionary *array.String
}

func (t texts) index(row int) int   { return int(t.indices.Value(row)) }
func (t texts) text(row int) string { return t.dictionary.Value(t.index(row)) }

func textsOf(column arrow.Array) (texts, bool) {
	d, ok := column.(*array.Dictionary)
	if !ok {
		return texts{}, false
	}
	indices, ok1 := d.Indices().(*array.Int32)
	dictionary, ok2 := d.Dictionary().(*array.String)
	return texts{indices, dictionary}, ok1 && ok2
}

func columnsOf(rec arrow.Record) (columns, error) {
	var c columns
	if !rec.Schema().Equal(schemas.Telemetry()) {
		return c, fmt.Errorf("replay: want a record of telemetry.v1, got %s", rec.Schema())
	}
	var ok [5]bool
	c.ts, ok[0] = rec.Column(schemas.ColTS).(*array.Timestamp)
	c.assets, ok[1] = textsOf(rec.Column(schemas.ColAsset))
	c.tags, ok[2] = textsOf(rec.Column(schemas.ColTag))
	c.value, ok[3] = rec.Column(schemas.ColValue).(*array.Float64)
	c.quality, ok[4] = rec.Column(schemas.ColQuality).(*array.Uint8)
	for i, good := range ok {
		if !good {
			return c, fmt.Errorf("replay: column %d of the record is not of telemetry.v1", i)
		}
	}
	return c, nil
}
