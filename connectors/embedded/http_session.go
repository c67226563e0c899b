package embedded

import (
	"errors"
	"sync"
	"time"

	"github.com/tailrace/tailrace/connectors/embedded/chdb"
)

// sessions are the session_ids that requests have named, each with its session until it times out.
type sessions struct {
	mu     sync.Mutex
	open   map[string]*httpSession
	closed bool
}

type httpSession struct {
	session *chdb.Session
	busy    bool
	expiry  *time.Timer // runs while the session is not busy
}

// take gives the session of an id to one request, opening it if there is none and check does not ask for one. done
// gives it back, and closes it if closing.
func (s *sessions) take(e *chdb.Engine, id, database string, keep time.Duration, check, closing bool) (
	_ *chdb.Session, done func(), err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, nil, chdb.ErrClosed
	}
	h, ok := s.open[id]
	switch {
	case ok && h.busy:
		return nil, nil, exception(codeSessionIsLocked, "Session is locked by a concurrent client")
	case ok:
		h.expiry.Stop()
	case check:
		return nil, nil, exception(codeSessionNotFound, "Session not found: %s", id)
	default:
		session, err := e.Session(database)
		if err != nil {
			return nil, nil, err
		}
		h = &httpSession{session: session}
		s.open[id] = h
	}
	h.busy = true
	return h.session, func() { s.give(id, h, keep, closing) }, nil
}

func (s *sessions) give(id string, h *httpSession, keep time.Duration, closing bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	h.busy = false
	if closing || s.closed {
		s.drop(id, h)
		return
	}
	h.expiry = time.AfterFunc(keep, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		// A request may have taken it between the timer and the lock.
		if !h.busy && s.open[id] == h {
			s.drop(id, h)
		}
	})
}

// drop closes a session that no request has; its Close has nothing to wait for. The lock is held.
func (s *sessions) drop(id string, h *httpSession) {
	delete(s.open, id)
	_ = h.session.Close() // never fails
}

// close closes every session. No request is under way any more.
func (s *sessions) close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	var errs []error
	for id, h := range s.open {
		if h.expiry != nil {
			h.expiry.Stop()
		}
		delete(s.open, id)
		errs = append(errs, h.session.Close())
	}
	return errors.Join(errs...)
}
