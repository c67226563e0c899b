package model

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/goccy/go-yaml"

	"github.com/tailrace/tailrace/pipeline"
)

// Names of files in every bundle.
const (
	ManifestFile = "manifest.yaml"
	ModelName    = "model.onnx" // what Write calls the graph
	GoldenFile   = "golden.arrow"
	// SumsFile holds the SHA-256 of all other files, the manifest too, in the form of sha256sum, so that no byte of a
	// bundle changes unseen.
	SumsFile = "SHA256SUMS"
)

// Bundle is a loaded and verified model bundle. It does not change.
type Bundle struct {
	Dir      string
	Manifest Manifest
	ONNX     []byte
	Golden   Golden
	// Beside are further files, by name: what people look at and nothing reads.
	Beside map[string][]byte
}

// Limits bound what a bundle's files may take in memory.
type Limits struct {
	Manifest pipeline.Bytes
	Model    pipeline.Bytes
	Golden   pipeline.Bytes
}

// DefaultLimits allow 4 MiB for the manifest (some ten thousand channels), 512 MiB for the graph (the largest in use, an
// image classifier with 89 million weights, has 355 MB) and 64 MiB for the golden outputs.
func DefaultLimits() Limits {
	return Limits{Manifest: 4 << 20, Model: 512 << 20, Golden: 64 << 20}
}

// Load reads the bundle in the folder dir within the default limits.
func Load(dir string) (*Bundle, error) { return DefaultLimits().Load(dir) }

// Load reads the bundle in the folder dir and verifies the hash of every file. A file too many or too few, a link, or a
// changed byte is refused, naming the file. Every error wraps [pipeline.ErrConfig].
//
// The hashes show accidents, not malice: whoever writes a bundle writes its hashes too. A bundle is trusted like a program;
// Arrow's reader, for one, believes the counts in golden.arrow.
func (l Limits) Load(dir string) (*Bundle, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, fmt.Errorf("model bundle: %w: %w", pipeline.ErrConfig, err)
	}
	defer root.Close()
	b, err := l.LoadFS(root.FS())
	if err != nil {
		return nil, fmt.Errorf("model bundle %s: %w", dir, err)
	}
	b.Dir = dir
	return b, nil
}

// LoadFS reads the bundle at the root of fsys.
func (l Limits) LoadFS(fsys fs.FS) (*Bundle, error) {
	b, err := l.load(fsys)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", pipeline.ErrConfig, err)
	}
	return b, nil
}

func (l Limits) load(fsys fs.FS) (*Bundle, error) {
	if err := onlyPlainFiles(fsys); err != nil {
		return nil, err
	}
	text, err := read(fsys, SumsFile, l.Manifest)
	if err != nil {
		return nil, err
	}
	sums, err := parseSums(text)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", SumsFile, err)
	}
	if err := sameNames(fsys, sums); err != nil {
		return nil, err
	}
	text, err = readSum(fsys, ManifestFile, sums[ManifestFile], l.Manifest)
	if err != nil {
		return nil, err
	}
	b := &Bundle{}
	if b.Manifest, err = parseManifest(text); err != nil {
		return nil, fmt.Errorf("%s: %w", ManifestFile, err)
	}
	named := map[string]string{ManifestFile: sums[ManifestFile], b.Manifest.File.Path: b.Manifest.File.SHA256}
	for name, sum := range b.Manifest.Files {
		named[name] = sum
	}
	for name := range sums {
		if _, ok := named[name]; !ok {
			return nil, fmt.Errorf("%s: %s does not name it", name, ManifestFile)
		}
	}
	for _, name := range sortedKeys(named) {
		if sums[name] != named[name] {
			return nil, fmt.Errorf("%s: sha256: want %s by %s, got %s by %s", name, named[name], ManifestFile, sums[name], SumsFile)
		}
	}
	if b.ONNX, err = readSum(fsys, b.Manifest.File.Path, b.Manifest.File.SHA256, l.Model); err != nil {
		return nil, err
	}
	for _, name := range sortedKeys(b.Manifest.Files) {
		bytes, err := readSum(fsys, name, b.Manifest.Files[name], l.Golden)
		if err != nil {
			return nil, err
		}
		if name != GoldenFile {
			if b.Beside == nil {
				b.Beside = map[string][]byte{}
			}
			b.Beside[name] = bytes
			continue
		}
		if b.Golden, err = decodeGolden(bytes, &b.Manifest); err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
	}
	return b, b.checkGraph()
}

// onlyPlainFiles refuses links, folders and devices before anything is opened: a link can lead out, a pipe can block.
func onlyPlainFiles(fsys fs.FS) error {
	entries, err := fs.ReadDir(fsys, ".")
	if err != nil {
		return err
	}
	for _, e := range entries {
		if !e.Type().IsRegular() {
			return fmt.Errorf("%s: want a plain file, got %s", e.Name(), e.Type())
		}
	}
	return nil
}

// sameNames compares the files that are there with those that should be.
func sameNames(fsys fs.FS, sums map[string]string) error {
	entries, err := fs.ReadDir(fsys, ".")
	if err != nil {
		return err
	}
	there := map[string]bool{}
	for _, e := range entries {
		there[e.Name()] = true
		if _, ok := sums[e.Name()]; !ok && e.Name() != SumsFile {
			return fmt.Errorf("%s: %s does not name it", e.Name(), SumsFile)
		}
	}
	for _, name := range sortedKeys(sums) {
		if !there[name] {
			return fmt.Errorf("%s: named by %s, but missing", name, SumsFile)
		}
	}
	if sums[ManifestFile] == "" {
		return fmt.Errorf("%s: %s does not name it", ManifestFile, SumsFile)
	}
	return nil
}

