package blob

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"

	"github.com/tailrace/tailrace/pipeline/state"
)

// folder keeps each blob in a file. All file names stay inside its root, whatever links lie there.
type folder struct {
	path string
	root *os.Root // nil: not open
}

var _ state.Store = (*folder)(nil)

func newFolder(path string) *folder { return &folder{path: path} }

// partial ends the names of files that are being written.
const partial = ".partial"

// Open makes the folder and tries it.
func (f *folder) Open(ctx context.Context) error {
	if err := os.MkdirAll(f.path, 0o700); err != nil {
		return err
	}
	root, err := os.OpenRoot(f.path)
	if err != nil {
		return err
	}
	f.root = root
	name := "tried-" + random()
	if err := f.Put(ctx, name, []byte(name)); err != nil {
		return err
	}
	return f.Delete(ctx, name)
}

func random() string {
	var b [8]byte
	_, _ = rand.Read(b[:]) // never fails (crypto/rand)
	return hex.EncodeToString(b[:])
}

// checkName wants a relative path of plain names.
func checkName(name string) error {
	if !fs.ValidPath(name) || name == "." || strings.HasSuffix(name, partial) {
		return fmt.Errorf("blob %q: want a relative path with no empty, . or .. part", name)
	}
	return nil
}

// Put writes a file beside its place, has it on disk, and links it into place: a name is taken once. Then the folder is on disk
// too.
func (f *folder) Put(_ context.Context, name string, data []byte) error {
	if err := checkName(name); err != nil {
		return err
	}
	dir := path.Dir(name)
	if err := f.root.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	temporary := name + "-" + random() + partial
	if err := f.write(temporary, data); err != nil {
		return errors.Join(err, f.remove(temporary))
	}
	err := f.root.Link(temporary, name)
	if errors.Is(err, fs.ErrExist) {
		err = nil
	}
	if err := errors.Join(err, f.remove(temporary)); err != nil {
		return err
	}
	for ; ; dir = path.Dir(dir) {
		if err := f.sync(dir); err != nil || dir == "." {
			return err
		}
	}
}

func (f *folder) write(name string, data []byte) error {
	file, err := f.root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = file.Write(data)
	if err == nil {
		err = file.Sync()
	}
	return errors.Join(err, file.Close())
}

func (f *folder) remove(name string) error {
	if err := f.root.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// sync has the entries of a folder on disk.
func (f *folder) sync(dir string) error {
	d, err := f.root.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// Get reads a file.
func (f *folder) Get(_ context.Context, name string) ([]byte, error) {
	if err := checkName(name); err != nil {
		return nil, err
	}
	data, err := f.root.ReadFile(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w: %s in %s", state.ErrNotFound, name, f.path)
	}
	return data, err
}

// List walks the folder. Files that are being written are no blobs yet.
func (f *folder) List(_ context.Context, prefix string) ([]state.Info, error) {
	var list []state.Info
	err := fs.WalkDir(f.root.FS(), ".", func(name string, entry fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil // deleted meanwhile
		}
		if err != nil || !entry.Type().IsRegular() || !strings.HasPrefix(name, prefix) || strings.HasSuffix(name, partial) {
			return err
		}
		info, err := entry.Info()
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err == nil {
			list = append(list, state.Info{Name: filepath.ToSlash(name), Size: info.Size(), Modified: info.ModTime()})
		}
		return err
	})
	return list, err
}

// Delete removes a file.
func (f *folder) Delete(_ context.Context, name string) error {
	if err := checkName(name); err != nil {
		return err
	}
	return f.remove(name)
}

// Close ends the use of the folder.
func (f *folder) Close() error {
	if f.root == nil {
		return nil
	}
	return f.root.Close()
}
