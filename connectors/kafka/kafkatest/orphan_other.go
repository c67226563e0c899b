//go:build !linux

package kafkatest

import "os/exec"

// dieWithParent is for Linux alone: elsewhere a broker outlives a test process that is killed.
func dieWithParent(*exec.Cmd) {}
