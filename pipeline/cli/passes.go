package cli

import (
	"fmt"
	"io"
	"math"
	"os"
	"time"

	"github.com/tailrace/tailrace/operators/train"
)

// passes shows how a net's training gets on: one line that is written again on a terminal, and elsewhere a line now and
// then, so that a log stays short.
type passes struct {
	*env
	start   time.Time // of the net in training
	part    int
	shown   time.Time
	pending bool // the line on the terminal has no end yet
}

// passesEvery is the time between lines where they stay.
const passesEvery = 2 * time.Second

func (p *passes) show(at train.Progress) {
	now := time.Now()
	first := at.Part != p.part
	if first {
		p.part, p.start = at.Part, now
	}
	if at.Epoch == 1 {
		return // it started the clock
	}
	each := now.Sub(p.start) / time.Duration(at.Epoch-1)
	left := each * time.Duration(at.Epochs-at.Epoch)
	line := fmt.Sprintf("net %d of %d: pass %d of at most %d, loss %.4g", at.Part, at.Parts, at.Epoch, at.Epochs, at.Loss)
	if !math.IsNaN(at.Validation) {
		line += fmt.Sprintf(", validation %.4g", at.Validation)
	}
	line += fmt.Sprintf(", %.0f windows/s, at most %s left", float64(at.Windows)/max(each.Seconds(), 1e-9), left.Round(100*time.Millisecond))
	out := p.stream()
	switch {
	case isTerminal(out):
		fmt.Fprintf(out, "\r\x1b[K%s", line)
		p.pending = true
	case now.Sub(p.shown) >= passesEvery || at.Epoch == at.Epochs:
		fmt.Fprintln(out, line)
		p.shown = now
	}
}

// done ends the line.
func (p *passes) done() {
	if p.pending {
		fmt.Fprintln(p.stream())
	}
}

func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}
