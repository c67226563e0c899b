package replay

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/apache/arrow/go/v15/arrow"
	"github.com/apache/arrow/go/v15/arrow/memory"
	"github.com/tailrace/tailrace/schemas"
	"github.com/tailrace/tailrace/schemas/formats/jsontelemetry"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// recorded is a stream of n samples of each of assets, a period apart from start, a record of at most batch rows.
type recorded struct {
	builder *schemas.TelemetryBuilder
	assets  []string
	start   time.Time
	period  time.Duration
	n, at   int
	batch   int
	err     error // in place of io.EOF
}

func record(t testing.TB, n int, assets ...string) *recorded {
	mem := memory.NewCheckedAllocator(memory.NewGoAllocator())
	b := schemas.NewTelemetryBuilder(mem, "file", 0)
	t.Cleanup(func() { b.Release(); mem.AssertSize(t, 0) })
	return &recorded{
		builder: b, assets: assets, start: time.Date(2000, 1, 3, 0, 0, 0, 0, time.UTC), period: 3 * time.Minute, n: n, batch: 7, err: io.EOF,
	}
}

func (s *recorded) Next(context.Context) (arrow.Record, error) {
	for s.builder.Len() < s.batch && s.at < s.n*len(s.assets) {
		i := s.at / len(s.assets)
		s.builder.Append(&schemas.Row{
			TS: s.start.Add(time.Duration(i) * s.period).UnixNano(), Asset: []byte(s.assets[s.at%len(s.assets)]), Tag: []byte("temp"),
			VType: schemas.TypeFloat, Value: float64(i) + 0.5, HasValue: i%4 != 3, Quality: schemas.Good,
		}, int64(s.at), 0)
		s.at++
	}
	if s.builder.Len() == 0 {
		return nil, s.err
	}
	return s.builder.NewRecord(), nil
}

// taken is a message that a producer took, and when.
type taken struct {
	topic, key, value string
	at                int64
	after             time.Duration
}

// producer keeps what it is sent. It takes slow[i] for message i.
type producer struct {
	begin   time.Time
	slow    map[int]time.Duration
	fail    int // message that is refused, from 1
	taken   []taken
	flushed int
}

func (p *producer) Send(_ context.Context, topic string, key, value []byte, at int64) error {
	p.taken = append(p.taken, taken{topic, string(key), string(value), at, time.Since(p.begin)})
	if len(p.taken) == p.fail {
		return errors.New("refused")
	}
	time.Sleep(p.slow[len(p.taken)-1])
	return nil
}

func (p *producer) Flush(context.Context) error { p.flushed++; return nil }

// Scenario: full speed, with new names, two copies and shifted times.
// Guarantees: every value goes out once a copy, in order, keyed by its asset, with the moved time; the result counts
// them; all is flushed.
func TestRunMessages(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &producer{begin: time.Now()}
		shift := 24 * time.Hour
		result, err := Run(t.Context(), record(t, 4, "d01", "d02"), p, Options{
			Topic: "plant", TS: jsontelemetry.Seconds, Shift: shift, Copies: 2, Rename: func(a string) string { return "demo." + a },
		})
		if err != nil {
			t.Fatal(err)
		}
		start := time.Date(2000, 1, 4, 0, 0, 0, 0, time.UTC)
		var want, got []string
		for i := range 4 {
			value := fmt.Sprintf("%d.5", i)
			if i == 3 {
				value = "null"
			}
			for _, asset := range []string{"demo.d01.1", "demo.d01.2", "demo.d02.1", "demo.d02.2"} {
				want = append(want, fmt.Sprintf(`plant %s {"ts":%d,"asset":"%s","tag":"temp","value":%s,"q":192}`,
					asset, start.Unix()+int64(i)*180, asset, value))
			}
		}
		for _, m := range p.taken {
			got = append(got, m.topic+" "+m.key+" "+m.value)
			if m.at != time.Now().UnixNano() {
				t.Errorf("%s: want its time to be that of sending, got %d", m.value, m.at)
			}
		}
		if !slices.Equal(want, got) {
			t.Errorf("want\n%s\ngot\n%s", strings.Join(want, "\n"), strings.Join(got, "\n"))
		}
		if result.Sent != 16 || !result.First.Equal(start) || !result.Last.Equal(start.Add(9*time.Minute)) || p.flushed != 1 {
			t.Errorf("got %+v, %d flushes", result, p.flushed)
		}
	})
}

