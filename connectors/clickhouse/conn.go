package clickhouse

import (
	"context"
	"fmt"
	"log/slog"
	"net"

	"github.com/ClickHouse/ch-go"
	"github.com/ClickHouse/ch-go/proto"
	"github.com/ClickHouse/clickhouse-go/v2"
	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"
)

// Conn is a connection of clickhouse-go: DDL, and queries for people.
type Conn = driver.Conn

// Connect returns a connection for statements and queries, checked by a ping. It lives no longer than ctx. Relative paths
// start in the working folder: see [Config.In]. What no retry mends wraps pipeline.ErrConfig. The caller closes it.
func Connect(ctx context.Context, c Config) (Conn, error) { return connect(ctx, c, c.Database) }

func connect(ctx context.Context, c Config, database string) (Conn, error) {
	password, err := c.password()
	if err != nil {
		return nil, asConfig(fmt.Errorf("%s: %w", c, err))
	}
	conn, err := clickhouse.Open(&clickhouse.Options{
		Addr:        []string{c.Address},
		Auth:        clickhouse.Auth{Database: database, Username: c.User, Password: password},
		DialTimeout: c.DialTimeout,
		ReadTimeout: c.InsertTimeout,
		DialContext: func(dialing context.Context, _ string) (net.Conn, error) {
			conn, err := dial(dialing, c)
			if err != nil {
				return nil, err
			}
			return bind(ctx, conn), nil
		},
		Logger: slog.New(slog.DiscardHandler),
		// Statements run one after the other; a summary asks a few questions at once at most.
		MaxOpenConns: 4,
		MaxIdleConns: 1,
	})
	if err != nil {
		return nil, fmt.Errorf("%s: %w", c, err)
	}
	if err := conn.Ping(ctx); err != nil {
		conn.Close()
		if _, answered := codeOf(err); !answered {
			err = c.TLS.Explain(c.Address, err)
			err = c.TLS.Diagnose(ctx, c.Address, func(ctx context.Context) bool { return speaksNative(ctx, c.Address) }, err)
		}
		return nil, asConfig(fmt.Errorf("%s: %w", c, err))
	}
	return conn, nil
}

// dial is where every connection to the server begins, encrypted if it is to be.
func dial(ctx context.Context, c Config) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, c.DialTimeout)
	defer cancel()
	var d net.Dialer
	conn, err := d.DialContext(ctx, "tcp", c.Address)
	if err != nil {
		return nil, err
	}
	return c.TLS.Client(ctx, conn, c.Address)
}

// speaksNative tells whether a server answers without TLS. It gives no user and no password.
func speaksNative(ctx context.Context, address string) bool {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "tcp", address)
	if err != nil {
		return false
	}
	defer conn.Close()
	client, err := ch.Connect(ctx, conn, ch.Options{})
	if err == nil {
		client.Close()
		return true
	}
	_, answered := codeOf(err)
	return answered
}

// bound is a connection that the end of a context closes. Without it a server that accepts and then says nothing would
// hold clickhouse-go until its read timeout: it does not look at the context while it logs in or pings.
type bound struct {
	net.Conn
	unbind func() bool
}

func bind(ctx context.Context, conn net.Conn) *bound {
	return &bound{Conn: conn, unbind: context.AfterFunc(ctx, func() { conn.Close() })}
}

func (b *bound) Close() error {
	b.unbind()
	return b.Conn.Close()
}

// writer is one connection for blocks. It is for one goroutine.
type writer struct {
	client *ch.Client
	conn   net.Conn
}

// dialWriter connects and logs in. buf is kept between connections: it has the size of a block.
func dialWriter(ctx context.Context, c Config, buf *proto.Buffer) (*writer, error) {
	password, err := c.password()
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, c.DialTimeout)
	defer cancel()
	conn, err := dial(ctx, c)
	if err != nil {
		return nil, err
	}
	compression := ch.CompressionDisabled
	if c.Compression == CompressionLZ4 {
		compression = ch.CompressionLZ4
	}
	client, err := ch.ConnectWithBuffer(ctx, conn, ch.Options{
		Database: c.Database, User: c.User, Password: password, Compression: compression,
		ReadTimeout: ch.NoTimeout, // each call has its context's deadline
		ClientName:  "tailrace",
	}, buf)
	if err != nil {
		conn.Close()
		return nil, c.TLS.Explain(c.Address, err)
	}
	return &writer{client: client, conn: conn}, nil
}

// do runs q. The connection is good for another call only if it returns nil. When ctx ends the connection is closed under
// the call: a server that has stopped reading would hold it otherwise.
func (w *writer) do(ctx context.Context, q ch.Query) error {
	stop := context.AfterFunc(ctx, func() { w.conn.Close() })
	err := w.client.Do(ctx, q)
	if !stop() && err == nil {
		// The acknowledgement came, and then the end: the block is in.
		w.close()
	}
	return err
}

// close ends the connection. An error of closing says nothing: blocks are acknowledged one by one.
func (w *writer) close() { w.client.Close() }

func (w *writer) closed() bool { return w.client.IsClosed() }
