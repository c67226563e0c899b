// Package native finds the shared libraries that Tailrace loads at run time and fetches the ones that are missing.
//
// A library is looked for in a folder the user names (TAILRACE_LIB_DIR), then in the system's library folders under
// a file name that carries the wanted version, then in a cache that only the user can write. If it is in none of
// them it is fetched through npm by package name and fixed version, no package script is run, the archive and the
// one file taken from it are compared with the hashes below, and only then is the file renamed into the cache.
// Nothing is compiled in and nothing is redistributed: whoever runs the program downloads the library under its
// own licence.
package native

// Name identifies a library of the manifest.
type Name string

// The libraries that Tailrace knows.
const (
	// ONNXRuntime runs neural networks.
	ONNXRuntime Name = "onnxruntime"
	// LibCHDB is the ClickHouse engine as a library.
	LibCHDB Name = "libchdb"
)

// Library is one line of the manifest: what is wanted, where it comes from and how it is recognised.
type Library struct {
	Name    Name
	Version string // of the library itself
	Licence string // as the package states it

	// Package and PackageVersion are what npm is asked for; Member is the one file taken out of the archive.
	Package, PackageVersion, Member string

	// Platform is the GOOS/GOARCH that the package is built for.
	Platform string

	// Integrity is the archive's hash in npm's own notation; SHA512 is the file's, in hex. Sizes are in bytes.
	Integrity     string
	SHA512        string
	ArchiveBytes  int64
	LibraryBytes  int64
	CPU           []Feature // what the build needs of an amd64 processor
	File          string    // the file's name in the cache
	UserFileNames []string  // names looked for in TAILRACE_LIB_DIR, best first

	// SystemFileNames are looked for in the system's folders. Only a name that holds the whole version may stand
	// here: a library of another version is worse than a missing one.
	SystemFileNames []string
}

// Manifest returns every library that Tailrace may load. Its hashes were computed from the archives that npm gave
// for these package versions; npm's own integrity field is the archive's.
func Manifest() []Library {
	return []Library{
		{
			Name:           ONNXRuntime,
			Version:        "1.29.0",
			Licence:        "MIT",
			Package:        "onnxruntime-node",
			PackageVersion: "1.29.0",
			Member:         "package/bin/napi-v6/linux/x64/libonnxruntime.so.1",
			Platform:       "linux/amd64",
			Integrity:      "sha512-WjiVVB72riILz8HbYvxvmjKyE/WmkYoSfKY++axo5jAR609HQg8MwiG/HhShpTcJfmmAdzxxmB+MMST3A+SiPA==",
			SHA512: "f0933034207a70652ad9fdd04769a927e9d0f87d068c070ac64e96d904d6a8dc" +
				"a5675b299eda7e3fa59ef27e561ec523b610a5679dd503875962be023e036153",
			ArchiveBytes:    111_735_068,
			LibraryBytes:    44_726_808,
			File:            "libonnxruntime.so.1",
			UserFileNames:   []string{"libonnxruntime.so.1.29.0", "libonnxruntime.so.1", "libonnxruntime.so"},
			SystemFileNames: []string{"libonnxruntime.so.1.29.0"},
		},
		{
			Name:           LibCHDB,
			Version:        "26.7.3",
			Licence:        "Apache-2.0, with third-party parts (system.licenses lists them)",
			Package:        "@chdb/lib-linux-x64-gnu",
			PackageVersion: "26.7.3-stable.1",
			Member:         "package/libchdb.so",
			Platform:       "linux/amd64",
			Integrity:      "sha512-XP97mMqnc5tZpKQywR8N7cLTsHNiTmHr30pC5mzo3jWmukjKn2IBa60c2B/gWUNcuFjOMjWoorQICCqBVj5wpw==",
			SHA512: "0a5e6af5cf57034116d34a39480989a160dd105f372d85aa748f8d2b0a5ebd52" +
				"a90d913737d7ae86f6f597d37fe06d3a4d22125c13c5aa961d91aa93d034751e",
			ArchiveBytes: 177_817_999,
			LibraryBytes: 566_330_096,
			// The build is -march=x86-64-v3; on a lesser processor the first call ends the process with SIGILL.
			CPU:           []Feature{AVX2, BMI1, BMI2, FMA},
			File:          "libchdb.so",
			UserFileNames: []string{"libchdb.so"},
			// libchdb's file name never carries a version, so a copy in /usr/lib cannot be told from another release.
		},
	}
}

// library returns the manifest's line for name.
func library(name Name) (Library, bool) {
	for _, l := range Manifest() {
		if l.Name == name {
			return l, true
		}
	}
	return Library{}, false
}
