package clickhouse

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/ClickHouse/ch-go"
	"github.com/ClickHouse/ch-go/proto"

	"github.com/tailrace/tailrace/pipeline"
)

// Sink writes checkpoints to the tables telemetry, predictions and anomaly_events.
type Sink struct {
	config   Config
	pipeline string
	log      *slog.Logger

	tables []table
	writer *writer // nil: not connected
	buf    proto.Buffer
	pace   pacer
	down   bool   // the last attempt failed, and the log says so
	cause  string // of the closed door that the log tells of

	counters counters
}

var _ pipeline.Sink = (*Sink)(nil)

// New makes a sink. It connects when it is opened.
func New(c Config, s pipeline.Settings) (*Sink, error) {
	c = c.In(s.Dir)
	if _, err := c.password(); err != nil {
		return nil, asConfig(err)
	}
	log := s.Log
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	return &Sink{
		config: c, pipeline: s.Pipeline, log: log,
		tables: tables(), pace: newPacer(c.InsertsPerSecond),
	}, nil
}

// Open makes or checks the tables.
func (s *Sink) Open(ctx context.Context) error {
	retry := s.backoff()
	for {
		err := s.prepare(ctx)
		if err == nil {
			s.recovered()
			return nil
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if err = asConfig(err); errors.Is(err, pipeline.ErrConfig) {
			return err
		}
		s.failed(err)
		if err := retry.wait(ctx); err != nil {
			return err
		}
	}
}

func (s *Sink) prepare(ctx context.Context) error {
	schema := schema{s.config}
	if s.config.Schema == SchemaVerify {
		return schema.verify(ctx)
	}
	applied, err := schema.apply(ctx)
	for _, m := range applied {
		s.log.Info("migration applied", "version", m.Version, "name", m.Name)
	}
	return err
}

// Close ends the connection.
func (s *Sink) Close() error {
	s.disconnect()
	return nil
}

// Write stores c, one block after the other.
func (s *Sink) Write(ctx context.Context, c *pipeline.Checkpoint) error {
	for name := range c.Parts {
		if !s.has(name) {
			return fmt.Errorf("table %s: want one of telemetry, predictions and anomaly_events", name)
		}
	}
	for _, t := range s.tables {
		if err := s.write(ctx, t, c); err != nil {
			return fmt.Errorf("%s: table %s: %w", s.config, t.name(), err)
		}
	}
	return nil
}

func (s *Sink) has(name pipeline.Table) bool {
	for _, t := range s.tables {
		if t.name() == name {
			return true
		}
	}
	return false
}

func (s *Sink) write(ctx context.Context, t table, c *pipeline.Checkpoint) error {
	blocks, err := t.plan(c.Parts[t.name()], s.config.InsertRowsMax)
	if err != nil {
		return err
	}
	defer t.release()
	for i := range blocks {
		b := t.load(i, c.Run, c.Seq)
		if err := s.insert(ctx, t, b); err != nil {
			return fmt.Errorf("run %x, checkpoint %d, block %d (%d rows of month %d): %w", c.Run, c.Seq, i, b.rows, b.month, err)
		}
	}
	return nil
}

// insert sends b until the server has acknowledged it.
//
// A failed attempt may have stored the block all the same. Then the token makes the server drop the next one. But a server
// that is killed between writing down a token and putting the part in place drops the block and has no rows either
// (seen once in 312 kills). So after a failure the acknowledgement does not count alone: the rows are looked for, and a
// block that is not there is sent once more under a token of its own. A block is one part, hence there whole or not at all.
func (s *Sink) insert(ctx context.Context, t table, b *block) error {
	token := s.token(t.name(), b)
	input := t.input()
	encoded := b.bytes
	retry := s.backoff()
	unsure, again := false, false
	for {
		waited, err := s.pace.take(ctx)
		if err != nil {
			return err
		}
		s.counters.waited(waited)
		b.bytes = encoded
		start := time.Now()
		err = s.send(ctx, t.name(), input, token)
		took := time.Since(start)
		missing := false
		if err == nil && unsure && !again {
			missing, err = s.missing(ctx, t, b)
		}
		switch {
		case err == nil && missing:
			s.log.Warn("ClickHouse acknowledged a block that it does not have: sending it again under another token",
				"table", t.name(), "block", b.num, "rows", b.rows)
			token, again = token+"/1", true
			continue
		case err == nil:
			s.recovered()
			s.counters.table(t.name(), func(c *TableStats) {
				c.Rows += int64(b.rows)
				c.Blocks++
				c.Bytes += b.bytes
				c.Took += took
			})
			return nil
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if k := kindOf(err); k == access || k == refused {
			s.counters.failed(err)
			if k == access {
				err = asConfig(err)
			}
			return err
		}
		unsure = true
		s.failed(err)
		s.counters.table(t.name(), func(c *TableStats) { c.Retries++ })
		if err := retry.wait(ctx); err != nil {
			return err
		}
	}
}

// send makes one attempt.
func (s *Sink) send(ctx context.Context, t pipeline.Table, input proto.Input, token string) error {
	return s.do(ctx, ch.Query{
		Body:  input.Into(string(t)),
		Input: input,
		Settings: []ch.Setting{
			// An asynchronous insert is merged with others and deduplicated by other rules; it is the default since 26.
			{Key: "async_insert", Value: "0", Important: true},
			{Key: "insert_deduplicate", Value: "1", Important: true},
			{Key: "insert_deduplication_token", Value: token, Important: true},
			{Key: "deduplicate_blocks_in_dependent_materialized_views", Value: "1", Important: true},
		},
	})
}

// settle is how long a part that a killed attempt left behind gets to come into place.
const settle = time.Second

// missing looks for b, twice.
func (s *Sink) missing(ctx context.Context, t table, b *block) (bool, error) {
	for attempt := range 2 {
		if attempt > 0 {
			if err := wait(ctx, settle); err != nil {
				return false, err
			}
		}
		var count proto.ColUInt64
		err := s.do(ctx, ch.Query{
			Body: fmt.Sprintf("SELECT count() FROM %s WHERE %s AND run = reinterpretAsUInt128(reverse(unhex('%x'))) AND seq = %d AND block = %d",
				t.name(), t.witness(), b.run, b.seq, b.num),
			Result: proto.Results{{Name: "count()", Data: &count}},
		})
		if err != nil {
			return false, err
		}
		if len(count) > 0 && count[0] > 0 {
			return false, nil
		}
	}
	return true, nil
}

// do runs q within insert_timeout, over a new connection if there is none. After an error the connection is gone.
func (s *Sink) do(ctx context.Context, q ch.Query) error {
	ctx, cancel := context.WithTimeout(ctx, s.config.InsertTimeout)
	defer cancel()
	if s.writer == nil || s.writer.closed() {
		w, err := dialWriter(ctx, s.config, &s.buf)
		if err != nil {
			return err
		}
		s.writer = w
	}
	if err := s.writer.do(ctx, q); err != nil {
		s.disconnect()
		return err
	}
	return nil
}

func (s *Sink) disconnect() {
	if s.writer != nil {
		s.writer.close()
		s.writer = nil
	}
	s.buf.Reset() // of what an attempt that failed has left in it
}

// token names a block to the server, for good: the same block has the same token in whatever attempt.
func (s *Sink) token(t pipeline.Table, b *block) string {
	var text []byte
	for _, field := range []string{s.pipeline, string(t)} {
		text = binary.BigEndian.AppendUint32(text, uint32(len(field)))
		text = append(text, field...)
	}
	text = append(text, b.run[:]...)
	text = binary.BigEndian.AppendUint64(text, b.seq)
	text = binary.BigEndian.AppendUint32(text, b.num)
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:16])
}

func (s *Sink) backoff() backoff { return backoff{min: s.config.RetryMin, max: s.config.RetryMax} }

// failed and recovered log once per change of state, not once per attempt. Another cause of a closed door is a change.
func (s *Sink) failed(err error) {
	s.counters.failed(err)
	cause := closedCause(err)
	if !s.down || cause != "" && cause != s.cause {
		s.down, s.cause = true, cause
		s.log.Warn("ClickHouse does not take blocks, trying again", "address", s.config.Address, "error", err)
	}
}

func (s *Sink) recovered() {
	if s.down {
		s.down = false
		s.log.Info("ClickHouse takes blocks again", "address", s.config.Address)
	}
}
