package pipeline

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/apache/arrow/go/v15/arrow"
	"github.com/apache/arrow/go/v15/arrow/array"
	"github.com/apache/arrow/go/v15/arrow/memory"
	"github.com/tailrace/tailrace/pipeline/state"
	"github.com/tailrace/tailrace/schemas"
	"github.com/tailrace/tailrace/schemas/formats"
)

// world is a topic, a group, a state store, a store of rows and the topics out, in memory. What stands in it outlives engines: a
// process is killed by refusing whatever it still asks for.
type world struct {
	mem        *memory.CheckedAllocator
	topicID    string
	partitions map[int32][]delivery // what each partition delivers, then its end
	first      map[int32]int64      // what retention has left, from 0
	bounded    bool                 // the end is io.EOF; else reads block there
	pace       time.Duration        // that a read takes
	revoke     chan struct{}        // closed to end the first generation
	sinkGate   chan struct{}        // if not nil, writes wait for it
	sinkErr    error
	commitErr  error // for the first generation

	// killAt ends the process at the n-th thing that it asks of the world: odd ones before it is done, even ones after.
	// 0 is never.
	killAt int

	mu          sync.Mutex
	asked       int
	dead        bool
	journal     []string // write, flush, commit and so on, in order
	commits     map[int32]Commit
	blobs       map[string][]byte
	blobErr     error
	blocks      map[string][]string // rows by run, seq, table and partition
	tokens      map[string]bool     // of blocks whose token the store has logged
	loseParts   map[string]bool     // blocks whose part is lost after the token was logged, once each
	ledger      []LedgerEntry
	events      []string
	late        []string
	rekeyed     []string
	letters     []string
	lateStored  int64
	reads       int
	watermarks  map[int32][]int64
	finished    int
	generations int
	log         strings.Builder
}

// delivery is messages of one row each, with these times, and then messages that are refused.
type delivery struct {
	ts    []int64
	dead  int
	asset string // "" is a
}

func newWorld(t *testing.T) *world {
	w := &world{
		mem: memory.NewCheckedAllocator(memory.NewGoAllocator()), partitions: map[int32][]delivery{}, topicID: "one", first: map[int32]int64{},
		commits: map[int32]Commit{}, blobs: map[string][]byte{}, blocks: map[string][]string{}, tokens: map[string]bool{},
		loseParts: map[string]bool{}, watermarks: map[int32][]int64{}, revoke: make(chan struct{}),
	}
	t.Cleanup(func() { w.mem.AssertSize(t, 0) })
	return w
}

// errKilled is what a process gets that is dead and does not know it yet.
var errKilled = errors.New("killed")

// ask does what the process asks for, unless it is dead or dies of it.
func (w *world) ask(what string, do func() error) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.dead {
		return errKilled
	}
	w.asked++
	if w.asked*2-1 == w.killAt {
		w.dead = true
		return errKilled
	}
	if err := do(); err != nil {
		return err
	}
	w.journal = append(w.journal, what)
	if w.asked*2 == w.killAt {
		w.dead = true
		return errKilled
	}
	return nil
}

// engine returns an engine over the world with one operator that passes rows on.
func (w *world) engine(change func(*Plan)) *Engine {
	p := Plan{
		ID:        "test",
		Source:    func(Settings, NewDecoder) (Source, error) { return (*worldSource)(w), nil },
		Steps:     []Step{{Name: "pass", New: func(s Settings) (Operator, error) { return &pass{world: w, settings: s}, nil }}},
		Sink:      func(Settings) (Sink, error) { return (*worldSink)(w), nil },
		Publisher: func(Settings) (Publisher, error) { return (*worldPublisher)(w), nil },
		Store:     (*worldStore)(w),
		Watermark: DefaultWatermark(), Checkpoint: DefaultCheckpoint(), State: DefaultState(), Limits: DefaultLimits(),
	}
	p.Watermark.Step, p.Watermark.MinTime = 10, time.Unix(0, -1<<62)
	p.Watermark.IdleTimeout = time.Hour
	p.Checkpoint.Interval, p.Checkpoint.Rows = time.Millisecond, 1000
	p.Limits.Memory, p.Limits.Drain = 1<<20, 2*time.Second
	if change != nil {
		change(&p)
	}
	log := slog.New(slog.NewTextHandler((*worldLog)(w), nil))
	return New(p, Env{Log: log, Alloc: w.mem})
}

