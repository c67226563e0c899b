package chdb

import (
	"errors"
	"fmt"
	"runtime"
	"unsafe"

	"github.com/ebitengine/purego"
	"golang.org/x/sys/cpu"
)

// library is libchdb's C interface as far as it is used here, bound without cgo. Handles are C memory. The names are
// those of chdb.h without the prefix; every text goes over as pointer and length, so that bytes of any value pass.
type library struct {
	version           func() string
	signalHandlers    func(enabled int32)
	connect           func(argc int32, argv unsafe.Pointer) unsafe.Pointer
	closeConn         func(conn unsafe.Pointer)
	classify          func(conn, sql unsafe.Pointer, n uintptr, db unsafe.Pointer, dbn uintptr, out unsafe.Pointer) int32
	query             statementFunc
	streamQuery       statementFunc
	streamFetch       func(conn, stream unsafe.Pointer) unsafe.Pointer
	streamCancel      func(conn, stream unsafe.Pointer)
	destroyResult     func(result unsafe.Pointer)
	resultBuffer      func(result unsafe.Pointer) unsafe.Pointer
	resultLength      func(result unsafe.Pointer) uintptr
	resultElapsed     func(result unsafe.Pointer) float64
	resultRows        func(result unsafe.Pointer) uint64
	resultBytes       func(result unsafe.Pointer) uint64
	resultReadRows    func(result unsafe.Pointer) uint64
	resultReadBytes   func(result unsafe.Pointer) uint64
	resultWrittenRows func(result unsafe.Pointer) uint64
	resultWritten     func(result unsafe.Pointer) uint64
	resultError       func(result unsafe.Pointer) string
	insert            statementFunc
	insertAppend      func(stream, data unsafe.Pointer, n uintptr) int32
	insertDone        func(stream unsafe.Pointer) unsafe.Pointer
	insertCancel      func(stream unsafe.Pointer)
	insertError       func(stream unsafe.Pointer) string
	insertDestroy     func(stream unsafe.Pointer)
}

// statementFunc is the shape of the three calls that start a statement: text and format with their lengths, then the
// parameters as four arrays and their count.
type statementFunc func(conn, sql unsafe.Pointer, n uintptr, format unsafe.Pointer, fn uintptr,
	names, nameLens, values, valueLens unsafe.Pointer, params uintptr) unsafe.Pointer

// start calls fn with Go strings. They are pinned for the call, since the arrays hold pointers to them; C copies what
// it keeps.
func start(fn statementFunc, conn unsafe.Pointer, sql, format string, params map[string]string) unsafe.Pointer {
	var pin runtime.Pinner
	defer pin.Unpin()
	lend := func(s string) (unsafe.Pointer, uintptr) {
		if s == "" {
			s = "\x00" // C takes a null pointer for a missing argument; the length stays 0
			p := unsafe.Pointer(unsafe.StringData(s))
			return p, 0
		}
		p := unsafe.StringData(s)
		pin.Pin(p)
		return unsafe.Pointer(p), uintptr(len(s))
	}
	n := len(params)
	names, values := make([]unsafe.Pointer, n+1), make([]unsafe.Pointer, n+1)
	nameLens, valueLens := make([]uintptr, n+1), make([]uintptr, n+1)
	i := 0
	for k, v := range params {
		names[i], nameLens[i] = lend(k)
		values[i], valueLens[i] = lend(v)
		i++
	}
	q, qn := lend(sql)
	f, fn2 := lend(format)
	h := fn(conn, q, qn, f, fn2, unsafe.Pointer(&names[0]), unsafe.Pointer(&nameLens[0]),
		unsafe.Pointer(&values[0]), unsafe.Pointer(&valueLens[0]), uintptr(n))
	runtime.KeepAlive([]any{names, nameLens, values, valueLens, sql, format, params})
	return h
}

// load opens the shared library at path and turns its signal handlers off: with them on, a nil dereference in Go
// code hangs the process instead of becoming a panic. The library stays loaded until the process ends, since its
// threads do.
func load(path string) (*library, error) {
	// libchdb is built for x86-64-v3. On a lesser processor its first instruction would end the process.
	if runtime.GOARCH == "amd64" && !(cpu.X86.HasAVX2 && cpu.X86.HasBMI1 && cpu.X86.HasBMI2 && cpu.X86.HasFMA) {
		return nil, errors.New("libchdb needs a processor with AVX2 (x86-64-v3)")
	}
	handle, err := purego.Dlopen(path, purego.RTLD_NOW|purego.RTLD_LOCAL)
	if err != nil {
		return nil, fmt.Errorf("loading %s: %w", path, err)
	}
	var l library
	for name, fn := range map[string]any{
		"chdb_version":                     &l.version,
		"chdb_set_signal_handlers_enabled": &l.signalHandlers,
		"chdb_connect":                     &l.connect,
		"chdb_close_conn":                  &l.closeConn,
		"chdb_classify_query_n":            &l.classify,
		"chdb_query_with_params_n":         &l.query,
		"chdb_stream_query_with_params_n":  &l.streamQuery,
		"chdb_stream_fetch_result":         &l.streamFetch,
		"chdb_stream_cancel_query":         &l.streamCancel,
		"chdb_destroy_query_result":        &l.destroyResult,
		"chdb_result_buffer":               &l.resultBuffer,
		"chdb_result_length":               &l.resultLength,
		"chdb_result_elapsed":              &l.resultElapsed,
		"chdb_result_rows_read":            &l.resultRows,
		"chdb_result_bytes_read":           &l.resultBytes,
		"chdb_result_storage_rows_read":    &l.resultReadRows,
		"chdb_result_storage_bytes_read":   &l.resultReadBytes,
		"chdb_result_rows_written":         &l.resultWrittenRows,
		"chdb_result_bytes_written":        &l.resultWritten,
		"chdb_result_error":                &l.resultError,
		"chdb_stream_insert_with_params_n": &l.insert,
		"chdb_stream_append":               &l.insertAppend,
		"chdb_stream_done":                 &l.insertDone,
		"chdb_stream_cancel_insert":        &l.insertCancel,
		"chdb_stream_insert_error":         &l.insertError,
		"chdb_destroy_insert_stream":       &l.insertDestroy,
	} {
		at, err := purego.Dlsym(handle, name)
		if err != nil {
			return nil, fmt.Errorf("%s is not the libchdb that is wanted: no function %s", path, name)
		}
		purego.RegisterFunc(fn, at)
	}
	l.signalHandlers(0)
	return &l, nil
}
