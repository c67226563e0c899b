package eventtime

// cutter joins rows to spans.
type cutter struct {
	spans []Span // those that are complete
	last  Span   // takes more rows if open
	open  bool
}

func (c *cutter) start(spans []Span) { *c = cutter{spans: spans} }

// add puts row i, which comes after all rows so far, into a lane.
func (c *cutter) add(i int, lane Lane) {
	if c.open && c.last.To == i && c.last.Lane == lane {
		c.last.To++
		return
	}
	c.begin(i, lane)
}

func (c *cutter) begin(i int, lane Lane) {
	c.close()
	c.last, c.open = Span{From: i, To: i + 1, Lane: lane}, true
}

func (c *cutter) close() {
	if c.open {
		c.spans, c.open = append(c.spans, c.last), false
	}
}

// move ends the rows of a lane where its watermark moves.
func (c *cutter) move(lane Lane, watermark int64) {
	if !c.open || c.last.Lane != lane {
		c.close()
		c.last, c.open = Span{From: c.last.To, To: c.last.To, Lane: lane}, true
	}
	c.last.Moved, c.last.Watermark = true, watermark
	c.close()
}

func (c *cutter) end() []Span {
	c.close()
	return c.spans
}
