package spec

import (
	"fmt"
	"maps"
	"reflect"
	"slices"

	"github.com/tailrace/tailrace/pipeline"
)

func (r *reader) scalarKey(e entry, text *string) {
	r.value(e.value, reflect.ValueOf(text).Elem(), e.pos, e.key)
}

// identify checks name and id. The id is part of what the pipeline stores, so it has few characters and no default that a
// later edit of a free text would change by a letter.
func (r *reader) identify(h head) {
	r.file.Name, r.file.ID = h.Name, h.ID
	_, named := r.places["name"]
	_, identified := r.places["id"]
	switch {
	case r.blamed("name") || r.blamed("id") || !named:
	case h.Name == "":
		r.bad("name", "want a text, got an empty one")
	case identified && !idPattern.MatchString(h.ID):
		r.bad("id", "want 1 to 64 of a-z, 0-9 and -, got %s", quoted(h.ID))
	case identified:
	case !idPattern.MatchString(h.Name):
		r.bad("name", "want 1 to 64 of a-z, 0-9 and -, or a key id that has them, got %s", quoted(h.Name))
	default:
		r.file.ID = h.Name
	}
}

// entries wants a mapping.
func (r *reader) entries(n *node, keyPos Position, path, what string) []entry {
	if !r.visit(n, keyPos, path) {
		return nil
	}
	if n.kind != mappingNode || len(n.entries) == 0 {
		r.want(n, path, what)
		return nil
	}
	return n.entries
}

// pick finds the one entry that names a component, among others that may stand beside it.
func (r *reader) pick(entries []entry, path, what string, known, beside []string) *entry {
	var picked *entry
	mistyped := false
	for i := range entries {
		e := &entries[i]
		switch {
		case slices.Contains(beside, e.key):
		case !slices.Contains(known, e.key):
			message, _ := unknown(what, e.key, known, beside...)
			r.faults.add(e.pos, path, "%s", message)
			mistyped = true
		case picked != nil:
			r.faults.add(e.pos, path, "want one %s, got %q beside %q", what, e.key, picked.key)
		default:
			picked = e
		}
	}
	if picked == nil && !mistyped {
		r.faults.add(place(r.places, path), path, "want a %s: %s", what, oneOf(known))
	}
	return picked
}

// part decodes a component's config.
func (r *reader) part(e *entry, newConfig func() any, path string) Part {
	p := Part{Kind: e.key, Config: newConfig(), Path: join(path, e.key), Pos: e.pos}
	r.config(e.value, p.Config, e.pos, p.Path)
	return p
}

func names[T any](components map[string]pipeline.Component[T]) []string {
	return slices.Sorted(maps.Keys(components))
}

func (r *reader) sources(e entry) {
	sources := r.entries(e.value, e.pos, "sources", "a mapping of one name to a source")
	for i, s := range sources {
		if i > 0 {
			r.faults.add(s.pos, "sources", "want one source, got %s as well", quoted(s.key))
		}
		path := join("sources", s.key)
		if !plainKey.MatchString(s.key) {
			r.faults.add(s.pos, path, "want a name of letters, digits, - and _")
		}
		source := r.source(s, path)
		if i == 0 {
			r.file.Source = source
		}
	}
}

func (r *reader) source(e entry, path string) Source {
	source := Source{Name: e.key}
	entries := r.entries(e.value, e.pos, path, "a mapping of a source kind to its config, and format")
	if entries == nil {
		return source
	}
	kinds := names(r.components.Sources)
	if kind := r.pick(entries, path, "source kind", kinds, []string{"format"}); kind != nil {
		source.Part = r.part(kind, r.components.Sources[kind.key].NewConfig, path)
	}
	for _, f := range entries {
		if f.key == "format" {
			source.Format = r.format(f, join(path, "format"))
			return source
		}
	}
	if len(entries) == 1 || !r.misspelt(entries, kinds) {
		r.faults.add(e.pos, path, "key \"format\" is missing, want %s", oneOf(names(r.components.Formats)))
	}
	return source
}

