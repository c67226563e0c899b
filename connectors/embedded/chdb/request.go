package chdb

import (
	"regexp"
	"strconv"
	"strings"
	"time"
)

// Request is one statement. Engine methods do not keep it.
type Request struct {
	// SQL is one statement, without data. Insert also takes "INSERT INTO t (a, b) ... FORMAT Native".
	SQL string
	// Database is the current database; "" is "default".
	Database string
	// Format is the output format of Query and Stream, or the input format of Insert where SQL names none;
	// "" is TabSeparated. A FORMAT clause in SQL wins.
	Format string
	// Settings are query settings by name. A name that the engine does not know is an Exception with code 115;
	// with ReadOnly one that a reader may not change is one with code 164.
	Settings map[string]string
	// Params are the values of {name:Type} in SQL, escaped as in a TabSeparated field.
	Params map[string]string
	// ReadOnly allows statements that leave no trace (SELECT, SHOW, DESCRIBE, EXPLAIN, EXISTS, CHECK), runs them
	// with readonly=1, which refuses file(), url() and their like, and bounds them by the engine's reader limits.
	ReadOnly bool
	// Session, if not nil, runs the statement on the session's own connection, with its database, as a writer.
	Session *Session
}

// Stats are the engine's counts for one statement. Bytes are those of the columns in memory.
type Stats struct {
	ResultRows, ResultBytes   uint64
	ReadRows, ReadBytes       uint64 // from tables
	WrittenRows, WrittenBytes uint64 // of all tables: materialized views count too
	Elapsed                   time.Duration
}

func (s *Stats) add(o Stats) {
	s.ResultRows += o.ResultRows
	s.ResultBytes += o.ResultBytes
	s.ReadRows = max(s.ReadRows, o.ReadRows)
	s.ReadBytes = max(s.ReadBytes, o.ReadBytes)
	s.WrittenRows = max(s.WrittenRows, o.WrittenRows)
	s.WrittenBytes = max(s.WrittenBytes, o.WrittenBytes)
	s.Elapsed = max(s.Elapsed, o.Elapsed)
}

// Exception is an error of ClickHouse's own, as its protocols carry it.
type Exception struct {
	Code    int    // 60
	Name    string // UNKNOWN_TABLE
	Message string // without "Code: 60. DB::Exception: " and without "(UNKNOWN_TABLE)"
}

// Error is ClickHouse's usual line.
func (e *Exception) Error() string {
	return "Code: " + strconv.Itoa(e.Code) + ". DB::Exception: " + e.Message + " (" + e.Name + ")"
}

// Codes of exceptions that this package raises itself, with ClickHouse's numbers and names.
const (
	codeSyntax         = 62
	codeUnknownSetting = 115
	codeReadOnly       = 164
	codeTooManyQueries = 202
	codeCancelled      = 394
	codeUnknown        = 1002
)

func exception(code int, name, message string) *Exception {
	return &Exception{Code: code, Name: name, Message: message}
}

var exceptionText = regexp.MustCompile(
	`(?s)^Code: (\d+)\. (?:DB::)?(?:Net)?Exception: (.*?)` +
		`(?:\s*\(([A-Z][A-Z0-9_]+)\))?(?:\s*\(version [^()]*(?:\([^()]*\))?\))?\s*$`)

// parseException reads the engine's error text. Text of another form is an exception with code 1002.
func parseException(s string) *Exception {
	m := exceptionText.FindStringSubmatch(s)
	if m == nil {
		return exception(codeUnknown, "UNKNOWN_EXCEPTION", strings.TrimSpace(s))
	}
	code, err := strconv.Atoi(m[1])
	if err != nil {
		code = codeUnknown
	}
	return exception(code, m[3], m[2])
}
