package clickhouse

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/ClickHouse/ch-go/proto"
	"github.com/ClickHouse/clickhouse-go/v2"

	"github.com/tailrace/tailrace/pipeline"
	"github.com/tailrace/tailrace/schemas"
)

// MigrationState is a migration and what the database knows of it.
type MigrationState struct {
	schemas.Migration
	AppliedAt time.Time // zero while it is pending
	// Fault says why nothing can be built on it: its text was another when it was applied, or this program does not have
	// it. "" if nothing is wrong.
	Fault string
}

// ShowSchema returns every migration, this program's and the database's. A database that does not exist has none.
func ShowSchema(ctx context.Context, c Config) ([]MigrationState, error) {
	return schema{c}.show(ctx)
}

// PlanSchema returns the migrations that ApplySchema would run, or why it would refuse.
func PlanSchema(ctx context.Context, c Config) ([]MigrationState, error) {
	states, err := ShowSchema(ctx, c)
	if err != nil {
		return nil, err
	}
	return pending(states)
}

// ApplySchema makes the database if there is none, runs what is pending, in order, and checks the tables. It returns what
// it ran, also with an error. Deduplication windows that are too small are set. Two processes may apply at once: every statement does nothing the second time. It refuses,
// with an error that wraps pipeline.ErrConfig, if an applied migration had another text or is unknown to this program.
func ApplySchema(ctx context.Context, c Config) ([]MigrationState, error) {
	applied, _, err := schema{c}.apply(ctx)
	return applied, err
}

// VerifySchema checks that every migration is applied and that the tables have the columns, types and deduplication
// windows that the sink needs. What is amiss comes as one error that wraps pipeline.ErrConfig.
func VerifySchema(ctx context.Context, c Config) error {
	return schema{c}.verify(ctx)
}

// schema is one use of a server's tables.
type schema struct{ config Config }

func (s schema) show(ctx context.Context) ([]MigrationState, error) {
	conn, err := connect(ctx, s.config, s.config.Database)
	if code, ok := codeOf(err); ok && code == codeUnknownDatabase {
		return states(nil)
	}
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	return s.read(ctx, conn)
}

// apply returns the migrations that it ran, and what it mended.
func (s schema) apply(ctx context.Context) (applied []MigrationState, mended []string, err error) {
	conn, err := s.open(ctx)
	if err != nil {
		return nil, nil, err
	}
	defer conn.Close()
	all, err := s.read(ctx, conn)
	if err != nil {
		return nil, nil, err
	}
	todo, err := pending(all)
	if err != nil {
		return nil, nil, err
	}
	// The record of a migration must be seen by whoever looks next.
	ctx = clickhouse.Context(ctx, clickhouse.WithSettings(clickhouse.Settings{"async_insert": 0}))
	for _, m := range todo {
		for _, statement := range m.Statements() {
			if err := conn.Exec(ctx, statement); err != nil {
				return applied, nil, asConfig(fmt.Errorf("%s: migration %04d_%s: %w", s.config, m.Version, m.Name, err))
			}
		}
		record := "INSERT INTO schema_migrations SELECT toUInt32(?), ?, ?, now64(3, 'UTC')"
		if err := conn.Exec(ctx, record, m.Version, m.Name, m.SHA256); err != nil {
			return applied, nil, asConfig(fmt.Errorf("%s: migration %04d_%s: record: %w", s.config, m.Version, m.Name, err))
		}
		applied = append(applied, m)
	}
	if mended, err = s.mend(ctx, conn); err != nil {
		return applied, mended, asConfig(fmt.Errorf("%s: deduplication windows: %w", s.config, err))
	}
	return applied, mended, s.verifyTables(ctx, conn)
}

func (s schema) verify(ctx context.Context) error {
	conn, err := connect(ctx, s.config, s.config.Database)
	if err != nil {
		return err
	}
	defer conn.Close()
	all, err := s.read(ctx, conn)
	if err != nil {
		return err
	}
	todo, err := pending(all)
	if err != nil {
		return err
	}
	if len(todo) > 0 {
		return fmt.Errorf("%w: %s: migration %04d_%s is pending: run tailrace schema apply, or set schema: apply",
			pipeline.ErrConfig, s.config, todo[0].Version, todo[0].Name)
	}
	return s.verifyTables(ctx, conn)
}

// open connects to the database, which it makes first if there is none.
func (s schema) open(ctx context.Context) (Conn, error) {
	conn, err := connect(ctx, s.config, s.config.Database)
	if code, ok := codeOf(err); !ok || code != codeUnknownDatabase {
		return conn, err
	}
	// Every server has the database "system", and entering it takes no grant.
	conn, err = connect(ctx, s.config, "system")
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	if err := conn.Exec(ctx, "CREATE DATABASE IF NOT EXISTS `"+s.config.Database+"`"); err != nil {
		return nil, asConfig(fmt.Errorf("%s: create the database: %w", s.config, err))
	}
	return connect(ctx, s.config, s.config.Database)
}

// record is what the database says of one version. hashes has one entry unless processes of two releases applied at once.
type record struct {
	name   string
	hashes []string
	at     time.Time
}

