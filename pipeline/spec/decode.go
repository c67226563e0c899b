package spec

import (
	"encoding"
	"errors"
	"fmt"
	"math"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/tailrace/tailrace/pipeline"
	"github.com/tailrace/tailrace/schemas/formats"
)

// maxVisits bounds the values decoded from a file, aliases counted each time they are used: without one, a file of a few
// lines could stand for more values than there is memory for. It is far above what maxTokens allows without aliases.
const maxVisits = 100_000

// decoder fills Go values from nodes, strictly, and notes where each value stands.
type decoder struct {
	faults *faultList
	places map[string]Position
	visits int
}

// visit notes where a value stands: a scalar's own place, a mapping's or list's that of its key. It says whether there is
// something to decode.
func (d *decoder) visit(n *node, keyPos Position, path string) bool {
	d.visits++
	if d.visits > maxVisits {
		if d.visits == maxVisits+1 {
			d.faults.add(keyPos, path, "want at most %d values, aliases counted where they are used", maxVisits)
		}
		return false
	}
	d.places[path] = keyPos
	if n.kind == plainNode || n.kind == quotedNode {
		d.places[path] = n.pos
	}
	if n.kind == brokenNode {
		d.faults.blame(path)
		return false
	}
	return true
}

// place is where path stands, or else the nearest of what leads to it.
func place(places map[string]Position, path string) Position {
	for path != "" {
		if pos, ok := places[path]; ok {
			return pos
		}
		path = path[:max(0, strings.LastIndexAny(path, ".["))]
	}
	return places[""]
}

var (
	durationType = reflect.TypeFor[time.Duration]()
	timeType     = reflect.TypeFor[time.Time]()
	pairsType    = reflect.TypeFor[pipeline.PairsUnmarshaler]()
	textType     = reflect.TypeFor[encoding.TextUnmarshaler]()
)

// value decodes n into v, which is addressable.
func (d *decoder) value(n *node, v reflect.Value, keyPos Position, path string) {
	if !d.visit(n, keyPos, path) {
		return
	}
	t := v.Type()
	switch {
	case t == durationType:
		d.duration(n, v, path)
	case t == timeType:
		d.time(n, v, path)
	case t.Kind() == reflect.Pointer:
		d.pointer(n, v, keyPos, path)
	case reflect.PointerTo(t).Implements(pairsType):
		d.pairs(n, v.Addr().Interface().(pipeline.PairsUnmarshaler), path)
	case reflect.PointerTo(t).Implements(textType):
		d.textual(n, v.Addr().Interface().(encoding.TextUnmarshaler), path)
	case t.Kind() == reflect.Struct:
		d.structure(n, v, path)
	case t.Kind() == reflect.Slice:
		d.slice(n, v, path)
	case t.Kind() == reflect.Map && t.Key().Kind() == reflect.String:
		d.mapping(n, v, path)
	default:
		d.scalar(n, v, path)
	}
}

// bad reports a value that can't be read.
func (d *decoder) bad(path, format string, args ...any) {
	d.faults.add(place(d.places, path), path, format, args...)
	d.faults.blame(path)
}

func (d *decoder) want(n *node, path, what string) {
	d.bad(path, "want %s, got %s", what, n.describe())
}

// pointer decodes into a copy of what a default points to: defaults are shared.
func (d *decoder) pointer(n *node, v reflect.Value, keyPos Position, path string) {
	fresh := reflect.New(v.Type().Elem())
	if !v.IsNil() {
		fresh.Elem().Set(v.Elem())
	}
	d.visits-- // a pointer is no value of its own
	d.value(n, fresh.Elem(), keyPos, path)
	v.Set(fresh)
}

