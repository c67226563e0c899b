package clickhouse

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"time"

	"github.com/ClickHouse/ch-go"
	"github.com/ClickHouse/ch-go/proto"

	"github.com/tailrace/tailrace/pipeline"
)

// attemptsMax bounds the tokens of a block. A second one is needed once in some hundred kills; a server that has
// acknowledged this many and has no rows drops them for a reason that no further one mends.
const attemptsMax = 8

// insert stores b. look says that the block may be there already.
//
// An attempt that failed, and one of a process before this one, may have stored the block all the same. Then rows of it
// are there: a block is one part, there whole or not at all. If there are none, the block is sent under its plain token
// first, because whoever is believed dead may still send it, and the server takes a token once. But a server that is killed
// between writing down a token and putting the part in place drops the block and has no rows either (seen once in 312
// kills). So once a block is in doubt its acknowledgement does not count alone: the rows are looked for, and a block that
// is not there is sent under a further token.
func (s *Sink) insert(ctx context.Context, t table, b *block, look bool, settled settling) error {
	input := t.input()
	encoded := b.bytes
	retry := s.backoff()
	attempt := 0
	for {
		stored, err := s.attempt(ctx, t, b, input, attempt, look, settled)
		if stored {
			return nil
		}
		b.bytes = encoded
		if err == nil { // acknowledged, yet not there
			var expired bool
			if expired, err = s.expired(ctx, t); expired {
				s.counters.count("blocks_expired", 1)
				return nil
			}
		}
		if err == nil {
			if attempt++; attempt == attemptsMax {
				return fmt.Errorf("%w: acknowledged under %d tokens, yet no row of it is there: does a TTL, a policy or somebody delete it?",
					errAbsent, attempt)
			}
			s.counters.count("blocks_resent_under_another_token", 1)
			s.log.Warn("ClickHouse acknowledged a block that it does not have: sending it again under another token",
				"table", t.name(), "block", b.num, "rows", b.rows, "attempt", attempt)
			continue
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if !worthRetry(err) {
			s.counters.failed(err)
			return asAccess(err)
		}
		look, settled = true, settling{since: time.Now(), wait: s.config.Settle}
		s.failed(err)
		s.counters.table(t.name(), func(c *TableStats) { c.Retries++ })
		if err := retry.wait(ctx); err != nil {
			return err
		}
	}
}

// expired says whether the table's TTL takes every row of the loaded block: what arrived so long ago is acknowledged and
// gone with the next merge.
func (s *Sink) expired(ctx context.Context, t table) (bool, error) {
	ttl := s.ttls[t.name()]
	if ttl == "" {
		return false, nil
	}
	var past proto.ColUInt8
	err := s.do(ctx, ch.Query{
		Body:   fmt.Sprintf("SELECT toUInt8(%s <= now()) AS past FROM (%s)", ttl, t.newest()),
		Result: proto.Results{{Name: "past", Data: &past}},
	})
	if _, answered := codeOf(err); answered {
		return false, nil // a TTL over other columns
	}
	return err == nil && len(past) > 0 && past[0] == 1, err
}

// errAbsent is a block that the server acknowledges and does not keep.
var errAbsent = errors.New("the block does not stay")

// attempt looks for b if it is in doubt, sends it if it has to be sent, and says whether it is stored. Neither stored nor
// an error is a block that was acknowledged and is not there.
func (s *Sink) attempt(
	ctx context.Context, t table, b *block, input proto.Input, attempt int, look bool, settled settling,
) (bool, error) {
	if look && attempt == 0 {
		there, err := s.there(ctx, t, b, settled)
		if err != nil {
			return false, err
		}
		if there {
			s.counters.count("blocks_found_stored", 1)
			mend, err := s.mayMend(ctx, t, b)
			if err != nil {
				return false, err
			}
			if !mend {
				s.recovered()
				s.acknowledged(t.name(), b, 0)
				return true, nil
			}
		}
	}
	waited, err := s.pace.take(ctx)
	if err != nil {
		return false, err
	}
	s.counters.waited(waited)
	token := tokenOf(s.pipeline, string(t.name()), b.run, b.seq, b.num)
	if attempt > 0 {
		token = fmt.Sprintf("%s/%d", token, attempt)
	}
	start := time.Now()
	err = s.send(ctx, t.name(), input, token, false)
	took := time.Since(start)
	if kindOf(err) == refused {
		return s.judge(ctx, t, b, input, token, err)
	}
	if err != nil {
		return false, err
	}
	if look {
		there, err := s.there(ctx, t, b, settling{since: time.Now(), wait: s.config.Settle})
		if err != nil || !there {
			return false, err
		}
	}
	s.recovered()
	s.viewsTook(t.name())
	s.acknowledged(t.name(), b, took)
	return true, nil
}

// mayMend says whether sending b again, which is there, has a use and no danger. The use is for materialized views: a server
// that is killed inside an INSERT may have the block in the table and not in a view, and the same token brings it to the
// views that lack it. The danger is a token that the table has forgotten. A part's name tells the count of inserts at
// which it came, so that it is known how many have come since.
func (s *Sink) mayMend(ctx context.Context, t table, b *block) (bool, error) {
	if !s.views[t.name()] {
		return false, nil
	}
	var since proto.ColInt64
	var parts proto.ColUInt64
	err := s.do(ctx, ch.Query{
		Body: fmt.Sprintf(`WITH (SELECT any(toString(_part)) FROM %[1]s WHERE %[2]s AND %[3]s AND block = %[4]d) AS its_part
			SELECT max(toInt64(max_block_number)) - minIf(toInt64(min_block_number), name = its_part) AS since,
				countIf(name = its_part) AS parts
			FROM system.parts WHERE database = currentDatabase() AND table = '%[1]s'`,
			t.name(), t.witness(), lineageOf(b.run, b.seq), b.num),
		Result: proto.Results{{Name: "since", Data: &since}, {Name: "parts", Data: &parts}},
	})
	if _, answered := codeOf(err); answered {
		return false, nil // no grant for system.parts, or a server without these columns
	}
	if err != nil || len(parts) == 0 {
		return false, err
	}
	return parts[0] > 0 && since[0] < windowMin/2, nil
}

func (s *Sink) acknowledged(t pipeline.Table, b *block, took time.Duration) {
	s.counters.table(t, func(c *TableStats) {
		c.Rows += int64(b.rows)
		c.Blocks++
		c.Bytes += b.bytes
		c.Took += took
	})
}

// judge decides about a block that the server refused with cause. A materialized view that throws refuses the block after
// the table has taken it: then it is stored, and halves of it would double it. It is sent once more with the views' errors
// ignored, for the sake of the views that do not throw; the one that does has not got the block, and the log says so.
func (s *Sink) judge(ctx context.Context, t table, b *block, input proto.Input, token string, cause error) (bool, error) {
	s.pace.giveBack()
	there, err := s.there(ctx, t, b, settling{})
	if err != nil {
		return false, err
	}
	s.recovered()
	if !there {
		return false, cause
	}
	if err := s.send(ctx, t.name(), input, token, true); err != nil {
		return false, err
	}
	s.counters.count("blocks_refused_by_views", 1)
	s.viewsRefused(t.name(), cause)
	s.acknowledged(t.name(), b, 0)
	return true, nil
}

// send makes one attempt.
func (s *Sink) send(ctx context.Context, t pipeline.Table, input proto.Input, token string, ignoreViews bool) error {
	q := ch.Query{Body: input.Into(string(t)), Input: input, Settings: insertSettings(token)}
	if ignoreViews {
		q.Settings = append(q.Settings, ch.Setting{Key: "materialized_views_ignore_errors", Value: "1", Important: true})
	}
	return s.do(ctx, q)
}

func insertSettings(token string) []ch.Setting {
	return []ch.Setting{
		// An asynchronous insert is merged with others and deduplicated by other rules; it is the default since 26.
		{Key: "async_insert", Value: "0", Important: true},
		{Key: "insert_deduplicate", Value: "1", Important: true},
		{Key: "insert_deduplication_token", Value: token, Important: true},
		{Key: "deduplicate_blocks_in_dependent_materialized_views", Value: "1", Important: true},
	}
}

// settling is how long a part that a killed attempt left behind gets to come into place, and since when.
type settling struct {
	since time.Time
	wait  time.Duration
}

// there looks for b, and once more after the time to settle if it is not found.
func (s *Sink) there(ctx context.Context, t table, b *block, settled settling) (bool, error) {
	condition := fmt.Sprintf("%s AND %s AND block = %d", t.witness(), lineageOf(b.run, b.seq), b.num)
	n, err := s.count(ctx, t.name(), condition)
	if err != nil || n > 0 {
		return n > 0, err
	}
	left := time.Until(settled.since.Add(settled.wait))
	if left <= 0 {
		return false, nil
	}
	if err := wait(ctx, left); err != nil {
		return false, err
	}
	n, err = s.count(ctx, t.name(), condition)
	return n > 0, err
}

func (s *Sink) count(ctx context.Context, t pipeline.Table, condition string) (uint64, error) {
	s.counters.count("lookups", 1)
	var n proto.ColUInt64
	err := s.do(ctx, ch.Query{
		Body:   fmt.Sprintf("SELECT count() FROM %s WHERE %s", t, condition),
		Result: proto.Results{{Name: "count()", Data: &n}},
	})
	if err != nil || len(n) == 0 {
		return 0, err
	}
	return n[0], nil
}

// lineageOf is the condition on the rows of one checkpoint.
func lineageOf(run [16]byte, seq uint64) string {
	return fmt.Sprintf("run = reinterpretAsUInt128(reverse(unhex('%x'))) AND seq = %d", run, seq)
}

// timeText is a time in ns as a DateTime64(6).
func timeText(ns int64) string {
	return fmt.Sprintf("fromUnixTimestamp64Micro(toInt64(%d), 'UTC')", floorMicros(ns))
}

// do runs q within insert_timeout by the clock, over a new connection if there is none. After an error the connection is gone.
func (s *Sink) do(ctx context.Context, q ch.Query) error {
	limited, cancel := context.WithTimeout(ctx, s.config.InsertTimeout)
	defer cancel()
	err := s.connected(limited)
	if err == nil {
		if err = s.writer.do(limited, q); err != nil {
			s.disconnect()
		}
	}
	if _, answered := codeOf(err); err != nil && !answered && ctx.Err() == nil && limited.Err() != nil {
		return fmt.Errorf("no answer within insert_timeout (%s): %w", s.config.InsertTimeout, context.DeadlineExceeded)
	}
	return err
}

func (s *Sink) connected(ctx context.Context) error {
	if s.writer != nil && !s.writer.closed() {
		return nil
	}
	w, err := dialWriter(ctx, s.config, &s.buf)
	if err != nil {
		return err
	}
	s.writer = w
	return nil
}

func (s *Sink) disconnect() {
	if s.writer != nil {
		s.writer.close()
		s.writer = nil
	}
	s.buf.Reset() // of what an attempt that failed has left in it
}

// tokenOf names a block to the server, for good: the same block has the same token in whatever attempt.
func tokenOf(id, table string, run [16]byte, seq uint64, block uint32) string {
	var text []byte
	for _, field := range []string{id, table} {
		text = binary.BigEndian.AppendUint32(text, uint32(len(field)))
		text = append(text, field...)
	}
	text = append(text, run[:]...)
	text = binary.BigEndian.AppendUint64(text, seq)
	text = binary.BigEndian.AppendUint32(text, block)
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:16])
}
