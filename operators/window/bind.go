package window

import (
	"errors"
	"fmt"
	"time"

	"github.com/apache/arrow/go/v15/arrow"

	"github.com/tailrace/tailrace/pipeline"
	"github.com/tailrace/tailrace/schemas"
)

// Bind wants align's rows on a grid that divides the lengths.
func (o *Operator) Bind(in *arrow.Schema) (*arrow.Schema, error) {
	layout, err := schemas.LayoutOf(in)
	if err == nil {
		err = o.check(in, layout)
	}
	if err == nil {
		err = o.bindKind(layout)
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %w", pipeline.ErrConfig, err)
	}
	rows, hop := o.kind.layout()
	layout.Size, layout.Hop = int(rows), int(hop)
	out, err := layout.With(schemas.WindowFields(layout.Size, o.channels))
	if err != nil {
		return nil, err
	}
	o.windows = newWindowBuilder(o.settings.Alloc, out, layout.Size, o.channels)
	return out, nil
}

// check reports everything about the input that does not fit.
func (o *Operator) check(in *arrow.Schema, layout schemas.Layout) error {
	if layout.Grid <= 0 || len(layout.Channels) == 0 {
		return fmt.Errorf("layout: want a grid and channels, got grid %v and %d channels", layout.Grid, len(layout.Channels))
	}
	fields := schemas.WideFields()
	for _, channel := range layout.Channels {
		fields = append(fields, arrow.Field{Name: channel.Tag, Type: arrow.PrimitiveTypes.Float64})
	}
	if len(in.Fields()) != len(fields) {
		return fmt.Errorf("want the %d columns of align with %d channels, got %d",
			len(fields), len(layout.Channels), len(in.Fields()))
	}
	var faults []error
	for i, field := range fields {
		if got := in.Field(i); got.Name != field.Name || !arrow.TypeEqual(got.Type, field.Type) {
			faults = append(faults, fmt.Errorf("column %d: want %s %s, got %s %s", i, field.Name, field.Type, got.Name, got.Type))
		}
	}
	for _, length := range []struct {
		key string
		d   time.Duration
	}{
		{"size", o.config.Size}, {"hop", o.config.Hop}, {"gap", o.config.Gap}, {"pre", o.config.Pre}, {"post", o.config.Post},
		{"max_duration", o.config.MaxDuration},
	} {
		if length.d%layout.Grid != 0 {
			faults = append(faults, fmt.Errorf("%s %v: want a multiple of the grid %v", length.key, length.d, layout.Grid))
		}
	}
	if o.config.Kind == Session && o.config.Gap <= layout.Grid {
		faults = append(faults, fmt.Errorf("gap %v: want more than the grid %v, or each row is a session",
			o.config.Gap, layout.Grid))
	}
	return errors.Join(faults...)
}

// bindKind makes the kind of windows for a layout that fits.
func (o *Operator) bindKind(layout schemas.Layout) error {
	c, grid := &o.config, int64(layout.Grid)
	switch c.Kind {
	case Tumbling:
		o.kind = placed{fixed{int64(c.Size), int64(c.Size), grid}, grid}
	case Hopping:
		o.kind = placed{fixed{int64(c.Size), int64(c.Hop), grid}, grid}
	case Session:
		o.kind = session{gap: int64(c.Gap), longest: int64(c.MaxDuration), grid: grid}
	case Count:
		every, _ := c.everyRows()
		o.kind = count{size: int64(c.Rows), every: int64(every), grid: grid}
	case Trigger:
		conditions, err := newConditions(c, layout.Channels)
		if err != nil {
			return err
		}
		o.trigger = conditions
		o.kind = trigger{
			pre: int64(c.Pre), post: int64(c.Post), shortest: int64(c.MinDuration), longest: int64(c.MaxDuration), grid: grid,
		}
	case Calendar:
		calendar, err := newCalendar(c, grid)
		if err != nil {
			return err
		}
		o.kind = placed{calendar, grid}
	default:
		return fmt.Errorf("kind: want one of %v, got %q", kindNames, c.Kind)
	}
	o.grid, o.channels = grid, len(layout.Channels)
	switch rows, _ := o.kind.layout(); {
	case rows < 1:
		return fmt.Errorf("grid %v: want one that a window has room for", layout.Grid)
	case rows > maxCells/int64(o.channels):
		return fmt.Errorf("want at most %d values a window, got %d rows (grid %v) of %d channels",
			maxCells, rows, layout.Grid, o.channels)
	}
	o.shape = shapeOf(c, layout)
	return nil
}
