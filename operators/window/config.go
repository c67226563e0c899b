package window

import (
	"slices"
	"strings"
	"time"

	"github.com/tailrace/tailrace/pipeline"
)

// The kinds of windows.
const (
	Tumbling = "tumbling" // one after the other
	Hopping  = "hopping"  // one every hop, overlapping where hop is less than size
	Session  = "session"  // from the first row after a gap to the last before the next
	Count    = "count"    // the last so many rows
	Trigger  = "trigger"  // from a condition to another
	Calendar = "calendar" // hours, shifts, days, weeks or months of a zone
)

var kindNames = []string{Tumbling, Hopping, Session, Count, Trigger, Calendar}

// Every is how often a window comes: a number of rows for count, a word for calendar.
type Every string

// UnmarshalText takes the text as it stands; what it means depends on the kind.
func (e *Every) UnmarshalText(text []byte) error {
	*e = Every(text)
	return nil
}

// Config is what a user writes under window.
type Config struct {
	// Kind is tumbling (one window after the other), hopping (one every hop), session (until no row comes for gap),
	// count (of so many rows), trigger (from a row for which start holds to one for which stop does) or calendar
	// (hours, shifts, days, weeks or months of a zone). Default tumbling.
	Kind string `yaml:"kind" jsonschema:"enum=tumbling,enum=hopping,enum=session,enum=count,enum=trigger,enum=calendar"`
	// Size is the length of a window, a multiple of align's grid. For tumbling and hopping, and required there.
	Size time.Duration `yaml:"size"`
	// Hop is the time from the start of a window to the start of the next, a multiple of the grid and at most size.
	// Windows start at multiples of hop since 1970. For hopping only, and required there.
	Hop time.Duration `yaml:"hop"`
	// Gap is how long no row comes before a session ends, a multiple of the grid and more than it. For session, and
	// required there.
	Gap time.Duration `yaml:"gap"`
	// Rows is how many rows of an asset a window has. For count, and required there.
	Rows int `yaml:"rows"`
	// Every is for count after how many rows a window is given, at most rows (default rows); for calendar hour, shift,
	// day, week (from Monday) or month, and required there.
	Every Every `yaml:"every" jsonschema:"oneof_type=string;integer"`
	// Shifts are the times of day at which shifts begin, such as ["06:00", "14:00", "22:00"]. For calendar with every:
	// shift, and required there.
	Shifts []string `yaml:"shifts"`
	// Zone is the IANA name of the time zone whose clocks count, such as Europe/Berlin. For calendar. Default UTC.
	Zone string `yaml:"zone"`
	// Start is the condition that a window starts with, in CEL over the tags of one row: speed > 10 &&
	// tag["line.state"] == 1. It does not hold where it needs a value that is missing. For trigger, and required there.
	Start string `yaml:"start"`
	// Stop is the condition that ends the window; the row for which it holds is the first after it. For trigger, and
	// required there.
	Stop string `yaml:"stop"`
	// Pre is how long before start a window begins, a multiple of the grid. For trigger. Default 0s.
	Pre time.Duration `yaml:"pre"`
	// Post is how long after stop a window ends, a multiple of the grid. For trigger. Default 0s.
	Post time.Duration `yaml:"post"`
	// MinDuration is the time from start to stop under which no window is given. For trigger. Default 0s.
	MinDuration time.Duration `yaml:"min_duration"`
	// MaxDuration is the time after which a window is closed by force, a multiple of the grid. A window has room for
	// the rows of max_duration, pre and post. For session and trigger, and required there.
	MaxDuration time.Duration `yaml:"max_duration"`
	// MaxCost bounds what a condition may cost a row, in the units of CEL: about one for each step. For trigger.
	// Default 10000: about a millisecond; a condition with ten comparisons costs under 100.
	MaxCost int `yaml:"max_cost"`
	// MaxAssets is the most assets of one partition; rows of further ones are counted as max_assets. Default 10000, as
	// in align.
	MaxAssets int `yaml:"max_assets"`
	// MaxState is the most memory for the rows of open windows of one partition, and of those that late rows may still
	// correct; the latter are let go first, and rows beyond it are counted as max_state. Default 512MiB: 1000 assets
	// with 50 channels and windows of 1000 rows, and some.
	MaxState pipeline.Bytes `yaml:"max_state"`
	// MaxBatch is the size of an emitted batch's samples at which the next window starts a new one. Default 16MiB: some
	// hundred windows of 600 rows and 50 channels, more than a model's batch needs.
	MaxBatch pipeline.Bytes `yaml:"max_batch"`
}

