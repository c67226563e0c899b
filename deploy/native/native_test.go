package native

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha512"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
)

// envChild makes the test binary a second process that resolves the fake library and prints its path.
const envChild = "NATIVE_TEST_CHILD"

func TestMain(m *testing.M) {
	if os.Getenv(envChild) != "" {
		path, err := resolve(context.Background(), fakeLibrary(), Options{SystemDirs: []string{}})
		if err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		fmt.Println(path)
		return
	}
	goleak.VerifyTestMain(m)
}

// The fake package holds one small library and a file that must not be unpacked.
const fakeMember, fakeContent = "package/lib/libfake.so.2", "\x7fELF and some code"

// fakeArchive is a .tgz as npm packs them. gzip's header carries no time here, so its bytes are always the same.
func fakeArchive() []byte {
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	t := tar.NewWriter(z)
	for _, f := range [][2]string{{"package/install.js", "process.exit(1)"}, {fakeMember, fakeContent}} {
		// Writes to a bytes.Buffer do not fail.
		_ = t.WriteHeader(&tar.Header{Name: f[0], Size: int64(len(f[1])), Mode: 0o644, Typeflag: tar.TypeReg})
		_, _ = t.Write([]byte(f[1]))
	}
	_ = t.Close()
	_ = z.Close()
	return b.Bytes()
}

func fakeLibrary() Library {
	archive := fakeArchive()
	a, f := sha512.Sum512(archive), sha512.Sum512([]byte(fakeContent))
	return Library{
		Name: "fake", Version: "2.0", Package: "@fake/lib", PackageVersion: "2.0.1", Member: fakeMember,
		Platform: "linux/amd64", Integrity: "sha512-" + base64.StdEncoding.EncodeToString(a[:]),
		SHA512: hex.EncodeToString(f[:]), ArchiveBytes: int64(len(archive)), LibraryBytes: int64(len(fakeContent)),
		File: "libfake.so.2", UserFileNames: []string{"libfake.so.2", "libfake.so"},
		SystemFileNames: []string{"libfake.so.2.0"},
	}
}

// machine is a machine with an empty cache and an npm of our own.
type machine struct {
	t          *testing.T
	cache, bin string
}

// newMachine puts an npm into PATH that appends its arguments to npm.log and then runs script in its working
// folder, where $ARCHIVE is the fake package.
func newMachine(t *testing.T, script string) machine {
	t.Helper()
	m := machine{t: t, cache: filepath.Join(t.TempDir(), "cache"), bin: t.TempDir()}
	archive := filepath.Join(m.bin, "archive")
	m.write(archive, fakeArchive())
	m.write(filepath.Join(m.bin, "npm"), []byte("#!/bin/sh\nARCHIVE="+archive+"\necho \"$@\" >>"+m.log()+"\n"+script+"\n"))
	t.Setenv("PATH", m.bin+":/usr/bin:/bin")
	t.Setenv(EnvCacheDir, m.cache)
	t.Setenv(EnvLibDir, "")
	return m
}

const deliver = `cp "$ARCHIVE" fake-lib-2.0.1.tgz`

func (m machine) log() string { return filepath.Join(m.bin, "npm.log") }

func (m machine) write(path string, b []byte) {
	m.t.Helper()
	if err := os.WriteFile(path, b, 0o700); err != nil {
		m.t.Fatal(err)
	}
}

func (m machine) resolve(l Library) (string, error) {
	return resolve(context.Background(), l, Options{SystemDirs: []string{}, Platform: "linux/amd64"})
}

// fetches is how often npm ran.
func (m machine) fetches() int {
	b, err := os.ReadFile(m.log())
	if err != nil {
		return 0
	}
	return bytes.Count(b, []byte("\n"))
}

