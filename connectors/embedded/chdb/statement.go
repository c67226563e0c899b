package chdb

import (
	"context"
	"strconv"
	"unsafe"
)

// Class is what a statement does to state that outlives it, as ClickHouse's own parser sees it.
type Class uint32

// The classes, in libchdb's numbers.
const (
	ClassRead          Class = 0 // leaves no trace
	ClassMutating      Class = 1 // changes a database
	ClassMutatingOther Class = 2 // changes what lies beside the databases: functions, users
	ClassControl       Class = 3 // SET, USE, SYSTEM, KILL, BACKUP, INTO OUTFILE
	ClassUnknown       Class = 4 // does not parse
)

// statement is a Request that may run: checked, tagged and with a connection.
type statement struct {
	e      *Engine
	ctx    context.Context // the caller's, for the life of the call or of its Rows
	conn   *conn
	own    *Session // whose connection it is, or nil
	sql    string
	format string
	keep   bool
	stop   func()
}

// begin checks the request and takes a connection for it. The caller ends the statement.
func (e *Engine) begin(ctx context.Context, r Request) (*statement, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	settings, err := e.checkSettings(r)
	if err != nil {
		return nil, err
	}
	s := &statement{e: e, ctx: ctx, own: r.Session, format: r.Format}
	if s.format == "" {
		s.format = "TabSeparated"
	}
	if r.Session != nil {
		if err := r.Session.take(ctx); err != nil {
			return nil, err
		}
		s.conn = r.Session.conn
		if err := r.Session.set(settings); err != nil {
			r.Session.give()
			return nil, err
		}
	} else if s.conn, err = e.acquire(ctx, poolKey{r.ReadOnly, r.Database}, settings); err != nil {
		return nil, err
	}
	readOnly := s.conn.key.readOnly
	class, n := e.classify(s.conn, r.SQL)
	switch {
	case n > 1:
		err = exception(codeSyntax, "SYNTAX_ERROR", "Multi-statements are not allowed")
	case readOnly && class != ClassRead && class != ClassUnknown:
		err = exception(codeReadOnly, "READONLY", "Cannot execute query in readonly mode: this user may only read")
	case readOnly && class == ClassUnknown:
		// What does not parse is run to get the parser's own words, but only where it can do nothing.
		err = e.syntaxError(s.conn, r.SQL)
	}
	// Only statements that leave no trace in the session may share connections.
	s.keep = len(settings) == 0 && (class == ClassRead || class == ClassMutating && isInsert(r.SQL))
	if err != nil {
		s.keep = len(settings) == 0
		s.stop = func() {}
		return nil, s.end(err)
	}
	tag := e.tag + strconv.FormatUint(e.seq.Add(1), 10) + "*/"
	s.sql = r.SQL + "\n" + tag
	s.stop = e.watch(ctx, tag)
	return s, nil
}

// end gives the connection back and returns the error that the caller sees.
func (s *statement) end(err error) error {
	s.stop()
	err = s.cause(err)
	if s.own != nil {
		s.own.give()
	} else {
		s.e.release(s.conn, s.keep)
	}
	return err
}

// cause replaces the exception of a killed statement by the reason of the kill.
func (s *statement) cause(err error) error {
	if err != nil && s.ctx.Err() != nil {
		return s.ctx.Err()
	}
	return err
}

// Classify says what the statement in sql is and how many statements the text holds, without running it.
func (e *Engine) Classify(ctx context.Context, sql string) (Class, int, error) {
	c, err := e.acquire(ctx, poolKey{readOnly: true}, nil)
	if err != nil {
		return ClassUnknown, 0, err
	}
	defer e.release(c, true)
	class, n := e.classify(c, sql)
	return class, n, nil
}

func (e *Engine) classify(c *conn, sql string) (Class, int) {
	out := struct{ size, count, flags, class uint32 }{size: 16}
	q := []byte(sql + "\n") // never empty: C takes a null pointer for a missing argument
	if e.lib.classify(c.conn(), unsafe.Pointer(&q[0]), uintptr(len(q)), nil, 0, unsafe.Pointer(&out)) != 0 {
		return ClassUnknown, 0
	}
	return Class(out.class), int(out.count)
}

// syntaxError has the parser explain what is wrong with sql, without running it.
func (e *Engine) syntaxError(c *conn, sql string) error {
	_, _, err := e.collect(start(e.lib.query, c.conn(), "SELECT formatQuery({q:String})", "Null",
		map[string]string{"q": escapeTSV(sql)}))
	if err == nil {
		err = exception(codeReadOnly, "READONLY", "Cannot execute query in readonly mode: this user may only read")
	}
	return err
}
