package kafkatest

import (
	"os/exec"
	"syscall"
)

// dieWithParent has the process killed when this one ends without stopping it, as at a test's timeout.
func dieWithParent(cmd *exec.Cmd) { cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL} }