// left lists what lies in the cache besides the library's folder and its lock.
func (m machine) left() []string {
	m.t.Helper()
	entries, err := os.ReadDir(filepath.Join(m.cache, "native"))
	if err != nil {
		m.t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		if e.Name() != "fake-2.0" && e.Name() != "fake-2.0.lock" {
			names = append(names, e.Name())
		}
	}
	return names
}

// wantFault checks the kind of an error and the words that a user needs.
func wantFault(t *testing.T, err error, kind Kind, words ...string) {
	t.Helper()
	var fault *Error
	if !errors.As(err, &fault) || fault.Kind != kind {
		t.Fatalf("want an error of kind %s, got %v", kind, err)
	}
	for _, w := range words {
		if !strings.Contains(err.Error(), w) {
			t.Errorf("want %q in the message, got: %v", w, err)
		}
	}
	if strings.Contains(err.Error(), "\n") {
		t.Errorf("want one line, got: %v", err)
	}
}

// Scenario: an empty cache, then a second start.
// Guarantees: the file arrives read-only in a private folder, nothing else of the package does, npm is asked for
// the fixed version without scripts and runs once; progress names the stages in order.
func TestFetchOnce(t *testing.T) {
	m := newMachine(t, deliver)
	var stages []Stage
	o := Options{SystemDirs: []string{}, Platform: "linux/amd64", Progress: func(p Progress) {
		if len(stages) == 0 || stages[len(stages)-1] != p.Stage {
			stages = append(stages, p.Stage)
		}
	}}
	path, err := resolve(context.Background(), fakeLibrary(), o)
	if err != nil {
		t.Fatal(err)
	}
	if want := filepath.Join(m.cache, "native", "fake-2.0", "libfake.so.2"); path != want {
		t.Errorf("want %s, got %s", want, path)
	}
	if b, err := os.ReadFile(path); err != nil || string(b) != fakeContent {
		t.Errorf("want the member's content, got %q, %v", b, err)
	}
	if st, err := os.Stat(path); err != nil || st.Mode().Perm() != 0o500 {
		t.Errorf("want a read-only file, got %v, %v", st.Mode(), err)
	}
	if st, err := os.Stat(filepath.Dir(path)); err != nil || st.Mode().Perm() != 0o700 {
		t.Errorf("want a private folder, got %v, %v", st.Mode(), err)
	}
	if got := fmt.Sprint(stages); got != "[fetching unpacking ready]" {
		t.Errorf("want the stages in order, got %s", got)
	}
	if log, err := os.ReadFile(m.log()); err != nil ||
		!strings.HasPrefix(string(log), "pack @fake/lib@2.0.1 --ignore-scripts") {
		t.Errorf("want npm pack of the fixed version without scripts, got %q, %v", log, err)
	}
	again, err := m.resolve(fakeLibrary())
	if err != nil || again != path || m.fetches() != 1 {
		t.Errorf("want a hit, got %s, %v after %d fetches", again, err, m.fetches())
	}
	if left := m.left(); left != nil {
		t.Errorf("want nothing else in the cache, got %v", left)
	}
}

// Scenario: the registry serves another archive, or the archive holds another file than the manifest names.
// Guarantees: an error of kind Hash with both hashes; nothing stays in the cache; the next start tries again.
func TestHashMismatch(t *testing.T) {
	t.Run("archive", func(t *testing.T) {
		m := newMachine(t, deliver+`; printf x >>fake-lib-2.0.1.tgz`)
		_, err := m.resolve(fakeLibrary())
		wantFault(t, err, Hash, "fake-lib-2.0.1.tgz", "want "+fakeLibrary().Integrity, "got sha512-", "npm cache clean")
		if left := m.left(); left != nil {
			t.Errorf("want no rest, got %v", left)
		}
	})
	t.Run("file", func(t *testing.T) {
		m := newMachine(t, deliver)
		l := fakeLibrary()
		l.SHA512 = strings.Repeat("0", 128)
		_, err := m.resolve(l)
		wantFault(t, err, Hash, fakeMember, "want sha512 "+l.SHA512, "got "+fakeLibrary().SHA512)
		if _, err := os.Stat(filepath.Join(m.cache, "native", "fake-2.0", l.File)); err == nil {
			t.Error("want no file in the cache")
		}
	})
	t.Run("member is absent", func(t *testing.T) {
		m := newMachine(t, deliver)
		l := fakeLibrary()
		l.Member = "package/other.so"
		_, err := m.resolve(l)
		wantFault(t, err, Fetch, "package/other.so", EnvLibDir)
	})
}

