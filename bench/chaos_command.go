package main

import (
	"bufio"
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/tailrace/tailrace/pipeline"
)

func chaosCommand(ctx context.Context, flags *flag.FlagSet, args []string, log io.Writer) (any, []string, error) {
	c := chaosConfig{memory: 64 << 20}
	flags.StringVar(&c.scenario, "scenario", scenarioKills, "what happens: "+strings.Join(scenarios(), ", "))
	flags.IntVar(&c.kills, "kills", 30, "kills, of the scenario kills")
	flags.Uint64Var(&c.seed, "seed", 1, "of the load and of what happens")
	flags.StringVar(&c.kafka, "kafka", apacheKafka, "the broker: apache or embedded")
	flags.Float64Var(&c.seconds, "seconds", 30, "the least time of load")
	// Half of what three processes, two servers and the load keep up with on 2 cores, so that they catch up after a kill.
	flags.Float64Var(&c.rate, "rate", 4000, "messages a second")
	flags.IntVar(&c.processes, "processes", 3, "processes that share the topic")
	flags.IntVar(&c.partitions, "partitions", 6, "partitions of the topic")
	flags.IntVar(&c.assets, "assets", 24, "assets of the load")
	flags.DurationVar(&c.away, "away", 2*time.Minute, "how long ClickHouse is away or hung")
	flags.TextVar(&c.memory, "memory", c.memory, "limits.memory of each process")
	flags.StringVar(&c.delivery, "delivery", pipeline.ExactlyOnce,
		"checkpoint.delivery; another than exactly_once shows that the gates fail")
	flags.StringVar(&c.dir, "dir", "", "folder for data and logs, which is kept; a temporary one if empty")
	var err error
	if c.log, err = parse(flags, args, log); err != nil {
		return nil, nil, err
	}
	switch {
	case !slices.Contains(scenarios(), c.scenario):
		err = fmt.Errorf("--scenario: want %s, got %q", strings.Join(scenarios(), ", "), c.scenario)
	case c.kafka != apacheKafka && c.kafka != embeddedKafka:
		err = fmt.Errorf("--kafka: want apache or embedded, got %q", c.kafka)
	case c.kills < 4 || c.kills > 10_000:
		err = fmt.Errorf("--kills: want 4 (one of each kind) to 10000, got %d", c.kills)
	case !(c.seconds >= 0) || c.seconds > 36_000:
		err = fmt.Errorf("--seconds: want 0 to 36000, got %g", c.seconds)
	case !(c.rate > 0):
		err = fmt.Errorf("--rate: want above 0, got %g", c.rate)
	case c.processes < 1 || c.processes > 32:
		err = fmt.Errorf("--processes: want 1 to 32, got %d", c.processes)
	case c.partitions < 1 || c.partitions > 1000:
		err = fmt.Errorf("--partitions: want 1 to 1000, got %d", c.partitions)
	case c.assets < c.partitions:
		err = fmt.Errorf("--assets: want at least one for each of %d partitions, got %d", c.partitions, c.assets)
	}
	if err != nil {
		return nil, nil, err
	}
	result, err := chaos(ctx, c)
	if err != nil {
		return nil, nil, err
	}
	return result, result.Faults, nil
}

// generateCommand prints the load of the benchmarks: key, tab, value.
func generateCommand(ctx context.Context, args []string, out, log io.Writer) error {
	flags := flag.NewFlagSet("generate", flag.ContinueOnError)
	flags.SetOutput(log)
	seed := flags.Uint64("seed", 1, "of the messages")
	assets := flags.Int("assets", 24, "assets")
	messages := flags.Int("messages", 100_000, "how many")
	if err := flags.Parse(args); err != nil {
		return err
	}
	switch {
	case flags.NArg() > 0:
		return fmt.Errorf("want flags alone, got %q", flags.Args())
	case *assets < 1:
		return fmt.Errorf("--assets: want 1 or more, got %d", *assets)
	}
	dir, err := os.MkdirTemp("", "tailrace-generate-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	tags, _, err := copyModels(dir)
	if err != nil {
		return err
	}
	w := bufio.NewWriter(out)
	g := NewGenerator(plantGenerator(*seed, *assets, tags))
	for range *messages {
		m, ok := g.Next()
		if !ok || ctx.Err() != nil {
			break
		}
		fmt.Fprintf(w, "%s\t%s\n", m.Key, m.Value) // Flush gives the first error
	}
	return w.Flush()
}
