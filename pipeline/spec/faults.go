package spec

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// Position is a place in a pipeline file. Line and Column count from 1, Column in characters; 0 is unknown.
type Position struct {
	File   string
	Line   int
	Column int
}

func (p Position) String() string {
	if p.Line == 0 {
		return p.File
	}
	return fmt.Sprintf("%s:%d:%d", p.File, p.Line, p.Column)
}

// Fault is one thing wrong with a pipeline file.
type Fault struct {
	Position
	Path    string // the keys that lead there: "steps[2].score.model"; "" is the file itself
	Message string // what was wanted and what came
}

func (f Fault) Error() string {
	if f.Path == "" {
		return f.Position.String() + ": " + f.Message
	}
	return f.Position.String() + ": " + f.Path + ": " + f.Message
}

// Faults is everything wrong with a pipeline file, in the order of the file.
type Faults []Fault

// Error gives one fault a line.
func (f Faults) Error() string {
	lines := make([]string, len(f))
	for i := range f {
		lines[i] = f[i].Error()
	}
	return strings.Join(lines, "\n")
}

// maxFaults bounds a report. Nobody reads more of it, and a hostile file could ask for a megabyte.
const maxFaults = 100

// faultList gathers faults while a file is read. It remembers which values could not be read, so that a config that judges
// itself does not report the default in their place as well.
type faultList struct {
	faults  Faults
	blamed  map[string]bool
	dropped int
}

func (l *faultList) add(pos Position, path, format string, args ...any) {
	if len(l.faults) >= maxFaults {
		l.dropped++
		return
	}
	l.faults = append(l.faults, Fault{Position: pos, Path: path, Message: fmt.Sprintf(format, args...)})
}

func (l *faultList) blame(path string) {
	if l.blamed == nil {
		l.blamed = map[string]bool{}
	}
	l.blamed[path] = true
}

// err is nil if there is no fault.
func (l *faultList) err(file string) error {
	if len(l.faults) == 0 {
		return nil
	}
	slices.SortStableFunc(l.faults, func(a, b Fault) int {
		return cmp.Or(cmp.Compare(a.Line, b.Line), cmp.Compare(a.Column, b.Column))
	})
	if l.dropped > 0 {
		l.faults = append(l.faults, Fault{Position: Position{File: file},
			Message: fmt.Sprintf("%d more faults are not shown", l.dropped)})
	}
	return l.faults
}

// unknown is the message for a name that is none of known, nor of beside, which are not listed. It names the nearest if one
// is near, and returns that too.
func unknown(what, name string, known []string, beside ...string) (message, near string) {
	if near = nearest(name, slices.Concat(known, beside)); near != "" {
		return fmt.Sprintf("unknown %s %s, did you mean %q?", what, quoted(name), near), near
	}
	return fmt.Sprintf("unknown %s %s, want %s", what, quoted(name), oneOf(known)), ""
}

// oneOf lists names: "one of a, b, c".
func oneOf(names []string) string {
	switch len(names) {
	case 0:
		return "none"
	case 1:
		return names[0]
	}
	return "one of " + strings.Join(names, ", ")
}

// nearest returns the name that takes the fewest edits to reach, if they are few for its length: about one in three characters.
func nearest(name string, names []string) string {
	const longest = 64 // no key of ours is longer; it bounds the work for names from a hostile file
	if len(name) > longest {
		return ""
	}
	best, found := max(1, (len(name)+1)/3)+1, ""
	for _, n := range names {
		if d := edits(name, n); d < best {
			best, found = d, n
		}
	}
	return found
}

// edits is the Levenshtein distance of a and b in bytes, where two neighbours that changed places are one edit (the optimal
// string alignment distance).
func edits(a, b string) int {
	var before []int // the row for i-2
	last := make([]int, len(b)+1)
	for j := range last {
		last[j] = j
	}
	for i := 1; i <= len(a); i++ {
		row := make([]int, len(b)+1)
		row[0] = i
		for j := 1; j <= len(b); j++ {
			change := 1
			if a[i-1] == b[j-1] {
				change = 0
			}
			row[j] = min(last[j]+1, row[j-1]+1, last[j-1]+change)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				row[j] = min(row[j], before[j-2]+1)
			}
		}
		before, last = last, row
	}
	return last[len(b)]
}

// quoted shows text from a file, which may hold anything, on one line and not too long.
func quoted(text string) string {
	const longest = 80 // what fits beside the rest of a message
	if runes := []rune(text[:min(len(text), 4*longest)]); len(runes) > longest {
		return fmt.Sprintf("%q...", string(runes[:longest]))
	}
	return fmt.Sprintf("%q", text)
}
