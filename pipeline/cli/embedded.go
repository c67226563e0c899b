package cli

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"
	"github.com/tailrace/tailrace/connectors/embedded"
	"github.com/tailrace/tailrace/deploy/native"
)

// serverOptions are where the embedded servers listen and keep their data.
type serverOptions struct {
	data   string
	kafka  string
	http   string
	native string
}

// servers are the two embedded servers.
type servers struct {
	kafka        *embedded.Kafka
	clickhouse   *embedded.ClickHouse
	passwordFile string // of ClickHouse's writer, absolute
}

func (s *servers) close() error {
	var err error
	if s.clickhouse != nil {
		err = s.clickhouse.Close()
	}
	if s.kafka != nil {
		err = errors.Join(err, s.kafka.Close())
	}
	return err
}

// startServers fetches the ClickHouse engine if need be and starts both servers.
func (e *env) startServers(ctx context.Context, o serverOptions) (*servers, error) {
	library, err := native.Resolve(ctx, native.LibCHDB, native.Options{Progress: e.fetching()})
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(o.data, 0o700); err != nil {
		return nil, fmt.Errorf("%w: data folder: %w", errStart, err)
	}
	dir, err := filepath.Abs(filepath.Join(o.data, "clickhouse"))
	if err != nil {
		return nil, fmt.Errorf("%w: data folder: %w", errStart, err)
	}
	s := &servers{passwordFile: filepath.Join(dir, embedded.PasswordFile)}
	s.kafka, err = embedded.StartKafka(ctx, embedded.KafkaConfig{Dir: filepath.Join(o.data, "kafka"), Addr: o.kafka})
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errStart, err)
	}
	s.clickhouse, err = embedded.StartClickHouse(ctx, embedded.ClickHouseConfig{
		Dir: dir, Library: library, HTTPAddr: o.http, NativeAddr: o.native, Log: e.log,
	})
	if err != nil {
		return nil, errors.Join(fmt.Errorf("%w: %w", errStart, err), s.close())
	}
	return s, nil
}

func (e *env) embeddedCommand() *cobra.Command {
	var o serverOptions
	c := &cobra.Command{
		Use:   "embedded",
		Short: "Run the embedded Kafka broker and ClickHouse engine alone, for your own producers and queries",
		Args:  cobra.NoArgs,
		RunE:  func(cmd *cobra.Command, _ []string) error { return e.embedded(cmd.Context(), o) },
	}
	c.Flags().StringVar(&o.data, "data", "tailrace-data", "folder of both servers")
	c.Flags().StringVar(&o.kafka, "kafka", "127.0.0.1:9092", "address of the broker; port 0 takes a free one")
	c.Flags().StringVar(&o.http, "http", "127.0.0.1:8123", "address of ClickHouse's HTTP interface; port 0 takes a free one")
	c.Flags().StringVar(&o.native, "native", "127.0.0.1:9000", "address of ClickHouse's native interface; port 0 takes a free one")
	return c
}

func (e *env) embedded(ctx context.Context, o serverOptions) error {
	s, err := e.startServers(ctx, o)
	if err != nil {
		return err
	}
	if e.json {
		err = e.print(map[string]any{
			"kafka": s.kafka.Addrs(), "clickhouse_http": s.clickhouse.HTTPAddr(), "clickhouse_native": s.clickhouse.NativeAddr(),
			"clickhouse_version": s.clickhouse.Engine().Version(), "password_file": s.passwordFile, "data": o.data,
		})
	} else {
		e.describeServers(s)
		e.progress("\nCtrl+C ends both; the data stays in %s.", o.data)
	}
	if err == nil {
		<-ctx.Done()
	}
	return errors.Join(err, s.close())
}

// describeServers says how to reach the servers with ordinary clients.
func (e *env) describeServers(s *servers) {
	e.progress("Kafka      %s", s.kafka.Addrs()[0])
	e.progress("           kcat -b %s -L", s.kafka.Addrs()[0])
	e.progress("ClickHouse %s (HTTP), %s (native), version %s", s.clickhouse.HTTPAddr(), s.clickhouse.NativeAddr(), s.clickhouse.Engine().Version())
	e.progress("           curl 'http://%s/?query=SELECT+1'", s.clickhouse.HTTPAddr())
	e.progress("           user default reads; user tailrace writes, its password is in %s", s.passwordFile)
}

// fetching reports the fetch of native libraries, a line for each step.
func (e *env) fetching() func(native.Progress) {
	var last native.Stage
	return func(p native.Progress) {
		if p.Stage == last {
			return
		}
		last = p.Stage
		e.progress("%s %s: %s", p.Library.Name, p.Library.Version, p.Stage)
	}
}
