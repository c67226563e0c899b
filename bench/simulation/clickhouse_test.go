package simulation

import (
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/apache/arrow/go/v15/arrow"
	"github.com/apache/arrow/go/v15/arrow/array"
	"github.com/tailrace/tailrace/pipeline"
	"github.com/tailrace/tailrace/schemas"
)

// clickhouse is a server as DESIGN.md section 5 has it: it logs a block's token and then puts the part in place; a
// block whose token is known is acknowledged and dropped, whatever became of its part; it knows a finite number of
// tokens; what was sent is carried out though the sender has given up.
type clickhouse struct {
	journal *journal
	window  int // tokens that a table remembers
	running sync.WaitGroup

	mu     sync.Mutex
	rng    *rand.Rand
	parts  map[pipeline.Table][]part
	tokens map[pipeline.Table][]string // the oldest first
	ledger []pipeline.LedgerEntry
	// What is wrong with it.
	away   bool          // no connection is taken
	hung   chan struct{} // nothing is answered until it is closed; nil: it is
	refuse error         // every INSERT is answered with it
	slow   time.Duration // that an INSERT takes
	lose   int           // INSERTs whose token is logged and whose part is lost, as the server is killed
	dedups int           // blocks that a token has stopped
}

// part is one block in place.
type part struct {
	run  [16]byte
	seq  uint64
	num  int
	rows []string
}

func newClickhouse(j *journal, seed uint64) *clickhouse {
	return &clickhouse{
		journal: j, window: 1000, rng: rand.New(rand.NewPCG(seed, 2)),
		parts: map[pipeline.Table][]part{}, tokens: map[pipeline.Table][]string{},
	}
}

var (
	errAway    = errors.New("connection refused")
	errReset   = errors.New("connection reset by peer")
	errNoReply = errors.New("no answer within insert_timeout")
	errPoison  = errors.New("value out of range")
)

// ask carries something out as the server: when it is not away, and after it has stopped hanging. The answer is lost if
// who asked has given up; what was asked for is done all the same.
func (c *clickhouse) ask(ctx context.Context, p *process, do func() error) error {
	if err := p.alive(ctx); err != nil {
		return err
	}
	c.mu.Lock()
	away, delay := c.away, c.slow
	c.mu.Unlock()
	if away {
		return errAway
	}
	answer := make(chan error, 1)
	c.running.Go(func() {
		time.Sleep(delay + p.world.network.latency())
		for gate := c.gate(); gate != nil; gate = c.gate() {
			<-gate
		}
		_ = p.world.network.wait(context.Background(), p.name) // a host that is cut off: its bytes come late
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.away {
			answer <- errReset
			return
		}
		answer <- do()
	})
	timeout := time.NewTimer(insertTimeout)
	defer timeout.Stop()
	select {
	case err := <-answer:
		if err := p.alive(ctx); err != nil {
			return err
		}
		return err
	case <-timeout.C:
		return errNoReply
	case <-p.killed:
		return errKilled
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// insertTimeout is the deadline of a request.
const insertTimeout = 3 * time.Second

func (c *clickhouse) gate() chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.hung
}

// insert takes a block. It is called with the lock.
func (c *clickhouse) insert(t pipeline.Table, token string, p part) error {
	if c.refuse != nil {
		return c.refuse
	}
	if slices.Contains(c.tokens[t], token) {
		c.dedups++
		return nil
	}
	c.tokens[t] = append(c.tokens[t], token)
	if n := len(c.tokens[t]); n > c.window {
		c.tokens[t] = c.tokens[t][n-c.window:]
	}
	if c.lose > 0 {
		c.lose--
		c.journal.add("clickhouse", "killed after the token of %s block %d of checkpoint %x/%d was logged: the part is lost",
			t, p.num, p.run[:2], p.seq)
		return errReset
	}
	c.parts[t] = append(c.parts[t], p)
	return nil
}

// rows are those of a table, sorted.
func (c *clickhouse) rows(t pipeline.Table) []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	var all []string
	for _, p := range c.parts[t] {
		all = append(all, p.rows...)
	}
	slices.Sort(all)
	return all
}

