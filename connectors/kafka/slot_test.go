package kafka

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/apache/arrow/go/v15/arrow/memory"
	"github.com/tailrace/tailrace/pipeline"
)

// memberBrokers is the variable that makes the test program a member of a group, with what the group is as JSON.
const memberBrokers = "TAILRACE_TEST_MEMBER"

// memberSession is longer than any test may take: whoever gets the partitions of a dead member did not wait for it.
const memberSession = 2 * time.Minute

type memberConfig struct {
	Brokers             []string
	Topic, Group, Local string
}

func (m memberConfig) open() (*Source, error) {
	c := DefaultSourceConfig()
	c.Brokers, c.Topic, c.Group, c.SessionTimeout, c.HeartbeatInterval = m.Brokers, m.Topic, m.Group, memberSession, 100*time.Millisecond
	return NewSource(c, pipeline.Settings{Pipeline: "p", Local: m.Local, Alloc: memory.DefaultAllocator}, newDigits)
}

// serveMember joins generation after generation and says how many partitions it has, until its input ends.
func serveMember(text string) error {
	var m memberConfig
	if err := json.Unmarshal([]byte(text), &m); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(context.Background())
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		cancel()
	}()
	s, err := m.open()
	for err == nil {
		var g pipeline.Generation
		if g, err = s.Next(ctx); err != nil {
			break
		}
		fmt.Println(len(g.Partitions()))
		select {
		case <-g.Revoked():
		case <-ctx.Done():
		}
		err = g.Close()
	}
	return err
}

// member starts a process and waits until it has n partitions.
func (m memberConfig) start(t *testing.T, n int) (process *exec.Cmd, said *bufio.Scanner) {
	t.Helper()
	text, err := json.Marshal(m)
	ok(t, err)
	c := exec.CommandContext(t.Context(), os.Args[0])
	c.Env, c.Stderr = append(os.Environ(), memberBrokers+"="+string(text)), os.Stderr
	_, err = c.StdinPipe()
	ok(t, err)
	out, err := c.StdoutPipe()
	ok(t, err)
	ok(t, c.Start())
	t.Cleanup(func() {
		_ = c.Process.Kill() // it may be gone
		_ = c.Wait()
	})
	said = bufio.NewScanner(out)
	await(t, said, n)
	return c, said
}

func await(t *testing.T, said *bufio.Scanner, n int) {
	t.Helper()
	for said.Scan() {
		if said.Text() == fmt.Sprint(n) {
			return
		}
	}
	t.Fatalf("want a member with %d partitions, and it ended: %v", n, said.Err())
}

// Scenario: of two processes of a group one is killed with -9, and another starts on the same machine, with the session
// timeout far away; it stops in good order.
// Guarantees: it gets the dead one's partitions at once, the living one keeps its own, and nothing stays of either.
func suiteKilledMember(t *testing.T, b broker) {
	m := memberConfig{Brokers: b.addrs(), Topic: makeTopic(t, b, 2, nil), Local: t.TempDir()}
	m.Group = "g-" + m.Topic
	doomed, _ := m.start(t, 2)
	_, living := m.start(t, 1)
	ok(t, doomed.Process.Kill())
	_ = doomed.Wait() // it was killed
	s, err := m.open()
	ok(t, err)
	g, err := s.Next(deadline(t))
	ok(t, err)
	if n := len(g.Partitions()); n != 1 {
		t.Fatalf("want 1 partition, got %d", n)
	}
	if n := len(slotFiles(t, m)); n != 2 {
		t.Fatalf("want 2 slots, got %d", n)
	}
	ok(t, g.Close())
	ok(t, s.Close())
	await(t, living, 2)
	if n := len(slotFiles(t, m)); n != 1 {
		t.Fatalf("want the living member's slot, got %d", n)
	}
}

func slotFiles(t *testing.T, m memberConfig) []string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(slotFolder(m.Local, m.Brokers, m.Group), "*"))
	ok(t, err)
	return files
}

// Scenario: slots that are held, abandoned, removed meanwhile, empty, and one whose member's id has changed.
// Guarantees: only those that nobody holds are given, with the last id; brokers in another order have the same folder, other
// groups and brokers another.
func TestSlots(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "a", "b")
	if list, err := abandoned(dir); err != nil || len(list) > 0 {
		t.Fatalf("got %v, %v", list, err)
	}
	held, err := makeSlot(dir)
	ok(t, err)
	ok(t, held.write("first"))
	if list, err := abandoned(dir); err != nil || len(list) > 0 {
		t.Fatalf("got %v, %v", list, err)
	}
	left, err := makeSlot(dir)
	ok(t, err)
	ok(t, left.write("a member id that is long"))
	ok(t, left.write("short"))
	ok(t, left.file.Close()) // as when its process dies
	list, err := abandoned(dir)
	ok(t, err)
	if len(list) != 1 || list[0].member != "short" {
		t.Fatalf("got %v", list)
	}
	if again, err := abandoned(dir); err != nil || len(again) > 0 {
		t.Fatalf("want what one process takes over left alone by others, got %v, %v", again, err)
	}
	ok(t, list[0].remove())
	ok(t, held.remove())
	gone, err := os.CreateTemp(dir, slotPrefix)
	ok(t, err)
	ok(t, os.Remove(gone.Name()))
	if ours, err := holds(gone); ours || err != nil {
		t.Fatalf("want a slot that was removed not held, got %v, %v", ours, err)
	}
	ok(t, gone.Close())
	folder := slotFolder("l", []string{"x:1", "y:1"}, "g")
	if slotFolder("l", []string{"y:1", "x:1"}, "g") != folder || slotFolder("l", []string{"x:1"}, "g") == folder ||
		slotFolder("l", []string{"x:1", "y:1"}, "h") == folder {
		t.Fatal("want a folder for each set of brokers and group")
	}
}

// Scenario: the folder for slots can't be made.
// Guarantees: joining works all the same.
func TestNoSlots(t *testing.T) {
	b := newFake(t)
	file := filepath.Join(t.TempDir(), "file")
	ok(t, os.WriteFile(file, nil, 0o600))
	m := memberConfig{Brokers: b.addrs(), Topic: makeTopic(t, b, 1, nil), Group: "g", Local: file}
	s, err := m.open()
	ok(t, err)
	g, err := s.Next(deadline(t))
	ok(t, err)
	ok(t, g.Close())
	ok(t, s.Close())
}
