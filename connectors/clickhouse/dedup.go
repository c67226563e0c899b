package clickhouse

import (
	"context"
	"fmt"
	"regexp"
	"strconv"
	"strings"

	"github.com/tailrace/tailrace/pipeline"
)

// A table keeps the tokens of its last so many inserts; a replicated one only those of the last so many seconds, too. A
// block whose token is forgotten is looked for before it is sent again. A materialized view's target has only the token.
const (
	windowMin        = 100_000 // inserts: over two hours at ten a second
	windowSecondsMin = 604_800 // a week of outage
)

// The settings of a MergeTree that say how long it keeps tokens.
const (
	plainWindow       = "non_replicated_deduplication_window"
	replicatedWindow  = "replicated_deduplication_window"
	replicatedSeconds = "replicated_deduplication_window_seconds"
)

// relation is a table or view as system.tables has it.
type relation struct {
	database, name string
	uuid           string
	engine, full   string
	create         string
	views          []named // that an insert feeds
}

// named is a table's or a view's full name.
type named struct{ database, name string }

func (n named) String() string { return quoted(n.database) + "." + quoted(n.name) }

// quoted is a name as SQL has it. Names of others' tables are hostile.
func quoted(name string) string {
	if plainName.MatchString(name) {
		return name
	}
	return "`" + strings.NewReplacer("\\", "\\\\", "`", "\\`").Replace(name) + "`"
}

// lookAt finds a table; nil if there is none that the user may see.
func lookAt(ctx context.Context, conn Conn, n named) (*relation, error) {
	rows, err := conn.Query(ctx, `
		SELECT database, name, toString(uuid), engine, engine_full, create_table_query,
			dependencies_database, dependencies_table
		FROM system.tables WHERE database = ? AND name = ?`, n.database, n.name)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	if !rows.Next() {
		return nil, rows.Err()
	}
	var r relation
	var databases, names []string
	if err := rows.Scan(&r.database, &r.name, &r.uuid, &r.engine, &r.full, &r.create, &databases, &names); err != nil {
		return nil, err
	}
	for i, name := range names {
		if i < len(databases) {
			r.views = append(r.views, named{databases[i], name})
		}
	}
	return &r, nil
}

// windowDefaults are the server's own, for tables that say nothing.
func windowDefaults(ctx context.Context, conn Conn) (map[string]uint64, error) {
	rows, err := conn.Query(ctx, "SELECT name, value FROM system.merge_tree_settings WHERE name IN (?, ?, ?)",
		plainWindow, replicatedWindow, replicatedSeconds)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	defaults := map[string]uint64{}
	for rows.Next() {
		var name, value string
		if err := rows.Scan(&name, &value); err != nil {
			return nil, err
		}
		if defaults[name], err = strconv.ParseUint(value, 10, 64); err != nil {
			return nil, fmt.Errorf("system.merge_tree_settings: %s: want a number, got %q", name, value)
		}
	}
	return defaults, rows.Err()
}

var settingValue = regexp.MustCompile(`(?:SETTINGS |, )(\w+) = (\d+)`)

// short says what is too small in the windows of a table: "" if nothing is.
func (r *relation) short(defaults map[string]uint64) string {
	if !strings.HasSuffix(r.engine, "MergeTree") {
		return fmt.Sprintf("engine %s keeps no tokens", r.engine)
	}
	have := map[string]uint64{}
	for _, m := range settingValue.FindAllStringSubmatch(r.full, -1) {
		if n, err := strconv.ParseUint(m[2], 10, 64); err == nil {
			have[m[1]] = n
		}
	}
	want := map[string]uint64{plainWindow: windowMin}
	if !r.plain() {
		want = map[string]uint64{replicatedWindow: windowMin, replicatedSeconds: windowSecondsMin}
	}
	for _, name := range []string{plainWindow, replicatedWindow, replicatedSeconds} {
		least, asked := want[name]
		got, ok := have[name]
		if !ok {
			got = defaults[name]
		}
		if asked && got < least {
			return fmt.Sprintf("%s: want %d, got %d", name, least, got)
		}
	}
	return ""
}

// plain says that the table keeps its tokens itself, not in Keeper.
func (r *relation) plain() bool {
	return strings.HasSuffix(r.engine, "MergeTree") &&
		!strings.HasPrefix(r.engine, "Replicated") && !strings.HasPrefix(r.engine, "Shared")
}

// mend sets the windows of our own tables where they are too small, and says of which.
func (s schema) mend(ctx context.Context, conn Conn) (mended []string, err error) {
	defaults, err := windowDefaults(ctx, conn)
	if err != nil {
		return nil, err
	}
	for _, shape := range shapes() {
		r, err := lookAt(ctx, conn, named{s.config.Database, shape.name})
		if err != nil {
			return mended, err
		}
		if r == nil || !strings.HasSuffix(r.engine, "MergeTree") {
			continue // verifyTables says so
		}
		fault := r.short(defaults)
		if fault == "" {
			continue
		}
		settings := fmt.Sprintf("%s = %d", plainWindow, windowMin)
		if !r.plain() {
			settings = fmt.Sprintf("%s = %d, %s = %d", replicatedWindow, windowMin, replicatedSeconds, windowSecondsMin)
		}
		if err := conn.Exec(ctx, "ALTER TABLE "+shape.name+" MODIFY SETTING "+settings); err != nil {
			return mended, fmt.Errorf("table %s: %s: %w", shape.name, fault, err)
		}
		mended = append(mended, shape.name+": "+fault)
	}
	return mended, nil
}

// surroundings are what others have set up around our tables.
type surroundings struct {
	fed    map[pipeline.Table]bool   // has materialized views that an insert feeds and that sending a block again mends
	ttls   map[pipeline.Table]string // when a row is dropped, in SQL
	faults []string                  // what would double a block that is sent again
}