type worldLog world

func (l *worldLog) Write(text []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.log.Write(text)
}

// stored lists the rows of a table, those of one block after the other.
func (w *world) stored(table Table) []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	var rows []string
	for _, key := range slices.Sorted(maps.Keys(w.blocks)) {
		if strings.Contains(key, "/"+string(table)+"/") {
			rows = append(rows, w.blocks[key]...)
		}
	}
	return rows
}

// end is the offset after a partition's last message.
func (w *world) end(id int32) int64 {
	var n int64
	for _, d := range w.partitions[id] {
		n += int64(len(d.ts) + d.dead)
	}
	return n
}

func (w *world) committed() map[int32]int64 {
	w.mu.Lock()
	defer w.mu.Unlock()
	at := map[int32]int64{}
	for id, c := range w.commits {
		at[id] = c.Offset
	}
	return at
}

// pass emits what it gets and journals the watermarks.
type pass struct {
	Stateless
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

type worldSource world

func (s *worldSource) Next(ctx context.Context) (Generation, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.dead {
		return nil, fmt.Errorf("%w: %w", ErrConfig, errKilled)
	}
	s.generations++
	g := &worldGeneration{world: (*world)(s), number: s.generations, revoked: make(chan struct{})}
	if s.generations == 1 {
		g.revoked = s.revoke
		g.commitErr = s.commitErr
	}
	return g, ctx.Err()
}
func (s *worldSource) Close() error { return nil }

type worldGeneration struct {
	*world
	number    int
	revoked   chan struct{}
	commitErr error
}

func (g *worldGeneration) Revoked() <-chan struct{} { return g.revoked }
func (g *worldGeneration) Close() error             { return nil }
func (g *worldGeneration) Width() int               { return len(g.partitions) }

func (g *worldGeneration) partition(id int32, bounded bool) *worldPartition {
	p := &worldPartition{
		world: g.world, id: id, bound: g.end(id), deliveries: slices.Clone(g.partitions[id]), bounded: bounded,
		builder: schemas.NewTelemetryBuilder(g.mem, "plant", id),
	}
	p.commit, p.had = g.commits[id]
	return p
}

func (g *worldGeneration) Partitions() []Partition {
	g.mu.Lock()
	defer g.mu.Unlock()
	var list []Partition
	for _, id := range slices.Sorted(maps.Keys(g.partitions)) {
		list = append(list, g.partition(id, g.bounded))
	}
	return list
}

func (g *worldGeneration) Range(_ context.Context, s Stretch) (Partition, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	p := g.partition(s.Partition, true)
	p.bound = s.To
	return p, p.StartAt(s.From, s.Decoder)
}

func (g *worldGeneration) Committed(context.Context) (map[int32]Commit, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return maps.Clone(g.commits), nil
}

func (g *worldGeneration) Commit(_ context.Context, commits map[int32]Commit) error {
	if g.commitErr != nil {
		return g.commitErr
	}
	return g.ask("commit", func() error {
		if g.number != g.generations {
			return ErrFenced
		}
		maps.Copy(g.commits, commits)
		return nil
	})
}

type worldPartition struct {
	*world
	id         int32
	next       int64
	bound      int64
	bounded    bool
	commit     Commit
	had        bool
	deliveries []delivery
	builder    *schemas.TelemetryBuilder
}

func (p *worldPartition) Topic() string             { return "plant" }
func (p *worldPartition) TopicID() string           { return p.topicID }
func (p *worldPartition) ID() int32                 { return p.id }
func (p *worldPartition) Committed() (Commit, bool) { return p.commit, p.had }
func (p *worldPartition) Start() int64 {
	if p.had {
		return p.commit.Offset
	}
	return p.first[p.id]
}
func (p *worldPartition) Bounds() (first, end int64)           { return p.first[p.id], p.end(p.id) }
func (p *worldPartition) StartAt(offset int64, _ []byte) error { p.skip(offset); return nil }
func (p *worldPartition) Close() error                         { p.builder.Release(); return nil }

// skip drops the deliveries, or their parts, before an offset.
func (p *worldPartition) skip(offset int64) {
	for len(p.deliveries) > 0 && p.next < offset {
		d := &p.deliveries[0]
		n := int(min(offset-p.next, int64(len(d.ts))))
		d.ts = d.ts[n:]
		p.next += int64(n)
		n = int(min(offset-p.next, int64(d.dead)))
		d.dead -= n
		p.next += int64(n)
		if len(d.ts) == 0 && d.dead == 0 {
			p.deliveries = p.deliveries[1:]
		}
	}
}

func (p *worldPartition) Read(ctx context.Context) (Delivery, error) {
	if len(p.deliveries) == 0 || p.next >= p.bound {
		if p.bounded {
			return Delivery{}, io.EOF
		}
		<-ctx.Done()
		return Delivery{}, ctx.Err()
	}
	time.Sleep(p.pace)
	p.mu.Lock()
	p.reads++
	p.mu.Unlock()
	d := p.deliveries[0]
	p.deliveries = p.deliveries[1:]
	asset := d.asset
	if asset == "" {
		asset = "a"
	}
	out := Delivery{First: p.next, Bytes: int64(len(d.ts)) * 100}
	for _, ts := range d.ts {
		if p.next == p.bound {
			break
		}
		row := schemas.Row{TS: ts, Asset: []byte(asset), Tag: []byte("t"), HasValue: true, Value: float64(ts), VType: schemas.TypeFloat}
		p.builder.Append(&row, p.next, time.Now().UnixNano())
		p.next++
	}
	for range d.dead {
		if p.next == p.bound {
			break
		}
		out.Dead = append(out.Dead, DeadLetter{
			Topic: "plant", Partition: p.id, Message: formats.Message{Offset: p.next}, Reject: formats.Rejectf(schemas.DeadInvalidJSON, "no"),
		})
		p.next++
	}
	out.Batch, out.Next, out.Messages = p.builder.NewRecord(), p.next, int(p.next-out.First)
	out.CaughtUp = p.next == p.end(p.id)
	return out, nil
}

type worldSink world

func (s *worldSink) Open(context.Context) error { return nil }
func (s *worldSink) Close() error               { return nil }
func (s *worldSink) BlockRows() int             { return 1000 }

// Write keeps each part of each table as a block. A block whose token is known is acknowledged and dropped, as ClickHouse does,
// also if its part was lost; one that is resent is looked for.
func (s *worldSink) Write(ctx context.Context, c *Checkpoint) (Written, error) {
	if s.sinkGate != nil {
		select {
		case <-s.sinkGate:
		case <-ctx.Done():
			return Written{}, context.Cause(ctx)
		}
	}
	w := (*world)(s)
	if err := w.sinkFault(); err != nil {
		return Written{}, err
	}
	for _, table := range tableOrder {
		for _, part := range c.Parts[table] {
			key := fmt.Sprintf("%x/%06d/%s/%d", c.Run, c.Seq, table, part.Partition)
			err := w.ask("write", func() error {
				if c.Resent && len(w.blocks[key]) > 0 {
					return nil
				}
				if w.tokens[key] && !c.Resent {
					return nil
				}
				w.tokens[key] = true
				if w.loseParts[string(table)] {
					delete(w.loseParts, string(table))
					w.dead = true
					return errKilled
				}
				w.blocks[key] = nil
				for _, b := range part.Batches {
					w.blocks[key] = append(w.blocks[key], rowTexts(b)...)
					w.countLate(table, b)
				}
				return nil
			})
			if err != nil {
				return Written{}, err
			}
		}
	}
	return Written{}, nil
}

func (w *world) sinkFault() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.sinkErr
}

