//go:build linux

package conformance_test

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"hpcimg/internal/oracle"
)

// mirror is where the machine's own apt gets its packages.
type mirror struct {
	uri        string
	suite      string
	components []string
	keyring    string
}

// debianLayer returns the path of an uncompressed tar stream: a small Debian (or Ubuntu, on Ubuntu) with NumPy.
func debianLayer(t *testing.T) string {
	t.Helper()
	cache, err := os.UserCacheDir()
	if err != nil {
		t.Fatal(err)
	}
	cache = filepath.Join(cache, "hpcimg-test")
	if err := os.MkdirAll(cache, 0o700); err != nil {
		t.Fatal(err)
	}
	m, err := aptMirror("/etc")
	oracle.Need(t, oracle.NeedNetwork, err)
	layer := filepath.Join(cache, fmt.Sprintf("%s-numpy-%s-v1.tar", m.suite, runtime.GOARCH))
	if _, err := os.Stat(layer); err == nil {
		return layer
	}
	rootfs := filepath.Join(t.TempDir(), "rootfs")
	args := []string{"--variant=minbase", "--include=python3-numpy"}
	if len(m.components) > 0 {
		args = append(args, "--components="+strings.Join(m.components, ","))
	}
	if m.keyring != "" {
		args = append(args, "--keyring="+m.keyring)
	}
	out, err := exec.Command(oracle.Tool(t, "debootstrap"), append(args, m.suite, rootfs, m.uri)...).CombinedOutput()
	if err != nil {
		lines := strings.Split(strings.TrimSpace(string(out)), "\n")
		err = fmt.Errorf("debootstrap %s %s: %w\n%s", m.suite, m.uri, err, strings.Join(lines[max(0, len(lines)-10):], "\n"))
	}
	oracle.Need(t, oracle.NeedNetwork, err)
	clean := exec.Command("sh", "-c", "rm -rf var/cache/apt/archives/*.deb var/lib/apt/lists/*")
	clean.Dir = rootfs
	if out, err := clean.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	// Another run may do the same at the same time: whoever renames last wins, and both files are good.
	part := fmt.Sprintf("%s.part-%d", layer, os.Getpid())
	t.Cleanup(func() { _ = os.Remove(part) })
	oracle.Run(t, "tar", "-c", "--format=posix", "--xattrs", "--xattrs-include=*", "--numeric-owner", "--sort=name",
		"-f", part, "-C", rootfs, ".")
	if err := os.Rename(part, layer); err != nil {
		t.Fatal(err)
	}
	return layer
}

// aptMirror finds the entry of apt's sources for the system's own release. etc is /etc, or a test's stand-in.
func aptMirror(etc string) (mirror, error) {
	codename, err := codename(filepath.Join(etc, "os-release"))
	if err != nil {
		return mirror{}, err
	}
	var files []string
	for _, pattern := range []string{"apt/sources.list", "apt/sources.list.d/*.list", "apt/sources.list.d/*.sources"} {
		found, err := filepath.Glob(filepath.Join(etc, pattern))
		if err != nil {
			return mirror{}, err
		}
		files = append(files, found...)
	}
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			return mirror{}, err
		}
		entries := oneLine(string(data))
		if strings.HasSuffix(file, ".sources") {
			entries = deb822(string(data))
		}
		for _, m := range entries {
			if m.suite == codename && strings.Contains(m.uri, "://") {
				return m, nil
			}
		}
	}
	return mirror{}, fmt.Errorf("no entry for %s in the sources of apt", codename)
}

func codename(osRelease string) (string, error) {
	f, err := os.Open(osRelease)
	if err != nil {
		return "", err
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		if name, ok := strings.CutPrefix(lines.Text(), "VERSION_CODENAME="); ok {
			return strings.Trim(name, `"`), nil
		}
	}
	return "", errors.New("the system's release has no code name")
}

