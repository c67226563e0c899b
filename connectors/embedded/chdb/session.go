package chdb

import (
	"context"
)

// Session is a writer's connection of its own: SET, USE and temporary tables last as long as it does. Statements of a
// session run one after the other; a second one that comes while one runs waits. Readers need none, since they can
// change nothing.
type Session struct {
	e    *Engine
	conn *conn
	turn chan struct{} // holds one token: whoever has it uses conn
}

// Session opens a session with the database as its current one. When [Options].MaxSessions are open
// it is an exception with code 202. The caller closes it; Close of the engine waits for that.
func (e *Engine) Session(database string) (*Session, error) {
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
	if s.conn, err = e.connect(poolKey{database: database}, nil); err != nil {
		s.leave()
		return nil, err
	}
	s.turn <- struct{}{}
	return s, nil
}

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
	return s.e.run(s.conn, setStatement(settings))
}
