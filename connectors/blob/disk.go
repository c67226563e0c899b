package blob

import (
	"errors"
	"io"
	"os"
	"syscall"
)

// disk is what a folder asks of the file system in writing. Tests put one in its place that fails.
type disk interface {
	// create makes a file that must not exist, for its owner alone.
	create(root *os.Root, name string) (file, error)
	// link gives a file a second name that must not exist.
	link(root *os.Root, from, to string) error
	// syncFolder returns when the names in a folder can't be lost any more.
	syncFolder(root *os.Root, name string) error
}

type file interface {
	io.WriteCloser
	Sync() error
}

type osDisk struct{}

func (osDisk) create(root *os.Root, name string) (file, error) {
	return root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
}

func (osDisk) link(root *os.Root, from, to string) error { return root.Link(from, to) }

func (osDisk) syncFolder(root *os.Root, name string) error {
	dir, err := root.Open(name)
	if err != nil {
		return err
	}
	err = dir.Sync()
	if errors.Is(err, syscall.EINVAL) || errors.Is(err, errors.ErrUnsupported) {
		err = nil // a file system whose folders are always in step
	}
	return errors.Join(err, dir.Close())
}
