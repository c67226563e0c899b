package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/tailrace/tailrace/connectors/kafka"
	"github.com/tailrace/tailrace/pipeline/failpoint"
)

// rig is a broker, a ClickHouse, and processes of the program that share a topic and a state store.
type rig struct {
	dir        string
	program    string
	brokers    []string
	broker     server
	clickhouse *clickhouseServer
	topic      string
	members    []*member
	tags       []Tag
	log        io.Writer
	faults     []string // what went wrong beside the comparison

	peak memoryPeak
}

// member is one process of the group, over its restarts.
type member struct {
	name  string
	dir   string
	file  string
	http  string
	child *child
}

// What a process may take to end, beyond limits.drain; and a rig as a whole.
const memberStop = 10 * time.Second

// workDir makes the folder that a run works in: dir, which is kept, or without one a temporary folder that remove removes.
func workDir(dir, name string) (path string, remove func() error, err error) {
	if dir == "" {
		path, err = os.MkdirTemp("", "tailrace-"+name+"-")
		return path, func() error { return os.RemoveAll(path) }, err
	}
	if path, err = filepath.Abs(dir); err != nil {
		return "", nil, err
	}
	return path, func() error { return nil }, os.MkdirAll(path, 0o700)
}

// newRig starts the servers, makes the topic and writes the files of as many processes as files has, which are not
// started.
func newRig(
	ctx context.Context, dir, brokerKind string, partitions, members int, log io.Writer, file pipelineFile,
) (_ *rig, err error) {
	r := &rig{dir: dir, topic: file.Topic, log: log}
	defer func() {
		if err != nil {
			err = errors.Join(err, r.close())
		}
	}()
	r.say("building tailrace")
	if r.program, err = buildProgram(ctx, dir); err != nil {
		return nil, err
	}
	r.say("starting ClickHouse and %s Kafka", brokerKind)
	if r.clickhouse, err = newClickHouse(dir); err != nil {
		return nil, err
	}
	if err := r.clickhouse.Start(ctx); err != nil {
		return nil, err
	}
	broker, address, err := newBroker(ctx, brokerKind, dir)
	if err != nil {
		return nil, err
	}
	r.broker, r.brokers = broker, []string{address}
	if err := r.broker.Start(ctx); err != nil {
		return nil, err
	}
	if err := kafka.CreateTopic(ctx, r.brokers, r.topic, partitions, nil); err != nil {
		return nil, err
	}
	for i := range members {
		m, err := r.newMember(fmt.Sprintf("p%d", i+1), file)
		if err != nil {
			return nil, err
		}
		r.members = append(r.members, m)
	}
	return r, nil
}

// newMember writes the pipeline file of a process, with the rig's addresses.
func (r *rig) newMember(name string, file pipelineFile) (*member, error) {
	m := &member{name: name, dir: filepath.Join(r.dir, name)}
	if err := os.MkdirAll(m.dir, 0o700); err != nil {
		return nil, err
	}
	tags, channels, err := copyModels(m.dir)
	if err != nil {
		return nil, err
	}
	r.tags = tags
	if m.http, err = freeAddress(); err != nil {
		return nil, err
	}
	file.Brokers, file.ClickHouse, file.PasswordFile = r.brokers[0], r.clickhouse.native, r.clickhouse.passwordFile
	file.HTTP, file.Store = m.http, "file://"+filepath.Join(r.dir, "state")
	if file.Steps == "" {
		file.Steps = plantSteps(channels)
	}
	m.file, err = file.write(m.dir, "pipeline.yaml")
	return m, err
}

// launch starts a process that is not running; at names the fail point that ends it, "" for none.
func (r *rig) launch(m *member, at string) (err error) {
	env := []string{failpoint.Env + "=" + at, "XDG_STATE_HOME=" + m.dir}
	if m.child, err = startChild(m.name, filepath.Join(m.dir, "log"), env, r.program, "run", m.file); err != nil {
		return err
	}
	r.peak.mu.Lock()
	defer r.peak.mu.Unlock()
	if r.peak.running == nil {
		r.peak.running = map[string]int{}
	}
	r.peak.running[m.http] = m.child.cmd.Process.Pid
	return nil
}

// stopMembers asks all that run to end, at once, and waits for them.
func (r *rig) stopMembers(members []*member) {
	var ending sync.WaitGroup
	faults := make([]error, len(members))
	for i, m := range members {
		if m.child != nil && !m.child.ended() {
			ending.Go(func() { faults[i] = m.child.stop(memberStop) })
		}
	}
	ending.Wait()
	for _, err := range faults {
		if err != nil {
			r.fault("%v", err)
		}
	}
}

// close ends every process.
func (r *rig) close() error {
	for _, m := range r.members {
		if m.child != nil {
			m.child.kill()
		}
	}
	var errs []error
	if r.broker != nil {
		errs = append(errs, r.broker.Stop())
	}
	if r.clickhouse != nil {
		errs = append(errs, r.clickhouse.Stop())
	}
	return errors.Join(errs...)
}

func (r *rig) say(format string, args ...any) {
	fmt.Fprintf(r.log, "%s "+format+"\n", append([]any{time.Now().Format("15:04:05")}, args...)...)
}

func (r *rig) fault(format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	r.say("FAULT %s", text)
	if !slices.Contains(r.faults, text) {
		r.faults = append(r.faults, text)
	}
}

// slog gives the log to a library.
func (r *rig) slog() *slog.Logger {
	return slog.New(slog.NewTextHandler(r.log, &slog.HandlerOptions{Level: slog.LevelWarn}))
}

// memoryPeak is the most that any process of the group has held.
type memoryPeak struct {
	mu      sync.Mutex
	running map[string]int // pid by HTTP address
	held    int64
	rss     int64
}

// memoryPoll is how often the processes are asked.
const memoryPoll = 200 * time.Millisecond

// watch asks all processes until ctx ends.
func (p *memoryPeak) watch(ctx context.Context) {
	client := http.Client{Timeout: time.Second}
	defer client.CloseIdleConnections()
	tick := time.NewTicker(memoryPoll)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		p.mu.Lock()
		processes := maps.Clone(p.running)
		p.mu.Unlock()
		for address, pid := range processes {
			held, err := gauge(ctx, &client, address, "tailrace_held_bytes")
			if err != nil {
				continue // it is starting, or was just killed
			}
			rss, err := peakRSS(pid)
			if err != nil {
				continue
			}
			p.mu.Lock()
			p.held, p.rss = max(p.held, held), max(p.rss, rss)
			p.mu.Unlock()
		}
	}
}

// gauge reads a metric without labels.
func gauge(ctx context.Context, client *http.Client, address, name string) (int64, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+address+"/metrics", nil)
	if err != nil {
		return 0, err
	}
	response, err := client.Do(request)
	if err != nil {
		return 0, err
	}
	defer response.Body.Close()
	text, err := io.ReadAll(io.LimitReader(response.Body, answerMax))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(text)) {
		if value, ok := strings.CutPrefix(line, name+" "); ok {
			f, err := strconv.ParseFloat(strings.TrimSpace(value), 64)
			return int64(f), err
		}
	}
	return 0, fmt.Errorf("%s: want the metric %s, got none", address, name)
}