// sink is one process's client. It keeps to the rules of DESIGN.md: one INSERT a month and table, tokens that name the
// block, a look for what may be there, a further token for what is not.
type sink struct {
	server  *clickhouse
	process *process
}

var _ pipeline.Sink = (*sink)(nil)

func (s *sink) Close() error   { return nil }
func (s *sink) BlockRows() int { return s.process.world.blockRows }

func (s *sink) Open(ctx context.Context) error {
	return s.retry(ctx, func() error { return s.server.ask(ctx, s.process, func() error { return nil }) })
}

// retry asks until there is an answer. A refusal of data is one.
func (s *sink) retry(ctx context.Context, do func() error) error {
	for {
		err := do()
		if err == nil || errors.Is(err, errPoison) || errors.Is(err, errKilled) {
			return err
		}
		select {
		case <-time.After(200 * time.Millisecond):
		case <-s.process.killed:
			return errKilled
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// Write sends the blocks one after the other.
func (s *sink) Write(ctx context.Context, c *pipeline.Checkpoint) (pipeline.Written, error) {
	var w pipeline.Written
	for _, table := range []pipeline.Table{pipeline.Telemetry, pipeline.Predictions, pipeline.EventsTable} {
		blocks := cutBlocks(table, c.Parts[table], c.BlockRows)
		for num, b := range blocks {
			token := fmt.Sprintf("%x", sha256.Sum256(fmt.Appendf(nil, "%s/%x/%d/%d", table, c.Run, c.Seq, num)))[:16]
			if err := s.store(ctx, table, token, part{run: c.Run, seq: c.Seq, num: num, rows: b.rows}, c.Resent); err != nil {
				for _, r := range w.Refused {
					r.Row.Release()
				}
				return pipeline.Written{}, fmt.Errorf("table %s: %w", table, err)
			}
			for _, r := range b.poison {
				w.Refused = append(w.Refused, pipeline.RefusedRow{
					Table: table, Topic: r.topic, Partition: r.partition, Reason: errPoison.Error(),
					Row: r.record.NewSlice(r.row, r.row+1),
				})
			}
		}
	}
	return w, nil
}

// store brings one block to the server. look says that it may be there.
func (s *sink) store(ctx context.Context, t pipeline.Table, token string, p part, look bool) error {
	if len(p.rows) == 0 {
		return nil
	}
	for attempt := 0; ; {
		var there bool
		err := error(nil)
		if look && attempt == 0 {
			if there, err = s.there(ctx, t, p); there {
				return nil
			}
		}
		if err == nil {
			name := token
			if attempt > 0 {
				name = fmt.Sprintf("%s/%d", token, attempt)
			}
			err = s.process.trapped("insert "+string(t), func() error {
				return s.server.ask(ctx, s.process, func() error { return s.server.insert(t, name, p) })
			})
		}
		if err == nil && look {
			if there, err = s.there(ctx, t, p); err == nil && !there {
				attempt++ // acknowledged, and not there
				continue
			}
		}
		switch {
		case err == nil:
			return nil
		case errors.Is(err, errKilled):
			return err
		case ctx.Err() != nil:
			return context.Cause(ctx)
		}
		look = true
		if err := s.retry(ctx, func() error { return s.server.ask(ctx, s.process, func() error { return nil }) }); err != nil {
			return err
		}
	}
}

// there counts a block's rows by their lineage, and again after a second if there are none.
func (s *sink) there(ctx context.Context, t pipeline.Table, p part) (bool, error) {
	for i := range 2 {
		found := false
		err := s.server.ask(ctx, s.process, func() error {
			found = slices.ContainsFunc(s.server.parts[t], func(q part) bool {
				return q.run == p.run && q.seq == p.seq && q.num == p.num
			})
			return nil
		})
		if err != nil {
			return false, err // what is asked may still write found
		}
		if found || i == 1 {
			return found, nil
		}
		select {
		case <-time.After(time.Second):
		case <-ctx.Done():
			return false, context.Cause(ctx)
		}
	}
	return false, nil
}

// Record adds lines to the ledger.
func (s *sink) Record(ctx context.Context, lines []pipeline.LedgerEntry) error {
	return s.process.trapped("ledger", func() error { return s.record(ctx, lines) })
}

func (s *sink) record(ctx context.Context, lines []pipeline.LedgerEntry) error {
	return s.retry(ctx, func() error {
		return s.server.ask(ctx, s.process, func() error {
			if s.server.refuse != nil {
				return s.server.refuse
			}
			for _, l := range lines {
				known := slices.ContainsFunc(s.server.ledger, func(k pipeline.LedgerEntry) bool {
					return k.Run == l.Run && k.Seq == l.Seq && k.Partition == l.Partition
				})
				if !known {
					l.Rows, l.Counters = maps.Clone(l.Rows), maps.Clone(l.Counters)
					s.server.ledger = append(s.server.ledger, l)
				}
			}
			return nil
		})
	})
}

// Ledger gives the newest line of each partition.
func (s *sink) Ledger(ctx context.Context, id, topic string) (list []pipeline.LedgerEntry, err error) {
	err = s.retry(ctx, func() error {
		var found []pipeline.LedgerEntry // of this attempt alone: one given up may still write its own
		err := s.server.ask(ctx, s.process, func() error {
			newest := map[int32]pipeline.LedgerEntry{}
			for _, l := range s.server.ledger {
				if l.Pipeline == id && l.Topic == topic && l.To >= newest[l.Partition].To {
					newest[l.Partition] = l
				}
			}
			found = slices.Collect(maps.Values(newest))
			return nil
		})
		if err == nil {
			list = found
		}
		return err
	})
	return list, err
}

// block is rows of one table and month.
type block struct {
	month  int
	rows   []string
	poison []where
}

// where is a row that the server refuses.
type where struct {
	topic     string
	partition int32
	record    arrow.Record
	row       int64
}

// cutBlocks cuts parts by month, at most most rows each. Rows that the server refuses are left out, as bisecting does.
func cutBlocks(t pipeline.Table, parts []pipeline.Part, most int) []block {
	months := map[int]*block{}
	column := map[pipeline.Table]int{
		pipeline.Telemetry: schemas.ColTS, pipeline.Predictions: schemas.PredWindowStart, pipeline.EventsTable: schemas.EventTS,
	}[t]
	for _, p := range parts {
		for _, b := range p.Batches {
			times := b.Column(column).(*array.Timestamp).TimestampValues()
			texts := rowTexts(b)
			for i := range texts {
				at := time.Unix(0, int64(times[i])).UTC()
				key := at.Year()*100 + int(at.Month())
				m := months[key]
				if m == nil {
					m = &block{month: key}
					months[key] = m
				}
				if refused(t, b, i) {
					m.poison = append(m.poison, where{p.Topic, p.Partition, b, int64(i)})
					continue
				}
				m.rows = append(m.rows, texts[i])
			}
		}
	}
	var blocks []block
	for _, m := range slices.SortedFunc(maps.Values(months), func(a, b *block) int { return cmp.Compare(a.month, b.month) }) {
		rows := m.rows
		for n := 0; n == 0 || len(rows) > 0; n++ {
			take := min(len(rows), most)
			b := block{month: m.month, rows: rows[:take]}
			if n == 0 {
				b.poison = m.poison
			}
			blocks, rows = append(blocks, b), rows[take:]
		}
	}
	return blocks
}

// refused tells whether the server takes a row: it knows a value and a range of scores that it does not.
func refused(t pipeline.Table, b arrow.Record, row int) bool {
	switch t {
	case pipeline.Telemetry:
		return b.Column(schemas.ColValue).(*array.Float64).Value(row) == poison
	case pipeline.Predictions:
		return b.Column(schemas.PredScore).(*array.Float32).Value(row) >= poisonScore
	}
	return false
}

// rowTexts are the rows of a record, all columns.
func rowTexts(b arrow.Record) []string {
	texts := make([]string, b.NumRows())
	for i := range texts {
		var text []byte
		for c, field := range b.Schema().Fields() {
			text = fmt.Appendf(text, "%s=%s ", field.Name, b.Column(c).ValueStr(i))
		}
		texts[i] = string(text[:len(text)-1])
	}
	return texts
}
