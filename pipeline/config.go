package pipeline

import "time"

// WatermarkConfig is the section watermark of a pipeline file: how event time advances.
type WatermarkConfig struct {
	// OutOfOrder is how far behind the newest time of its partition a row may be and still be in time. Default 0: gateways
	// that keep order need none, and every result waits this long.
	OutOfOrder time.Duration `yaml:"out_of_order"`
	// Step is the grain of the watermark: it moves in multiples of Step, and batches are cut where it does, so that results
	// do not depend on fetch sizes. Default 1s, finer than most grids; a coarser step costs less and closes windows later.
	Step time.Duration `yaml:"step"`
}

// DefaultWatermark is the section's default.
func DefaultWatermark() WatermarkConfig { return WatermarkConfig{Step: time.Second} }

// Validate reports what is out of bounds.
func (c *WatermarkConfig) Validate() []Fault {
	var faults []Fault
	if c.OutOfOrder < 0 {
		faults = append(faults, Faultf("out_of_order", "want 0s or more, got %v", c.OutOfOrder))
	}
	if c.Step < time.Microsecond {
		faults = append(faults, Faultf("step", "want 1us or more, got %v", c.Step))
	}
	return faults
}

// CheckpointConfig is the section checkpoint of a pipeline file: when rows are stored and offsets committed.
type CheckpointConfig struct {
	// Interval is the time between barriers. Default 1s: about one insert a second for each table, as ClickHouse likes it.
	Interval time.Duration `yaml:"interval"`
	// Rows brings the barrier forward when so many rows wait. Default 500000, one block of an insert.
	Rows int64 `yaml:"rows"`
}

// DefaultCheckpoint is the section's default.
func DefaultCheckpoint() CheckpointConfig {
	return CheckpointConfig{Interval: time.Second, Rows: 500_000}
}

// Validate reports what is out of bounds.
func (c *CheckpointConfig) Validate() []Fault {
	var faults []Fault
	if c.Interval < 10*time.Millisecond || c.Interval > time.Hour {
		faults = append(faults, Faultf("interval", "want 10ms to 1h, got %v", c.Interval))
	}
	if c.Rows < 1 {
		faults = append(faults, Faultf("rows", "want 1 or more, got %d", c.Rows))
	}
	return faults
}

// LimitsConfig is the section limits of a pipeline file: what the process may hold.
type LimitsConfig struct {
	// Memory bounds the bytes of rows read and not yet stored, over all partitions. At the bound a barrier is forced and
	// reading waits. Default 256MiB: some 2 million rows, and with what the heap adds well under 1 GiB.
	Memory Bytes `yaml:"memory"`
	// Drain is how long a stop or a rebalance may take to store and commit what was read. Default 3s: with leaving the group
	// Ctrl+C ends within 5 s whatever hangs.
	Drain time.Duration `yaml:"drain"`
}

// DefaultLimits is the section's default.
func DefaultLimits() LimitsConfig { return LimitsConfig{Memory: 256 << 20, Drain: 3 * time.Second} }

// Validate reports what is out of bounds.
func (c *LimitsConfig) Validate() []Fault {
	var faults []Fault
	if c.Memory < 1<<20 {
		faults = append(faults, Faultf("memory", "want 1MiB or more, got %d bytes", c.Memory))
	}
	if c.Drain < 100*time.Millisecond || c.Drain > 10*time.Minute {
		faults = append(faults, Faultf("drain", "want 100ms to 10m, got %v", c.Drain))
	}
	return faults
}

// HTTPConfig is the section http of a pipeline file: metrics, health and status.
type HTTPConfig struct {
	// Address is host:port. Default 127.0.0.1:9464; "" serves nothing.
	Address string `yaml:"address"`
	// PProf serves Go's profiles under /debug/pprof/ as well. Default false: a profile tells much, and costs while it runs.
	PProf bool `yaml:"pprof"`
}

// DefaultHTTP is the section's default.
func DefaultHTTP() HTTPConfig { return HTTPConfig{Address: "127.0.0.1:9464"} }
