// Package failpoint ends the process at a step of the checkpoint protocol, for tests of what is lost or doubled then.
package failpoint

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync/atomic"
)

// Env is the environment variable that says where: a step, or step:n for the n-th time that it is reached.
const Env = "TAILRACE_KILL_AT"

// Points ends the process at one step. The zero Points ends nothing.
type Points struct {
	step string
	left atomic.Int64
	kill func()
}

// Parse reads "step" or "step:n". "" is the zero Points.
func Parse(text string) (*Points, error) {
	step, times, counted := strings.Cut(text, ":")
	n := 1
	if counted {
		var err error
		if n, err = strconv.Atoi(times); err != nil || n < 1 {
			return nil, fmt.Errorf("%s: want step or step:n with n of 1 or more, got %q", Env, text)
		}
	}
	p := &Points{step: step, kill: killSelf}
	p.left.Store(int64(n))
	return p, nil
}

// Reach says that a step was reached. It does not return from the one that Points is for.
func (p *Points) Reach(step string) {
	if p == nil || p.step == "" || p.step != step || p.left.Add(-1) != 0 {
		return
	}
	p.kill()
}

// killSelf ends the process as kill -9 does: nothing is flushed, nothing deferred runs.
func killSelf() {
	if self, err := os.FindProcess(os.Getpid()); err == nil {
		_ = self.Kill() // there is nobody left to tell
	}
	select {}
}
