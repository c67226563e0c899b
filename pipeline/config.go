package pipeline

import "time"

// WatermarkConfig is the section watermark of a pipeline file: how event time advances. Each device of a partition has a
// clock; the partition's watermark is the slowest of those that are not idle, less out_of_order.
type WatermarkConfig struct {
	// OutOfOrder is how far behind the newest time of its device a row may be and still be in time. Default 0: gateways
	// that keep order need none, and every result waits this long.
	OutOfOrder time.Duration `yaml:"out_of_order"`
	// Step is the grain of the watermark: it moves in multiples of Step, and batches are cut where it does, so that results
	// do not depend on fetch sizes. Default 1s, finer than most grids; a coarser step costs less and closes windows later.
	Step time.Duration `yaml:"step"`
	// AllowedLateness is how far behind the watermark a row may be and still correct the results that it belongs to, which
	// then come again with a higher revision. Default 0: what is late is stored and flagged, and corrects nothing. Operators
	// keep what they need for it in memory.
	AllowedLateness time.Duration `yaml:"allowed_lateness"`
	// IdleTimeout is how long a device may send nothing, by arrival, before the others stop waiting for it. Default 30s:
	// several reports of a device that reports every few seconds. Devices that report by exception are silent for longer
	// and cost the others this much once.
	IdleTimeout time.Duration `yaml:"idle_timeout"`
	// MaxSkew is how far ahead of its arrival a time may be. Rows beyond are flagged clock_suspect, stored, and used by no
	// result, and their device is named. Default 5m, more than any clock drifts that is looked after.
	MaxSkew time.Duration `yaml:"max_skew"`
	// MinTime is the earliest time that is believed; what is before is clock_suspect. Default 2000-01-01: controllers without
	// a clock start in 1970 or 1990.
	MinTime time.Time `yaml:"min_time"`
	// LateAfter is how far behind its own device's clock a row is history: it is scored in a lane of its own, flagged
	// historical. Default 1h: a gateway that sends its buffer after an outage.
	LateAfter time.Duration `yaml:"late_after"`
	// BackfillEvents lets history open events as well. Default false: nobody answers an alarm of last week.
	BackfillEvents bool `yaml:"backfill_events"`
	// MaxDevices bounds the devices of one partition; rows of further ones have no clock of their own and follow the
	// watermark. Default 100000, some 10 MB.
	MaxDevices int `yaml:"max_devices"`
}

// DefaultWatermark is the section's default.
func DefaultWatermark() WatermarkConfig {
	return WatermarkConfig{
		Step: time.Second, IdleTimeout: 30 * time.Second, MaxSkew: 5 * time.Minute,
		MinTime: time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC), LateAfter: time.Hour, MaxDevices: 100_000,
	}
}

// Validate reports what is out of bounds.
func (c *WatermarkConfig) Validate() []Fault {
	var faults []Fault
	if c.OutOfOrder < 0 {
		faults = append(faults, Faultf("out_of_order", "want 0s or more, got %v", c.OutOfOrder))
	}
	if c.Step < time.Microsecond {
		faults = append(faults, Faultf("step", "want 1us or more, got %v", c.Step))
	}
	if c.AllowedLateness < 0 {
		faults = append(faults, Faultf("allowed_lateness", "want 0s or more, got %v", c.AllowedLateness))
	}
	for _, d := range []struct {
		path string
		v    time.Duration
	}{{"idle_timeout", c.IdleTimeout}, {"max_skew", c.MaxSkew}, {"late_after", c.LateAfter}} {
		if d.v <= 0 {
			faults = append(faults, Faultf(d.path, "want more than 0s, got %v", d.v))
		}
	}
	if c.LateAfter > 0 && c.LateAfter < c.OutOfOrder+c.AllowedLateness {
		faults = append(faults, Faultf("late_after", "want at least out_of_order and allowed_lateness together (%v), got %v",
			c.OutOfOrder+c.AllowedLateness, c.LateAfter))
	}
	if y := c.MinTime.Year(); y < 1678 || y > 2261 {
		faults = append(faults, Faultf("min_time", "want a time from 1678 to 2261, which nanoseconds can say, got %s", c.MinTime.Format(time.RFC3339)))
	}
	if c.MaxDevices < 1 {
		faults = append(faults, Faultf("max_devices", "want 1 or more, got %d", c.MaxDevices))
	}
	return faults
}

// The values of CheckpointConfig.Delivery.
const (
	ExactlyOnce = "exactly_once"
	AtLeastOnce = "at_least_once"
)

// The values of CheckpointConfig.Emit.
const (
	EmitImmediate       = "immediate"
	EmitAfterCheckpoint = "after_checkpoint"
)

