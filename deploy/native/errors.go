package native

import "fmt"

// Kind says which of the things that a user can mend went wrong.
type Kind string

// The kinds of Error.
const (
	Unknown  Kind = "unknown"  // the manifest has no such library
	LibDir   Kind = "libdir"   // TAILRACE_LIB_DIR is not a folder that can be read
	Cache    Kind = "cache"    // the cache folder cannot be made, written or trusted
	Platform Kind = "platform" // no package for this operating system and architecture
	CPU      Kind = "cpu"      // the processor lacks an instruction set that the library is built with
	NPM      Kind = "npm"      // npm is not installed
	Fetch    Kind = "fetch"    // npm ran and did not deliver
	Hash     Kind = "hash"     // what came is not what the manifest names
)

// Error is a library that cannot be had, why, and what to do about it. Every error of this package that does not
// come from the caller's context is one, so that errors.As tells a start that the user must mend (exit code 2).
type Error struct {
	Library Name
	Version string
	Kind    Kind
	Problem string // what is wrong, with the path or package it concerns
	Remedy  string // what to do
	Err     error  // the cause, or nil
}

// Error gives library, problem, cause and remedy in one line.
func (e *Error) Error() string {
	s := string(e.Library)
	if e.Version != "" {
		s += " " + e.Version
	}
	s += ": " + e.Problem
	if e.Err != nil {
		s += ": " + e.Err.Error()
	}
	if e.Remedy != "" {
		s += " (" + e.Remedy + ")"
	}
	return s
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// fault makes an Error about l.
func (l Library) fault(kind Kind, cause error, remedy, problem string, args ...any) *Error {
	return &Error{
		Library: l.Name, Version: l.Version, Kind: kind,
		Problem: fmt.Sprintf(problem, args...), Remedy: remedy, Err: cause,
	}
}

// The remedies that several faults share.
const (
	remedyCache   = "set TAILRACE_CACHE_DIR to a folder that you can write and others cannot"
	remedyOwnCopy = "or put the library into a folder and name that folder in TAILRACE_LIB_DIR"
)
