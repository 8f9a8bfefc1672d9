package main

import (
	"archive/tar"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"strings"
	"sync"

	"hpcimg/image"
)

// dockerMember is how Docker and Podman have always called what they begin an archive with: an ID or a digest.
var dockerMember = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^[0-9a-f]{64}(\.tar|\.json|/.*|)$`) })

// archiveKind says what a tar file is by its first members, or "" for one that is a root file system.
func archiveKind(name string) image.Transport {
	file, err := os.Open(name)
	if err != nil {
		return ""
	}
	defer file.Close()
	const few = 8
	tr := tar.NewReader(file)
	for range few {
		h, err := tr.Next()
		if err != nil {
			return ""
		}
		switch member := path.Clean(h.Name); {
		case member == "manifest.json", dockerMember().MatchString(member):
			return image.TransportDockerArchive
		case member == "oci-layout", member == "index.json", strings.HasPrefix(member, "blobs/sha256"):
			return image.TransportDockerArchive // which is tried as an OCI layout as well
		case member != "." && member != "blobs":
			return ""
		}
	}
	return ""
}

// daemonAddress is where Docker or Podman listens: what DOCKER_HOST says, else the first of the usual sockets that is there.
func (f *flags) daemonAddress() string {
	if address := f.std.getenv("DOCKER_HOST"); address != "" {
		return address
	}
	sockets := []string{"/var/run/docker.sock"}
	if dir := f.std.getenv("XDG_RUNTIME_DIR"); dir != "" {
		sockets = append(sockets, filepath.Join(dir, "podman", "podman.sock"))
	}
	for _, s := range append(sockets, "/run/podman/podman.sock") {
		if info, err := os.Stat(s); err == nil && info.Mode()&os.ModeSocket != 0 {
			return "unix://" + s
		}
	}
	return ""
}