// Scenario: real time, a factor of 60, and 500 messages a second, each on a fake clock; then the same with a producer
// that hangs for a while in the middle.
// Guarantees: no message goes out before its time or more than a tick behind it, however long the replay is; what a
// slow producer holds up is caught up on at once, and the messages after it are on the old schedule again.
func TestRunPacing(t *testing.T) {
	for _, c := range []struct {
		name    string
		options Options
		due     func(message int) time.Duration
		hang    time.Duration
	}{
		{"real time", Options{Factor: 1}, func(m int) time.Duration { return time.Duration(m/2) * 3 * time.Minute }, 10 * time.Minute},
		{"factor", Options{Factor: 60}, func(m int) time.Duration { return time.Duration(m/2) * 3 * time.Second }, 10 * time.Second},
		{"rate", Options{Rate: 500}, func(m int) time.Duration { return time.Duration(m) * 2 * time.Millisecond }, 50 * time.Millisecond},
		{"rate over ticks", Options{Rate: 20_000}, func(m int) time.Duration { return time.Duration(m) * 50 * time.Microsecond }, 5 * time.Millisecond},
	} {
		for _, hang := range []time.Duration{0, c.hang} {
			t.Run(fmt.Sprintf("%s/hang=%v", c.name, hang), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					const messages, stuck = 2000, 600
					p := &producer{begin: time.Now(), slow: map[int]time.Duration{stuck: hang}}
					result, err := Run(t.Context(), record(t, messages/2, "a", "b"), p, c.options)
					if err != nil || result.Sent != messages {
						t.Fatalf("want %d messages, got %+v, %v", messages, result, err)
					}
					free := p.taken[stuck].after + hang
					for i, m := range p.taken {
						due := c.due(i)
						late := m.after - due
						if i > stuck && due < free {
							late = m.after - free
						}
						if m.after < due-time.Microsecond || late > tick+time.Microsecond {
							t.Fatalf("message %d: due after %v, sent after %v", i, due, m.after)
						}
					}
				})
			})
		}
	}
}

// Scenario: ctx ends during a wait of minutes; the producer refuses a message; the stream fails.
// Guarantees: Run returns the cause with the number of messages sent until then, at once, and flushes nothing.
func TestRunStops(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 7*time.Minute)
		defer cancel()
		p := &producer{begin: time.Now()}
		result, err := Run(ctx, record(t, 100, "a"), p, Options{Factor: 1})
		if !errors.Is(err, context.DeadlineExceeded) || result.Sent != 3 || result.Took != 7*time.Minute || p.flushed != 0 {
			t.Errorf("ctx: got %+v, %v", result, err)
		}
		p = &producer{fail: 5}
		if result, err = Run(t.Context(), record(t, 100, "a"), p, Options{}); err == nil || result.Sent != 4 || p.flushed != 0 {
			t.Errorf("producer: got %+v, %v", result, err)
		}
		broken := record(t, 9, "a")
		broken.err = errors.New("line 10")
		if result, err = Run(t.Context(), broken, &producer{}, Options{}); err == nil || err.Error() != "line 10" || result.Sent != 9 {
			t.Errorf("stream: got %+v, %v", result, err)
		}
	})
}

