// Package spec reads the pipeline file: YAML, strictly, every fault at once and each with its line and column.
//
// A file names components by their keys in [pipeline.Components], and their configs are filled from it by their yaml tags,
// on top of the defaults that they bring. There are no includes, no merge keys, no tags and no ${VARIABLES}: a file means what it
// says where it says it, and secrets come from the files and environment variables that *_file and *_env keys name.
package spec

import (
	"maps"
	"regexp"
	"slices"

	"github.com/tailrace/tailrace/pipeline"
)

// Version is the format of pipeline files that this package reads.
const Version = 1

// File is a pipeline file that was read without a fault.
type File struct {
	Version int
	Name    string
	ID      string // fixed id of the pipeline, [a-z0-9-]+

	Source    Source
	Steps     []Step
	Sink      Part // a key of Components.Sinks
	Publisher Part // a key of Components.Publishers

	Watermark  pipeline.WatermarkConfig
	Checkpoint pipeline.CheckpointConfig
	State      pipeline.StateConfig
	Limits     pipeline.LimitsConfig
	HTTP       pipeline.HTTPConfig

	// Sections holds the configs of the caller's own sections that the file has, by key.
	Sections map[string]any

	places map[string]Position
}

// Part is a component that the file names.
type Part struct {
	Kind   string // its key in Components
	Config any    // what Component.NewConfig gave, filled and validated
	Path   string // "sinks.clickhouse"
	Pos    Position
}

// Source is the file's one source.
type Source struct {
	Part
	Name   string
	Format Part
}

// Step is one operator of the chain.
type Step struct {
	Part
	Name string // unique in the file; the kind if the file gives none
}

// Pos is where path stands in the file ("steps[1].window.size"); if it does not stand there, the nearest of what leads to it.
func (f *File) Pos(path string) Position { return place(f.places, path) }

// Fault places something that is found out about the file later, in Bind for one.
func (f *File) Fault(path, message string) Fault {
	return Fault{Position: f.Pos(path), Path: path, Message: message}
}

// head is what a file says about itself.
type head struct {
	Version int    `yaml:"version"`
	Name    string `yaml:"name"`
	ID      string `yaml:"id"`
}

var idPattern = regexp.MustCompile(`^[a-z0-9-]{1,64}$`)

// reader reads one file.
type reader struct {
	decoder
	components pipeline.Components
	file       *File
}

// Parse reads a pipeline file. name stands in front of every fault. sections gives the caller's own top-level sections: for
// each key a function that returns a pointer to a config with its defaults. The error is [Faults].
func Parse(name string, text []byte, c pipeline.Components, sections map[string]func() any) (*File, error) {
	faults := &faultList{}
	root := parseTree(name, text, faults)
	if root == nil {
		return nil, faults.err(name)
	}
	file := &File{
		Version: Version, Watermark: pipeline.DefaultWatermark(), Checkpoint: pipeline.DefaultCheckpoint(),
		State:  pipeline.DefaultState(),
		Limits: pipeline.DefaultLimits(), HTTP: pipeline.DefaultHTTP(), Sections: map[string]any{},
		places: map[string]Position{},
	}
	r := &reader{decoder: decoder{faults: faults, places: file.places}, components: c, file: file}
	r.visit(root, root.pos, "")
	if root.kind != mappingNode {
		r.want(root, "", "a mapping with the keys version, name, sources, steps and sinks")
		return nil, faults.err(name)
	}
	if r.version(root) {
		r.top(root, sections)
	}
	if err := faults.err(name); err != nil {
		return nil, err
	}
	return file, nil
}

// version comes first: what another version means by its keys is not known here.
func (r *reader) version(root *node) bool {
	for _, e := range root.entries {
		if e.key != "version" {
			continue
		}
		if e.value.kind != plainNode || e.value.text != "1" {
			r.faults.add(e.pos, "version", "want %d, the only version of this program, got %s", Version, e.value.describe())
			return false
		}
		return true
	}
	r.faults.add(root.pos, "version", "key is missing, want version: %d", Version)
	return true
}

// engineSections are the configs of the engine itself, by key.
func (f *File) engineSections() map[string]any {
	return map[string]any{
		"watermark": &f.Watermark, "checkpoint": &f.Checkpoint, "state": &f.State, "limits": &f.Limits, "http": &f.HTTP,
	}
}

func (r *reader) top(root *node, sections map[string]func() any) {
	engine := r.file.engineSections()
	known := slices.Concat([]string{"version", "name", "id", "sources", "steps", "sinks"},
		slices.Sorted(maps.Keys(engine)), slices.Sorted(maps.Keys(sections)))
	given := map[string]bool{"version": true}
	var h head
	for _, e := range root.entries {
		given[e.key] = true
		switch e.key {
		case "version":
		case "name":
			r.scalarKey(e, &h.Name)
		case "id":
			r.scalarKey(e, &h.ID)
		case "sources":
			r.sources(e)
		case "steps":
			r.steps(e)
		case "sinks":
			r.sinks(e)
		default:
			if config, ok := engine[e.key]; ok {
				r.config(e.value, config, e.pos, e.key)
			} else if newConfig, ok := sections[e.key]; ok {
				config := newConfig()
				r.config(e.value, config, e.pos, e.key)
				r.file.Sections[e.key] = config
			} else {
				message, near := unknown("key", e.key, known)
				r.faults.add(e.pos, "", "%s", message)
				given[near] = true
			}
		}
	}
	for _, key := range []string{"name", "sources", "steps", "sinks"} {
		if !given[key] {
			r.faults.add(root.pos, "", "key %q is missing", key)
		}
	}
	r.identify(h)
}