// structure takes a null for a mapping without keys: "window:" is a window with defaults.
func (d *decoder) structure(n *node, v reflect.Value, path string) {
	if n.kind != mappingNode && n.kind != nullNode {
		d.want(n, path, "a mapping")
		return
	}
	fields, names := structFields(v.Type())
	given := make(map[string]bool, len(n.entries))
	for _, e := range n.entries {
		f, ok := fields[e.key]
		if !ok {
			message, near := unknown("key", e.key, names)
			d.faults.add(e.pos, path, "%s", message)
			given[near] = true
			d.faults.blame(join(path, near))
			continue
		}
		given[e.key] = true
		d.value(e.value, v.FieldByIndex(f.index), e.pos, join(path, e.key))
	}
	for _, name := range names {
		if fields[name].required && !given[name] {
			d.faults.add(place(d.places, path), path, "key %q is missing", name)
			d.faults.blame(join(path, name))
		}
	}
}

// field is one key of a config struct.
type field struct {
	index    []int
	required bool
}

// structFields gives the keys of a config struct by its yaml tags, and their order. Fields without one are the program's.
// A struct marked inline gives its own keys; jsonschema:"required" marks a key that has no default.
func structFields(t reflect.Type) (fields map[string]field, names []string) {
	fields = map[string]field{}
	for i := range t.NumField() {
		f := t.Field(i)
		name, options, _ := strings.Cut(f.Tag.Get("yaml"), ",")
		switch {
		case !f.IsExported() || name == "-":
		case options == "inline" && f.Type.Kind() == reflect.Struct:
			inner, innerNames := structFields(f.Type)
			for _, n := range innerNames {
				fields[n] = field{append([]int{i}, inner[n].index...), inner[n].required}
			}
			names = append(names, innerNames...)
		case name != "":
			required := slices.Contains(strings.Split(f.Tag.Get("jsonschema"), ","), "required")
			fields[name] = field{[]int{i}, required}
			names = append(names, name)
		}
	}
	return fields, names
}

func (d *decoder) slice(n *node, v reflect.Value, path string) {
	if n.kind != sequenceNode {
		d.want(n, path, "a list")
		return
	}
	out := reflect.MakeSlice(v.Type(), len(n.items), len(n.items))
	for i, item := range n.items {
		d.value(item, out.Index(i), item.pos, fmt.Sprintf("%s[%d]", path, i))
	}
	v.Set(out)
}

func (d *decoder) mapping(n *node, v reflect.Value, path string) {
	if n.kind != mappingNode {
		d.want(n, path, "a mapping")
		return
	}
	out := reflect.MakeMapWithSize(v.Type(), len(n.entries))
	for _, e := range n.entries {
		item := reflect.New(v.Type().Elem()).Elem()
		d.value(e.value, item, e.pos, join(path, e.key))
		out.SetMapIndex(reflect.ValueOf(e.key).Convert(v.Type().Key()), item)
	}
	v.Set(out)
}

func (d *decoder) pairs(n *node, u pipeline.PairsUnmarshaler, path string) {
	if n.kind != mappingNode {
		d.want(n, path, "a mapping")
		return
	}
	pairs := make([]pipeline.Pair, 0, len(n.entries))
	ok := true
	for _, e := range n.entries {
		at := join(path, e.key)
		if !d.visit(e.value, e.pos, at) {
			ok = false
			continue
		}
		text, good := d.text(e.value, at)
		ok = ok && good
		pairs = append(pairs, pipeline.Pair{Key: e.key, Value: text})
	}
	if !ok {
		return
	}
	if err := u.UnmarshalPairs(pairs); err != nil {
		d.bad(path, "%s", err)
	}
}

func (d *decoder) textual(n *node, u encoding.TextUnmarshaler, path string) {
	if n.kind != plainNode && n.kind != quotedNode {
		d.want(n, path, "a text")
		return
	}
	if err := u.UnmarshalText([]byte(n.text)); err != nil {
		d.bad(path, "%s", err)
	}
}

// text wants a text, written so that every YAML reader takes it for one.
func (d *decoder) text(n *node, path string) (string, bool) {
	if n.kind == plainNode && (isNumber(n.text) || isBool(n.text)) {
		d.bad(path, "want a text, got %s: write it in quotes", n.describe())
		return "", false
	}
	if n.kind != plainNode && n.kind != quotedNode {
		d.want(n, path, "a text")
		return "", false
	}
	return n.text, true
}