func read(fsys fs.FS, name string, limit pipeline.Bytes) ([]byte, error) {
	f, err := fsys.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, int64(limit)+1))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	if int64(len(text)) > int64(limit) {
		return nil, fmt.Errorf("%s: want at most %d bytes, got more", name, int64(limit))
	}
	return text, nil
}

func readSum(fsys fs.FS, name, want string, limit pipeline.Bytes) ([]byte, error) {
	text, err := read(fsys, name, limit)
	if err != nil {
		return nil, err
	}
	if got := sum(text); got != want {
		return nil, fmt.Errorf("%s: sha256: want %s, got %s: the file was changed after the bundle was written", name, want, got)
	}
	return text, nil
}

func sum(text []byte) string {
	s := sha256.Sum256(text)
	return hex.EncodeToString(s[:])
}

// parseSums reads lines "<64 hex digits>  <name>".
func parseSums(text []byte) (map[string]string, error) {
	sums := map[string]string{}
	body, ok := strings.CutSuffix(string(text), "\n")
	if !ok {
		return nil, errors.New("want lines of a SHA-256, two spaces and a name, got no end of line")
	}
	for i, line := range strings.Split(body, "\n") {
		hash, name, ok := strings.Cut(line, "  ")
		if !ok || len(hash) != 64 || strings.Trim(hash, "0123456789abcdef") != "" || !PlainName(name) {
			return nil, fmt.Errorf("line %d: want a SHA-256, two spaces and a name, got %q", i+1, line)
		}
		if _, twice := sums[name]; twice {
			return nil, fmt.Errorf("line %d: %s is named twice", i+1, name)
		}
		sums[name] = hash
	}
	return sums, nil
}

// Encode gives the bundle's files by name. It fills the hashes of b's manifest, and the same b gives the same bytes.
func Encode(b *Bundle) (map[string][]byte, error) {
	golden, err := encodeGolden(&b.Golden, &b.Manifest)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", GoldenFile, err)
	}
	b.Manifest.File.Path, b.Manifest.File.SHA256 = ModelName, sum(b.ONNX)
	b.Manifest.Files = map[string]string{GoldenFile: sum(golden)}
	for name, content := range b.Beside {
		b.Manifest.Files[name] = sum(content)
	}
	if err := b.Manifest.check(); err != nil {
		return nil, fmt.Errorf("%s: %w", ManifestFile, err)
	}
	manifest, err := yaml.Marshal(&b.Manifest)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", ManifestFile, err)
	}
	files := map[string][]byte{}
	for name, content := range b.Beside {
		files[name] = content
	}
	files[ManifestFile], files[ModelName], files[GoldenFile] = manifest, b.ONNX, golden
	var sums bytes.Buffer
	for _, name := range sortedKeys(files) {
		fmt.Fprintf(&sums, "%s  %s\n", sum(files[name]), name)
	}
	files[SumsFile] = sums.Bytes()
	return files, b.checkGraph()
}

// Write writes the bundle as the folder dir, whole or not at all. A version never changes: if dir exists with the same
// bytes nothing is done, and with others it is an error.
func Write(dir string, b *Bundle) error {
	files, err := Encode(b)
	if err != nil {
		return fmt.Errorf("model bundle %s: %w", dir, err)
	}
	if _, err := os.Lstat(dir); err == nil {
		return sameBytes(dir, files)
	}
	if err := os.MkdirAll(filepath.Dir(dir), 0o755); err != nil {
		return fmt.Errorf("model bundle: %w", err)
	}
	tmp, err := os.MkdirTemp(filepath.Dir(dir), ".new-*")
	if err != nil {
		return fmt.Errorf("model bundle: %w", err)
	}
	defer os.RemoveAll(tmp)
	if err := os.Chmod(tmp, 0o755); err != nil {
		return fmt.Errorf("model bundle: %w", err)
	}
	for _, name := range sortedKeys(files) {
		if err := writeFile(filepath.Join(tmp, name), files[name]); err != nil {
			return fmt.Errorf("model bundle %s: %w", dir, err)
		}
	}
	if err := os.Rename(tmp, dir); err != nil {
		// Another process may have written the same version at the same time.
		if same := sameBytes(dir, files); same != nil {
			return fmt.Errorf("model bundle: %w", err)
		}
	}
	return nil
}

// sameBytes compares dir with the files that would be written.
func sameBytes(dir string, files map[string][]byte) error {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return fmt.Errorf("model bundle: %w: %w", pipeline.ErrConfig, err)
	}
	defer root.Close()
	for _, name := range sortedKeys(files) {
		old, err := root.ReadFile(name)
		if err != nil || !bytes.Equal(old, files[name]) {
			return fmt.Errorf("model bundle %s: %w: %s is there with other bytes; a version does not change: "+
				"raise it, or remove the folder", dir, pipeline.ErrConfig, name)
		}
	}
	return nil
}

func writeFile(path string, text []byte) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return err
	}
	_, err = f.Write(text)
	return errors.Join(err, f.Sync(), f.Close())
}

func sortedKeys[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}
