package rekeyed

import (
	"fmt"

	"github.com/tailrace/tailrace/schemas"
	"github.com/tailrace/tailrace/schemas/formats"
)

// Config is what a user writes under the format's key.
type Config struct {
	// MaxBytes is the largest message. The default is Kafka's own default for a message.
	MaxBytes schemas.Bytes `yaml:"max_bytes"`
	// MaxAssets bounds the distinct assets of one partition, as in the format json.
	MaxAssets int `yaml:"max_assets"`
	// MaxTags bounds the distinct tag names of one partition.
	MaxTags int `yaml:"max_tags"`
	// MaxSources bounds the partitions of source topics whose last row is remembered. Default 1000: some topics of a hundred
	// partitions, and some that were made anew. What is remembered is stored with each checkpoint, some 60 bytes each.
	MaxSources int `yaml:"max_sources"`
}

// DefaultConfig returns the defaults.
func DefaultConfig() Config {
	return Config{MaxBytes: 1 << 20, MaxAssets: 10_000, MaxTags: 100_000, MaxSources: 1000}
}

// Faults returns everything that is wrong with c.
func (c *Config) Faults() []formats.Fault {
	var faults []formats.Fault
	add := func(path, format string, args ...any) {
		faults = append(faults, formats.Fault{Path: path, Message: fmt.Sprintf(format, args...)})
	}
	if c.MaxBytes < 1 || c.MaxBytes > 1<<30 {
		add("max_bytes", "want 1 to 1GiB, got %d", c.MaxBytes)
	}
	for _, limit := range []struct {
		path string
		n    int
	}{{"max_assets", c.MaxAssets}, {"max_tags", c.MaxTags}, {"max_sources", c.MaxSources}} {
		if limit.n < 1 {
			add(limit.path, "want at least 1, got %d", limit.n)
		}
	}
	return faults
}
