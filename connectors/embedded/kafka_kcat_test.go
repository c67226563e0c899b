//go:build kcat

package embedded

import (
	"context"
	"fmt"
	"os/exec"
	"strings"
	"testing"
	"time"
)

// kcat runs Debian's kcat, which is librdkafka.
func kcat(t *testing.T, in string, args ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, "kcat", args...)
	cmd.Stdin = strings.NewReader(in)
	var faults strings.Builder
	cmd.Stderr = &faults
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("kcat %s: %v: %s", strings.Join(args, " "), err, faults.String())
	}
	return string(out)
}

// Scenario: kcat lists, produces with every codec and headers into a topic that is not there yet, reads it back, and
// reads it as a member of a group.
// Guarantees: the other client in wide use works against the embedded broker.
func TestKcat(t *testing.T) {
	k := startKafka(t, KafkaConfig{Dir: t.TempDir()})
	addr := k.Addrs()[0]
	if out := kcat(t, "", "-b", addr, "-L"); !strings.Contains(out, "1 brokers") || !strings.Contains(out, addr) {
		t.Fatalf("got %s", out)
	}
	var want []string
	for i, codec := range []string{"none", "gzip", "snappy", "lz4", "zstd"} {
		line := fmt.Sprintf("key%d:value%d", i, i)
		kcat(t, line+"\n", "-b", addr, "-t", "plant", "-P", "-K", ":", "-H", "h=1", "-z", codec)
		want = append(want, line+" h=1")
	}
	out := kcat(t, "", "-b", addr, "-t", "plant", "-C", "-e", "-q", "-f", "%k:%s %h\n")
	if got := strings.TrimSpace(out); got != strings.Join(want, "\n") {
		t.Fatalf("got %s", got)
	}
	out = kcat(t, "", "-b", addr, "-G", "people", "-c", "5", "-q", "-X", "auto.offset.reset=earliest", "-f", "%s\n", "plant")
	if got := strings.Fields(out); len(got) != 5 {
		t.Fatalf("got %s", out)
	}
}
