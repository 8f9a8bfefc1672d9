package registry_test

import (
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"hpcimg/image"
	"hpcimg/image/registry"
)

func TestDockerConfig(t *testing.T) {
	dir := t.TempDir()
	file := func(name, data string) string {
		path := filepath.Join(dir, name)
		write(t, path, data)
		return path
	}
	first := file("first.json", `{"auths":{
		"ghcr.io":{"auth":"dXNlcjpwYXNzOndvcmQ="},
		"https://index.docker.io/v1/":{"auth":"aHViOnB3"},
		"unpadded.test":{"auth":"bWU6c2VjcmV0"},
		"https://with.scheme/v2/":{"username":"u","password":"p"},
		"token.test":{"identitytoken":"refresh"},
		"access.test":{"registrytoken":"access"},
		"broken.test":{"auth":"%%%"}},
		"HttpHeaders":{"X":"y"}}`)
	second := file("second.json", `{"auths":{"ghcr.io":{"auth":"b3RoZXI6eA=="},"second.test":{"auth":"YTpi"}}}`)
	creds := registry.DockerConfig(filepath.Join(dir, "missing.json"), first, second)
	for host, want := range map[string]image.Credential{
		"ghcr.io":        {Username: "user", Password: "pass:word"},
		"docker.io":      {Username: "hub", Password: "pw"},
		"unpadded.test":  {Username: "me", Password: "secret"},
		"with.scheme":    {Username: "u", Password: "p"},
		"token.test":     {IdentityToken: "refresh"},
		"access.test":    {RegistryToken: "access"},
		"second.test":    {Username: "a", Password: "b"},
		"unknown.test":   {},
		"localhost:5000": {},
	} {
		got, err := creds(t.Context(), host)
		if err != nil || got != want {
			t.Errorf("%s: %+v, %v", host, got, err)
		}
	}
	if _, err := creds(t.Context(), "broken.test"); err == nil {
		t.Error("a broken entry was accepted")
	}
	for _, bad := range []string{`{"auths":{"x":{"auth":"c2VjcmV0`, strings.Repeat(" ", 2<<20)} {
		_, err := registry.DockerConfig(file("bad.json", bad))(t.Context(), "x")
		if err == nil || strings.Contains(err.Error(), "c2Vj") {
			t.Errorf("bad file: %v", err)
		}
	}
}

func TestDockerConfigHelpers(t *testing.T) {
	if runtime.GOOS == "windows" {
		return // the helpers here are shell scripts
	}
	dir := t.TempDir()
	helper := func(name, script string) {
		path := filepath.Join(dir, "docker-credential-"+name)
		if err := os.WriteFile(path, []byte("#!/bin/sh\n"+script), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	helper("good", `read -r key; [ "$1" = get ] && printf '{"ServerURL":"%s","Username":"for %s","Secret":"s"}' "$key" "$key"`)
	helper("token", `echo '{"Username":"<token>","Secret":"refresh"}'`)
	helper("empty", `echo 'credentials not found in native keychain'; exit 1`)
	helper("failing", `echo 's3cret' >&2; exit 1`)
	helper("babbling", `exec yes`)
	t.Setenv("PATH", dir+string(os.PathListSeparator)+os.Getenv("PATH"))
	path := filepath.Join(dir, "config.json")
	write(t, path, `{"credsStore":"good","credHelpers":{
		"token.test":"token","empty.test":"empty","failing.test":"failing","babbling.test":"babbling",
		"path.test":"../x","missing.test":"nobody-has-this"},"auths":{"ghcr.io":{}}}`)
	creds := registry.DockerConfig(path)
	for host, want := range map[string]image.Credential{
		"ghcr.io":    {Username: "for ghcr.io", Password: "s"},
		"docker.io":  {Username: "for https://index.docker.io/v1/", Password: "s"},
		"token.test": {IdentityToken: "refresh"},
		"empty.test": {},
	} {
		if got, err := creds(t.Context(), host); err != nil || got != want {
			t.Errorf("%s: %+v, %v", host, got, err)
		}
	}
	for _, host := range []string{"failing.test", "babbling.test", "path.test", "missing.test"} {
		if got, err := creds(t.Context(), host); err == nil || strings.Contains(err.Error(), "s3cret") {
			t.Errorf("%s: %+v, %v", host, got, err)
		}
	}
}