var deleteTTL = regexp.MustCompile(` TTL ([^,]+?)(?: SETTINGS .*)?$`)

// look walks the materialized views that inserts into our tables feed, and the views of those.
func (s schema) look(ctx context.Context, conn Conn) (surroundings, error) {
	found := surroundings{fed: map[pipeline.Table]bool{}, ttls: map[pipeline.Table]string{}}
	defaults, err := windowDefaults(ctx, conn)
	if err != nil {
		return found, err
	}
	for _, t := range tables() {
		own := named{s.config.Database, string(t.name())}
		r, err := lookAt(ctx, conn, own)
		if err != nil {
			return found, err
		}
		if r == nil {
			continue
		}
		found.fed[t.name()] = len(r.views) > 0 && r.plain()
		if m := deleteTTL.FindStringSubmatch(r.full); m != nil {
			found.ttls[t.name()] = m[1]
		}
		seen := map[named]bool{own: true}
		list, err := followViews(ctx, conn, r, seen, defaults)
		if err != nil {
			return found, err
		}
		for _, fault := range list {
			found.faults = append(found.faults, fmt.Sprintf("table %s: %s", t.name(), fault))
		}
	}
	return found, nil
}

// followViews names what would double among the views that inserts into from feed, and among the views of their targets.
func followViews(
	ctx context.Context, conn Conn, from *relation, seen map[named]bool, defaults map[string]uint64,
) (faults []string, err error) {
	unseen := func(what string) {
		faults = append(faults, what+" cannot be seen, nor whether it would double a block that is sent again")
	}
	for _, name := range from.views {
		if seen[name] {
			continue
		}
		seen[name] = true
		view, err := lookAt(ctx, conn, name)
		if err != nil {
			return nil, err
		}
		if view == nil {
			unseen(fmt.Sprintf("view %s", name))
			continue
		}
		target, fed := view.target()
		if !fed || seen[target] {
			continue
		}
		seen[target] = true
		r, err := lookAt(ctx, conn, target)
		switch {
		case err != nil:
			return nil, err
		case r == nil:
			unseen(fmt.Sprintf("view %s: its target %s", name, target))
			continue
		case r.engine != "Null":
			if fault := r.short(defaults); fault != "" {
				faults = append(faults, fmt.Sprintf("view %s would double a block that is sent again: its target %s: %s",
					name, target, fault))
			}
		}
		more, err := followViews(ctx, conn, r, seen, defaults)
		if err != nil {
			return nil, err
		}
		faults = append(faults, more...)
	}
	return faults, nil
}

// target is where a view writes to. fed is false for a view that no insert feeds: one that is refreshed by the clock.
func (r *relation) target() (target named, fed bool) {
	if r.engine != "MaterializedView" {
		return named{r.database, r.name}, true // whatever else an insert feeds: its engine is judged
	}
	rest, ok := strings.CutPrefix(r.create, "CREATE MATERIALIZED VIEW ")
	_, rest = cutName(rest)
	if strings.HasPrefix(rest, " UUID '") {
		_, rest, _ = strings.Cut(rest[len(" UUID '"):], "'")
	}
	if strings.HasPrefix(rest, " REFRESH ") {
		return named{}, false
	}
	if to, given := strings.CutPrefix(rest, " TO "); ok && given && !strings.HasPrefix(to, "INNER UUID ") {
		target, _ = cutName(to)
		if target.database == "" {
			target.database = r.database
		}
		return target, true
	}
	if strings.Trim(r.uuid, "0-") != "" {
		return named{r.database, ".inner_id." + r.uuid}, true
	}
	return named{r.database, ".inner." + r.name}, true
}

// cutName takes a name, or two with a dot between, off the front of SQL that the server has written.
func cutName(sql string) (named, string) {
	one := func(sql string) (string, string) {
		if !strings.HasPrefix(sql, "`") {
			end := strings.IndexFunc(sql, func(r rune) bool {
				return r != '_' && (r < '0' || r > '9') && (r < 'A' || r > 'Z') && (r < 'a' || r > 'z')
			})
			if end < 0 {
				end = len(sql)
			}
			return sql[:end], sql[end:]
		}
		var name strings.Builder
		for i := 1; i < len(sql); i++ {
			switch {
			case sql[i] == '\\' && i+1 < len(sql):
				i++
				name.WriteByte(sql[i])
			case sql[i] == '`':
				return name.String(), sql[i+1:]
			default:
				name.WriteByte(sql[i])
			}
		}
		return name.String(), ""
	}
	first, rest := one(sql)
	if after, ok := strings.CutPrefix(rest, "."); ok {
		second, rest := one(after)
		return named{first, second}, rest
	}
	return named{"", first}, rest
}

// checkDependents looks at the views that inserts feed, and warns or refuses as the configuration says.
func (s *Sink) checkDependents(ctx context.Context) error {
	conn, err := connect(ctx, s.config, s.config.Database)
	if err != nil {
		return err
	}
	defer conn.Close()
	found, err := schema{s.config}.look(ctx, conn)
	if err != nil {
		return fmt.Errorf("%s: system.tables: %w", s.config, err)
	}
	s.views, s.ttls = found.fed, found.ttls
	if len(found.faults) > 0 && s.config.Dependents == DependentsRefuse {
		return fmt.Errorf("%w: %s: %s (set their windows, or dependents: warn)", pipeline.ErrConfig, s.config,
			strings.Join(found.faults, "; "))
	}
	for _, fault := range found.faults {
		s.log.Warn("a materialized view would double rows", "address", s.config.Address, "fault", fault)
	}
	return nil
}
