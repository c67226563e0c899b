package embedded

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"

	"github.com/tailrace/tailrace/connectors/embedded/chdb"
)

// ClickHouseConfig says where an embedded ClickHouse keeps its data and where it listens.
type ClickHouseConfig struct {
	Dir     string // data folder; made if it does not exist
	Library string // path of libchdb.so

	// HTTPAddr and NativeAddr are loopback addresses, as "127.0.0.1:8123"; port 0 is any free one, "" is no such face.
	HTTPAddr, NativeAddr string
	// TLS encrypts both faces; nil: plaintext. Whether it asks for client certificates is its own affair.
	TLS *tls.Config

	Engine chdb.Options // limits; its Dir and Library are the ones above
	HTTP   HTTPLimits
	Native NativeLimits
	Log    *slog.Logger // default: none
}

// ClickHouse is a running engine with its faces.
type ClickHouse struct {
	engine *chdb.Engine
	access *Access
	http   *httpServer
	native *nativeServer
}

// StartClickHouse opens the data folder and listens. ctx bounds the start only. A taken port is an error that wraps
// syscall.EADDRINUSE and names the address; a data folder in use wraps [chdb.ErrBusy].
func StartClickHouse(ctx context.Context, c ClickHouseConfig) (_ *ClickHouse, err error) {
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	s := &ClickHouse{}
	var listeners []net.Listener
	defer func() {
		if err != nil {
			for _, l := range listeners {
				l.Close()
			}
			err = fmt.Errorf("embedded ClickHouse: %w", errors.Join(err, s.Close()))
		}
	}()
	// Ports first: they fail fast, and a second start is more often a taken port than anything else.
	listen := func(face, addr string) (net.Listener, error) {
		if addr == "" {
			return nil, nil
		}
		l, err := listenLoopback(ctx, addr)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", face, err)
		}
		listeners = append(listeners, l)
		if c.TLS != nil {
			l = tls.NewListener(l, c.TLS)
		}
		return l, nil
	}
	httpListener, err := listen("HTTP", c.HTTPAddr)
	if err != nil {
		return nil, err
	}
	nativeListener, err := listen("native protocol", c.NativeAddr)
	if err != nil {
		return nil, err
	}
	c.Engine.Dir, c.Engine.Library = c.Dir, c.Library
	if s.engine, err = chdb.Open(c.Engine); err != nil {
		return nil, err
	}
	if s.access, err = openAccess(c.Dir); err != nil {
		return nil, err
	}
	if nativeListener != nil {
		login := func(user, password string) (bool, error) {
			role, err := s.access.Login(user, password)
			return role != Writer, err
		}
		s.native, err = startNative(ctx, nativeListener, embeddedEngine{s.engine}, login, c.Log, c.Native)
		if err != nil {
			return nil, err
		}
	}
	if httpListener != nil {
		if s.http, err = startHTTP(ctx, httpListener, s.engine, s.access, c.Log, c.HTTP); err != nil {
			return nil, err
		}
	}
	return s, nil
}

// listenLoopback listens on a loopback address and on no other: the reader has no password.
func listenLoopback(ctx context.Context, addr string) (net.Listener, error) {
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, err
	}
	if ip, err := netip.ParseAddr(host); host != "localhost" && (err != nil || !ip.IsLoopback()) {
		return nil, fmt.Errorf("address %s: want a loopback address such as 127.0.0.1, since reading takes no password", addr)
	}
	var lc net.ListenConfig
	return lc.Listen(ctx, "tcp", addr)
}

// HTTPAddr is the address of the HTTP face, or "".
func (s *ClickHouse) HTTPAddr() string {
	if s.http == nil {
		return ""
	}
	return s.http.listener.Addr().String()
}

// NativeAddr is the address of the native TCP face, or "".
func (s *ClickHouse) NativeAddr() string {
	if s.native == nil {
		return ""
	}
	return s.native.Addr().String()
}

// Password is the password of WriterUser.
func (s *ClickHouse) Password() string { return s.access.password }

// Engine is the engine behind the faces, for use within the process.
func (s *ClickHouse) Engine() *chdb.Engine { return s.engine }

// Close ends running statements and connections, waits for them and releases the data folder.
func (s *ClickHouse) Close() error {
	var errs []error
	if s.http != nil {
		errs = append(errs, s.http.Close())
	}
	if s.native != nil {
		errs = append(errs, s.native.Close())
	}
	if s.engine != nil {
		errs = append(errs, s.engine.Close())
	}
	return errors.Join(errs...)
}
