package window

import (
	"errors"
	"fmt"

	"github.com/tailrace/tailrace/schemas"
)

// conditions are the start and the stop of a trigger.
type conditions struct {
	language    *language
	start, stop *expression
}

func newConditions(c *Config, channels []schemas.Channel) (*conditions, error) {
	l, err := newLanguage(channels)
	if err != nil {
		return nil, err
	}
	start, bad := l.compile(c.Start, uint64(c.MaxCost))
	if bad != nil {
		err = fmt.Errorf("start: %w", bad)
	}
	stop, bad := l.compile(c.Stop, uint64(c.MaxCost))
	if bad != nil {
		err = errors.Join(err, fmt.Errorf("stop: %w", bad))
	}
	if err != nil {
		return nil, err
	}
	return &conditions{language: l, start: start, stop: stop}, nil
}

// flags judges a row by its samples.
func (c *conditions) flags(cells []float64) uint8 {
	var flags uint8
	if c.language.holds(c.start, cells) {
		flags |= flagStart
	}
	if c.language.holds(c.stop, cells) {
		flags |= flagStop
	}
	return flags
}