// Scenario: no npm in PATH; an npm that fails; an npm that delivers nothing.
// Guarantees: one line that says what to do, with npm's own words.
func TestNPMFaults(t *testing.T) {
	t.Run("missing", func(t *testing.T) {
		m := newMachine(t, deliver)
		t.Setenv("PATH", t.TempDir())
		_, err := m.resolve(fakeLibrary())
		wantFault(t, err, NPM, "@fake/lib@2.0.1", "install Node.js with npm", EnvLibDir)
	})
	t.Run("fails", func(t *testing.T) {
		m := newMachine(t, `echo 'npm error code ENOTFOUND' >&2; echo 'npm error network request failed' >&2; exit 1`)
		_, err := m.resolve(fakeLibrary())
		wantFault(t, err, Fetch, "npm error code ENOTFOUND npm error network request failed", "proxy")
	})
	t.Run("delivers nothing", func(t *testing.T) {
		m := newMachine(t, `exit 0`)
		_, err := m.resolve(fakeLibrary())
		wantFault(t, err, Fetch, "want one .tgz, got 0")
	})
}

// Scenario: the cache lies below a plain file; others can write to it; its lock cannot be made.
// Guarantees: an error of kind Cache that names the path and TAILRACE_CACHE_DIR; npm is not asked.
func TestCacheFaults(t *testing.T) {
	t.Run("below a plain file", func(t *testing.T) {
		m := newMachine(t, deliver)
		plain := filepath.Join(t.TempDir(), "plain")
		m.write(plain, nil)
		t.Setenv(EnvCacheDir, filepath.Join(plain, "cache"))
		_, err := m.resolve(fakeLibrary())
		wantFault(t, err, Cache, plain, "not a directory", EnvCacheDir)
		if m.fetches() != 0 {
			t.Error("want no fetch")
		}
	})
	t.Run("writable by others", func(t *testing.T) {
		m := newMachine(t, deliver)
		path, err := m.resolve(fakeLibrary())
		if err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(filepath.Dir(path), 0o777); err != nil {
			t.Fatal(err)
		}
		_, err = m.resolve(fakeLibrary())
		wantFault(t, err, Cache, filepath.Dir(path), "others can write", "0777")
	})
	t.Run("lock is a folder", func(t *testing.T) {
		m := newMachine(t, deliver)
		if err := os.MkdirAll(filepath.Join(m.cache, "native", "fake-2.0.lock"), 0o700); err != nil {
			t.Fatal(err)
		}
		_, err := m.resolve(fakeLibrary())
		wantFault(t, err, Cache, "fake-2.0.lock", EnvCacheDir)
	})
}

// Scenario: another system, and a processor without AVX2.
// Guarantees: each is refused before anything is fetched, naming what is missing.
func TestPlatformAndCPU(t *testing.T) {
	m := newMachine(t, deliver)
	_, err := resolve(context.Background(), fakeLibrary(), Options{SystemDirs: []string{}, Platform: "plan9/arm"})
	wantFault(t, err, Platform, "linux/amd64", "plan9/arm", EnvLibDir)
	l := fakeLibrary()
	l.CPU = []Feature{BMI1, AVX2}
	_, err = resolve(context.Background(), l, Options{HasFeature: func(f Feature) bool { return f != AVX2 }})
	wantFault(t, err, CPU, "no avx2", "x86-64-v3")
	if m.fetches() != 0 {
		t.Error("want no fetch")
	}
}