func (d *decoder) duration(n *node, v reflect.Value, path string) {
	if n.kind == plainNode || n.kind == quotedNode {
		if x, err := time.ParseDuration(n.text); err == nil {
			v.SetInt(int64(x))
			return
		}
	}
	d.want(n, path, "a duration such as 250ms, 30s or 3m")
}

func (d *decoder) time(n *node, v reflect.Value, path string) {
	if n.kind == plainNode || n.kind == quotedNode {
		for _, layout := range []string{time.RFC3339Nano, time.DateOnly} {
			if x, err := time.Parse(layout, n.text); err == nil {
				v.Set(reflect.ValueOf(x.UTC()))
				return
			}
		}
	}
	d.want(n, path, "a time such as 2000-01-01T00:00:00Z")
}

func (d *decoder) scalar(n *node, v reflect.Value, path string) {
	switch v.Kind() {
	case reflect.String:
		if text, ok := d.text(n, path); ok {
			v.SetString(text)
		}
	case reflect.Bool:
		if n.kind != plainNode || !isBool(n.text) {
			d.want(n, path, "true or false")
			return
		}
		v.SetBool(n.text == "true")
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		bits := v.Type().Bits()
		x, err := strconv.ParseInt(n.text, 10, bits)
		if !d.number(n, path, err, fmt.Sprintf("%d to %d", int64(math.MinInt64)>>(64-bits), int64(math.MaxInt64)>>(64-bits))) {
			return
		}
		v.SetInt(x)
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		bits := v.Type().Bits()
		x, err := strconv.ParseUint(n.text, 10, bits)
		if !d.number(n, path, err, fmt.Sprintf("0 to %d", uint64(math.MaxUint64)>>(64-bits))) {
			return
		}
		v.SetUint(x)
	case reflect.Float32, reflect.Float64:
		if n.kind == plainNode && isNumber(n.text) {
			if x, err := strconv.ParseFloat(n.text, v.Type().Bits()); err == nil {
				v.SetFloat(x)
				return
			}
		}
		d.want(n, path, "a finite number")
	default:
		d.bad(path, "the program has a key of type %s here, which a file can't hold", v.Type())
	}
}

// number says whether n is a whole number that was read without err.
func (d *decoder) number(n *node, path string, err error, bounds string) bool {
	if n.kind == plainNode && err == nil {
		return true
	}
	if n.kind == plainNode && errors.Is(err, strconv.ErrRange) {
		d.want(n, path, "a whole number from "+bounds)
	} else {
		d.want(n, path, "a whole number")
	}
	return false
}

// config decodes n into config, a pointer to a struct, and lets it judge itself.
func (d *decoder) config(n *node, config any, keyPos Position, path string) {
	v := reflect.ValueOf(config)
	if v.Kind() != reflect.Pointer || v.IsNil() {
		d.faults.add(keyPos, path, "the program has no config for it: want a pointer, got %T", config)
		return
	}
	d.value(n, v.Elem(), keyPos, path)
	for _, f := range validate(config) {
		at := path
		switch {
		case f.Path == "":
		case path == "" || strings.HasPrefix(f.Path, "["):
			at += f.Path
		default:
			at += "." + f.Path
		}
		if !d.blamed(at) {
			d.faults.add(place(d.places, at), at, "%s", f.Message)
		}
	}
}

// validate asks config for its faults. Those of formats are of a type of their own, since schemas imports nothing.
func validate(config any) []pipeline.Fault {
	switch c := config.(type) {
	case pipeline.Validator:
		return c.Validate()
	case interface{ Faults() []formats.Fault }:
		var faults []pipeline.Fault
		for _, f := range c.Faults() {
			faults = append(faults, pipeline.Fault(f))
		}
		return faults
	}
	return nil
}

// blamed says whether path, or something that leads to it, has a fault of its own already.
func (d *decoder) blamed(path string) bool {
	for path != "" {
		if d.faults.blamed[path] {
			return true
		}
		path = path[:max(0, strings.LastIndexAny(path, ".["))]
	}
	return false
}
