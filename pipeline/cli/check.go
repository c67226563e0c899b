package cli

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"

	"github.com/apache/arrow/go/v15/arrow"
	"github.com/spf13/cobra"
	"github.com/tailrace/tailrace/connectors/clickhouse"
	"github.com/tailrace/tailrace/operators/rekey"
	"github.com/tailrace/tailrace/pipeline"
	"github.com/tailrace/tailrace/pipeline/spec"
)

func (e *env) checkCommand() *cobra.Command {
	var schema bool
	c := &cobra.Command{
		Use:   "check FILE",
		Short: "Report every fault of a pipeline file, or print its graph",
		Args:  cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if schema {
				text, err := spec.Schema(e.Components, sections())
				if err != nil {
					return err
				}
				_, err = e.Out.Write(text)
				return err
			}
			if len(args) != 1 {
				return usage(errors.New("check: want a pipeline file"))
			}
			return e.check(cmd.Context(), args[0])
		},
	}
	c.Flags().BoolVar(&schema, "schema", false, "print the JSON Schema of pipeline files instead")
	return c
}

// checked is the JSON of check.
type checked struct {
	File   string      `json:"file"`
	OK     bool        `json:"ok"`
	Faults []faultJSON `json:"faults"`
	Graph  []nodeJSON  `json:"graph,omitempty"`
}

type faultJSON struct {
	Line    int    `json:"line"`
	Column  int    `json:"column"`
	Path    string `json:"path"`
	Message string `json:"message"`
}

type nodeJSON struct {
	Name   string   `json:"name"`
	Kind   string   `json:"kind"`
	Output []string `json:"output"` // columns with their types; of a table of many channels the first few
}

func (e *env) check(ctx context.Context, path string) error {
	f, err := e.load(path)
	if errors.Is(err, errStart) {
		return err
	}
	var given []*arrow.Schema
	if err == nil {
		var plan pipeline.Plan
		if err := e.fetchRuntime(ctx, f); err != nil {
			return err
		}
		if plan, err = e.plan(f, path); err == nil {
			given, err = pipeline.New(plan, pipeline.Env{Log: e.log, Alloc: e.Alloc}).Check()
			err = placed(f, err)
		}
	}
	report := checked{File: path, OK: err == nil, Faults: []faultJSON{}}
	var faults spec.Faults
	if errors.As(err, &faults) {
		for _, fault := range faults {
			report.Faults = append(report.Faults, faultJSON{fault.Position.Line, fault.Position.Column, fault.Path, fault.Message})
		}
	} else if err != nil {
		return err
	}
	for i, schema := range given {
		report.Graph = append(report.Graph, nodeJSON{f.Steps[i].Name, f.Steps[i].Kind, columns(schema)})
	}
	if e.json {
		if err := e.print(report); err != nil {
			return err
		}
	} else if err != nil {
		fmt.Fprintln(e.Out, err)
	} else {
		e.printGraph(f, filepath.Base(path), report.Graph)
	}
	if !report.OK {
		return errFound
	}
	return nil
}

// shownColumns is how many columns of a step are printed: the fixed ones of the widest step that has no channels.
const shownColumns = 16

func columns(s *arrow.Schema) []string {
	var list []string
	for i, field := range s.Fields() {
		if i == shownColumns {
			list = append(list, fmt.Sprintf("and %d more", s.NumFields()-i))
			break
		}
		list = append(list, field.Name+" "+field.Type.String())
	}
	return list
}

func (e *env) printGraph(f *spec.File, name string, graph []nodeJSON) {
	fmt.Fprintf(e.Out, "%s: no faults\n\n", name)
	fmt.Fprintf(e.Out, "%s (%s, format %s)\n", f.Source.Name, f.Source.Kind, f.Source.Format.Kind)
	for _, n := range graph {
		fmt.Fprintf(e.Out, "  -> %s", n.Name)
		if n.Name != n.Kind {
			fmt.Fprintf(e.Out, " (%s)", n.Kind)
		}
		fmt.Fprintln(e.Out)
		for _, column := range n.Output {
			fmt.Fprintf(e.Out, "       %s\n", column)
		}
	}
	fmt.Fprintf(e.Out, "  => %s: %s\n", f.Sink.Kind, strings.Join(tablesOf(f), ", "))
	topics := "events, late rows, dead letters"
	for _, step := range f.Steps {
		if _, ok := step.Config.(*rekey.Config); ok {
			topics += ", all rows keyed by asset"
		}
	}
	fmt.Fprintf(e.Out, "  => %s: %s\n", f.Publisher.Kind, topics)
}

// tablesOf are the tables that the file's sink writes.
func tablesOf(f *spec.File) []string {
	c, ok := f.Sink.Config.(*clickhouse.Config)
	var names []string
	for _, table := range []pipeline.Table{pipeline.Telemetry, pipeline.Predictions, pipeline.EventsTable} {
		if !ok || c.Stores(table) {
			names = append(names, string(table))
		}
	}
	return names
}
