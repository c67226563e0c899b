package pipeline

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"sync"
	"testing"
	"time"

	"github.com/apache/arrow/go/v15/arrow"
	"github.com/apache/arrow/go/v15/arrow/array"
	"github.com/apache/arrow/go/v15/arrow/memory"
	"github.com/tailrace/tailrace/schemas"
	"github.com/tailrace/tailrace/schemas/formats"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// world is a plant, a broker and a store in memory, and the journal of what the engine did with them.
type world struct {
	mem        *memory.CheckedAllocator
	partitions map[int32][]delivery // what each partition delivers, then its end
	bounded    bool                 // the end is io.EOF; else reads block there
	revoke     chan struct{}        // closed to end the first generation
	sinkGate   chan struct{}        // if not nil, writes wait for it
	sinkErr    error
	commitErr  error // for the first generation

	mu          sync.Mutex
	journal     []string // write, flush, commit in order
	committed   map[int32]int64
	stored      map[Table]int64
	lateStored  int64
	reads       int
	dead        int
	watermarks  map[int32][]int64
	finished    int
	generations int
}

type delivery struct {
	ts   []int64
	dead int
}

func newWorld(t *testing.T) *world {
	w := &world{
		mem: memory.NewCheckedAllocator(memory.NewGoAllocator()), partitions: map[int32][]delivery{},
		committed: map[int32]int64{}, stored: map[Table]int64{}, watermarks: map[int32][]int64{}, revoke: make(chan struct{}),
	}
	t.Cleanup(func() { w.mem.AssertSize(t, 0) })
	return w
}

func (w *world) note(format string, args ...any) {
	w.journal = append(w.journal, fmt.Sprintf(format, args...))
}

// engine returns an engine over the world with one operator that passes rows on.
func (w *world) engine(change func(*Plan)) *Engine {
	p := Plan{
		ID:        "test",
		Source:    func(Settings, NewDecoder) (Source, error) { return (*worldSource)(w), nil },
		Steps:     []Step{{Name: "pass", New: func(s Settings) (Operator, error) { return &pass{world: w, settings: s}, nil }}},
		Sink:      func(Settings) (Sink, error) { return (*worldSink)(w), nil },
		Publisher: func(Settings) (Publisher, error) { return (*worldPublisher)(w), nil },
		Watermark: WatermarkConfig{Step: 10}, Checkpoint: CheckpointConfig{Interval: time.Millisecond, Rows: 1000},
		Limits: LimitsConfig{Memory: 1 << 20, Drain: 2 * time.Second},
	}
	if change != nil {
		change(&p)
	}
	return New(p, Env{Log: slog.New(slog.DiscardHandler), Alloc: w.mem})
}

// pass emits what it gets and journals the watermarks.
type pass struct {
	world    *world
	settings Settings
}

func (p *pass) Bind(in *arrow.Schema) (*arrow.Schema, error) { return in, nil }
func (p *pass) Process(ctx context.Context, in arrow.Record, out Emitter) error {
	in.Retain()
	return out.Emit(ctx, Rows, in)
}
func (p *pass) Advance(_ context.Context, w int64, _ Emitter) error {
	p.world.mu.Lock()
	defer p.world.mu.Unlock()
	p.world.watermarks[p.settings.Partition] = append(p.world.watermarks[p.settings.Partition], w)
	return nil
}
func (p *pass) Finish(context.Context, Emitter) error {
	p.world.mu.Lock()
	defer p.world.mu.Unlock()
	p.world.finished++
	return nil
}
func (p *pass) Close() error { return nil }

type worldSource world

func (s *worldSource) Next(ctx context.Context) (Generation, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.generations++
	g := &worldGeneration{world: (*world)(s), revoked: make(chan struct{})}
	if s.generations == 1 {
		g.revoked = s.revoke
		g.commitErr = s.commitErr
	}
	return g, ctx.Err()
}
func (s *worldSource) Close() error { return nil }

type worldGeneration struct {
	*world
	revoked   chan struct{}
	commitErr error
}

func (g *worldGeneration) Revoked() <-chan struct{} { return g.revoked }
func (g *worldGeneration) Close() error             { return nil }
func (g *worldGeneration) Partitions() []Partition {
	var list []Partition
	for id, deliveries := range g.partitions {
		b := schemas.NewTelemetryBuilder(g.mem, "plant", id)
		p := &worldPartition{world: g.world, id: id, deliveries: deliveries, builder: b}
		g.mu.Lock()
		for start := g.committed[id]; p.next < start && len(p.deliveries) > 0; p.deliveries = p.deliveries[1:] {
			p.next += int64(len(p.deliveries[0].ts) + p.deliveries[0].dead)
		}
		g.mu.Unlock()
		list = append(list, p)
	}
	return list
}
func (g *worldGeneration) Commit(_ context.Context, next map[int32]int64) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.commitErr != nil {
		return g.commitErr
	}
	g.note("commit")
	for id, n := range next {
		g.committed[id] = n
	}
	return nil
}

type worldPartition struct {
	*world
	id         int32
	next       int64
	deliveries []delivery
	builder    *schemas.TelemetryBuilder
}

