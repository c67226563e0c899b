package clickhouse

import (
	"fmt"
	"net"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/tailrace/tailrace/connectors/credentials"
	"github.com/tailrace/tailrace/pipeline"
)

// Config says where the tables are and how they are written.
type Config struct {
	// Address of the native protocol, host:port.
	Address string `yaml:"address"`
	// Database that holds the tables.
	Database string `yaml:"database,omitempty"`
	// User that writes.
	User string `yaml:"user,omitempty"`
	// Password in plain text. Prefer password_file or password_env; at most one of the three.
	Password Secret `yaml:"password,omitempty"`
	// PasswordFile is a file that holds the password, relative to the pipeline file.
	PasswordFile string `yaml:"password_file,omitempty"`
	// PasswordEnv is an environment variable that holds the password.
	PasswordEnv string `yaml:"password_env,omitempty"`

	// TLS encrypts connections. Without it password and data are plaintext: keep to loopback or a private network.
	TLS *credentials.TLS `yaml:"tls,omitempty"`

	// Tables are those that are written: telemetry, predictions and anomaly_events; all three if the file names none. A pipeline
	// that reads telemetry.rekeyed.v1 leaves telemetry out, since the pipeline that writes that topic has stored it.
	Tables []string `yaml:"tables,omitempty"`
	// Schema says what is done about missing tables: apply makes them, verify stops.
	Schema string `yaml:"schema,omitempty"`
	// Compression of inserts on the wire: none or lz4.
	Compression string `yaml:"compression,omitempty"`

	// Dependents says what is done about materialized views of the tables that would double a block that is sent again:
	// warn names them, refuse stops.
	Dependents string `yaml:"dependents,omitempty"`

	// InsertRowsMax is how many rows one INSERT has at most.
	InsertRowsMax int `yaml:"insert_rows_max,omitempty"`
	// InsertsPerSecond bounds the INSERTs that this process sends; past it, writing waits.
	InsertsPerSecond float64 `yaml:"inserts_per_second,omitempty"`
	// InsertTimeout is how long the server may take for one INSERT before it is sent again.
	InsertTimeout time.Duration `yaml:"insert_timeout,omitempty"`
	// Settle is how long a block that is not found gets to come into place before it is sent again.
	Settle time.Duration `yaml:"settle,omitempty"`
	// RefusedRowsMax is how many rows of one checkpoint may be refused as they are; with more, writing stops.
	RefusedRowsMax int `yaml:"refused_rows_max,omitempty"`
	// DialTimeout is how long connecting and logging in may take.
	DialTimeout time.Duration `yaml:"dial_timeout,omitempty"`
	// RetryMin is the wait after the first failure; it doubles with each further one.
	RetryMin time.Duration `yaml:"retry_min,omitempty"`
	// RetryMax is the longest wait between two attempts.
	RetryMax time.Duration `yaml:"retry_max,omitempty"`
}

// The values of Schema, Compression and Dependents.
const (
	SchemaApply      = "apply"
	SchemaVerify     = "verify"
	CompressionNone  = "none"
	CompressionLZ4   = "lz4"
	DependentsWarn   = "warn"
	DependentsRefuse = "refuse"
)

// DefaultConfig has every default.
func DefaultConfig() Config {
	return Config{
		Database: "tailrace",
		User:     "tailrace",
		Schema:   SchemaApply,
		// Over loopback lz4 takes six times the CPU of sending (95 against 14 ns a row); it pays where the network is slow.
		Compression: CompressionNone,
		// A view of somebody else's is no reason for the plant to go dark.
		Dependents: DependentsWarn,
		// Under the server's 1,048,449, at which it cuts blocks itself: a block must stay one part.
		InsertRowsMax: 500_000,
		// Parts come faster than merges from some tens of inserts a second on.
		InsertsPerSecond: 10,
		// Long enough for a full block on a busy server; short enough that a hung connection is seen within the minute.
		InsertTimeout: time.Minute,
		Settle:        time.Second, // writing a token down and renaming the part take milliseconds
		// Some rows out of bounds are data. A thousand at once are a wrong constraint, and finding each takes some twenty inserts.
		RefusedRowsMax: 1000,
		DialTimeout:    5 * time.Second,        // a round trip and a login, with a pause of the server
		RetryMin:       200 * time.Millisecond, // a restart of the embedded server takes about as long
		RetryMax:       5 * time.Second,        // after an outage the pipeline is back within seconds
	}
}

// insertRowsLimit keeps blocks under the server's min_insert_block_size_rows, from which on it cuts them, and lets the number
// of a block that is halved down to one row fit: see node.
const insertRowsLimit = 1 << (pathBits - 1)

var plainName = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)

