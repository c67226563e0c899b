package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// child is a process that this one started, and ends.
type child struct {
	name string
	cmd  *exec.Cmd
	log  string        // the file that it writes to
	done chan struct{} // closed when it has ended, at the time end
	end  time.Time
}

// startChild runs a program whose output is appended to a file; env is added to the environment. The kernel kills it
// when this process ends, however that happens.
func startChild(name, log string, env []string, program string, args ...string) (*child, error) {
	f, err := os.OpenFile(log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	defer f.Close() // the child has its own
	c := &child{name: name, cmd: exec.Command(program, args...), log: log, done: make(chan struct{})}
	c.cmd.Env = append(os.Environ(), env...)
	c.cmd.Stdout, c.cmd.Stderr = f, f
	dieWithParent(c.cmd)
	launched := make(chan error)
	go func() {
		defer close(c.done)
		// The kernel takes the end of the thread that started the process for the parent's end.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := c.cmd.Start()
		launched <- err
		if err == nil {
			_ = c.cmd.Wait() // ProcessState says how it ended
		}
		c.end = time.Now()
	}()
	if err := <-launched; err != nil {
		<-c.done
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return c, nil
}

// kill ends the process as kill -9 does and waits for it. One that has ended stays as it is.
func (c *child) kill() {
	_ = c.cmd.Process.Kill() // it may have ended
	<-c.done
}

func (c *child) signal(s syscall.Signal) error {
	if err := c.cmd.Process.Signal(s); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("%s: %v: %w", c.name, s, err)
	}
	return nil
}

// stop asks the process to end, and kills it if it has not after limit, which is an error.
func (c *child) stop(limit time.Duration) error {
	if err := c.signal(syscall.SIGTERM); err != nil {
		return err
	}
	timer := time.NewTimer(limit)
	defer timer.Stop()
	select {
	case <-c.done:
		return nil
	case <-timer.C:
		c.kill()
		return fmt.Errorf("%s: want an end within %v of SIGTERM, got none: it was killed; see %s", c.name, limit, c.log)
	}
}

func (c *child) ended() bool {
	select {
	case <-c.done:
		return true
	default:
		return false
	}
}

// killed tells whether SIGKILL ended the process.
func (c *child) killed() bool {
	status, ok := c.cmd.ProcessState.Sys().(syscall.WaitStatus)
	return ok && status.Signaled() && status.Signal() == syscall.SIGKILL
}

// cpu is the time that an ended process has used, of user and system.
func (c *child) cpu() time.Duration {
	return c.cmd.ProcessState.UserTime() + c.cmd.ProcessState.SystemTime()
}

// peakRSS is the most memory that a process has had, in bytes (proc(5), VmHWM); 0 if it is not there.
func peakRSS(pid int) (int64, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ESRCH) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(text)) {
		if rest, ok := strings.CutPrefix(line, "VmHWM:"); ok {
			kib, err := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(rest), " kB"), 10, 64)
			if err != nil {
				return 0, fmt.Errorf("/proc/%d/status: want VmHWM in kB, got %q", pid, strings.TrimSpace(rest))
			}
			return kib << 10, nil
		}
	}
	return 0, nil // a process that is ending has none
}

// userTick is the unit of the kernel's CPU times, USER_HZ (proc(5)), which is the same on every Linux of this
// architecture.
const userTick = time.Second / 100

// busy is the time that all processors of the machine have worked since its start (proc(5), /proc/stat).
func busy() (time.Duration, error) {
	text, err := os.ReadFile("/proc/stat")
	if err != nil {
		return 0, err
	}
	first, _, _ := strings.Cut(string(text), "\n")
	fields := strings.Fields(first)
	if len(fields) < 9 || fields[0] != "cpu" {
		return 0, fmt.Errorf("/proc/stat: want the sums of all processors, got %q", first)
	}
	var sum int64
	for i, field := range fields[1:9] {
		if i == 3 || i == 4 { // idle, and waiting for a disk
			continue
		}
		n, err := strconv.ParseInt(field, 10, 64)
		if err != nil {
			return 0, fmt.Errorf("/proc/stat: %w", err)
		}
		sum += n
	}
	return time.Duration(sum) * userTick, nil
}

// cpuOf is the CPU time of a process that runs (proc(5), /proc/PID/stat).
func cpuOf(pid int) (time.Duration, error) {
	path := fmt.Sprintf("/proc/%d/stat", pid)
	text, err := os.ReadFile(path)
	if err != nil {
		return 0, err
	}
	// The name is in parentheses and may hold anything; utime and stime are the 12th and 13th field after it.
	fields := strings.Fields(string(text[strings.LastIndexByte(string(text), ')')+1:]))
	if len(fields) < 13 {
		return 0, fmt.Errorf("%s: want 13 fields after the name, got %d", path, len(fields))
	}
	user, err := strconv.ParseInt(fields[11], 10, 64)
	if err != nil {
		return 0, fmt.Errorf("%s: %w", path, err)
	}
	system, err := strconv.ParseInt(fields[12], 10, 64)
	if err != nil {
		return 0, fmt.Errorf("%s: %w", path, err)
	}
	return time.Duration(user+system) * userTick, nil
}

// within asks until the answer is yes. An answer with an error is asked again, and shown if time runs out.
func within(ctx context.Context, limit time.Duration, what string, ask func() (bool, error)) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		yes, err := ask()
		if yes && err == nil {
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return errors.Join(fmt.Errorf("waited %v in vain for %s: %w", limit, what, ctx.Err()), err)
		}
	}
}

// The ports to choose from lie under those that the kernel gives to outgoing connections: a client that dials a port of
// that range while its server is down can end up connected to itself and hold the port.
const (
	firstPort = 10_000
	lastPort  = 32_000
)

// freeAddress is host:port on this machine.
func freeAddress() (string, error) {
	var err error
	for range 100 {
		address := net.JoinHostPort("127.0.0.1", strconv.Itoa(firstPort+rand.IntN(lastPort-firstPort)))
		var l net.Listener
		if l, err = net.Listen("tcp", address); err == nil {
			return address, l.Close()
		}
	}
	return "", fmt.Errorf("no free port: %w", err)
}

// buildProgram builds the program of the module in the current folder into dir.
func buildProgram(ctx context.Context, dir string) (string, error) {
	program := filepath.Join(dir, "tailrace")
	build := exec.CommandContext(ctx, "go", "build", "-o", program, "github.com/tailrace/tailrace")
	if said, err := build.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build tailrace (run this in the repository's root): %w: %s", err,
			strings.TrimSpace(string(said)))
	}
	return program, nil
}