// misspelt says whether an unknown key of a source was probably meant to be its format, which is reported already.
func (r *reader) misspelt(entries []entry, kinds []string) bool {
	return slices.ContainsFunc(entries, func(e entry) bool {
		return !slices.Contains(kinds, e.key) && nearest(e.key, []string{"format"}) != ""
	})
}

func (r *reader) format(e entry, path string) Part {
	entries := r.entries(e.value, e.pos, path, "a mapping of a format to its config")
	if entries == nil {
		return Part{}
	}
	if kind := r.pick(entries, path, "format", names(r.components.Formats), nil); kind != nil {
		return r.part(kind, r.components.Formats[kind.key].NewConfig, path)
	}
	return Part{}
}

func (r *reader) steps(e entry) {
	if !r.visit(e.value, e.pos, "steps") {
		return
	}
	if e.value.kind != sequenceNode || len(e.value.items) == 0 {
		r.want(e.value, "steps", "a list of steps")
		return
	}
	named := map[string]int{}
	for i, item := range e.value.items {
		path := fmt.Sprintf("steps[%d]", i)
		entries := r.entries(item, item.pos, path, "a mapping of a step kind to its config")
		if entries == nil {
			continue
		}
		var step Step
		kind := r.pick(entries, path, "step kind", names(r.components.Operators), []string{"name"})
		if kind != nil {
			step.Part = r.part(kind, r.components.Operators[kind.key].NewConfig, path)
			step.Name = kind.key
		}
		r.stepName(entries, path, &step)
		if first, ok := named[step.Name]; ok && step.Name != "" {
			r.faults.add(place(r.places, path), path, "want a name of its own beside the kind, got %s like steps[%d]",
				quoted(step.Name), first)
		} else {
			named[step.Name] = i
		}
		r.file.Steps = append(r.file.Steps, step)
	}
}

// stepName reads the name that may stand beside the kind. It goes into metrics and messages.
func (r *reader) stepName(entries []entry, path string, step *Step) {
	for _, e := range entries {
		if e.key != "name" {
			continue
		}
		at := join(path, "name")
		var name string
		r.value(e.value, reflect.ValueOf(&name).Elem(), e.pos, at)
		switch {
		case r.blamed(at):
		case !plainKey.MatchString(name):
			r.bad(at, "want a name of letters, digits, - and _, got %s", quoted(name))
		default:
			step.Name = name
		}
	}
}

func (r *reader) sinks(e entry) {
	sinks, publishers := names(r.components.Sinks), names(r.components.Publishers)
	what := fmt.Sprintf("a mapping with a store (%s) and a publisher (%s)", oneOf(sinks), oneOf(publishers))
	entries := r.entries(e.value, e.pos, "sinks", what)
	if entries == nil {
		return
	}
	var stores, topics, others []entry
	for _, s := range entries {
		switch {
		case slices.Contains(sinks, s.key):
			stores = append(stores, s)
		case slices.Contains(publishers, s.key):
			topics = append(topics, s)
		default:
			others = append(others, s)
		}
	}
	for _, s := range others {
		message, _ := unknown("sink kind", s.key, slices.Concat(sinks, publishers))
		r.faults.add(s.pos, "sinks", "%s", message)
	}
	if len(stores) > 0 || len(others) == 0 {
		if kind := r.pick(stores, "sinks", "store", sinks, nil); kind != nil {
			r.file.Sink = r.part(kind, r.components.Sinks[kind.key].NewConfig, "sinks")
		}
	}
	if len(topics) > 0 || len(others) == 0 {
		if kind := r.pick(topics, "sinks", "publisher", publishers, nil); kind != nil {
			r.file.Publisher = r.part(kind, r.components.Publishers[kind.key].NewConfig, "sinks")
		}
	}
}