func (s schema) read(ctx context.Context, conn Conn) ([]MigrationState, error) {
	fail := func(err error) ([]MigrationState, error) {
		return nil, asConfig(fmt.Errorf("%s: schema_migrations: %w", s.config, err))
	}
	var exists uint64
	err := conn.QueryRow(ctx, "SELECT count() FROM system.tables WHERE database = ? AND name = 'schema_migrations'",
		s.config.Database).Scan(&exists)
	if err != nil {
		return fail(err)
	}
	if exists == 0 {
		return states(nil)
	}
	rows, err := conn.Query(ctx, `SELECT version, any(name), groupUniqArray(toString(sha256)), min(applied_at)
		FROM schema_migrations GROUP BY version ORDER BY version`)
	if err != nil {
		return fail(err)
	}
	defer rows.Close()
	known := map[uint32]record{}
	for rows.Next() {
		var version uint32
		var r record
		if err := rows.Scan(&version, &r.name, &r.hashes, &r.at); err != nil {
			return fail(err)
		}
		known[version] = r
	}
	if err := rows.Err(); err != nil {
		return fail(err)
	}
	return states(known)
}

// states puts the program's migrations and the database's records together.
func states(known map[uint32]record) ([]MigrationState, error) {
	migrations, err := schemas.Migrations()
	if err != nil {
		return nil, err
	}
	var list []MigrationState
	for _, m := range migrations {
		state := MigrationState{Migration: m}
		if r, ok := known[m.Version]; ok {
			state.AppliedAt = r.at
			for _, hash := range r.hashes {
				if hash != m.SHA256 {
					state.Fault = fmt.Sprintf("applied with another text: want sha256 %s, got %s", m.SHA256, hash)
				}
			}
		}
		list = append(list, state)
	}
	for _, version := range slices.Sorted(maps.Keys(known)) {
		if int(version) <= len(migrations) {
			continue
		}
		r := known[version]
		list = append(list, MigrationState{
			Migration: schemas.Migration{Version: version, Name: r.name, SHA256: r.hashes[0]}, AppliedAt: r.at,
			Fault: fmt.Sprintf("applied by a newer release: this one has migrations up to %d", len(migrations)),
		})
	}
	return list, nil
}

// pending are the migrations to run, or why none may be.
func pending(all []MigrationState) ([]MigrationState, error) {
	var todo []MigrationState
	var faults []error
	for _, m := range all {
		if m.Fault != "" {
			faults = append(faults, fmt.Errorf("migration %04d_%s: %s", m.Version, m.Name, m.Fault))
		}
		if m.AppliedAt.IsZero() {
			todo = append(todo, m)
		}
	}
	if len(faults) > 0 {
		return nil, fmt.Errorf("%w: %w", pipeline.ErrConfig, errors.Join(faults...))
	}
	return todo, nil
}

// verifyTables compares the tables with what the sink sends.
func (s schema) verifyTables(ctx context.Context, conn Conn) error {
	defaults, err := windowDefaults(ctx, conn)
	if err != nil {
		return asConfig(fmt.Errorf("%s: system.merge_tree_settings: %w", s.config, err))
	}
	var faults []error
	for _, t := range shapes() {
		list, err := s.tableFaults(ctx, conn, t, defaults)
		if err != nil {
			return asConfig(fmt.Errorf("%s: table %s: %w", s.config, t.name, err))
		}
		faults = append(faults, list...)
	}
	if len(faults) > 0 {
		return fmt.Errorf("%w: %s: %w", pipeline.ErrConfig, s.config, errors.Join(faults...))
	}
	return nil
}

// shape is what the sink needs of a table: its name and columns.
type shape struct {
	name    string
	columns proto.Input
}

func shapes() []shape {
	var list []shape
	for _, t := range tables() {
		list = append(list, shape{string(t.name()), t.input()})
	}
	return append(list, shape{ledgerTable, ledgerInput(nil)})
}

func (s schema) tableFaults(ctx context.Context, conn Conn, t shape, defaults map[string]uint64) ([]error, error) {
	rows, err := conn.Query(ctx, "SELECT name, type FROM system.columns WHERE database = ? AND table = ?",
		s.config.Database, t.name)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	types := map[string]string{}
	for rows.Next() {
		var name, kind string
		if err := rows.Scan(&name, &kind); err != nil {
			return nil, err
		}
		types[name] = kind
	}
	if err := rows.Err(); err != nil {
		return nil, err
	}
	if len(types) == 0 {
		return []error{fmt.Errorf("table %s: does not exist", t.name)}, nil
	}
	var faults []error
	for _, c := range t.columns {
		switch kind, ok := types[c.Name]; {
		case !ok:
			faults = append(faults, fmt.Errorf("table %s: column %s: want %s, got no such column", t.name, c.Name, c.Data.Type()))
		case kind != string(c.Data.Type()):
			faults = append(faults, fmt.Errorf("table %s: column %s: want %s, got %s", t.name, c.Name, c.Data.Type(), kind))
		}
	}
	r, err := lookAt(ctx, conn, named{s.config.Database, t.name})
	if err != nil || r == nil {
		return faults, err
	}
	if fault := r.short(defaults); fault != "" {
		faults = append(faults, fmt.Errorf("table %s: %s: a block that is sent again would be doubled", t.name, fault))
	}
	return faults, nil
}
