package embedded

import (
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// Role is what a user of the embedded ClickHouse may do.
type Role string

// The roles.
const (
	// Reader runs one SELECT-like statement at a time, on tables only, within limits.
	Reader Role = "reader"
	// Writer owns the engine: any statement, and so any file that the process can read or write.
	Writer Role = "writer"
)

// The users. Loopback is no login: whoever has an account on the machine reaches the ports, so writing takes a
// password that only the owner of the data folder can read.
const (
	ReaderUser = "default"
	WriterUser = "tailrace"
	// PasswordFile lies in the data folder, mode 0600.
	PasswordFile = "writer.password"
)

const codeAuthentication = 516

// Access is who may do what, for both faces.
type Access struct {
	password string
}

// openAccess reads the writer's password from the data folder, or makes one of 128 random bits.
func openAccess(dir string) (*Access, error) {
	path := filepath.Join(dir, PasswordFile)
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return newAccess(path)
	}
	if err != nil {
		return nil, err
	}
	st, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if st.Mode().Perm()&0o077 != 0 {
		return nil, fmt.Errorf("%s: want mode 0600, got %04o: others have read the writer's password; remove the file "+
			"to get a new one", path, st.Mode().Perm())
	}
	password := strings.TrimSpace(string(b))
	if password == "" {
		return nil, fmt.Errorf("%s: want a password, got nothing; remove the file to get a new one", path)
	}
	return &Access{password: password}, nil
}

func newAccess(path string) (*Access, error) {
	var random [16]byte
	if _, err := rand.Read(random[:]); err != nil {
		return nil, err
	}
	a := &Access{password: hex.EncodeToString(random[:])}
	// Written aside first, so that a crash leaves no empty password. The engine's lock keeps other processes out.
	tmp := path + ".tmp"
	if err := os.WriteFile(tmp, []byte(a.password+"\n"), 0o600); err != nil {
		return nil, err
	}
	if err := os.Rename(tmp, path); err != nil {
		return nil, err
	}
	return a, nil
}

// Login returns the role of the user. No user is the reader. The error is ClickHouse's exception 516, the same one
// for a wrong password and for an unknown user.
func (a *Access) Login(user, password string) (Role, error) {
	want, role := "", Reader
	if user == WriterUser {
		want, role = a.password, Writer
	}
	// Hashes have the same length, so that the comparison tells nothing about the password's.
	got, wanted := sha256.Sum256([]byte(password)), sha256.Sum256([]byte(want))
	same := subtle.ConstantTimeCompare(got[:], wanted[:]) == 1
	if !same || user != WriterUser && user != ReaderUser && user != "" {
		return "", exception(codeAuthentication, "%s: Authentication failed: password is incorrect, or there is no user "+
			"with such name (%s reads without a password; the password of %s is in %s in the data folder)",
			user, ReaderUser, WriterUser, PasswordFile)
	}
	return role, nil
}
