// Package cli is the outermost layer: the command tree of the program tailrace. It may import everything; only main.go
// imports it.
//
// Exit codes: 0 done; 1 ran and found a fault; 2 could not start (usage, configuration, a port taken, a missing topic or
// library). With --json a command prints one JSON object on standard output and its progress on standard error.
package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"syscall"

	"github.com/apache/arrow/go/v15/arrow/memory"
	"github.com/spf13/cobra"
	"github.com/tailrace/tailrace/deploy/native"
	"github.com/tailrace/tailrace/pipeline"
	"github.com/tailrace/tailrace/pipeline/spec"
)

// Exit codes of the program.
const (
	exitDone  = 0
	exitFault = 1
	exitStart = 2
)

// App is what the program hands to its commands.
type App struct {
	Components pipeline.Components
	Out        io.Writer // results
	Err        io.Writer // progress, logs and errors
	Alloc      memory.Allocator
	Version    string // of the program
}

// env is what the flags of the root command leave to the commands.
type env struct {
	App
	json bool
	log  *slog.Logger
}

// errFound marks that a command ran and found a fault that it has already shown.
var errFound = errors.New("found faults")

// errStart marks errors that keep a command from starting.
var errStart = errors.New("could not start")

// Main runs the command that args name and returns the exit code.
func Main(ctx context.Context, app App, args []string) int {
	e := &env{App: app}
	root := e.root()
	root.SetArgs(args)
	root.SetOut(app.Out)
	root.SetErr(app.Err)
	err := root.ExecuteContext(ctx)
	if err != nil && !errors.Is(err, errFound) {
		fmt.Fprintln(app.Err, "tailrace:", err)
	}
	return exitCode(err)
}

func exitCode(err error) int {
	var faults spec.Faults
	var library *native.Error
	switch {
	case err == nil:
		return exitDone
	case errors.Is(err, errFound):
		return exitFault
	case errors.Is(err, errStart), errors.Is(err, pipeline.ErrConfig), errors.Is(err, syscall.EADDRINUSE),
		errors.As(err, &faults), errors.As(err, &library):
		return exitStart
	}
	return exitFault
}

func (e *env) root() *cobra.Command {
	root := &cobra.Command{
		Use:           "tailrace",
		Short:         "Scores plant data from Kafka with neural networks and stores it in ClickHouse",
		SilenceUsage:  true,
		SilenceErrors: true,
		Args:          usageArgs(cobra.NoArgs), // an unknown command is one argument too many
		RunE:          func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
		PersistentPreRun: func(*cobra.Command, []string) {
			e.log = slog.New(slog.NewTextHandler(e.Err, nil))
		},
	}
	root.PersistentFlags().BoolVar(&e.json, "json", false, "print one JSON object on standard output")
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return usage(err) })
	root.CompletionOptions.HiddenDefaultCmd = true
	for _, c := range []*cobra.Command{
		e.demoCommand(), e.runCommand(), e.checkCommand(), e.trainCommand(), e.replayCommand(), e.schemaCommand(),
		e.embeddedCommand(), e.statusCommand(), e.planCommand(), e.reconcileCommand(), e.dlqCommand(), e.versionCommand(),
	} {
		if c.Args != nil {
			c.Args = usageArgs(c.Args)
		}
		root.AddCommand(c)
	}
	return root
}

// usage marks an error of the command line.
func usage(err error) error { return fmt.Errorf("%w: %w", errStart, err) }

func usageArgs(check cobra.PositionalArgs) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if err := check(cmd, args); err != nil {
			return usage(fmt.Errorf("%w; usage: %s", err, cmd.UseLine()))
		}
		return nil
	}
}

// print writes the one JSON object of a command.
func (e *env) print(v any) error {
	enc := json.NewEncoder(e.Out)
	enc.SetIndent("", "  ")
	return enc.Encode(v)
}

// progress writes a line for people: to standard output, or to standard error where that is for JSON.
func (e *env) progress(format string, args ...any) {
	fmt.Fprintf(e.stream(), format+"\n", args...)
}

// stream is where lines for people go.
func (e *env) stream() io.Writer {
	if e.json {
		return e.Err
	}
	return e.Out
}
