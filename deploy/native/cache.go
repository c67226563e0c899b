package native

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"
)

// cache is the folder of one library version:
//
//	<root>/native/<name>-<version>/<file>       the library, read-only
//	<root>/native/<name>-<version>/stamp.json   size, time and hash of the file when it was verified
//	<root>/native/<name>-<version>.lock         flock of the process that fills the folder
//	<root>/native/.<name>-<version>-*           a fetch under way, or what a killed one left behind
type cache struct {
	lib  Library
	base string // <root>/native; empty if the user has no cache folder
	err  error  // why base is empty
}

// stamp records that the file was hashed. A file of the same size and time is taken for the same file: hashing
// half a gigabyte at each start would cost a second, and who can write here can write the stamp too.
type stamp struct {
	SHA512 string `json:"sha512"`
	Bytes  int64  `json:"bytes"`
	TimeNs int64  `json:"time_ns"`
}

// lockPoll is how often a waiting process asks for the lock: flock cannot wait and watch a context at once, and
// nobody notices a twentieth of a second beside a fetch.
const lockPoll = 50 * time.Millisecond

func cacheAt(l Library, root string) cache {
	if root == "" {
		user, err := os.UserCacheDir()
		if err != nil {
			return cache{lib: l, err: err}
		}
		root = filepath.Join(user, "tailrace")
	}
	abs, err := filepath.Abs(root)
	if err != nil {
		return cache{lib: l, err: err}
	}
	return cache{lib: l, base: filepath.Join(abs, "native")}
}

func (c cache) id() string        { return string(c.lib.Name) + "-" + c.lib.Version }
func (c cache) dir() string       { return filepath.Join(c.base, c.id()) }
func (c cache) path() string      { return filepath.Join(c.dir(), c.lib.File) }
func (c cache) stampPath() string { return filepath.Join(c.dir(), "stamp.json") }

// hit reports whether the cache holds the verified library. A folder that others can write is an error, also on a
// hit: what lies in it could have been put there by them.
func (c cache) hit() (bool, error) {
	st, err := os.Stat(c.path())
	if c.base == "" || err != nil || !st.Mode().IsRegular() {
		return false, nil
	}
	for _, dir := range []string{c.base, c.dir()} {
		if err := c.private(dir); err != nil {
			return false, err
		}
	}
	b, err := os.ReadFile(c.stampPath())
	var s stamp
	if err != nil || json.Unmarshal(b, &s) != nil {
		return false, nil
	}
	return s == c.stampOf(st) && st.Size() == c.lib.LibraryBytes, nil
}

func (c cache) stampOf(st fs.FileInfo) stamp {
	return stamp{SHA512: c.lib.SHA512, Bytes: st.Size(), TimeNs: st.ModTime().UnixNano()}
}

// openCache makes the folders.
func openCache(l Library, root string) (cache, error) {
	c := cacheAt(l, root)
	if c.base == "" {
		return c, l.fault(Cache, c.err, remedyCache, "no cache folder")
	}
	for _, dir := range []string{c.base, c.dir()} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return c, l.fault(Cache, err, remedyCache, "the cache cannot be made")
		}
		if err := c.private(dir); err != nil {
			return c, err
		}
	}
	return c, nil
}

// private refuses a folder that another user owns or can write.
func (c cache) private(dir string) error {
	st, err := os.Stat(dir)
	if err != nil {
		return c.lib.fault(Cache, err, remedyCache, "the cache cannot be read")
	}
	if !st.IsDir() {
		return c.lib.fault(Cache, nil, remedyCache, "the cache %s is not a folder", dir)
	}
	if st.Mode().Perm()&0o022 != 0 {
		return c.lib.fault(Cache, nil, "chmod go-w that folder, or "+remedyCache,
			"others can write to the cache %s (mode %04o)", dir, st.Mode().Perm())
	}
	if sys, ok := st.Sys().(*syscall.Stat_t); ok && int(sys.Uid) != os.Geteuid() {
		return c.lib.fault(Cache, nil, remedyCache, "the cache %s belongs to user id %d, this is %d",
			dir, sys.Uid, os.Geteuid())
	}
	return nil
}

