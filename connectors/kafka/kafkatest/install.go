package kafkatest

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// Version is the Kafka that is installed.
const Version = "4.3.1"

// envCacheDir names the folder that holds Tailrace's caches.
const envCacheDir = "TAILRACE_CACHE_DIR"

// copyJars is the goal that puts the jars of a pom into a folder, at a fixed version.
const copyJars = "org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy-dependencies"

// pom asks for the broker with what it needs, and for a logger that writes to the standard error. Each version is fixed:
// slf4j-simple's is that of the slf4j-api which Kafka brings.
const pom = `<project xmlns="http://maven.apache.org/POM/4.0.0">
  <modelVersion>4.0.0</modelVersion>
  <groupId>tailrace</groupId>
  <artifactId>kafkatest</artifactId>
  <version>1</version>
  <packaging>pom</packaging>
  <dependencies>
    <dependency><groupId>org.apache.kafka</groupId><artifactId>kafka_2.13</artifactId><version>` + Version + `</version></dependency>
    <dependency><groupId>org.slf4j</groupId><artifactId>slf4j-simple</artifactId><version>1.7.36</version></dependency>
  </dependencies>
</project>
`

// install returns the folder with Kafka's jars. The first process on a machine fetches them with Maven; others that come
// meanwhile wait. The folder is there whole or not at all.
func install(ctx context.Context) (jars string, err error) {
	for _, command := range []string{"java", "mvn"} {
		if _, err := exec.LookPath(command); err != nil {
			return "", fmt.Errorf("kafkatest: want %s on the PATH, to run Apache Kafka %s: install Java 17 or later and Maven: %w",
				command, Version, err)
		}
	}
	root, err := cacheDir()
	if err != nil {
		return "", fmt.Errorf("kafkatest: cache folder: %w; set %s", err, envCacheDir)
	}
	jars = filepath.Join(root, Version)
	if _, err := os.Stat(jars); !errors.Is(err, fs.ErrNotExist) {
		return jars, err
	}
	if err := os.MkdirAll(root, 0o700); err != nil {
		return "", err
	}
	unlock, err := lock(ctx, jars+".lock")
	if err != nil {
		return "", fmt.Errorf("kafkatest: waiting for another process that fetches Kafka: %w", err)
	}
	defer unlock()
	if _, err := os.Stat(jars); err == nil {
		return jars, nil // another process was faster
	}
	tmp, err := os.MkdirTemp(root, "."+Version+"-")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(tmp)
	if err := os.WriteFile(filepath.Join(tmp, "pom.xml"), []byte(pom), 0o600); err != nil {
		return "", err
	}
	// Checksums that are wrong or missing fail the fetch.
	cmd := exec.CommandContext(ctx, "mvn", "-q", "-B", "--strict-checksums", copyJars, "-DoutputDirectory=lib")
	cmd.Dir = tmp
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("kafkatest: mvn: %w: %s", err, strings.TrimSpace(string(out)))
	}
	return jars, os.Rename(filepath.Join(tmp, "lib"), jars)
}

func cacheDir() (string, error) {
	root := os.Getenv(envCacheDir)
	if root == "" {
		user, err := os.UserCacheDir()
		if err != nil {
			return "", err
		}
		root = filepath.Join(user, "tailrace")
	}
	root, err := filepath.Abs(root)
	return filepath.Join(root, "kafka"), err
}

// lockPoll is how often a waiting process asks: flock can't wait and watch a context at once.
const lockPoll = 50 * time.Millisecond

// lock waits for the lock of a file. The kernel drops it when its process ends, however it ends.
func lock(ctx context.Context, path string) (unlock func(), err error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	tick := time.NewTicker(lockPoll)
	defer tick.Stop()
	for {
		err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if err == nil {
			return func() { f.Close() }, nil
		}
		if !errors.Is(err, syscall.EWOULDBLOCK) && !errors.Is(err, syscall.EINTR) {
			return nil, errors.Join(err, f.Close())
		}
		select {
		case <-ctx.Done():
			return nil, errors.Join(ctx.Err(), f.Close())
		case <-tick.C:
		}
	}
}
