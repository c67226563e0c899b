package embedded

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/ClickHouse/ch-go/proto"

	"github.com/tailrace/tailrace/connectors/embedded/chdb"
	"github.com/tailrace/tailrace/connectors/embedded/chwire"
)

// Codes of ClickHouse's exceptions that the native face raises itself (src/Common/ErrorCodes.cpp).
const (
	codeNotImplemented  = 48
	codeSyntax          = 62
	codeUnknownDatabase = 81
	codeUnknownPacket   = 99
	codeTimeout         = 159
	codeReadOnly        = 164
	codeTooManyQueries  = 202
	codeTooManyBytes    = 307
	codeCancelled       = 394
	codeUnknown         = 1002
)

func exception(code int, format string, args ...any) error {
	return &chdb.Exception{Code: code, Name: proto.Error(code).String(), Message: fmt.Sprintf(format, args...)}
}

func errReaderInsert() error {
	return exception(codeReadOnly, "Cannot execute query in readonly mode: this user may only read")
}

// causeOf prefers why a statement's context ended over what the engine made of it.
func causeOf(ctx context.Context, err error) error {
	if cause := context.Cause(ctx); cause != nil {
		return cause
	}
	return err
}

// exceptionOf is an error as the protocol carries it.
func exceptionOf(err error) *proto.Exception {
	code, message := codeUnknown, err.Error()
	var e *chdb.Exception
	var limit *chwire.LimitError
	var unknown *chwire.UnknownTypeError
	switch {
	case errors.As(err, &e):
		code, message = e.Code, e.Message
	case errors.As(err, &limit):
		code = codeTooManyBytes
	case errors.As(err, &unknown):
		code = codeNotImplemented
	case errors.Is(err, errCancelled), errors.Is(err, context.Canceled):
		code = codeCancelled
	case errors.Is(err, context.DeadlineExceeded):
		code = codeTimeout
	}
	const name = "DB::Exception"
	if !strings.HasPrefix(message, name) {
		message = name + ": " + message // as servers do: the clients cut it off again
	}
	return &proto.Exception{Code: proto.Error(code), Name: name, Message: message}
}