// Scenario: the user's folder has the library, then another; a system folder has it under a versioned name and
// under a name that says nothing.
// Guarantees: user before system before cache; a system name without the version is not taken; a user's folder
// that does not exist is an error.
func TestLookupOrder(t *testing.T) {
	m := newMachine(t, deliver)
	user, system := t.TempDir(), t.TempDir()
	m.write(filepath.Join(system, "libfake.so.2"), nil)
	o := Options{LibDir: user, SystemDirs: []string{system}, Platform: "linux/amd64"}
	want := func(path string) {
		t.Helper()
		if got, err := resolve(context.Background(), fakeLibrary(), o); err != nil || got != path {
			t.Errorf("want %s, got %s, %v", path, got, err)
		}
	}
	want(filepath.Join(m.cache, "native", "fake-2.0", "libfake.so.2"))
	m.write(filepath.Join(system, "libfake.so.2.0"), nil)
	want(filepath.Join(system, "libfake.so.2.0"))
	m.write(filepath.Join(user, "libfake.so"), nil)
	want(filepath.Join(user, "libfake.so"))

	t.Setenv(EnvLibDir, filepath.Join(user, "gone"))
	_, err := m.resolve(fakeLibrary())
	wantFault(t, err, LibDir, filepath.Join(user, "gone"), "no such file")
}

// Scenario: a killed process left a half-written temporary folder and, in another case, a whole file without a
// stamp, or a damaged one.
// Guarantees: the rest is removed; the whole file is taken after hashing; the damaged one is fetched again.
func TestAfterKill(t *testing.T) {
	m := newMachine(t, deliver)
	dir := filepath.Join(m.cache, "native")
	if err := os.MkdirAll(filepath.Join(dir, ".fake-2.0-123"), 0o700); err != nil {
		t.Fatal(err)
	}
	m.write(filepath.Join(dir, ".fake-2.0-123", "libfake.so.2"), []byte("half"))
	if err := os.MkdirAll(filepath.Join(dir, "fake-2.0"), 0o700); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "fake-2.0", "libfake.so.2")
	m.write(file, []byte(fakeContent))
	if path, err := m.resolve(fakeLibrary()); err != nil || path != file || m.fetches() != 0 {
		t.Fatalf("want the whole file without a fetch, got %s, %v, %d fetches", path, err, m.fetches())
	}
	if left := m.left(); left != nil {
		t.Errorf("want the rest removed, got %v", left)
	}
	m.write(file, []byte("damaged"))
	if _, err := m.resolve(fakeLibrary()); err != nil || m.fetches() != 1 {
		t.Errorf("want one fetch, got %v, %d fetches", err, m.fetches())
	}
	if b, err := os.ReadFile(file); err != nil || string(b) != fakeContent {
		t.Errorf("want the library again, got %q, %v", b, err)
	}
}

// Scenario: a byte of the cached file changes while size and time stay.
// Guarantees: a start does not read the file; Verify does, and names both hashes.
func TestVerify(t *testing.T) {
	m := newMachine(t, deliver)
	path, err := m.resolve(fakeLibrary())
	if err != nil {
		t.Fatal(err)
	}
	at := Location{fakeLibrary(), path, FromCache}
	if err := verify(context.Background(), at); err != nil {
		t.Fatal(err)
	}
	st, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, 0o700); err != nil {
		t.Fatal(err)
	}
	m.write(path, []byte("\x7fELF and some cope"))
	if err := os.Chtimes(path, st.ModTime(), st.ModTime()); err != nil {
		t.Fatal(err)
	}
	if got, err := m.resolve(fakeLibrary()); err != nil || got != path || m.fetches() != 1 {
		t.Errorf("want a hit, got %s, %v", got, err)
	}
	wantFault(t, verify(context.Background(), at), Hash, path, fakeLibrary().SHA512, "remove the file")
}

