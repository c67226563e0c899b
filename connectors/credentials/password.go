package credentials

import (
	"os"
	"strings"
)

// Password reads a password from a file, without the line's end, or else from an environment variable. The error is an
// [Error], without the password.
func Password(file, env string) (string, error) {
	if file != "" {
		text, err := os.ReadFile(file)
		if err != nil {
			return "", &Error{Cause: "password_file", Err: err}
		}
		password := strings.TrimRight(string(text), "\r\n")
		if password == "" {
			return "", &Error{Cause: "password_file " + file + ": want a password, got nothing"}
		}
		return password, nil
	}
	text, ok := os.LookupEnv(env)
	if !ok {
		return "", &Error{Cause: "password_env: the environment has no " + env}
	}
	return text, nil
}