func (p *worldPartition) Topic() string { return "plant" }
func (p *worldPartition) ID() int32     { return p.id }
func (p *worldPartition) Start() int64  { return p.next }
func (p *worldPartition) Close() error  { p.builder.Release(); return nil }
func (p *worldPartition) Read(ctx context.Context) (Delivery, error) {
	if len(p.deliveries) == 0 {
		if p.bounded {
			return Delivery{}, io.EOF
		}
		<-ctx.Done()
		return Delivery{}, ctx.Err()
	}
	p.mu.Lock()
	p.reads++
	p.mu.Unlock()
	d := p.deliveries[0]
	p.deliveries = p.deliveries[1:]
	out := Delivery{First: p.next, Messages: len(d.ts) + d.dead, Bytes: int64(len(d.ts)) * 100}
	for _, ts := range d.ts {
		row := schemas.Row{TS: ts, Asset: []byte("a"), Tag: []byte("t"), HasValue: true, Value: 1, VType: schemas.TypeFloat}
		if ts < 0 {
			row.Flags = schemas.FlagClockSuspect
		}
		p.builder.Append(&row, p.next, time.Now().UnixNano())
		p.next++
	}
	for range d.dead {
		out.Dead = append(out.Dead, DeadLetter{Reject: formats.Rejectf(schemas.DeadInvalidJSON, "no")})
		p.next++
	}
	out.Batch, out.Next = p.builder.NewRecord(), p.next
	return out, nil
}

type worldSink world

func (s *worldSink) Open(context.Context) error { return nil }
func (s *worldSink) Close() error               { return nil }
func (s *worldSink) Write(ctx context.Context, c *Checkpoint) error {
	if s.sinkGate != nil {
		select {
		case <-s.sinkGate:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.sinkErr != nil {
		return s.sinkErr
	}
	(*world)(s).note("write")
	for table := range c.Parts {
		s.stored[table] += c.Rows(table)
	}
	for _, part := range c.Parts[Telemetry] {
		for _, b := range part.Batches {
			for _, f := range b.Column(schemas.ColFlags).(*array.Uint32).Uint32Values() {
				if f&uint32(schemas.FlagLate) != 0 {
					s.lateStored++
				}
			}
		}
	}
	return nil
}

type worldPublisher world

func (p *worldPublisher) Open(context.Context) error                        { return nil }
func (p *worldPublisher) Close() error                                      { return nil }
func (p *worldPublisher) PublishEvents(context.Context, arrow.Record) error { return nil }
func (p *worldPublisher) PublishDead(_ context.Context, l []DeadLetter) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.dead += len(l)
	return nil
}
func (p *worldPublisher) Flush(context.Context) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	(*world)(p).note("flush")
	return nil
}

// ramp is n times from start, one nanosecond apart.
func ramp(start int64, n int) []int64 {
	ts := make([]int64, n)
	for i := range ts {
		ts[i] = start + int64(i)
	}
	return ts
}

// Scenario: a bounded source with three partitions, one empty, and dead letters among the rows.
// Guarantees: every row is stored once, every dead letter published, the chain is finished per partition, all offsets are
// committed, and each commit follows the write and the flush of its own checkpoint.
func TestBoundedRunStoresAllThenCommits(t *testing.T) {
	w := newWorld(t)
	w.bounded = true
	w.partitions = map[int32][]delivery{
		0: {{ts: ramp(1, 500)}, {ts: ramp(501, 700), dead: 3}},
		1: {{ts: ramp(1, 10)}},
		2: nil,
	}
	if err := w.engine(nil).Run(t.Context()); err != nil {
		t.Fatal(err)
	}
	if w.stored[Telemetry] != 1210 || w.stored[Predictions] != 1210 || w.dead != 3 {
		t.Errorf("stored %d telemetry, %d predictions, %d dead: want 1210, 1210, 3", w.stored[Telemetry], w.stored[Predictions], w.dead)
	}
	if w.committed[0] != 1203 || w.committed[1] != 10 {
		t.Errorf("committed %v, want 0:1203 1:10", w.committed)
	}
	if w.finished != 3 {
		t.Errorf("finished %d chains, want 3", w.finished)
	}
	for i, step := range w.journal {
		if step == "commit" && (i == 0 || w.journal[i-1] != "flush") {
			t.Errorf("journal %v: commit %d does not follow a flush", w.journal, i)
		}
		if step == "flush" && (i == 0 || w.journal[i-1] != "write") {
			t.Errorf("journal %v: flush %d does not follow a write", w.journal, i)
		}
	}
}

// Scenario: the run is told to stop while the source waits at its end.
// Guarantees: Run returns nil, and all that was read is stored and committed; nothing is finished.
func TestStopStoresWhatWasRead(t *testing.T) {
	w := newWorld(t)
	w.partitions = map[int32][]delivery{0: {{ts: ramp(1, 100)}}}
	e := w.engine(func(p *Plan) { p.Checkpoint.Interval = time.Hour })
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- e.Run(ctx) }()
	waitFor(t, func() bool { return len(e.Status().Assets) == 1 })
	cancel()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if w.stored[Telemetry] != 100 || w.committed[0] != 100 || w.finished != 0 {
		t.Errorf("stored %d, committed %v, finished %d: want 100, 0:100, 0", w.stored[Telemetry], w.committed, w.finished)
	}
}

