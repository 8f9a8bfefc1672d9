package images

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// mirror is where the machine's own apt gets its packages.
type mirror struct {
	uri        string
	suite      string
	components []string
	keyring    string
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