// Scenario: a replay of ten seconds that is asked for progress every second, with waits longer than that between values.
// Guarantees: progress comes each second, also while nothing is due, and once at the end with everything.
func TestRunProgress(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var reports []Progress
		_, err := Run(t.Context(), record(t, 4, "a", "b"), &producer{}, Options{
			Factor: 60, Total: 8, Progress: func(p Progress) { reports = append(reports, p) },
		})
		if err != nil {
			t.Fatal(err)
		}
		if len(reports) < 9 || len(reports) > 11 {
			t.Errorf("want about a report a second for nine seconds, got %d", len(reports))
		}
		if last := reports[len(reports)-1]; last.Sent != 8 || last.Total != 8 {
			t.Errorf("last: got %+v", last)
		}
		if first := reports[0]; first.Sent != 2 || first.PerSecond < 1.9 || first.PerSecond > 2 {
			t.Errorf("first: want 2 messages in a second, got %+v", first)
		}
	})
}

// Scenario: options that contradict themselves, and a record of another schema.
// Guarantees: an error that names the option or the record, and nothing sent.
func TestRunFaults(t *testing.T) {
	for want, o := range map[string]Options{
		"rate": {Rate: -1}, "factor": {Factor: -1}, "both": {Rate: 1, Factor: 1}, "copies": {Copies: -1},
	} {
		p := &producer{}
		if _, err := Run(t.Context(), record(t, 1, "a"), p, o); err == nil || !strings.Contains(err.Error(), want) || len(p.taken) > 0 {
			t.Errorf("%s: got %v, %d messages", want, err, len(p.taken))
		}
	}
	events, err := schemas.NewEvents(memory.NewGoAllocator(), nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Run(t.Context(), &one{events}, &producer{}, Options{}); err == nil || !strings.Contains(err.Error(), "telemetry.v1") {
		t.Errorf("schema: got %v", err)
	}
}

// one is a stream of one record.
type one struct{ rec arrow.Record }

func (o *one) Next(context.Context) (arrow.Record, error) {
	if o.rec == nil {
		return nil, io.EOF
	}
	rec := o.rec
	o.rec = nil
	return rec, nil
}

// Scenario: a stream is measured, then replayed so that it ends at a moment, or begins there.
// Guarantees: count, first and last time are the stream's; with the shift the last, or first, event time is the moment.
func TestMeasure(t *testing.T) {
	span, err := Measure(t.Context(), record(t, 5, "a", "b"))
	start := time.Date(2000, 1, 3, 0, 0, 0, 0, time.UTC)
	if err != nil || span.Values != 10 || !span.First.Equal(start) || !span.Last.Equal(start.Add(12*time.Minute)) {
		t.Fatalf("got %+v, %v", span, err)
	}
	moment := time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)
	p := &producer{}
	result, err := Run(t.Context(), record(t, 5, "a", "b"), p, Options{Shift: span.EndAt(moment)})
	if err != nil || !result.Last.Equal(moment) {
		t.Errorf("end: got %+v, %v", result, err)
	}
	var message struct{ TS int64 }
	if err := json.Unmarshal([]byte(p.taken[9].value), &message); err != nil || message.TS != moment.UnixNano() {
		t.Errorf("last message: got %d, %v", message.TS, err)
	}
	if result, err = Run(t.Context(), record(t, 5, "a"), p, Options{Shift: span.StartAt(moment)}); err != nil || !result.First.Equal(moment) {
		t.Errorf("start: got %+v, %v", result, err)
	}
	if span, err = Measure(t.Context(), record(t, 0, "a")); err != nil || span != (Span{}) {
		t.Errorf("empty: got %+v, %v", span, err)
	}
}

// null takes everything.
type null struct{}

func (null) Send(context.Context, string, []byte, []byte, int64) error { return nil }
func (null) Flush(context.Context) error                               { return nil }

// BenchmarkRun replays at full speed to a producer that does nothing.
func BenchmarkRun(b *testing.B) {
	s := record(b, 1<<30, "demo.tep.d01", "demo.tep.d02", "demo.tep.d03")
	s.batch = 8192
	rec, err := s.Next(b.Context())
	if err != nil {
		b.Fatal(err)
	}
	defer rec.Release()
	b.ReportAllocs()
	for b.Loop() {
		rec.Retain()
		if _, err := Run(b.Context(), &one{rec}, null{}, Options{Topic: "plant"}); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.N)*8192/b.Elapsed().Seconds(), "messages/s")
}