// maxSize keeps a window's end far from the end of time.
const maxSize = 366 * 24 * time.Hour

const defaultMaxCost = 10_000

func defaults() Config {
	return Config{Kind: Tumbling, MaxCost: defaultMaxCost, MaxAssets: 10_000, MaxState: 512 << 20, MaxBatch: 16 << 20}
}

// Validate reports what is missing or out of bounds, and what the kind does not use.
func (c *Config) Validate() []pipeline.Fault {
	var faults []pipeline.Fault
	if slices.Contains(kindNames, c.Kind) {
		faults = append(faults, c.unused()...)
		faults = append(faults, c.needed()...)
	} else {
		faults = append(faults, pipeline.Faultf("kind", "want one of %s, got %q", strings.Join(kindNames, ", "), c.Kind))
	}
	if c.MaxAssets < 1 {
		faults = append(faults, pipeline.Faultf("max_assets", "want 1 or more, got %d", c.MaxAssets))
	}
	if c.MaxState < 1<<20 {
		faults = append(faults, pipeline.Faultf("max_state", "want 1MiB or more, got %d bytes", c.MaxState))
	}
	if c.MaxBatch < 1 || c.MaxBatch > 1<<30 {
		faults = append(faults, pipeline.Faultf("max_batch", "want 1 byte to 1GiB, got %d bytes", c.MaxBatch))
	}
	return faults
}

// unused reports the keys that are written but mean nothing to the kind.
func (c *Config) unused() []pipeline.Fault {
	keys := []struct {
		key   string
		given bool
		got   any
		kinds []string
	}{
		{"size", c.Size != 0, c.Size, []string{Tumbling, Hopping}},
		{"hop", c.Hop != 0 && !(c.Kind == Tumbling && c.Hop == c.Size), c.Hop, []string{Hopping}},
		{"gap", c.Gap != 0, c.Gap, []string{Session}},
		{"rows", c.Rows != 0, c.Rows, []string{Count}},
		{"every", c.Every != "", c.Every, []string{Count, Calendar}},
		{"shifts", len(c.Shifts) > 0, c.Shifts, []string{Calendar}},
		{"zone", c.Zone != "", c.Zone, []string{Calendar}},
		{"start", c.Start != "", c.Start, []string{Trigger}},
		{"stop", c.Stop != "", c.Stop, []string{Trigger}},
		{"pre", c.Pre != 0, c.Pre, []string{Trigger}},
		{"post", c.Post != 0, c.Post, []string{Trigger}},
		{"min_duration", c.MinDuration != 0, c.MinDuration, []string{Trigger}},
		{"max_duration", c.MaxDuration != 0, c.MaxDuration, []string{Session, Trigger}},
		{"max_cost", c.MaxCost != defaultMaxCost, c.MaxCost, []string{Trigger}},
	}
	var faults []pipeline.Fault
	for _, k := range keys {
		if k.given && !slices.Contains(k.kinds, c.Kind) {
			faults = append(faults, pipeline.Faultf(k.key, "want none with kind %s (it is for %s), got %v",
				c.Kind, strings.Join(k.kinds, " and "), k.got))
		}
	}
	return faults
}

