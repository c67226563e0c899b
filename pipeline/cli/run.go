package cli

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"

	"github.com/spf13/cobra"
	"github.com/tailrace/tailrace/pipeline"
	"github.com/tailrace/tailrace/pipeline/failpoint"
)

func (e *env) runCommand() *cobra.Command {
	var adopt bool
	var again onceOptions
	cmd := &cobra.Command{
		Use:   "run FILE",
		Short: "Run a pipeline until it is told to stop",
		Long: "Run a pipeline until Ctrl+C or SIGTERM. It then stores and commits what it has read and exits with 0; a\n" +
			"second signal ends it at once.\n\n" +
			"With --once, read a range of the topic again instead, under a new id, and compare what is decided with what was: after an\n" +
			"edit of the file, or with another model. The group, its offsets and the pipeline's state are not touched. What differs is\n" +
			"no fault: the exit code is 0.",
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := again.check(cmd); err != nil {
				return err
			}
			if again.once {
				return e.runOnce(cmd.Context(), args[0], again)
			}
			return e.run(cmd.Context(), args[0], adopt)
		},
	}
	again.define(cmd)
	cmd.Flags().BoolVar(&adopt, "adopt", false,
		"go on where the pipeline would stop: from offsets that another program committed, at the beginning of a topic that was\n"+
			"made anew, or behind offsets that retention deleted")
	return cmd
}

// lend is what an engine gets from the program.
func (e *env) lend() (pipeline.Env, error) {
	home, err := stateHome()
	if err != nil {
		return pipeline.Env{}, err
	}
	fail, err := failpoint.Parse(os.Getenv(failpoint.Env))
	if err != nil {
		return pipeline.Env{}, fmt.Errorf("%w: %w", errStart, err)
	}
	return pipeline.Env{Log: e.log, Alloc: e.Alloc, Local: home, Fail: fail}, nil
}

func (e *env) run(ctx context.Context, path string, adopt bool) error {
	f, err := e.load(path)
	if err != nil {
		return err
	}
	plan, err := e.plan(f, path)
	if err != nil {
		return err
	}
	plan.Adopt = adopt
	if err := e.fetchRuntime(ctx, f); err != nil {
		return stopped(ctx, err)
	}
	var engine *pipeline.Engine
	err = e.traced(ctx, func(lent pipeline.Env) error {
		engine = pipeline.New(plan, lent)
		return serveWhile(ctx, engine, f.HTTP, func(ctx context.Context) error {
			e.log.Info("running", "pipeline", plan.ID, "file", path, "http", f.HTTP.Address)
			return engine.Run(ctx)
		})
	})
	if engine == nil {
		return err
	}
	m := engine.Metrics()
	e.log.Info("stopped", "telemetry", m.Stored(pipeline.Telemetry), "predictions", m.Stored(pipeline.Predictions),
		"events", m.Stored(pipeline.EventsTable))
	if e.json {
		return errors.Join(err, e.print(map[string]any{
			"pipeline": plan.ID, "telemetry_rows": m.Stored(pipeline.Telemetry), "predictions": m.Stored(pipeline.Predictions),
			"events": m.Stored(pipeline.EventsTable),
		}))
	}
	return err
}

// serveWhile serves the engine's metrics and health while f runs.
func serveWhile(ctx context.Context, engine *pipeline.Engine, c pipeline.HTTPConfig, f func(context.Context) error) error {
	if c.Address == "" {
		return f(ctx)
	}
	l, err := net.Listen("tcp", c.Address)
	if err != nil {
		return fmt.Errorf("http.address: %w", err)
	}
	serving, stop := context.WithCancel(context.WithoutCancel(ctx))
	done := make(chan error, 1)
	go func() { done <- engine.Serve(serving, l, c.PProf) }()
	err = f(ctx)
	stop()
	return errors.Join(err, <-done)
}
