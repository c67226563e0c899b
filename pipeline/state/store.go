package state

import (
	"context"
	"errors"
	"time"
)

// Store keeps blobs. Its methods may be called from several goroutines and processes. Every error but ErrNotFound may pass:
// whoever calls tries again.
type Store interface {
	// Open checks that blobs can be written, read and removed.
	Open(ctx context.Context) error
	// Put stores data under name and returns nil only when a loss of power can't take it back. A name is written once:
	// if it exists already, with the same data since names carry a hash of it, that is no error.
	Put(ctx context.Context, name string, data []byte) error
	// Get returns the blob; ErrNotFound if there is none.
	Get(ctx context.Context, name string) ([]byte, error)
	// List gives the blobs whose names begin with prefix, by name.
	List(ctx context.Context, prefix string) ([]Info, error)
	// Delete removes a blob. One that is not there is no error.
	Delete(ctx context.Context, name string) error
	Close() error
}

// Info is what List says of a blob.
type Info struct {
	Name     string
	Size     int64
	Modified time.Time
}

// ErrNotFound says that there is no such blob.
var ErrNotFound = errors.New("no such blob")
