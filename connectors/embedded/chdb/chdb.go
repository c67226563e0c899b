// Package chdb is the ClickHouse engine in the process: libchdb, bound without cgo.
//
// Engine runs statements (Query, Stream) and takes data (Insert) in any of ClickHouse's formats. Data never stands in
// the text of a statement: libchdb parses text as a client does, where a blank line ends the data and the rest is
// run as SQL. Rules that the library imposes and that this package keeps:
//
//   - its signal handlers are off before the first connection, so that Go's own work;
//   - one data folder per process, one process per folder;
//   - one statement at a time per connection, hence a pool; settings belong to a connection of their own;
//   - a running statement is ended by KILL QUERY ... ASYNC from another connection, found by a tag in its text;
//   - the library is never shut down or unloaded: closing the last connection releases the folder.
package chdb

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sync/semaphore"
)

// Options configure an Engine.
type Options struct {
	Library string // path of libchdb.so
	Dir     string // data folder; made if it does not exist

	// MaxServerMemory bounds what all statements together hold, in bytes. Default 4 GiB: the engine's own default is
	// nine tenths of the machine, of which the Go side of the process would see nothing.
	MaxServerMemory int64
	// MaxReaderMemory bounds one read-only statement, in bytes. Default 1 GiB: a careless GROUP BY must not take
	// the memory that inserts and merges need.
	MaxReaderMemory int64
	// MaxReaderTime bounds one read-only statement. Default 60 s.
	MaxReaderTime time.Duration
	// ReaderThreads bounds the threads of one read-only statement. Default: half the processors, at least 1, so
	// that a scan leaves room for inserts.
	ReaderThreads int
	// Readers and Writers bound the statements that run at once; more wait. Default 8 each: every thread that ran a
	// statement keeps three file descriptors, and more than a few statements per core only wait for each other.
	// They are counted apart, so that analysts cannot hold up the pipeline.
	Readers, Writers int
	// MaxSessions bounds sessions, each of which holds a connection. Default 64.
	MaxSessions int
}

func (o Options) withDefaults() Options {
	def := func(v *int, d int) {
		if *v <= 0 {
			*v = d
		}
	}
	def(&o.ReaderThreads, max(1, runtime.NumCPU()/2))
	def(&o.Readers, 8)
	def(&o.Writers, 8)
	def(&o.MaxSessions, 64)
	if o.MaxServerMemory <= 0 {
		o.MaxServerMemory = 4 << 30
	}
	if o.MaxReaderMemory <= 0 {
		o.MaxReaderMemory = 1 << 30
	}
	if o.MaxReaderTime <= 0 {
		o.MaxReaderTime = time.Minute
	}
	return o
}

// ErrBusy is the data folder being in use, by another process or another Engine of this one.
var ErrBusy = errors.New("the data folder is in use")

// ErrClosed is a call on a closed Engine.
var ErrClosed = errors.New("the engine is closed")

// Engine is an open data folder. Its methods may be called from any goroutine.
type Engine struct {
	o       Options
	lib     *library
	version string
	known   map[string]bool // names in system.settings
	denied  map[string]bool // functions that a reader may not call, in lower case

	readers, writers *semaphore.Weighted
	tag              string // of this engine's statements, before their number
	seq              atomic.Uint64
	kill             sync.Mutex // serialises use of killer
	killer           *conn

	mu       sync.Mutex
	closed   bool
	idle     map[poolKey][]*conn
	sessions int
	running  sync.WaitGroup
}

// Open opens the data folder, and makes it if there is none. An error that wraps [ErrBusy] names the folder and the
// process that has it.
func Open(o Options) (*Engine, error) {
	o = o.withDefaults()
	dir, err := filepath.Abs(o.Dir)
	if err != nil {
		return nil, err
	}
	o.Dir = dir
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("embedded ClickHouse: %w", err)
	}
	if err := checkFree(dir); err != nil {
		return nil, fmt.Errorf("embedded ClickHouse: %w", err)
	}
	lib, err := load(o.Library)
	if err != nil {
		return nil, fmt.Errorf("embedded ClickHouse: %w", err)
	}
	var random [8]byte
	if _, err := rand.Read(random[:]); err != nil {
		return nil, err
	}
	e := &Engine{
		o: o, lib: lib, tag: "/*q:" + hex.EncodeToString(random[:]) + "-",
		readers: semaphore.NewWeighted(int64(o.Readers)), writers: semaphore.NewWeighted(int64(o.Writers)),
		idle: map[poolKey][]*conn{},
	}
	if e.killer, err = e.connect(poolKey{}, nil); err != nil {
		return nil, fmt.Errorf("embedded ClickHouse: opening %s: %w", dir, err)
	}
	if err := e.learn(); err != nil {
		e.lib.closeConn(e.killer.handle)
		return nil, fmt.Errorf("embedded ClickHouse: opening %s: %w", dir, err)
	}
	return e, nil
}

// learn asks the engine for its version and its settings: it ignores unknown ones in silence.
func (e *Engine) learn() error {
	ask := func(sql string) (string, error) {
		b, _, err := e.collect(start(e.lib.query, e.killer.conn(), sql, "TabSeparated", nil))
		return strings.TrimSpace(string(b)), err
	}
	var err error
	if e.version, err = ask("SELECT version()"); err != nil {
		return err
	}
	set := func(into *map[string]bool, sql string) {
		if err != nil {
			return
		}
		var names string
		names, err = ask(sql)
		*into = map[string]bool{}
		for name := range strings.SplitSeq(names, "\n") {
			(*into)[name] = true
		}
	}
	set(&e.known, "SELECT name FROM system.settings")
	set(&e.denied, "SELECT lower(name) FROM system.table_functions")
	for _, name := range readerTableFunctions() {
		delete(e.denied, name)
	}
	for _, name := range hostFunctions() {
		e.denied[name] = true
	}
	return err
}