// Scenario: the sink takes nothing, with a memory limit of two deliveries out of fifty.
// Guarantees: reading pauses near the limit instead of going on; a stop gives up after the drain time, commits nothing,
// and says how many rows were not stored.
func TestFullBudgetPausesReading(t *testing.T) {
	w := newWorld(t)
	w.sinkGate = make(chan struct{})
	var all []delivery
	for i := range 50 {
		all = append(all, delivery{ts: ramp(int64(i)*5000+1, 5000)})
	}
	w.partitions = map[int32][]delivery{0: all}
	e := w.engine(func(p *Plan) { p.Limits.Drain = 50 * time.Millisecond })
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- e.Run(ctx) }()
	waitFor(t, func() bool { return e.metrics.ofBudget(func(b *budget) int64 { return b.waited.Load() }) > 0 })
	w.mu.Lock()
	reads := w.reads
	w.mu.Unlock()
	cancel()
	err := <-done
	if err == nil || !errors.Is(err, context.Canceled) {
		t.Errorf("error %v: want one that says that rows were not stored", err)
	}
	if reads > 4 { // two within the limit, one read ahead that waits, one on its way
		t.Errorf("%d reads with a limit of two", reads)
	}
	if len(w.committed) != 0 {
		t.Errorf("committed %v with nothing stored", w.committed)
	}
}

// Scenario: the group rebalances in the middle, and the commit of the first generation fails.
// Guarantees: the engine rejoins and reads again what was not committed; in the end nothing is missing.
func TestRebalanceAndFailedCommit(t *testing.T) {
	w := newWorld(t)
	w.commitErr = errors.New("illegal generation")
	w.partitions = map[int32][]delivery{0: {{ts: ramp(1, 100)}, {ts: ramp(101, 100)}}}
	e := w.engine(nil)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- e.Run(ctx) }()
	waitFor(t, func() bool { w.mu.Lock(); defer w.mu.Unlock(); return w.committed[0] == 200 })
	cancel()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if w.generations < 2 || w.stored[Telemetry] < 200 {
		t.Errorf("%d generations, %d rows stored: want 2 or more, 200 or more", w.generations, w.stored[Telemetry])
	}
}

// Scenario: rows come with their order disturbed and with a clock that stands at 1970 (negative here).
// Guarantees: the watermark stands one nanosecond before the multiple of the step that was reached, never goes back, is
// not moved by the suspect clock, and is the same however the rows are cut into deliveries. Late rows are flagged.
func TestWatermark(t *testing.T) {
	times := []int64{3, 12, 11, 9, 25, -5, 26, 19, 41}
	want := []int64{-1, 9, 19, 39} // by hand: step 10, no disorder allowed
	for cut := 1; cut <= len(times); cut++ {
		w := newWorld(t)
		w.bounded = true
		var all []delivery
		for from := 0; from < len(times); from += cut {
			all = append(all, delivery{ts: times[from:min(from+cut, len(times))]})
		}
		w.partitions = map[int32][]delivery{0: all}
		if err := w.engine(nil).Run(t.Context()); err != nil {
			t.Fatal(err)
		}
		if got := w.watermarks[0]; fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("cut %d: watermarks %v, want %v", cut, got, want)
		}
		if w.lateStored != 2 { // 9 after 12, 19 after 26
			t.Errorf("cut %d: %d rows flagged late, want 2", cut, w.lateStored)
		}
	}
}

// Scenario: times before 1970 and at the ends of the range.
// Guarantees: the watermark is rounded down, not towards zero, and never wraps.
func TestWatermarkFloor(t *testing.T) {
	for _, c := range []struct{ ts, want int64 }{
		{-1, -11}, {-10, -11}, {-11, -21}, {0, -1}, {9, -1}, {10, 9},
		{-1 << 63, -1 << 63}, {-1<<63 + 5, -1 << 63}, {1<<63 - 1, 9223372036854775799},
	} {
		w := newWatermark(WatermarkConfig{Step: 10})
		if got := w.after(c.ts); got != c.want {
			t.Errorf("after %d: got %d, want %d", c.ts, got, c.want)
		}
	}
}

// Scenario: the sink refuses a checkpoint for good.
// Guarantees: Run ends with that error, and commits nothing.
func TestSinkErrorEndsRun(t *testing.T) {
	w := newWorld(t)
	w.sinkErr = errors.New("type mismatch")
	w.partitions = map[int32][]delivery{0: {{ts: ramp(1, 10)}}}
	err := w.engine(nil).Run(t.Context())
	if !errors.Is(err, w.sinkErr) || len(w.committed) != 0 {
		t.Errorf("error %v, committed %v: want the sink's error and nothing", err, w.committed)
	}
}

func waitFor(t *testing.T, what func() bool) {
	t.Helper()
	deadline := time.After(10 * time.Second)
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for !what() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatal("waited 10 s in vain")
		}
	}
}
