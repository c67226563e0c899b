// Tailrace scores plant data from Kafka with neural networks and stores it in ClickHouse.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"github.com/apache/arrow/go/v15/arrow/memory"
	"github.com/tailrace/tailrace/pipeline/cli"
)

// version is the program's own; releases set it when they link.
var version = "0.1.0-dev"

func main() {
	ctx, cancel := context.WithCancel(context.Background())
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	go func() {
		<-signals
		cancel() // the first asks to stop: what was read is stored and committed
		<-signals
		os.Exit(130) // the second ends at once
	}()
	app := cli.App{
		Components: components(), Out: os.Stdout, Err: os.Stderr, Alloc: memory.DefaultAllocator, Version: version,
	}
	code := cli.Main(ctx, app, os.Args[1:])
	cancel()
	os.Exit(code)
}
