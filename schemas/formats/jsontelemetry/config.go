package jsontelemetry

import (
	"fmt"
	"time"

	"github.com/tailrace/tailrace/schemas"
	"github.com/tailrace/tailrace/schemas/formats"
)

// TSUnit says how the field ts is written.
type TSUnit string

// The ways to write ts: a number of units since 1970-01-01 UTC, or a text of RFC 3339.
const (
	Nanos   TSUnit = "ns"
	Micros  TSUnit = "us"
	Millis  TSUnit = "ms"
	Seconds TSUnit = "s"
	RFC3339 TSUnit = "rfc3339"
)

// digits is the power of ten that makes nanoseconds of the unit; -1 for what is no number, -2 for no TSUnit at all.
func (u TSUnit) digits() int {
	switch u {
	case Nanos:
		return 0
	case Micros:
		return 3
	case Millis:
		return 6
	case Seconds:
		return 9
	case RFC3339:
		return -1
	}
	return -2
}

// QualityKind says what the field q means.
type QualityKind string

// The meanings of q. Absent or null is good under each.
const (
	QualityAuto  QualityKind = "auto"  // true, false; 0 bad, 1 uncertain, 2 good; 3 to 255 an OPC DA quality byte
	QualityLevel QualityKind = "level" // 0 bad, 1 uncertain, 2 good
	QualityOPCDA QualityKind = "opcda" // an OPC DA quality byte, 192 is good
	QualityBool  QualityKind = "bool"  // true good, false bad
)

// Time is a moment in ns UTC, written as a date or as RFC 3339.
type Time int64

// UnmarshalText reads a date ("2000-01-01", at 0 h UTC) or a moment of RFC 3339.
func (t *Time) UnmarshalText(text []byte) error {
	for _, layout := range []string{time.DateOnly, time.RFC3339Nano} {
		if at, err := time.Parse(layout, string(text)); err == nil {
			if y := at.Year(); y < 1700 || y > 2200 {
				return fmt.Errorf("want a year from 1700 to 2200, got %d", y)
			}
			*t = Time(at.UnixNano())
			return nil
		}
	}
	return fmt.Errorf("want a date such as 2000-01-01 or a time such as 2000-01-01T06:00:00Z, got %q", text)
}

// MarshalText writes RFC 3339.
func (t Time) MarshalText() ([]byte, error) {
	return time.Unix(0, int64(t)).UTC().AppendFormat(nil, time.RFC3339Nano), nil
}

// Config is what a user writes under the format's key.
type Config struct {
	// TS says how the field ts is written: ns, us, ms or s since 1970-01-01 UTC, or rfc3339.
	TS TSUnit `yaml:"ts" jsonschema:"required,enum=ns,enum=us,enum=ms,enum=s,enum=rfc3339"`
	// Quality says what the field q means: auto (true, false; 0 bad, 1 uncertain, 2 good; 3 to 255 an OPC DA byte),
	// level (0, 1, 2), opcda (0 to 255) or bool. Absent or null is good.
	Quality QualityKind `yaml:"quality" jsonschema:"enum=auto,enum=level,enum=opcda,enum=bool"`
	// MaxBytes is the largest message. The default is Kafka's own default for a message.
	MaxBytes schemas.Bytes `yaml:"max_bytes"`
	// MaxAssets bounds the distinct assets of one partition, so that a typo in a gateway's template cannot fill memory.
	MaxAssets int `yaml:"max_assets"`
	// MaxTags bounds the distinct tag names of one partition.
	MaxTags int `yaml:"max_tags"`
	// MinTime is the earliest believable time: rows before it are kept with the flag clock_suspect. The default is later
	// than where a clock without battery starts (1970, 1980).
	MinTime Time `yaml:"min_time"`
	// MaxSkew is how far ts may be ahead of the record's own time before the row gets the flag clock_suspect.
	MaxSkew time.Duration `yaml:"max_skew"`
}

// DefaultConfig returns the defaults.
func DefaultConfig() Config {
	return Config{
		TS: Nanos, Quality: QualityAuto, MaxBytes: 1 << 20, MaxAssets: 10_000, MaxTags: 100_000,
		MinTime: Time(time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC).UnixNano()), MaxSkew: 10 * time.Minute,
	}
}

// Faults returns everything that is wrong with c.
func (c *Config) Faults() []formats.Fault {
	var faults []formats.Fault
	add := func(path, format string, args ...any) {
		faults = append(faults, formats.Fault{Path: path, Message: fmt.Sprintf(format, args...)})
	}
	if c.TS.digits() == -2 {
		add("ts", "want ns, us, ms, s or rfc3339, got %q", c.TS)
	}
	switch c.Quality {
	case QualityAuto, QualityLevel, QualityOPCDA, QualityBool:
	default:
		add("quality", "want auto, level, opcda or bool, got %q", c.Quality)
	}
	if c.MaxBytes < 1 || c.MaxBytes > 1<<30 {
		add("max_bytes", "want 1 to 1GiB, got %d", c.MaxBytes)
	}
	if c.MaxAssets < 1 {
		add("max_assets", "want at least 1, got %d", c.MaxAssets)
	}
	if c.MaxTags < 1 {
		add("max_tags", "want at least 1, got %d", c.MaxTags)
	}
	if c.MaxSkew <= 0 {
		add("max_skew", "want more than 0s, got %s", c.MaxSkew)
	}
	return faults
}
