package chdb

import (
	"context"
	"errors"
	"strconv"
	"strings"
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
	sql    string   // with the tag
	tag    string
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
	class, err := e.check(s.conn, r.SQL)
	// Only statements that leave no trace in the session may share connections.
	s.keep = len(settings) == 0 && (err != nil || class == ClassRead || isInsert(r.SQL))
	if err != nil {
		s.stop = func() {}
		return nil, s.end(err)
	}
	s.tag = e.tag + strconv.FormatUint(e.seq.Add(1), 10) + "*/"
	s.sql = r.SQL + "\n" + s.tag
	s.stop = e.watch(ctx, s.tag)
	return s, nil
}

// check says what the statement is, or why it must not run on this connection.
func (e *Engine) check(c *conn, sql string) (Class, error) {
	class, n := e.classify(c, sql)
	if n > 1 {
		return class, exception(codeSyntax, "SYNTAX_ERROR", "Multi-statements are not allowed")
	}
	insert := isInsert(sql)
	if c.key.readOnly && (insert || class != ClassRead && class != ClassUnknown) {
		return class, exception(codeReadOnly, "READONLY", "Cannot execute query in readonly mode: this user may only read")
	}
	// An INSERT without its data does not parse, and Insert runs it as a single statement anyway. Any other text that
	// does not parse could begin with statements that do, and libchdb would run those.
	if insert || class != ClassUnknown && !c.key.readOnly {
		return class, nil
	}
	canonical, err := e.canonical(c, sql)
	if err == nil && c.key.readOnly {
		err = guard(canonical, e.denied)
	}
	return class, err
}

// end gives the connection back and returns the error that the caller sees.
func (s *statement) end(err error) error {
	err = s.cause(err)
	// A killed statement may still be ending, and closing its connection waits for that: the watch goes on meanwhile.
	killed := s.ctx.Err() != nil
	if !killed {
		s.stop()
	}
	if s.own != nil {
		s.own.give()
	} else {
		s.e.release(s.conn, s.keep && !killed)
	}
	if killed {
		s.stop()
	}
	return err
}

// cause replaces the exception of a killed statement by the reason of the kill, and takes our tag out of texts that
// quote the statement.
func (s *statement) cause(err error) error {
	if err != nil && s.ctx.Err() != nil {
		return s.ctx.Err()
	}
	var ex *Exception
	if errors.As(err, &ex) && s.tag != "" {
		ex.Message = strings.ReplaceAll(strings.ReplaceAll(ex.Message, "\n"+s.tag, ""), s.tag, "")
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
