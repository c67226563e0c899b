package spec

import (
	"encoding/json"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"time"

	"github.com/invopop/jsonschema"
	"github.com/tailrace/tailrace/pipeline"
)

// Schema returns the JSON Schema (draft 2020-12) of pipeline files, indented, from the same components and sections as
// [Parse]. Editors complete and check a file by it. It is looser than Parse, which alone knows what a config's own
// validation says, and stricter in one thing: it wants a mapping where Parse also takes a key without a value.
func Schema(c pipeline.Components, sections map[string]func() any) ([]byte, error) {
	file := object()
	file.Version = jsonschema.Version
	file.Title = "Tailrace pipeline file"
	file.Required = []string{"version", "name", "sources", "steps", "sinks"}
	set := file.Properties.Set
	set("version", &jsonschema.Schema{Const: Version, Description: "The format of the file."})
	set("name", &jsonschema.Schema{Type: "string", Description: "The pipeline's name, for people."})
	set("id", &jsonschema.Schema{Type: "string", Pattern: idPattern.String(),
		Description: "The pipeline's fixed id. It is stored with every row. Default name."})
	set("sources", sourcesSchema(c))
	set("steps", stepsSchema(c))
	set("sinks", sinksSchema(c))
	engine := (&File{
		Watermark: pipeline.DefaultWatermark(), Checkpoint: pipeline.DefaultCheckpoint(), Limits: pipeline.DefaultLimits(),
		HTTP: pipeline.DefaultHTTP(),
	}).engineSections()
	for _, key := range slices.Sorted(maps.Keys(engine)) {
		set(key, configSchema(engine[key]))
	}
	for _, key := range slices.Sorted(maps.Keys(sections)) {
		set(key, configSchema(sections[key]()))
	}
	text, err := json.MarshalIndent(file, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("schema of pipeline files: %w", err)
	}
	return append(text, '\n'), nil
}

// object is a mapping with no keys yet and no others allowed.
func object() *jsonschema.Schema {
	return &jsonschema.Schema{
		Type: "object", Properties: jsonschema.NewProperties(), AdditionalProperties: jsonschema.FalseSchema,
	}
}

// choices has one mapping for each component, with the component's key and what may stand beside it.
func choices[T any](components map[string]pipeline.Component[T], beside func(*jsonschema.Schema)) *jsonschema.Schema {
	all := &jsonschema.Schema{}
	for _, kind := range names(components) {
		one := object()
		one.Title, one.Description = kind, components[kind].Summary
		one.Required = []string{kind}
		one.Properties.Set(kind, configSchema(components[kind].NewConfig()))
		beside(one)
		all.OneOf = append(all.OneOf, one)
	}
	return all
}

func sourcesSchema(c pipeline.Components) *jsonschema.Schema {
	one := uint64(1)
	return &jsonschema.Schema{
		Type: "object", MinProperties: &one, MaxProperties: &one, Description: "Where rows come from, by a name.",
		AdditionalProperties: choices(c.Sources, func(s *jsonschema.Schema) {
			s.Properties.Set("format", choices(c.Formats, func(*jsonschema.Schema) {}))
			s.Required = append(s.Required, "format")
		}),
	}
}

func stepsSchema(c pipeline.Components) *jsonschema.Schema {
	one := uint64(1)
	return &jsonschema.Schema{
		Type: "array", MinItems: &one, Description: "The operators, in the order in which rows pass them.",
		Items: choices(c.Operators, func(s *jsonschema.Schema) {
			s.Properties.Set("name", &jsonschema.Schema{Type: "string", Pattern: plainKey.String(),
				Description: "The step's name in messages and metrics. Default its kind."})
		}),
	}
}

func sinksSchema(c pipeline.Components) *jsonschema.Schema {
	s := object()
	s.Description = "Where rows are stored, and the topics that events and dead letters go to."
	var stores, topics jsonschema.Schema
	for _, kind := range names(c.Sinks) {
		s.Properties.Set(kind, described(configSchema(c.Sinks[kind].NewConfig()), c.Sinks[kind].Summary))
		stores.OneOf = append(stores.OneOf, &jsonschema.Schema{Required: []string{kind}})
	}
	for _, kind := range names(c.Publishers) {
		s.Properties.Set(kind, described(configSchema(c.Publishers[kind].NewConfig()), c.Publishers[kind].Summary))
		topics.OneOf = append(topics.OneOf, &jsonschema.Schema{Required: []string{kind}})
	}
	s.AllOf = []*jsonschema.Schema{&stores, &topics}
	return s
}

func described(s *jsonschema.Schema, text string) *jsonschema.Schema {
	s.Description = text
	return s
}

// configSchema reflects a config, which points to a struct with its defaults.
func configSchema(config any) *jsonschema.Schema {
	r := jsonschema.Reflector{
		FieldNameTag: "yaml", RequiredFromJSONSchemaTags: true, DoNotReference: true, Anonymous: true, Mapper: textSchema,
	}
	s := r.Reflect(config)
	s.Version = ""
	addDefaults(s, reflect.ValueOf(config).Elem())
	return s
}

// textSchema is the schema of what the decoder reads from a text, or nil.
func textSchema(t reflect.Type) *jsonschema.Schema {
	number := t.Kind() >= reflect.Int && t.Kind() <= reflect.Float64
	switch {
	case t == durationType:
		return &jsonschema.Schema{Type: "string", Examples: []any{"3m", "250ms"},
			Pattern: `^-?([0-9]+(\.[0-9]*)?(ns|us|ms|s|m|h))+$`}
	case t == timeType:
		return &jsonschema.Schema{Type: "string", Examples: []any{"2000-01-01T00:00:00Z"}}
	case reflect.PointerTo(t).Implements(pairsType):
		return &jsonschema.Schema{Type: "object", AdditionalProperties: &jsonschema.Schema{Type: "string"}}
	case reflect.PointerTo(t).Implements(textType) && number:
		return &jsonschema.Schema{AnyOf: []*jsonschema.Schema{{Type: "string"}, {Type: "integer"}}}
	case reflect.PointerTo(t).Implements(textType):
		return &jsonschema.Schema{Type: "string"}
	}
	return nil
}

// addDefaults writes the defaults of a config into its schema and takes out what a file can't set.
func addDefaults(s *jsonschema.Schema, v reflect.Value) {
	if v.Kind() != reflect.Struct || s.Properties == nil {
		return
	}
	fields, keys := structFields(v.Type())
	for p := s.Properties.Oldest(); p != nil; {
		key := p.Key
		p = p.Next()
		if !slices.Contains(keys, key) {
			s.Properties.Delete(key)
		}
	}
	for _, key := range keys {
		p, ok := s.Properties.Get(key)
		value := v.FieldByIndex(fields[key].index)
		if !ok || value.Kind() == reflect.Pointer && value.IsNil() || fields[key].required {
			continue
		}
		if value.Kind() == reflect.Pointer {
			value = value.Elem()
		}
		switch text := value.Interface().(type) {
		case time.Duration:
			p.Default = text.String()
			continue
		case time.Time:
			p.Default = text.Format(time.RFC3339Nano)
			continue
		case interface{ MarshalText() ([]byte, error) }:
			if b, err := text.MarshalText(); err == nil && len(b) > 0 {
				p.Default = string(b)
			}
			continue
		}
		switch value.Kind() {
		case reflect.Struct:
			addDefaults(p, value)
		case reflect.Slice, reflect.Map: // none of ours has a default
		case reflect.String:
			if value.Len() > 0 {
				p.Default = value.String()
			}
		default:
			p.Default = value.Interface()
		}
	}
}