// Validate gives every fault.
func (c *Config) Validate() []pipeline.Fault {
	var faults []pipeline.Fault
	fault := func(path, format string, args ...any) {
		faults = append(faults, pipeline.Faultf(path, format, args...))
	}
	if _, port, err := net.SplitHostPort(c.Address); err != nil || port == "" {
		fault("address", "want host:port of the native protocol, such as 127.0.0.1:9000, got %q", c.Address)
	}
	if !plainName.MatchString(c.Database) {
		fault("database", "want a name of letters, digits and underscores, got %q", c.Database)
	}
	if c.User == "" {
		fault("user", "want a name, got nothing")
	}
	var given []string
	for _, p := range []struct{ key, value string }{
		{"password", string(c.Password)}, {"password_file", c.PasswordFile}, {"password_env", c.PasswordEnv},
	} {
		if p.value != "" {
			given = append(given, p.key)
		}
	}
	if len(given) > 1 {
		fault(given[1], "want at most one of password, password_file and password_env, got %s", strings.Join(given, " and "))
	}
	faults = append(faults, c.TLS.Validate("tls")...)
	for i, name := range c.Tables {
		if at := fmt.Sprintf("tables[%d]", i); !slices.ContainsFunc(tables(), func(t table) bool { return string(t.name()) == name }) {
			fault(at, "want telemetry, predictions or anomaly_events, got %q", name)
		} else if slices.Contains(c.Tables[:i], name) {
			fault(at, "want each table once, got %q again", name)
		}
	}
	if c.Schema != SchemaApply && c.Schema != SchemaVerify {
		fault("schema", "want apply or verify, got %q", c.Schema)
	}
	if c.Compression != CompressionNone && c.Compression != CompressionLZ4 {
		fault("compression", "want none or lz4, got %q", c.Compression)
	}
	if c.Dependents != DependentsWarn && c.Dependents != DependentsRefuse {
		fault("dependents", "want warn or refuse, got %q", c.Dependents)
	}
	if c.InsertRowsMax < 1 || c.InsertRowsMax > insertRowsLimit {
		fault("insert_rows_max", "want 1 to %d, got %d", insertRowsLimit, c.InsertRowsMax)
	}
	if !(c.InsertsPerSecond > 0 && c.InsertsPerSecond <= 1000) {
		fault("inserts_per_second", "want more than 0 and at most 1000, got %v", c.InsertsPerSecond)
	}
	if c.RefusedRowsMax < 0 {
		fault("refused_rows_max", "want 0 or more, got %d", c.RefusedRowsMax)
	}
	for _, d := range []struct {
		path string
		v    time.Duration
	}{
		{"settle", c.Settle}, {"insert_timeout", c.InsertTimeout}, {"dial_timeout", c.DialTimeout},
		{"retry_min", c.RetryMin}, {"retry_max", c.RetryMax},
	} {
		if d.v <= 0 {
			fault(d.path, "want more than 0, got %s", d.v)
		}
	}
	if c.RetryMin > c.RetryMax {
		fault("retry_min", "want at most retry_max (%s), got %s", c.RetryMax, c.RetryMin)
	}
	return faults
}

// Stores tells whether a table is written.
func (c *Config) Stores(t pipeline.Table) bool {
	return len(c.Tables) == 0 || slices.Contains(c.Tables, string(t))
}

// String tells where the tables are, without the password.
func (c Config) String() string {
	return fmt.Sprintf("clickhouse %s@%s/%s", c.User, c.Address, c.Database)
}

// GoString is String: %#v would print the password.
func (c Config) GoString() string { return c.String() }

// In returns a copy whose relative paths start in dir, the folder of the pipeline file.
func (c Config) In(dir string) Config {
	c.PasswordFile, c.TLS = credentials.In(dir, c.PasswordFile), c.TLS.In(dir)
	return c
}

// password finds the password. It is asked for every connection, so that a new one counts from the next on.
func (c Config) password() (string, error) {
	if c.PasswordFile == "" && c.PasswordEnv == "" {
		return string(c.Password), nil
	}
	return credentials.Password(c.PasswordFile, c.PasswordEnv)
}

// Secret is a text that appears in no log, message or dump.
type Secret string

const hidden = "[hidden]"

// String hides the text; so do the methods below for other ways of printing.
func (s Secret) String() string {
	if s == "" {
		return ""
	}
	return hidden
}

// GoString hides the text.
func (s Secret) GoString() string { return s.String() }

// MarshalText hides the text.
func (s Secret) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// Component is the sink, for the pipeline file.
func Component() pipeline.Component[pipeline.NewSink] {
	return pipeline.Define("Writes telemetry, predictions and events to the tables of a ClickHouse server.", DefaultConfig(),
		func(c Config) (pipeline.NewSink, error) {
			return func(s pipeline.Settings) (pipeline.Sink, error) { return New(c, s) }, nil
		})
}
