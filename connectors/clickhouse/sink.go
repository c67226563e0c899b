package clickhouse

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"github.com/ClickHouse/ch-go/proto"

	"github.com/tailrace/tailrace/pipeline"
)

// Sink writes checkpoints to the tables telemetry, predictions and anomaly_events, and the ledger to the table checkpoints.
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

	reached  func(step string)         // told of each block and each table that is stored
	views    map[pipeline.Table]bool   // has dependents that an insert feeds, as Open saw them
	ttls     map[pipeline.Table]string // after which a table drops rows, in SQL, as Open saw it
	refusing map[pipeline.Table]string // what the views of a table say against its blocks, as the log tells

	counters counters
}

var _ pipeline.Selective = (*Sink)(nil)

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
	reached := s.Reached
	if reached == nil {
		reached = func(string) {}
	}
	return &Sink{
		config: c, pipeline: s.Pipeline, log: log, reached: reached,
		tables: tables(), pace: newPacer(c.InsertsPerSecond),
		views: map[pipeline.Table]bool{}, ttls: map[pipeline.Table]string{}, refusing: map[pipeline.Table]string{},
		counters: newCounters(),
	}, nil
}

// Open makes or checks the tables, and the deduplication windows of all that an insert writes to.
func (s *Sink) Open(ctx context.Context) error {
	return s.retry(ctx, func() error {
		err := s.prepare(ctx)
		if err == nil || ctx.Err() != nil {
			return err
		}
		return asConfig(err) // before the first block there is no data that could be at fault
	})
}

func (s *Sink) prepare(ctx context.Context) error {
	schema := schema{s.config}
	if s.config.Schema == SchemaVerify {
		if err := schema.verify(ctx); err != nil {
			return err
		}
		return s.checkDependents(ctx)
	}
	applied, mended, err := schema.apply(ctx)
	for _, m := range applied {
		s.log.Info("migration applied", "version", m.Version, "name", m.Name)
	}
	for _, what := range mended {
		s.log.Warn("a deduplication window was too small and is set", "table", what)
	}
	if err != nil {
		return err
	}
	return s.checkDependents(ctx)
}

// retry calls do until it succeeds, ctx ends, or an error comes that no retry mends.
func (s *Sink) retry(ctx context.Context, do func() error) error {
	retry := s.backoff()
	for {
		err := do()
		if err == nil {
			s.recovered()
			return nil
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if !worthRetry(err) {
			s.counters.failed(err)
			return asAccess(err)
		}
		s.failed(err)
		if err := retry.wait(ctx); err != nil {
			return err
		}
	}
}

// Stores implements [pipeline.Selective].
func (s *Sink) Stores(t pipeline.Table) bool { return s.config.Stores(t) }

// BlockRows is insert_rows_max.
func (s *Sink) BlockRows() int { return s.config.InsertRowsMax }

// Close ends the connection.
func (s *Sink) Close() error {
	s.disconnect()
	return nil
}

// Write stores c, one block after the other, and gives back the rows that the server refuses.
//
// A block is sent under its plain token and looked for only if it is in doubt: after an attempt whose outcome is not known, and
// if c is resent. A resent block that is found is not sent. One that is not found gets the time to settle and is looked for
// again; then it is sent under the plain token, since a process that is believed dead may still send it under that, and
// looked for once more; acknowledged and not there means that the server lost it after it had noted the token, and it is
// sent under a further one. All that is transient is tried again until ctx ends; a hung server ends an attempt after
// insert_timeout.
func (s *Sink) Write(ctx context.Context, c *pipeline.Checkpoint) (pipeline.Written, error) {
	for name := range c.Parts {
		if !s.has(name) {
			return pipeline.Written{}, fmt.Errorf("table %s: want one of telemetry, predictions and anomaly_events", name)
		}
	}
	if c.BlockRows < 0 || c.BlockRows > insertRowsLimit {
		return pipeline.Written{}, fmt.Errorf("checkpoint %d: rows of a block: want 0 to %d, got %d",
			c.Seq, insertRowsLimit, c.BlockRows)
	}
	w := writing{Sink: s, checkpoint: c, settled: settling{since: time.Now(), wait: s.config.Settle}}
	for _, t := range s.tables {
		if err := w.table(ctx, t); err != nil {
			for _, r := range w.refused {
				r.Row.Release()
			}
			return pipeline.Written{}, fmt.Errorf("%s: table %s: %w", s.config, t.name(), err)
		}
		if len(c.Parts[t.name()]) > 0 {
			s.reached("table")
		}
	}
	return pipeline.Written{Refused: w.refused}, nil
}

func (s *Sink) has(name pipeline.Table) bool {
	for _, t := range s.tables {
		if t.name() == name {
			return true
		}
	}
	return false
}

func (s *Sink) backoff() backoff { return backoff{min: s.config.RetryMin, max: s.config.RetryMax} }

// failed and recovered log once per change of state, not once per attempt. Another cause of a closed door is a change.
func (s *Sink) failed(err error) {
	s.counters.failed(err)
	s.counters.count(failuresBy(faultOf(err)), 1)
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

// viewsRefused and viewsTook log once per change of state too.
func (s *Sink) viewsRefused(t pipeline.Table, cause error) {
	code, _ := codeOf(cause)
	if s.refusing[t] != code.String() {
		s.refusing[t] = code.String()
		s.log.Warn("a materialized view throws: the table has the block, the view does not",
			"table", t, "error", reasonOf(cause))
	}
}

func (s *Sink) viewsTook(t pipeline.Table) {
	if s.refusing[t] != "" {
		delete(s.refusing, t)
		s.log.Info("the materialized views take blocks again", "table", t)
	}
}
