package clickhouse

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/ClickHouse/ch-go"
	"github.com/ClickHouse/ch-go/proto"
	"github.com/ClickHouse/clickhouse-go/v2"

	"github.com/tailrace/tailrace/connectors/credentials"
	"github.com/tailrace/tailrace/pipeline"
)

// kind says what may be done about an error.
type kind int

const (
	transient kind = iota // the same block may pass later
	closed                // the server turns us away: at the start the user must mend that, later it may be mended for us
	access                // the user must change something: a name, a password, a grant, the tables
	refused               // the rows are at fault: the server refuses this block and will again
	broken                // the server fails for a reason that neither time nor other rows mend, as far as is known
)

// transientCodes are the exceptions that the state of the server or the network explains, not the block: the names in
// ClickHouse's src/Common/ErrorCodes.cpp.
var transientCodes = []proto.Error{
	32,  // ATTEMPT_TO_READ_AFTER_EOF: the connection broke inside the block
	95,  // CANNOT_READ_FROM_SOCKET
	96,  // CANNOT_WRITE_TO_SOCKET
	159, // TIMEOUT_EXCEEDED
	173, // CANNOT_ALLOCATE_MEMORY
	201, // QUOTA_EXCEEDED: a quota is per interval
	202, // TOO_MANY_SIMULTANEOUS_QUERIES
	203, // NO_FREE_CONNECTION
	209, // SOCKET_TIMEOUT
	210, // NETWORK_ERROR
	225, // NO_ZOOKEEPER
	236, // ABORTED
	241, // MEMORY_LIMIT_EXCEEDED
	242, // TABLE_IS_READ_ONLY: the replica has lost Keeper
	243, // NOT_ENOUGH_SPACE
	252, // TOO_MANY_PARTS: merges are behind
	279, // ALL_CONNECTION_TRIES_FAILED
	285, // TOO_FEW_LIVE_REPLICAS
	286, // UNSATISFIED_QUORUM_FOR_PREVIOUS_WRITE
	319, // UNKNOWN_STATUS_OF_INSERT
	394, // QUERY_WAS_CANCELLED: by the server's going down, or by hand
	425, // SYSTEM_ERROR
	439, // CANNOT_SCHEDULE_TASK
	999, // KEEPER_EXCEPTION
}

// refusedCodes are the exceptions that the rows of a block explain: of a constraint, of a default or a materialized view
// that computes with them.
var refusedCodes = []proto.Error{
	6,   // CANNOT_PARSE_TEXT, and its kin below
	25,  // CANNOT_PARSE_ESCAPE_SEQUENCE
	26,  // CANNOT_PARSE_QUOTED_STRING
	27,  // CANNOT_PARSE_INPUT_ASSERTION_FAILED
	36,  // BAD_ARGUMENTS
	38,  // CANNOT_PARSE_DATE
	41,  // CANNOT_PARSE_DATETIME
	69,  // ARGUMENT_OUT_OF_BOUND
	70,  // CANNOT_CONVERT_TYPE
	72,  // CANNOT_PARSE_NUMBER
	117, // INCORRECT_DATA
	128, // TOO_LARGE_ARRAY_SIZE
	131, // TOO_LARGE_STRING_SIZE
	135, // ZERO_ARRAY_OR_TUPLE_INDEX
	153, // ILLEGAL_DIVISION
	190, // SIZES_OF_ARRAYS_DONT_MATCH
	321, // VALUE_IS_OUT_OF_RANGE_OF_DATA_TYPE
	349, // CANNOT_INSERT_NULL_IN_ORDINARY_COLUMN
	376, // CANNOT_PARSE_UUID
	395, // FUNCTION_THROW_IF_VALUE_IS_NON_ZERO
	407, // DECIMAL_OVERFLOW
	427, // CANNOT_COMPILE_REGEXP
	434, // CANNOT_PARSE_DOMAIN_VALUE_FROM_STRING
	469, // VIOLATED_CONSTRAINT
	675, // CANNOT_PARSE_IPV4
	676, // CANNOT_PARSE_IPV6
	691, // UNKNOWN_ELEMENT_OF_ENUM
}

// accessCodes are the exceptions that only a change of the configuration or of the server mends.
var accessCodes = []proto.Error{
	16,  // NO_SUCH_COLUMN_IN_TABLE
	60,  // UNKNOWN_TABLE
	81,  // UNKNOWN_DATABASE
	115, // UNKNOWN_SETTING: the server is too old
	164, // READONLY: the user may only read
	291, // DATABASE_ACCESS_DENIED
}

// closedCodes are the exceptions of a login, or of a grant that is missing.
var closedCodes = []proto.Error{
	192, // UNKNOWN_USER
	193, // WRONG_PASSWORD
	194, // REQUIRED_PASSWORD
	497, // ACCESS_DENIED
	516, // AUTHENTICATION_FAILED
}

const codeUnknownDatabase proto.Error = 81

// codeOf is the code of the exception that err carries, from either client.
func codeOf(err error) (proto.Error, bool) {
	var raw *ch.Exception
	if errors.As(err, &raw) {
		return raw.Code, true
	}
	var plain *clickhouse.Exception
	if errors.As(err, &plain) {
		return proto.Error(plain.Code), true
	}
	return 0, false
}

// kindOf sorts err. What is no exception happened on the way, and may go better the next time.
func kindOf(err error) kind {
	if errors.Is(err, pipeline.ErrConfig) {
		return access
	}
	if errors.Is(err, errAbsent) {
		return broken
	}
	code, ok := codeOf(err)
	switch {
	case credentials.Refused(err), slices.Contains(closedCodes, code):
		return closed
	case !ok, slices.Contains(transientCodes, code):
		return transient
	case slices.Contains(accessCodes, code):
		return access
	case slices.Contains(refusedCodes, code):
		return refused
	}
	return broken
}

// worthRetry says whether another attempt may pass once blocks have been sent: a door that is closed then opens again.
func worthRetry(err error) bool {
	k := kindOf(err)
	return k == transient || k == closed
}

// asAccess makes an error of access one that wraps ErrConfig, and leaves others.
func asAccess(err error) error {
	if kindOf(err) == access {
		return asConfig(err)
	}
	return err
}

// closedCause tells closed doors apart; "" is none.
func closedCause(err error) string {
	if kindOf(err) != closed {
		return ""
	}
	if code, ok := codeOf(err); ok {
		return code.String()
	}
	return credentials.Cause(err)
}

// asConfig makes an error that no retry mends one that wraps ErrConfig. Before the first block there is no data that
// could be at fault.
func asConfig(err error) error {
	if err == nil || errors.Is(err, pipeline.ErrConfig) || kindOf(err) == transient {
		return err
	}
	return fmt.Errorf("%w: %w", pipeline.ErrConfig, err)
}

// fault is a cause of failed attempts, for the counters.
type fault string

const (
	faultParts      fault = "too_many_parts"
	faultMemory     fault = "memory"
	faultTimeout    fault = "timeout"
	faultClosed     fault = "turned_away"
	faultConnection fault = "connection"
	faultServer     fault = "server"
)

// failuresBy is the counter of a cause.
func failuresBy(f fault) string { return "failures_" + string(f) }

// faultOf sorts an error that is worth another attempt.
func faultOf(err error) fault {
	code, answered := codeOf(err)
	switch {
	case kindOf(err) == closed:
		return faultClosed
	case code == 252:
		return faultParts
	case code == 241, code == 173:
		return faultMemory
	case errors.Is(err, context.DeadlineExceeded), code == 159, code == 209:
		return faultTimeout
	case !answered:
		return faultConnection
	}
	return faultServer
}