// fill puts the library into the cache, once, however many processes ask.
func (c cache) fill(ctx context.Context, o Options) (string, error) {
	unlock, err := c.lock(ctx, o.Progress)
	if err != nil {
		return "", err
	}
	defer unlock()
	if ok, err := c.hit(); err != nil || ok { // another process was faster
		return c.path(), err
	}
	if err := c.clean(); err != nil {
		return "", c.lib.fault(Cache, err, remedyCache, "an unfinished fetch cannot be removed")
	}
	// A whole file without a stamp is what a process leaves that was killed between the two.
	if _, err := os.Stat(c.path()); err == nil {
		if verify(ctx, Location{c.lib, c.path(), FromCache}) == nil {
			return c.path(), c.writeStamp()
		}
		if ctx.Err() != nil {
			return "", ctx.Err()
		}
	}
	tmp, err := os.MkdirTemp(c.base, "."+c.id()+"-")
	if err != nil {
		return "", c.lib.fault(Cache, err, remedyCache, "the cache cannot be written")
	}
	defer os.RemoveAll(tmp)
	archive, err := pack(ctx, c.lib, o, tmp)
	if err != nil {
		return "", err
	}
	file := filepath.Join(tmp, c.lib.File)
	if err := unpack(ctx, c.lib, o, archive, file); err != nil {
		return "", err
	}
	if err := os.Rename(file, c.path()); err != nil {
		return "", c.lib.fault(Cache, err, remedyCache, "the cache cannot be written")
	}
	if err := c.writeStamp(); err != nil {
		return "", err
	}
	o.Progress(Progress{c.lib, Ready, c.lib.LibraryBytes, c.lib.LibraryBytes})
	return c.path(), nil
}

// lock waits for the folder's lock. The kernel drops it when its process ends, however it ends.
func (c cache) lock(ctx context.Context, progress func(Progress)) (unlock func(), err error) {
	path := c.dir() + ".lock"
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, c.lib.fault(Cache, err, remedyCache, "the cache cannot be written")
	}
	tick := time.NewTicker(lockPoll)
	defer tick.Stop()
	for waited := false; ; waited = true {
		err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if err == nil {
			return func() { f.Close() }, nil
		}
		if !errors.Is(err, syscall.EWOULDBLOCK) && !errors.Is(err, syscall.EINTR) {
			f.Close()
			return nil, c.lib.fault(Cache, err, remedyCache, "the cache's lock %s cannot be taken", path)
		}
		if !waited {
			progress(Progress{c.lib, Waiting, 0, 0})
		}
		select {
		case <-ctx.Done():
			f.Close()
			return nil, fmt.Errorf("%s: waiting for another process that fetches it: %w", c.id(), ctx.Err())
		case <-tick.C:
		}
	}
}

// clean removes what killed fetches left. The lock is held, so no fetch of this library is under way.
func (c cache) clean() error {
	stale, err := filepath.Glob(filepath.Join(c.base, "."+c.id()+"-*"))
	for _, dir := range stale {
		err = errors.Join(err, os.RemoveAll(dir))
	}
	return err
}

// writeStamp records the file as verified, and makes it and its name survive a loss of power.
func (c cache) writeStamp() error {
	err := func() error {
		st, err := os.Stat(c.path())
		if err != nil {
			return err
		}
		b, err := json.Marshal(c.stampOf(st))
		if err != nil {
			return err
		}
		tmp := c.stampPath() + ".tmp"
		if err := os.WriteFile(tmp, b, 0o600); err != nil {
			return err
		}
		if err := os.Rename(tmp, c.stampPath()); err != nil {
			return err
		}
		d, err := os.Open(c.dir())
		if err != nil {
			return err
		}
		defer d.Close()
		return d.Sync()
	}()
	if err != nil {
		return c.lib.fault(Cache, err, remedyCache, "the cache cannot be written")
	}
	return nil
}
