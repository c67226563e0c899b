//go:build darwin || dragonfly || freebsd || linux || netbsd || openbsd

package kafka

import (
	"errors"
	"os"
	"syscall"
)

// lock takes the lock of an open file, which ends when the file is closed or the process does, however it ends. It does
// not wait: false says that another has it.
func lock(f *os.File) (bool, error) {
	err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	if errors.Is(err, syscall.EWOULDBLOCK) {
		return false, nil
	}
	return err == nil, err
}