// oneLine reads the older format: deb [options] uri suite components.
func oneLine(text string) []mirror {
	var found []mirror
	for line := range strings.Lines(text) {
		line, _, _ = strings.Cut(line, "#")
		rest, ok := strings.CutPrefix(strings.TrimSpace(line), "deb ")
		if !ok {
			continue
		}
		var m mirror
		rest = strings.TrimSpace(rest)
		if strings.HasPrefix(rest, "[") {
			options, after, _ := strings.Cut(rest[1:], "]")
			rest = after
			for option := range strings.FieldsSeq(options) {
				if keyring, ok := strings.CutPrefix(option, "signed-by="); ok {
					m.keyring = keyring
				}
			}
		}
		if fields := strings.Fields(rest); len(fields) >= 2 {
			m.uri, m.suite, m.components = fields[0], fields[1], fields[2:]
			found = append(found, m)
		}
	}
	return found
}

// deb822 reads the newer format: paragraphs of fields.
func deb822(text string) []mirror {
	var found []mirror
	for paragraph := range strings.SplitSeq(text, "\n\n") {
		fields := make(map[string][]string)
		key := ""
		for line := range strings.Lines(paragraph) {
			if strings.HasPrefix(line, "#") {
				continue
			}
			value := line
			if !strings.HasPrefix(line, " ") && !strings.HasPrefix(line, "\t") {
				key, value, _ = strings.Cut(line, ":")
				key = strings.ToLower(key)
			}
			fields[key] = append(fields[key], strings.Fields(value)...)
		}
		if !slices.Contains(fields["types"], "deb") || len(fields["uris"]) == 0 || slices.Contains(fields["enabled"], "no") {
			continue
		}
		for _, suite := range fields["suites"] {
			m := mirror{uri: fields["uris"][0], suite: suite, components: fields["components"]}
			if keys := fields["signed-by"]; len(keys) == 1 && strings.HasPrefix(keys[0], "/") {
				m.keyring = keys[0]
			}
			found = append(found, m)
		}
	}
	return found
}

func TestAptMirror(t *testing.T) {
	for _, test := range []struct{ name, file, text, want string }{
		{"one line", "sources.list", "# deb http://no.example/ x main\ndeb http://mirror.example/debian x-updates main\ndeb [arch=amd64 signed-by=/k.gpg] http://mirror.example/debian x main contrib\n", "{http://mirror.example/debian x [main contrib] /k.gpg}"},
		{"cdrom is none", "sources.list", "deb cdrom:[disc]/ x main\ndeb http://mirror.example/debian x main\n", "{http://mirror.example/debian x [main] }"},
		{"deb822", "sources.list.d/debian.sources", "Types: deb deb-src\n# a comment\nURIs: https://mirror.example/debian\nSuites: x-updates x\nComponents: main\n contrib\nSigned-By: /k.gpg\n\nTypes: deb\nURIs: https://other.example/\nSuites: x\n", "{https://mirror.example/debian x [main contrib] /k.gpg}"},
		{"disabled", "sources.list.d/a.sources", "Enabled: no\nTypes: deb\nURIs: https://mirror.example/debian\nSuites: x\n", "no entry for x in the sources of apt"},
		{"none", "sources.list.d/a.list", "deb http://mirror.example/ y main\n", "no entry for x in the sources of apt"},
	} {
		t.Run(test.name, func(t *testing.T) {
			etc := t.TempDir()
			file := filepath.Join(etc, "apt", test.file)
			if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
				t.Fatal(err)
			}
			for name, text := range map[string]string{file: test.text, filepath.Join(etc, "os-release"): "ID=debian\nVERSION_CODENAME=x\n"} {
				if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			m, err := aptMirror(etc)
			got := fmt.Sprint(m)
			if err != nil {
				got = err.Error()
			}
			if got != test.want {
				t.Errorf("got  %s\nwant %s", got, test.want)
			}
		})
	}
}
