package cli

import (
	"context"
	"fmt"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"
	"github.com/tailrace/tailrace/connectors/clickhouse"
)

func (e *env) schemaCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "schema",
		Short: "Show or apply the ClickHouse tables of a pipeline file",
	}
	var sql bool
	show := &cobra.Command{
		Use:   "show FILE",
		Short: "List the migrations, and which of them the database has",
		Args:  usageArgs(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			return e.schema(cmd.Context(), args[0], sql, "pending", clickhouse.ShowSchema)
		},
	}
	show.Flags().BoolVar(&sql, "sql", false, "print the statements too")
	apply := &cobra.Command{
		Use:   "apply FILE",
		Short: "Apply the migrations that the database lacks",
		Args:  usageArgs(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			return e.schema(cmd.Context(), args[0], false, "applied just now", clickhouse.ApplySchema)
		},
	}
	c.AddCommand(show, apply)
	return c
}

// schema lists what do gives for the file's ClickHouse: every migration, or those that were just applied. undated is said of those
// that the database had no time of before.
func (e *env) schema(ctx context.Context, path string, sql bool, undated string,
	do func(context.Context, clickhouse.Config) ([]clickhouse.MigrationState, error)) error {
	f, err := e.load(path)
	if err != nil {
		return err
	}
	config, ok := f.Sink.Config.(*clickhouse.Config)
	if !ok {
		return fmt.Errorf("%w: %s: want sinks.clickhouse, got %s", errStart, path, f.Sink.Kind)
	}
	migrations, err := do(ctx, config.In(filepath.Dir(path)))
	if err != nil {
		return err
	}
	if e.json {
		return e.print(map[string]any{"migrations": migrationsJSON(migrations)})
	}
	if len(migrations) == 0 {
		fmt.Fprintln(e.Out, "the database has every migration")
	}
	for _, m := range migrations {
		state := undated
		if !m.AppliedAt.IsZero() {
			state = "applied " + at(m.AppliedAt)
		}
		if m.Fault != "" {
			state += ": " + m.Fault
		}
		fmt.Fprintf(e.Out, "%04d %-24s %.12s %s\n", m.Version, m.Name, m.SHA256, state)
		if sql {
			fmt.Fprintf(e.Out, "\n%s\n", m.SQL)
		}
	}
	return nil
}

type migrationJSON struct {
	Version   uint32    `json:"version"`
	Name      string    `json:"name"`
	SHA256    string    `json:"sha256"`
	AppliedAt time.Time `json:"applied_at,omitzero"` // absent while it is pending
	Fault     string    `json:"fault,omitempty"`
}

func migrationsJSON(list []clickhouse.MigrationState) []migrationJSON {
	out := []migrationJSON{}
	for _, m := range list {
		out = append(out, migrationJSON{m.Version, m.Name, m.SHA256, m.AppliedAt, m.Fault})
	}
	return out
}
