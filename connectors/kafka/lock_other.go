//go:build !(darwin || dragonfly || freebsd || linux || netbsd || openbsd)

package kafka

import (
	"errors"
	"os"
)

// lock says that a process's life can't be told here: whoever takes over waits for the session timeout.
func lock(*os.File) (bool, error) { return false, errors.ErrUnsupported }
