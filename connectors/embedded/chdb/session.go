package chdb

import (
	"context"
	"maps"
	"slices"
	"strings"
)

// Session is a connection of one's own: SET, USE and temporary tables last as long as it does. Statements of a
// session run one after the other; a second one that comes while one runs waits.
type Session struct {
	e    *Engine
	conn *conn
	turn chan struct{} // holds one token: whoever has it uses conn
}

// Session opens a session with the database as its current one. With readOnly its statements are a reader's.
// When [Options].MaxSessions are open it is an exception with code 202. The caller closes it.
func (e *Engine) Session(database string, readOnly bool) (*Session, error) {
	if err := e.enter(); err != nil {
		return nil, err
	}
	e.mu.Lock()
	full := e.sessions >= e.o.MaxSessions
	if !full {
		e.sessions++
	}
	e.mu.Unlock()
	if full {
		e.running.Done()
		return nil, exception(codeTooManyQueries, "TOO_MANY_SIMULTANEOUS_QUERIES", "Too many sessions")
	}
	s := &Session{e: e, turn: make(chan struct{}, 1)}
	var err error
	if s.conn, err = e.connect(poolKey{readOnly, database}, nil); err != nil {
		s.leave()
		return nil, err
	}
	s.turn <- struct{}{}
	return s, nil
}

// ReadOnly says whether the session is a reader's.
func (s *Session) ReadOnly() bool { return s.conn.key.readOnly }

// Close waits for the session's running statement and closes its connection. It may be called again.
func (s *Session) Close() error {
	if _, open := <-s.turn; !open {
		return nil
	}
	close(s.turn)
	s.e.lib.closeConn(s.conn.handle)
	s.leave()
	return nil
}

func (s *Session) leave() {
	s.e.mu.Lock()
	s.e.sessions--
	s.e.mu.Unlock()
	s.e.running.Done()
}

// take waits for the session's connection and for the turn that every statement needs.
func (s *Session) take(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case _, open := <-s.turn:
		if !open {
			return ErrClosed
		}
	}
	if err := s.e.turns(s.conn.key).Acquire(ctx, 1); err != nil {
		s.turn <- struct{}{}
		return err
	}
	return nil
}

func (s *Session) give() {
	s.e.turns(s.conn.key).Release(1)
	s.turn <- struct{}{}
}

// set applies a request's settings. On a session they stay, as SET's do: libchdb has no settings of one statement.
func (s *Session) set(settings map[string]string) error {
	if len(settings) == 0 {
		return nil
	}
	if s.conn.key.readOnly {
		// readonly=1 refuses SET. A reader's session keeps to its limits and formats as it was opened.
		return exception(codeReadOnly, "READONLY", "Settings cannot be changed in a session of a read-only user")
	}
	var sets []string
	for _, name := range slices.Sorted(maps.Keys(settings)) {
		sets = append(sets, name+" = '"+escapeTSV(settings[name])+"'")
	}
	_, _, err := s.e.collect(start(s.e.lib.query, s.conn.conn(), "SET "+strings.Join(sets, ", "), "Null", nil))
	return err
}

// escapeTSV escapes a value for a TabSeparated field, which is also what stands between quotes in SQL.
func escapeTSV(s string) string {
	return strings.NewReplacer(`\`, `\\`, "\t", `\t`, "\n", `\n`, "\r", `\r`, "\x00", `\0`, "'", `\'`).Replace(s)
}