// Scenario: two processes start at once on an empty cache, with an npm that waits until both are under way.
// Guarantees: both get the same path to a whole file, and npm runs once.
func TestTwoProcesses(t *testing.T) {
	// npm goes on when the second process has been started (it then waits for the lock, or finds the file).
	m := newMachine(t, `while [ ! -e "$(dirname "$ARCHIVE")/go" ]; do sleep 0.02; done; `+deliver)
	var procs [2]*exec.Cmd
	var out [2]bytes.Buffer
	for i := range procs {
		procs[i] = exec.Command(os.Args[0])
		procs[i].Env = append(os.Environ(), envChild+"=1")
		procs[i].Stdout, procs[i].Stderr = &out[i], &out[i]
		if err := procs[i].Start(); err != nil {
			t.Fatal(err)
		}
	}
	m.write(filepath.Join(m.bin, "go"), nil)
	want := filepath.Join(m.cache, "native", "fake-2.0", "libfake.so.2")
	for i := range procs {
		if err := procs[i].Wait(); err != nil || strings.TrimSpace(out[i].String()) != want {
			t.Errorf("process %d: want %s, got %s, %v", i, want, out[i].String(), err)
		}
	}
	if m.fetches() != 1 {
		t.Errorf("want one fetch, got %d", m.fetches())
	}
	if b, err := os.ReadFile(want); err != nil || string(b) != fakeContent {
		t.Errorf("want the library, got %q, %v", b, err)
	}
}

// Scenario: the user stops the program while npm runs, and while it waits for another process.
// Guarantees: Resolve returns the context's error soon, and no rest stays.
func TestCancel(t *testing.T) {
	m := newMachine(t, `echo started; exec sleep 60`)
	ctx, cancel := context.WithCancel(context.Background())
	o := Options{SystemDirs: []string{}, Platform: "linux/amd64", Progress: func(p Progress) {
		if p.Stage == Fetching {
			time.AfterFunc(10*time.Millisecond, cancel)
		}
	}}
	if _, err := resolve(ctx, fakeLibrary(), o); !errors.Is(err, context.Canceled) {
		t.Errorf("want the context's error, got %v", err)
	}
	if left := m.left(); left != nil {
		t.Errorf("want no rest, got %v", left)
	}

	c, err := openCache(fakeLibrary(), m.cache)
	if err != nil {
		t.Fatal(err)
	}
	unlock, err := c.lock(context.Background(), func(Progress) {})
	if err != nil {
		t.Fatal(err)
	}
	defer unlock()
	ctx, cancel = context.WithCancel(context.Background())
	o.Progress = func(p Progress) {
		if p.Stage == Waiting {
			cancel()
		}
	}
	if _, err := resolve(ctx, fakeLibrary(), o); !errors.Is(err, context.Canceled) {
		t.Errorf("want the context's error, got %v", err)
	}
}

// Scenario: the manifest that ships.
// Guarantees: every line is complete, its hashes have their lengths, and a name that is not in it is an error.
func TestManifest(t *testing.T) {
	for _, l := range Manifest() {
		sum, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(l.Integrity, "sha512-"))
		if err != nil || len(sum) != sha512.Size {
			t.Errorf("%s: integrity: %d bytes, %v", l.Name, len(sum), err)
		}
		if sum, err := hex.DecodeString(l.SHA512); err != nil || len(sum) != sha512.Size {
			t.Errorf("%s: sha512: %d bytes, %v", l.Name, len(sum), err)
		}
		if l.Version == "" || l.Licence == "" || l.Member == "" || l.ArchiveBytes == 0 || l.LibraryBytes == 0 ||
			l.File == "" || len(l.UserFileNames) == 0 || l.Platform == "" {
			t.Errorf("%s: incomplete: %+v", l.Name, l)
		}
	}
	_, err := Resolve(context.Background(), "libother", Options{})
	wantFault(t, err, Unknown, "libother")
}
