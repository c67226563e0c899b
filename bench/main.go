// Bench measures Tailrace against other libraries, both sides in one run:
//
//	go run ./bench training
//
// It prints one JSON object and ends with 1 if what was computed is wrong or a ratio is under its floor.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	err := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	if err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// run is the command line. Rounds and figures for people go to log, the JSON object to out.
func run(ctx context.Context, args []string, out, log io.Writer) error {
	if len(args) == 0 || args[0] != "training" {
		return fmt.Errorf("want the name of a benchmark: training; got %q", args)
	}
	c := trainingConfig{log: log}
	flags := flag.NewFlagSet("training", flag.ContinueOnError)
	flags.SetOutput(log)
	flags.Float64Var(&c.seconds, "seconds", 3, "time that each side trains for in a round")
	flags.IntVar(&c.rounds, "rounds", 3, "rounds of both sides, one after the other")
	flags.StringVar(&c.peer, "peer", "bench/peers/gorgonia", "folder of the peer's module")
	quiet := flags.Bool("json", false, "print the JSON object alone")
	if err := flags.Parse(args[1:]); err != nil {
		return err
	}
	switch {
	case flags.NArg() > 0:
		return fmt.Errorf("training: want flags alone, got %q", flags.Args())
	case !(c.seconds > 0) || c.seconds > 600:
		return fmt.Errorf("training: --seconds: want above 0 and up to 600, got %g", c.seconds)
	case c.rounds < 1 || c.rounds > 100:
		return fmt.Errorf("training: --rounds: want 1 to 100, got %d", c.rounds)
	}
	if *quiet {
		c.log = io.Discard
	}
	result, err := training(ctx, c)
	if err != nil {
		return fmt.Errorf("training: %w", err)
	}
	encoder := json.NewEncoder(out)
	encoder.SetIndent("", "  ")
	if err := encoder.Encode(result); err != nil {
		return err
	}
	if len(result.Faults) > 0 {
		return fmt.Errorf("training: %s", result.Faults[0])
	}
	return nil
}
