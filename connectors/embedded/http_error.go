package embedded

import (
	"context"
	"errors"
	"io"
	"net/http"
	"strconv"

	"github.com/tailrace/tailrace/connectors/embedded/chdb"
	"github.com/tailrace/tailrace/connectors/embedded/chwire"
)

// Codes of ClickHouse's exceptions that the HTTP face raises itself (src/Common/ErrorCodes.cpp).
const (
	codeBadArguments          = 36
	codeUnknownCompression    = 89
	codeInvalidSessionTimeout = 374
	codeSessionNotFound       = 372
	codeSessionIsLocked       = 373
)

// failure is an error as the HTTP interface carries it.
func failure(err error) *chdb.Exception {
	var e *chdb.Exception
	var limit *chwire.LimitError
	switch {
	case errors.As(err, &e):
		return e
	case errors.As(err, &limit):
		return &chdb.Exception{Code: codeTooManyBytes, Name: "TOO_MANY_BYTES", Message: err.Error()}
	case errors.Is(err, context.DeadlineExceeded):
		return &chdb.Exception{Code: codeTimeout, Name: "TIMEOUT_EXCEEDED", Message: err.Error()}
	case errors.Is(err, context.Canceled), errors.Is(err, chdb.ErrClosed):
		return &chdb.Exception{Code: codeCancelled, Name: "QUERY_WAS_CANCELLED", Message: err.Error()}
	case errors.Is(err, io.ErrUnexpectedEOF):
		return &chdb.Exception{Code: 33, Name: "CANNOT_READ_ALL_DATA", Message: err.Error()}
	}
	return &chdb.Exception{Code: codeUnknown, Name: "UNKNOWN_EXCEPTION", Message: err.Error()}
}

// statusOf is the HTTP status that a ClickHouse server gives an exception (src/Server/HTTP/exceptionCodeToHTTPStatus).
func statusOf(code int) int {
	switch code {
	case 194: // REQUIRED_PASSWORD
		return http.StatusUnauthorized
	case codeAuthentication, 192, 193, 497, codeReadOnly:
		return http.StatusForbidden
	case 6, 25, 26, 27, 38, 41, 53, 59, 62, 69, 72, 117, 131, 321, 427, 457, codeBadArguments, codeUnknownCompression,
		codeInvalidSessionTimeout: // what is wrong with the text or the data
		return http.StatusBadRequest
	case 46, 47, 50, 56, 60, 61, 63, 73, 78, 81, 115, codeSessionNotFound: // UNKNOWN_...
		return http.StatusNotFound
	case codeTimeout:
		return http.StatusRequestTimeout
	case codeTooManyQueries, codeCancelled, 209:
		return http.StatusServiceUnavailable
	case codeTooManyBytes:
		return http.StatusRequestEntityTooLarge
	case codeSessionIsLocked:
		return http.StatusLocked
	case codeNotImplemented:
		return http.StatusNotImplemented
	}
	return http.StatusInternalServerError
}

// text is the line that clients look for.
func (s *httpServer) text(e *chdb.Exception) string {
	return e.Error() + " (version " + s.engine.Version() + ")\n"
}

// fail answers a request of which nothing has been answered yet.
func (s *httpServer) fail(w http.ResponseWriter, err error) {
	e := failure(err)
	h := w.Header()
	for _, name := range []string{"Content-Encoding", "X-ClickHouse-Format", exceptionTag} {
		h.Del(name)
	}
	h.Set("Content-Type", "text/plain; charset=UTF-8")
	h.Set("X-ClickHouse-Exception-Code", strconv.Itoa(e.Code))
	w.WriteHeader(statusOf(e.Code))
	_, _ = io.WriteString(w, s.text(e)) // a client that has gone needs no answer
}
