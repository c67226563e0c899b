package main

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/tailrace/tailrace/deploy"
	"github.com/tailrace/tailrace/operators/model"
)

// plantModel is the bundle of the demo that scores the plant.
const plantModel = "models/tep-pca/1.0.0"

// plantGrid is that of the model.
const plantGrid = 3 * time.Minute

// copyModels puts the demo's bundles into dir and gives the signals of the plant's model.
func copyModels(dir string) ([]Tag, []model.Channel, error) {
	models, err := fs.Sub(deploy.Demo, "demo")
	if err != nil {
		return nil, nil, err
	}
	if models, err = fs.Sub(models, plantModel); err != nil {
		return nil, nil, err
	}
	if err := os.CopyFS(filepath.Join(dir, plantModel), models); err != nil {
		return nil, nil, err
	}
	m, err := model.Load(filepath.Join(dir, plantModel))
	if err != nil {
		return nil, nil, err
	}
	var tags []Tag
	for _, c := range m.Manifest.Channels {
		tags = append(tags, Tag{Name: c.Tag, Mean: c.Mean, Deviation: c.Std})
	}
	return tags, m.Manifest.Channels, nil
}

// pipelineFile is what differs between the pipeline files of the benchmarks.
type pipelineFile struct {
	ID, Topic, Group, Database string
	Brokers, ClickHouse        string
	PasswordFile, Store        string
	HTTP                       string
	Delivery                   string // "" keeps to the default
	UntilEnd                   bool
	Memory                     int64         // bytes
	Interval                   time.Duration // of checkpoints
	Steps                      string        // as YAML, indented as a list in the file
	Watermark                  string        // as YAML, in braces
}

// write puts the file into dir.
func (f *pipelineFile) write(dir, name string) (string, error) {
	until, delivery := "", ""
	if f.UntilEnd {
		until = "\n      until: end"
	}
	if f.Delivery != "" {
		delivery = ", delivery: " + f.Delivery
	}
	// The session time-out is the least that brokers take. Inserts give up soon, so that a hung server is seen.
	text := fmt.Sprintf(`version: 1
name: Bench
id: %s
sources:
  plant:
    kafka:
      brokers: [%q]
      topic: %s
      group: %s
      session_timeout: 6s
      heartbeat_interval: 1s%s
    format:
      json: {ts: ns}
steps:
%s
sinks:
  clickhouse:
    address: %q
    user: tailrace
    password_file: %s
    database: %s
    insert_timeout: 10s
  kafka: {brokers: [%q], prefix: %s.}
watermark: %s
checkpoint: {interval: %v%s}
state: {store: %q}
limits: {memory: %d}
http: {address: %q}
`, f.ID, f.Brokers, f.Topic, f.Group, until, f.Steps, f.ClickHouse, f.PasswordFile, f.Database, f.Brokers, f.ID,
		f.Watermark,
		f.Interval, delivery, f.Store, f.Memory, f.HTTP)
	path := filepath.Join(dir, name)
	return path, os.WriteFile(path, []byte(text), 0o600)
}

// plantSteps are those of the demo: a row for each asset and grid time, a score, and events.
func plantSteps(channels []model.Channel) string {
	var units []string
	for _, c := range channels {
		units = append(units, fmt.Sprintf("%s: %q", c.Tag, c.Unit))
	}
	return fmt.Sprintf(`  - align: {grid: %v, max_gap: %v, channels: {%s}}
  - window: {kind: tumbling, size: %v}
  - normalize: {model: %s}
  - score: {model: %s}
  - detect: {threshold: {quantile: 0.99}, on_delay: 6m, off_delay: 15m}`,
		plantGrid, plantGrid, strings.Join(units, ", "), plantGrid, plantModel, plantModel)
}

// plantTimes are the watermark's, which the generator's late rows go by.
type plantTimes struct{ outOfOrder, allowedLateness, maxDelay time.Duration }

func chaosTimes() plantTimes {
	return plantTimes{outOfOrder: 2 * plantGrid, allowedLateness: 5 * plantGrid, maxDelay: 20 * plantGrid}
}

// yaml is the section watermark. A device is never idle during a run: when it is depends on the clock, and results
// could not be compared. What is history lies beyond the generator's delays.
func (t plantTimes) yaml() string {
	return fmt.Sprintf("{step: %v, out_of_order: %v, allowed_lateness: %v, idle_timeout: 24h, late_after: %v}",
		plantGrid, t.outOfOrder, t.allowedLateness, 2*t.maxDelay)
}

// plantGenerator is the load of the chaos runs. It crosses the end of a month, so that checkpoints have more than one
// table partition.
func plantGenerator(seed uint64, assets int, tags []Tag) GeneratorConfig {
	times := chaosTimes()
	return GeneratorConfig{
		Seed: seed, Assets: assets, Tags: tags, Start: time.Date(2026, 1, 31, 0, 0, 0, 0, time.UTC), Step: plantGrid,
		InTime: 0.02, Correcting: 0.005, TooLate: 0.001, Duplicate: 0.002, Malformed: 0.0005,
		OutOfOrder: times.outOfOrder, AllowedLateness: times.allowedLateness, MaxDelay: times.maxDelay,
		Excursion: 0.1, ExcursionSteps: 12,
	}
}