// needed reports what the kind needs and does not have.
func (c *Config) needed() []pipeline.Fault {
	var faults []pipeline.Fault
	bad := func(path, format string, args ...any) {
		faults = append(faults, pipeline.Faultf(path, format, args...))
	}
	length := func(path string, d, least time.Duration, example string) {
		if d < least || d > maxSize {
			bad(path, "want a length over 0s and up to %v, such as %s, got %v", maxSize, example, d)
		}
	}
	roll := func(path string, d time.Duration) {
		if d < 0 || d > maxSize {
			bad(path, "want a length from 0s up to %v, got %v", maxSize, d)
		}
	}
	switch c.Kind {
	case Tumbling:
		length("size", c.Size, 1, "10m")
	case Hopping:
		length("size", c.Size, 1, "10m")
		if c.Hop <= 0 || c.Hop > c.Size {
			bad("hop", "want a time over 0s and up to size (%v), got %v", c.Size, c.Hop)
		}
	case Session:
		length("gap", c.Gap, 1, "30s")
		length("max_duration", c.MaxDuration, 1, "1h")
	case Count:
		if c.Rows < 1 || c.Rows > maxCells {
			bad("rows", "want 1 to %d rows, got %d", maxCells, c.Rows)
		}
		if n, ok := c.everyRows(); !ok || n < 1 || n > c.Rows {
			bad("every", "want a number of rows from 1 to rows (%d), got %q", c.Rows, c.Every)
		}
	case Trigger:
		for _, e := range []struct{ path, text string }{{"start", c.Start}, {"stop", c.Stop}} {
			if strings.TrimSpace(e.text) == "" || len(e.text) > maxExpression {
				bad(e.path, "want a condition of at most %d bytes, such as speed > 10, got %d bytes", maxExpression, len(e.text))
			}
		}
		roll("pre", c.Pre)
		roll("post", c.Post)
		length("max_duration", c.MaxDuration, 1, "1h")
		if c.MinDuration < 0 || c.MinDuration > max(c.MaxDuration, 0) {
			bad("min_duration", "want a length from 0s up to max_duration (%v), got %v", c.MaxDuration, c.MinDuration)
		}
		if c.MaxCost < 1 {
			bad("max_cost", "want 1 or more, got %d", c.MaxCost)
		}
	case Calendar:
		faults = append(faults, c.neededByCalendar()...)
	}
	return faults
}

func (c *Config) neededByCalendar() []pipeline.Fault {
	var faults []pipeline.Fault
	switch c.Every {
	case everyHour, everyDay, everyWeek, everyMonth:
		if len(c.Shifts) > 0 {
			faults = append(faults, pipeline.Faultf("shifts", "want none with every: %s (they are for shift), got %q",
				c.Every, c.Shifts))
		}
	case everyShift:
		if _, err := parseShifts(c.Shifts); err != nil {
			faults = append(faults, *err)
		}
	default:
		faults = append(faults, pipeline.Faultf("every", "want hour, shift, day, week or month, got %q", c.Every))
	}
	// The empty name is UTC; Local would depend on the machine.
	if _, err := time.LoadLocation(c.Zone); err != nil || c.Zone == "Local" {
		faults = append(faults, pipeline.Faultf("zone", "want a name of the IANA time zones such as Europe/Berlin, got %q",
			c.Zone))
	}
	return faults
}

// everyRows is after how many rows a window of kind count is given.
func (c *Config) everyRows() (int, bool) {
	if c.Every == "" {
		return c.Rows, true
	}
	n := 0
	for _, digit := range c.Every {
		if digit < '0' || digit > '9' || n > maxCells {
			return 0, false
		}
		n = n*10 + int(digit-'0')
	}
	return n, true
}

// Component describes window to a pipeline file.
func Component() pipeline.Component[pipeline.NewOperator] {
	return pipeline.Define("windows of the grid's rows in event time, by time, rows, gaps, conditions or the calendar",
		defaults(),
		func(c Config) (pipeline.NewOperator, error) {
			return func(s pipeline.Settings) (pipeline.Operator, error) { return New(c, s), nil }, nil
		})
}
