// Bench measures Tailrace, and kills it:
//
//	go run ./bench training    # against gorgonia
//	go run ./bench w1          # Kafka to ClickHouse, exactly once against at least once
//	go run ./bench snapshot    # what a snapshot of the state costs
//	go run ./bench chaos       # kill -9 at every step, and compare with an undisturbed run
//	go run ./bench generate    # the telemetry of the others, as lines
//
// Each prints one JSON object, but generate, and ends with 1 if what was computed is wrong or a figure is past its
// limit.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"maps"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	if err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// benchmark takes its command line and gives what is printed, with what is wrong in it. Rounds and figures for people
// go to log.
type benchmark func(ctx context.Context, flags *flag.FlagSet, args []string, log io.Writer) (result any,
	faults []string, err error)

func benchmarks() map[string]benchmark {
	return map[string]benchmark{
		"training": trainingCommand, "chaos": chaosCommand, "w1": w1Command, "snapshot": snapshotCommand,
	}
}

// run is the command line.
func run(ctx context.Context, args []string, out, log io.Writer) error {
	name := ""
	if len(args) > 0 {
		name = args[0]
	}
	switch name {
	case "generate":
		return named(name, generateCommand(ctx, args[1:], out, log))
	case "serve": // not for people: see serve
		return named(name, serve(ctx, args[1:], log))
	}
	b, ok := benchmarks()[name]
	if !ok {
		return fmt.Errorf("want the name of a benchmark: %s; or generate; got %q",
			strings.Join(slices.Sorted(maps.Keys(benchmarks())), ", "), args)
	}
	flags := flag.NewFlagSet(name, flag.ContinueOnError)
	flags.SetOutput(log)
	flags.Bool("json", false, "print the JSON object alone")
	result, faults, err := b(ctx, flags, args[1:], log)
	if err != nil {
		return named(name, err)
	}
	encoder := json.NewEncoder(out)
	encoder.SetIndent("", "  ")
	if err := encoder.Encode(result); err != nil {
		return err
	}
	if len(faults) > 0 {
		return named(name, errors.New(strings.Join(faults, "; ")))
	}
	return nil
}

func named(name string, err error) error {
	if err == nil || errors.Is(err, flag.ErrHelp) {
		return err
	}
	return fmt.Errorf("%s: %w", name, err)
}

// parse reads the flags, and nothing else; what people read goes nowhere with --json.
func parse(flags *flag.FlagSet, args []string, log io.Writer) (io.Writer, error) {
	if err := flags.Parse(args); err != nil {
		return nil, err
	}
	if flags.NArg() > 0 {
		return nil, fmt.Errorf("want flags alone, got %q", flags.Args())
	}
	if flags.Lookup("json").Value.String() == "true" {
		return io.Discard, nil
	}
	return log, nil
}

func trainingCommand(ctx context.Context, flags *flag.FlagSet, args []string, log io.Writer) (any, []string, error) {
	var c trainingConfig
	flags.Float64Var(&c.seconds, "seconds", 3, "time that each side trains for in a round")
	flags.IntVar(&c.rounds, "rounds", 3, "rounds of both sides, one after the other")
	flags.StringVar(&c.peer, "peer", "bench/peers/gorgonia", "folder of the peer's module")
	var err error
	if c.log, err = parse(flags, args, log); err != nil {
		return nil, nil, err
	}
	switch {
	case !(c.seconds > 0) || c.seconds > 600:
		return nil, nil, fmt.Errorf("--seconds: want above 0 and up to 600, got %g", c.seconds)
	case c.rounds < 1 || c.rounds > 100:
		return nil, nil, fmt.Errorf("--rounds: want 1 to 100, got %d", c.rounds)
	}
	result, err := training(ctx, c)
	if err != nil {
		return nil, nil, err
	}
	return result, result.Faults, nil
}
