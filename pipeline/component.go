package pipeline

import (
	"fmt"

	"github.com/tailrace/tailrace/schemas/formats"
)

// Fault is one thing wrong with a Config. Path is where, in the user's keys, from the component's own level ("grid",
// "channels[3].tag"); "" is the component itself.
type Fault struct {
	Path    string
	Message string // what was wanted and what came
}

func (f Fault) Error() string {
	if f.Path == "" {
		return f.Message
	}
	return f.Path + ": " + f.Message
}

// Faultf returns a Fault with a formatted message.
func Faultf(path, format string, args ...any) Fault {
	return Fault{Path: path, Message: fmt.Sprintf(format, args...)}
}

// Validator is a Config that can judge itself, all faults at once.
type Validator interface {
	Validate() []Fault
}

// Component makes T from a Config that a user wrote. NewConfig returns a pointer to a Config filled with the defaults; its
// fields have yaml tags, and it may be a Validator. New takes that pointer, filled and validated.
type Component[T any] struct {
	Summary   string // one line for the generated schema and help
	NewConfig func() any
	New       func(config any) (T, error)
}

// Define makes a Component from a default Config and a constructor.
func Define[C, T any](summary string, defaults C, build func(C) (T, error)) Component[T] {
	return Component[T]{
		Summary:   summary,
		NewConfig: func() any { c := defaults; return &c },
		New: func(config any) (T, error) {
			c, ok := config.(*C)
			if !ok {
				var none T
				return none, fmt.Errorf("config: want %T, got %T", &defaults, config)
			}
			return build(*c)
		},
	}
}

// Constructors, so that one Config can make many: a chain is built for every task.
type (
	NewOperator  func(Settings) (Operator, error)
	NewDecoder   func() (formats.Decoder, error)
	NewSource    func(Settings, NewDecoder) (Source, error)
	NewSink      func(Settings) (Sink, error)
	NewPublisher func(Settings) (Publisher, error)
)

// Components is everything that a pipeline file can name, by its key in the file. main.go fills it.
type Components struct {
	Sources    map[string]Component[NewSource]
	Formats    map[string]Component[NewDecoder]
	Operators  map[string]Component[NewOperator]
	Sinks      map[string]Component[NewSink]
	Publishers map[string]Component[NewPublisher]
	Scorers    map[string]ScorerFactory
}

// Pair is one entry of a mapping whose order counts.
type Pair struct{ Key, Value string }

// PairsUnmarshaler is a config value written as a mapping of texts whose order counts. The error is one sentence.
type PairsUnmarshaler interface {
	UnmarshalPairs([]Pair) error
}
