package main

import (
	"net/http"
	"os"
	"path/filepath"

	"hpcimg/image"
	"hpcimg/image/registry"
)

// imageOptions are the options of image.Open that the command line and the
// environment ask for.
func (f *flags) imageOptions() (*image.Options, error) {
	o := &image.Options{
		Registry: f.registryOptions(), Daemon: image.DaemonOptions{Address: f.daemonAddress()},
		Input: f.std.in, TempDir: f.tmpDir,
	}
	if f.offline {
		if err := f.openOffline(); err != nil {
			return nil, err
		}
	}
	if f.blobs != nil {
		o.Cache, o.Documents, o.Offline = f.blobs, f.blobs, f.offline
	}
	if f.platform != "" {
		p, err := image.ParsePlatform(f.platform)
		if err != nil {
			return nil, usagef("--platform: %w", err)
		}
		o.Platform = &p
	}
	return o, nil
}

func (f *flags) registryOptions() image.RegistryOptions {
	return image.RegistryOptions{
		Credentials: registry.DockerConfig(f.credentialFiles()...),
		PlainHTTP:   f.plainHTTP,
		Mirrors:     registry.Mirrors(f.mirrorFiles()...),
		Proxy:       http.ProxyFromEnvironment,
		UserAgent:   "hpcimg",
	}
}

// mirrorFiles are the places where Podman and its kin look for mirrors.
func (f *flags) mirrorFiles() []string {
	if p := f.std.getenv("CONTAINERS_REGISTRIES_CONF"); p != "" {
		return []string{p}
	}
	files := []string{"/etc/containers/registries.conf"}
	dirs := []string{"/etc/containers/registries.conf.d"}
	if home := f.std.getenv("HOME"); home != "" {
		own := filepath.Join(home, ".config", "containers", "registries.conf")
		if _, err := os.Stat(own); err == nil {
			files[0] = own
		}
		dirs = append(dirs, own+".d")
	}
	for _, dir := range dirs {
		more, _ := filepath.Glob(filepath.Join(dir, "*.conf")) // sorted
		files = append(files, more...)
	}
	return files
}

// credentialFiles are the places where docker login and podman login leave
// credentials, in the order in which they count.
func (f *flags) credentialFiles() []string {
	var files []string
	if p := f.std.getenv("REGISTRY_AUTH_FILE"); p != "" {
		files = append(files, p)
	}
	if dir := f.std.getenv("DOCKER_CONFIG"); dir != "" {
		files = append(files, filepath.Join(dir, "config.json"))
	} else if home := f.std.getenv("HOME"); home != "" {
		files = append(files, filepath.Join(home, ".docker", "config.json"))
	}
	if dir := f.std.getenv("XDG_RUNTIME_DIR"); dir != "" {
		files = append(files, filepath.Join(dir, "containers", "auth.json"))
	}
	return files
}