func (w *world) countLate(table Table, b arrow.Record) {
	if table != Telemetry {
		return
	}
	for _, f := range b.Column(schemas.ColFlags).(*array.Uint32).Uint32Values() {
		if f&uint32(schemas.FlagLate) != 0 {
			w.lateStored++
		}
	}
}

// rowTexts gives partition, offset, time and value of telemetry rows.
func rowTexts(b arrow.Record) []string {
	rows := make([]string, b.NumRows())
	for i := range rows {
		rows[i] = fmt.Sprintf("%d:%d ts %d value %v flags %d", b.Column(schemas.ColKPart).(*array.Int32).Value(i),
			b.Column(schemas.ColKOffset).(*array.Int64).Value(i), b.Column(schemas.ColTS).(*array.Timestamp).Value(i),
			b.Column(schemas.ColValue).(*array.Float64).Value(i), b.Column(schemas.ColFlags).(*array.Uint32).Value(i))
	}
	return rows
}

func (s *worldSink) Record(_ context.Context, lines []LedgerEntry) error {
	w := (*world)(s)
	return w.ask("record", func() error {
		for _, line := range lines {
			if !slices.ContainsFunc(w.ledger, func(l LedgerEntry) bool {
				return l.Run == line.Run && l.Seq == line.Seq && l.Partition == line.Partition
			}) {
				w.ledger = append(w.ledger, line)
			}
		}
		return nil
	})
}

