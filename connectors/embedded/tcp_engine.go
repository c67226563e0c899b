package embedded

import (
	"context"
	"io"

	"github.com/tailrace/tailrace/connectors/embedded/chdb"
)

// engine is what the native face needs of a chdb.Engine. Tests put one in its place that fails where they want it to.
type engine interface {
	Version() string
	Query(context.Context, chdb.Request) ([]byte, chdb.Stats, error)
	Stream(context.Context, chdb.Request) (rows, error)
	Insert(context.Context, chdb.Request, io.Reader) (chdb.Stats, error)
}

// rows is a result in chunks of one Native block each.
type rows interface {
	Next() ([]byte, error)
	Stats() chdb.Stats
	Close() error
}

type (
	request = chdb.Request
	stats   = chdb.Stats
)

// embeddedEngine is a chdb.Engine as an engine.
type embeddedEngine struct{ *chdb.Engine }

func (e embeddedEngine) Stream(ctx context.Context, r chdb.Request) (rows, error) {
	result, err := e.Engine.Stream(ctx, r)
	if err != nil {
		return nil, err
	}
	return result, nil
}