// CheckpointConfig is the section checkpoint of a pipeline file: when rows are stored and offsets committed.
type CheckpointConfig struct {
	// Interval is the time between barriers. Default 1s: about one insert a second for each table, as ClickHouse likes it.
	Interval time.Duration `yaml:"interval"`
	// Rows brings the barrier forward when so many rows wait. Default 500000, one block of an insert.
	Rows int64 `yaml:"rows"`
	// Delivery into the store is exactly_once or at_least_once. Default exactly_once: a checkpoint is written down before any
	// of it is sent, so that whoever goes on after a crash sends the same again and nothing twice. at_least_once saves
	// that and repeats rows after a crash.
	Delivery string `yaml:"delivery"`
	// Emit says when events go to their topic: immediate, or after_checkpoint, when their rows are in the table. Default
	// immediate: a person waits for an alarm, and whoever looks the event up a moment later finds it.
	Emit string `yaml:"emit"`
	// Inserts brings the barrier forward when the rows that wait would take so many INSERTs, one for each month of a
	// table. Default 40: four seconds at ten INSERTs a second.
	Inserts int `yaml:"inserts"`
}

// DefaultCheckpoint is the section's default.
func DefaultCheckpoint() CheckpointConfig {
	return CheckpointConfig{Interval: time.Second, Rows: 500_000, Delivery: ExactlyOnce, Emit: EmitImmediate, Inserts: 40}
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
	if c.Delivery != ExactlyOnce && c.Delivery != AtLeastOnce {
		faults = append(faults, Faultf("delivery", "want %s or %s, got %q", ExactlyOnce, AtLeastOnce, c.Delivery))
	}
	if c.Emit != EmitImmediate && c.Emit != EmitAfterCheckpoint {
		faults = append(faults, Faultf("emit", "want %s or %s, got %q", EmitImmediate, EmitAfterCheckpoint, c.Emit))
	}
	if c.Inserts < 1 {
		faults = append(faults, Faultf("inserts", "want 1 or more, got %d", c.Inserts))
	}
	return faults
}

// StateConfig is the section state of a pipeline file: where what must survive a restart is kept.
type StateConfig struct {
	// Store is the URL of the folder or bucket of blobs: file:///var/lib/tailrace, or mem:// which forgets. Processes that share a
	// topic must share it. Default: the folder tailrace in $XDG_STATE_HOME, else ~/.local/state, which serves one machine.
	Store string `yaml:"store"`
	// FullEvery is how many checkpoints have one full snapshot of the operators' state; the others have what changed. Default
	// 20: a restart reads at most so many blobs.
	FullEvery int `yaml:"full_every"`
	// Keep is how many of the newest checkpoints keep their blobs. Default 5: enough to look back at what happened.
	Keep int `yaml:"keep"`
	// OnMissing says what is done if the group's offsets or a blob are gone though the ledger knows of checkpoints: stop,
	// resume from the newest checkpoint whose blob is there, or rebuild by reading the topic again without output up to
	// where the ledger ends. Default stop: a person should know.
	OnMissing string `yaml:"on_missing"`
	// OnGrowth says what is done when the topic has more partitions than before: stop, or continue. Default stop: keyed
	// gateways then send some assets to other partitions, where their windows and events begin anew. With continue the
	// status names the assets that came on two.
	OnGrowth string `yaml:"on_growth"`
}

// The values of StateConfig.OnMissing.
const (
	OnMissingStop    = "stop"
	OnMissingResume  = "resume"
	OnMissingRebuild = "rebuild"
)

// The values of StateConfig.OnGrowth.
const (
	OnGrowthStop     = "stop"
	OnGrowthContinue = "continue"
)

// DefaultState is the section's default.
func DefaultState() StateConfig {
	return StateConfig{FullEvery: 20, Keep: 5, OnMissing: OnMissingStop, OnGrowth: OnGrowthStop}
}

// Validate reports what is out of bounds.
func (c *StateConfig) Validate() []Fault {
	var faults []Fault
	if c.FullEvery < 1 || c.FullEvery > 500 {
		faults = append(faults, Faultf("full_every", "want 1 to 500, got %d", c.FullEvery))
	}
	if c.Keep < 1 {
		faults = append(faults, Faultf("keep", "want 1 or more, got %d", c.Keep))
	}
	switch c.OnMissing {
	case OnMissingStop, OnMissingResume, OnMissingRebuild:
	default:
		faults = append(faults, Faultf("on_missing", "want stop, resume or rebuild, got %q", c.OnMissing))
	}
	if c.OnGrowth != OnGrowthStop && c.OnGrowth != OnGrowthContinue {
		faults = append(faults, Faultf("on_growth", "want %s or %s, got %q", OnGrowthStop, OnGrowthContinue, c.OnGrowth))
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
	// Stall is how long a task may work on one delivery. One that takes longer ends its generation, so that another process
	// can take over. Default 5m, far over any batch through any model.
	Stall time.Duration `yaml:"stall"`
}

// DefaultLimits is the section's default.
func DefaultLimits() LimitsConfig {
	return LimitsConfig{Memory: 256 << 20, Drain: 3 * time.Second, Stall: 5 * time.Minute}
}

// Validate reports what is out of bounds.
func (c *LimitsConfig) Validate() []Fault {
	var faults []Fault
	if c.Memory < 1<<20 {
		faults = append(faults, Faultf("memory", "want 1MiB or more, got %d bytes", c.Memory))
	}
	if c.Drain < 100*time.Millisecond || c.Drain > 10*time.Minute {
		faults = append(faults, Faultf("drain", "want 100ms to 10m, got %v", c.Drain))
	}
	if c.Stall < time.Second {
		faults = append(faults, Faultf("stall", "want 1s or more, got %v", c.Stall))
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