// Version returns ClickHouse's version, as SELECT version() does.
func (e *Engine) Version() string { return e.version }

// Close waits for running statements and open sessions to end, closes every connection and so releases the folder.
// Calls that begin later return [ErrClosed]. It may be called again.
func (e *Engine) Close() error {
	e.mu.Lock()
	if e.closed {
		e.mu.Unlock()
		return nil
	}
	e.closed = true
	e.mu.Unlock()
	e.running.Wait()
	for _, conns := range e.idle {
		for _, c := range conns {
			e.lib.closeConn(c.handle)
		}
	}
	e.lib.closeConn(e.killer.handle)
	return nil
}

// enter counts a statement or session in, unless the engine is closed.
func (e *Engine) enter() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closed {
		return ErrClosed
	}
	e.running.Add(1)
	return nil
}

// checkFree asks for the lock that the engine will take on the folder's status file. The engine itself only returns
// null, and writes the reason to standard error.
func checkFree(dir string) error {
	f, err := os.Open(filepath.Join(dir, "status"))
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer f.Close()
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		if !errors.Is(err, syscall.EWOULDBLOCK) {
			return fmt.Errorf("%s: %w", f.Name(), err)
		}
		b := make([]byte, 64)
		n, _ := f.Read(b) // the text is a courtesy: without it the message is only shorter
		owner, _, _ := strings.Cut(string(b[:n]), "\n")
		return fmt.Errorf("%w: %s (%s); stop that process or name another folder", ErrBusy, dir, owner)
	}
	return nil
}

// conn is one connection of libchdb. Whoever holds it runs at most one statement on it at a time.
type conn struct {
	handle unsafe.Pointer // chdb_connection *
	key    poolKey
}

// conn gives the chdb_connection that the statement calls want.
func (c *conn) conn() unsafe.Pointer { return *(*unsafe.Pointer)(c.handle) }

// poolKey is what connections of the pool differ in.
type poolKey struct {
	readOnly bool
	database string
}

// connect opens a connection, gives it its settings and makes the key's database current.
func (e *Engine) connect(key poolKey, settings map[string]string) (*conn, error) {
	args := []string{
		"clickhouse", "--path=" + e.o.Dir,
		"--max_server_memory_usage=" + strconv.FormatInt(e.o.MaxServerMemory, 10),
		// The engine's default merges inserts of several callers and deduplicates them by other rules.
		"--async_insert=0",
	}
	var pin runtime.Pinner
	defer pin.Unpin()
	argv := make([]unsafe.Pointer, len(args)+1)
	for i, a := range args {
		z := append([]byte(a), 0)
		pin.Pin(&z[0])
		argv[i] = unsafe.Pointer(&z[0])
	}
	h := e.lib.connect(int32(len(args)), unsafe.Pointer(&argv[0]))
	runtime.KeepAlive(argv)
	if h == nil {
		return nil, errors.New("libchdb made no connection (its reason is on standard error)")
	}
	c := &conn{handle: h, key: key}
	if err := e.prepare(c, settings); err != nil {
		e.lib.closeConn(h)
		return nil, err
	}
	return c, nil
}

// prepare runs USE and SET. They could be arguments of the connection too, but there a wrong value has no message
// and an unknown database is ignored.
func (e *Engine) prepare(c *conn, settings map[string]string) error {
	if c.key.database != "" {
		if err := e.run(c, "USE "+quoteName(c.key.database)); err != nil {
			return err
		}
	}
	if c.key.readOnly {
		settings = e.readerLimits(settings)
	}
	return e.run(c, setStatement(settings))
}

// run runs a statement of our own on a connection; "" is none.
func (e *Engine) run(c *conn, sql string) error {
	if sql == "" {
		return nil
	}
	_, _, err := e.collect(start(e.lib.query, c.conn(), sql, "Null", nil))
	return err
}

// acquire takes a connection for a statement, waiting for its turn.
func (e *Engine) acquire(ctx context.Context, key poolKey, settings map[string]string) (*conn, error) {
	if err := e.enter(); err != nil {
		return nil, err
	}
	if err := e.turns(key).Acquire(ctx, 1); err != nil {
		e.running.Done()
		return nil, err
	}
	if len(settings) == 0 {
		e.mu.Lock()
		if free := e.idle[key]; len(free) > 0 {
			c := free[len(free)-1]
			e.idle[key] = free[:len(free)-1]
			e.mu.Unlock()
			return c, nil
		}
		e.mu.Unlock()
	}
	c, err := e.connect(key, settings)
	if err != nil {
		e.turns(key).Release(1)
		e.running.Done()
	}
	return c, err
}

// release gives a connection back: into the pool if keep, else it is closed.
func (e *Engine) release(c *conn, keep bool) {
	e.mu.Lock()
	// The pool holds as many as can run at once, of whatever databases: more could never be busy.
	total := 0
	for key, free := range e.idle {
		if key.readOnly == c.key.readOnly {
			total += len(free)
		}
	}
	keep = keep && total < e.o.Writers+e.o.Readers
	if keep {
		e.idle[c.key] = append(e.idle[c.key], c)
	}
	e.mu.Unlock()
	if !keep {
		e.lib.closeConn(c.handle)
	}
	e.turns(c.key).Release(1)
	e.running.Done()
}

func (e *Engine) turns(key poolKey) *semaphore.Weighted {
	if key.readOnly {
		return e.readers
	}
	return e.writers
}
