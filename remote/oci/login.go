package oci

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/user"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"oras.land/oras-go/v2/registry/remote/auth"
	"oras.land/oras-go/v2/registry/remote/credentials"
)

// dockerConfig is the path of docker's configuration. What there isn't has no logins.
type dockerConfig string

// findDockerConfig looks where docker does. The path stays the same when the process goes to another directory.
func findDockerConfig() dockerConfig {
	dir := os.Getenv("DOCKER_CONFIG")
	if dir == "" {
		home, _ := os.UserHomeDir()
		if home == "" { // as for services of systemd
			if u, err := user.Current(); err == nil {
				home = u.HomeDir
			}
		}
		if home == "" {
			return ""
		}
		dir = filepath.Join(home, ".docker")
	}
	file := filepath.Join(dir, "config.json")
	if absolute, err := filepath.Abs(file); err == nil {
		file = absolute
	}
	return dockerConfig(file)
}

// read returns the logins. A file that this user may not read, or with nothing in it, has none, as docker has it.
func (file dockerConfig) read() (credentials.Store, error) {
	for try := 0; ; try++ {
		b, err := os.ReadFile(string(file))
		empty := err == nil && len(bytes.TrimSpace(b)) == 0
		switch {
		case empty && try < 3: // perhaps somebody writes it just now
			time.Sleep(50 * time.Millisecond)
		case empty, errors.Is(err, fs.ErrPermission), errors.Is(err, syscall.ENOTDIR): // HOME is /dev/null for some services
			return credentials.NewMemoryStore(), nil
		default:
			return credentials.NewStore(string(file), credentials.StoreOptions{})
		}
	}
}

// credential is an [auth.CredentialFunc]. It reads the file each time, because logins are renewed, some of them every hour, and a
// process may be older than the first. oras asks only when the registry has refused what it remembers.
func (file dockerConfig) credential(ctx context.Context, host string) (auth.Credential, error) {
	store, err := file.read()
	if err != nil {
		return auth.EmptyCredential, fmt.Errorf("docker's configuration can't be read: %w", err) // perhaps somebody writes it just now
	}
	c, err := credentials.Credential(store)(ctx, host)
	if err != nil && strings.Contains(err.Error(), "does not conform") { // oras quotes it, decoded
		err = fmt.Errorf("what docker's configuration has for %s isn't a name and a password: log in again, or set Options.Credential", host)
	}
	return c, err
}
