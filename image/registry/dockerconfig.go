package registry

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"time"

	"hpcimg/image"
)

const (
	maxDockerConfig  = 1 << 20
	maxHelperAnswer  = 64 << 10
	helperTimeout    = 30 * time.Second
	dockerHubAuthKey = "https://index.docker.io/v1/"
)

// DockerConfig finds credentials where docker login and podman login put them: in the given files, the first that knows the host
// wins. Files that do not exist are passed over, and read when a credential is needed, not before. Usual paths are
// $DOCKER_CONFIG/config.json, ~/.docker/config.json and $XDG_RUNTIME_DIR/containers/auth.json; finding them is up to the caller.
//
// A file may name credential helpers. These are programs called docker-credential-NAME on PATH, which are then run with the
// protocol that Docker defined; a helper that does not know the host is no error.
func DockerConfig(paths ...string) image.Credentials {
	paths = append([]string(nil), paths...)
	return func(ctx context.Context, host string) (image.Credential, error) {
		for _, path := range paths {
			file, err := readDockerConfig(path)
			if errors.Is(err, fs.ErrNotExist) {
				continue
			}
			if err != nil {
				return image.Credential{}, err
			}
			cred, err := file.credential(ctx, host)
			if err != nil {
				return image.Credential{}, fmt.Errorf("registry: %s: %w", path, err)
			}
			if cred != (image.Credential{}) {
				return cred, nil
			}
		}
		return image.Credential{}, nil
	}
}

type dockerConfig struct {
	Auths             map[string]dockerAuth `json:"auths"`
	CredentialHelpers map[string]string     `json:"credHelpers"`
	CredentialStore   string                `json:"credsStore"`
}

type dockerAuth struct {
	Auth          string `json:"auth"`
	Username      string `json:"username"`
	Password      string `json:"password"`
	IdentityToken string `json:"identitytoken"`
	RegistryToken string `json:"registrytoken"`
}

func readDockerConfig(path string) (*dockerConfig, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	raw, err := io.ReadAll(io.LimitReader(f, maxDockerConfig+1))
	if err != nil {
		return nil, err
	}
	if len(raw) > maxDockerConfig {
		return nil, fmt.Errorf("registry: %s is larger than %d bytes", path, maxDockerConfig)
	}
	var c dockerConfig
	if err := json.Unmarshal(raw, &c); err != nil {
		// The error's text may quote what is in the file; only its place is safe to print.
		return nil, fmt.Errorf("registry: %s is not a Docker config file in JSON", path)
	}
	return &c, nil
}

// keys are the names under which a host may be listed.
func keys(host string) []string {
	if host == "docker.io" {
		return []string{dockerHubAuthKey, "index.docker.io", "docker.io", "registry-1.docker.io"}
	}
	return []string{host, "https://" + host, "https://" + host + "/", "https://" + host + "/v1/", "https://" + host + "/v2/", "http://" + host}
}

func (c *dockerConfig) credential(ctx context.Context, host string) (image.Credential, error) {
	for _, key := range keys(host) {
		if helper := c.CredentialHelpers[key]; helper != "" {
			return askHelper(ctx, helper, key)
		}
	}
	for _, key := range keys(host) {
		a, ok := c.Auths[key]
		if !ok || a == (dockerAuth{}) {
			continue // with a store, the entry is there and empty
		}
		cred := image.Credential{
			Username: a.Username, Password: a.Password,
			IdentityToken: a.IdentityToken, RegistryToken: a.RegistryToken,
		}
		if a.Auth != "" {
			raw, err := base64.StdEncoding.DecodeString(padded(a.Auth))
			user, password, ok := strings.Cut(string(raw), ":")
			if err != nil || !ok {
				return image.Credential{}, fmt.Errorf("auth of %s is not base64 of user:password", host)
			}
			cred.Username, cred.Password = user, strings.TrimRight(password, "\x00")
		}
		return cred, nil
	}
	if c.CredentialStore != "" {
		return askHelper(ctx, c.CredentialStore, keys(host)[0])
	}
	return image.Credential{}, nil
}

func padded(s string) string {
	s = strings.TrimRight(strings.TrimSpace(s), "=")
	return s + strings.Repeat("=", (4-len(s)%4)%4)
}

var helperName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]*$`)

// askHelper runs a credential helper. Its answer has a secret in it, so that neither output goes into an error.
func askHelper(ctx context.Context, name, key string) (image.Credential, error) {
	if !helperName.MatchString(name) {
		return image.Credential{}, errors.New("the name of the credential helper is not a plain file name")
	}
	timed, cancel := context.WithTimeout(ctx, helperTimeout)
	defer cancel()
	var out bytes.Buffer
	cmd := exec.CommandContext(timed, "docker-credential-"+name, "get")
	cmd.Stdin = strings.NewReader(key)
	cmd.Stdout = &capped{w: &out, left: maxHelperAnswer}
	cmd.WaitDelay = time.Second
	if err := cmd.Run(); err != nil {
		if strings.Contains(out.String(), "credentials not found") {
			return image.Credential{}, nil
		}
		switch {
		case ctx.Err() != nil:
			err = ctx.Err()
		case timed.Err() != nil:
			err = fmt.Errorf("no answer in %s", helperTimeout)
		}
		return image.Credential{}, fmt.Errorf("credential helper %s: %w", name, err)
	}
	var answer struct{ Username, Secret string }
	if err := json.Unmarshal(out.Bytes(), &answer); err != nil {
		return image.Credential{}, fmt.Errorf("credential helper %s: its answer is not the JSON it should be", name)
	}
	if answer.Username == "<token>" {
		return image.Credential{IdentityToken: answer.Secret}, nil
	}
	return image.Credential{Username: answer.Username, Password: answer.Secret}, nil
}

// capped is a writer that fails after so many bytes.
type capped struct {
	w    io.Writer
	left int
}

func (c *capped) Write(p []byte) (int, error) {
	if len(p) > c.left {
		return 0, errors.New("answer is too long")
	}
	c.left -= len(p)
	return c.w.Write(p)
}