func (s *worldSink) Ledger(context.Context, string, string) ([]LedgerEntry, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	newest := map[int32]LedgerEntry{}
	for _, line := range s.ledger {
		newest[line.Partition] = line
	}
	return slices.Collect(maps.Values(newest)), nil
}

type worldPublisher world

func (p *worldPublisher) Open(context.Context) error { return nil }
func (p *worldPublisher) Close() error               { return nil }
func (p *worldPublisher) PublishEvents(_ context.Context, b arrow.Record) error {
	return (*world)(p).ask("event", func() error { p.events = append(p.events, rowTexts(b)...); return nil })
}
func (p *worldPublisher) PublishLate(_ context.Context, b arrow.Record) error {
	return (*world)(p).ask("late", func() error { p.late = append(p.late, rowTexts(b)...); return nil })
}
func (p *worldPublisher) PublishRekeyed(_ context.Context, topicID string, b arrow.Record) error {
	return (*world)(p).ask("rekeyed", func() error {
		for _, row := range rowTexts(b) {
			p.rekeyed = append(p.rekeyed, topicID+" "+row)
		}
		return nil
	})
}
func (p *worldPublisher) PublishDead(_ context.Context, l []DeadLetter) error {
	return (*world)(p).ask("letter", func() error {
		for i := range l {
			p.letters = append(p.letters, fmt.Sprintf("%d:%d", l[i].Partition, l[i].Message.Offset))
		}
		return nil
	})
}
func (p *worldPublisher) Flush(context.Context) error {
	return (*world)(p).ask("flush", func() error { return nil })
}

type worldStore world

func (s *worldStore) Open(context.Context) error { return nil }
func (s *worldStore) Close() error               { return nil }
func (s *worldStore) Put(_ context.Context, name string, data []byte) error {
	return (*world)(s).ask("blob", func() error {
		if s.blobErr != nil {
			return s.blobErr
		}
		s.blobs[name] = slices.Clone(data)
		return nil
	})
}
func (s *worldStore) Get(_ context.Context, name string) ([]byte, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if data, ok := s.blobs[name]; ok {
		return data, nil
	}
	return nil, state.ErrNotFound
}
func (s *worldStore) List(_ context.Context, prefix string) ([]state.Info, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var list []state.Info
	for _, name := range slices.Sorted(maps.Keys(s.blobs)) {
		if strings.HasPrefix(name, prefix) {
			list = append(list, state.Info{Name: name, Size: int64(len(s.blobs[name])), Modified: time.Now()})
		}
	}
	return list, nil
}
func (s *worldStore) Delete(_ context.Context, name string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.blobs, name)
	return nil
}
