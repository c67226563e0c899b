package main

import (
	"os/exec"
	"syscall"
)

// dieWithParent has the process killed when this one ends without ending it.
func dieWithParent(cmd *exec.Cmd) { cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL} }
