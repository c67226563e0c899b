package file

import (
	"strconv"
	"strings"
	"time"

	"github.com/tailrace/tailrace/pipeline"
)

// The forms of recorded data.
const (
	FormatCSV  = "csv"  // a header line; a time column, then a column per tag
	FormatLong = "long" // a header line; columns ts, asset, tag, value and, if there, q
	FormatTEP  = "tep"  // Tennessee Eastman: 52 whitespace-separated columns, no header, no times
)

// Config is which recorded data to read, and how.
type Config struct {
	// Format is csv (a time column and a column per tag), long (columns ts, asset, tag, value, q) or tep (the .dat files
	// of the Tennessee Eastman Process).
	Format string `yaml:"format" jsonschema:"required,enum=csv,enum=long,enum=tep"`
	// Files are read together, merged in the order of time. Relative paths start at the pipeline file's folder; .gz is
	// unpacked.
	Files []string `yaml:"files" jsonschema:"required"`
	// Asset names the asset of csv and tep; {file} stands for the file's base name without extensions. Default {file}.
	Asset string `yaml:"asset"`
	// AssetColumn is a column of csv that names the asset, instead of Asset.
	AssetColumn string `yaml:"asset_column"`
	// Start is the time of the first row of tep.
	Start time.Time `yaml:"start"`
	// Period is the time between rows of tep. Default 3m, the sampling interval of the published runs.
	Period time.Duration `yaml:"period"`
	// TimeColumn is the time column of csv. Default ts.
	TimeColumn string `yaml:"time_column"`
	// Time says how times are written in csv and long: ns, us, ms, s, rfc3339, or a layout such as "2006-01-02 15:04:05",
	// which is taken as UTC. Default rfc3339.
	Time string `yaml:"time"`
	// Separator stands between columns of csv and long. Default ",".
	Separator string `yaml:"separator"`
	// Ignore are columns of csv that hold no tag: labels, for one.
	Ignore []string `yaml:"ignore"`
	// MaxFile bounds a file, unpacked. Default 4GiB: more than any recorded set here, and a bound for a bomb.
	MaxFile pipeline.Bytes `yaml:"max_file"`
}

// DefaultConfig is a Config without format and files, which have no default.
func DefaultConfig() Config {
	return Config{
		Asset: "{file}", Start: time.Date(2000, 1, 3, 0, 0, 0, 0, time.UTC), Period: 3 * time.Minute,
		TimeColumn: "ts", Time: "rfc3339", Separator: ",", MaxFile: 4 << 30,
	}
}

// Validate reports every fault.
func (c *Config) Validate() []pipeline.Fault {
	var faults []pipeline.Fault
	fault := func(path, format string, args ...any) {
		faults = append(faults, pipeline.Faultf(path, format, args...))
	}
	switch c.Format {
	case FormatCSV, FormatLong:
		if len([]rune(c.Separator)) != 1 || strings.ContainsAny(c.Separator, "\"\r\n") {
			fault("separator", "want one character, got %q", c.Separator)
		}
		if _, err := parseTime(c.Time, "0"); c.Time == "" || err != nil && !isLayout(c.Time) && c.Time != "rfc3339" {
			fault("time", "want ns, us, ms, s, rfc3339 or a layout of 2006-01-02 15:04:05, got %q", c.Time)
		}
		if c.Format == FormatCSV && c.TimeColumn == "" {
			fault("time_column", "want the name of a column, got none")
		}
	case FormatTEP:
		if c.Period <= 0 {
			fault("period", "want more than 0s, got %v", c.Period)
		}
		if y := c.Start.Year(); y < 1700 || y > 2200 {
			fault("start", "want a year from 1700 to 2200, got %d", y)
		}
	default:
		fault("format", "want csv, long or tep, got %q", c.Format)
	}
	if len(c.Files) == 0 {
		fault("files", "want at least one file, got none")
	}
	for i, name := range c.Files {
		if name == "" {
			fault("files["+strconv.Itoa(i)+"]", "want a path, got nothing")
		}
	}
	if c.Format != FormatLong && c.Asset == "" {
		fault("asset", "want a name, got nothing")
	}
	if c.MaxFile < 1 {
		fault("max_file", "want 1 byte or more, got %d", c.MaxFile)
	}
	return faults
}

// isLayout tells a time layout from a word: it has the reference year.
func isLayout(s string) bool { return strings.Contains(s, "2006") }
