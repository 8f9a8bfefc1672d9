package registry

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"strings"
	"sync"

	"github.com/BurntSushi/toml"

	"hpcimg/image"
)

const (
	maxMirrorsFile = 1 << 20
	maxMirrorRules = 10_000 // registries and mirrors of all files
)

// ErrBlocked is a repository that a file read by [Mirrors] blocks.
var ErrBlocked = errors.New("registry is blocked")

// Mirrors reads files in the format that Podman, Buildah and Skopeo know as registries.conf, version 2: which places a repository is to be
// read from, in order, and which ones not at all. Files that do not exist are passed over; of two entries with one prefix that of the
// later file counts. Usual paths are ~/.config/containers/registries.conf, or else /etc/containers/registries.conf, followed by what is in
// the directory registries.conf.d beside it, sorted by name; finding them is up to the caller.
//
// Read are prefix, location, insecure, blocked and mirror with location, insecure and pull-from-mirror, and mirror-by-digest-only. What is
// about short names is ignored, as references have a host. Insecure allows plain HTTP; certificates have to be good all the same.
//
// The files are read once, when the first repository is looked for; what is wrong with them is then an error.
func Mirrors(paths ...string) image.Mirrors {
	paths = slices.Clone(paths)
	read := sync.OnceValues(func() (rules mirrorRules, err error) {
		for _, path := range paths {
			err := rules.read(path)
			if err != nil && !errors.Is(err, fs.ErrNotExist) {
				return nil, fmt.Errorf("registry: %s: %w", path, err)
			}
		}
		return rules, nil
	})
	return func(host, repository string) ([]image.Place, error) {
		rules, err := read()
		if err != nil {
			return nil, err
		}
		return rules.places(host, repository)
	}
}

// ParseMirrors is [Mirrors] for a file that has been read.
func ParseMirrors(text []byte) (image.Mirrors, error) {
	var rules mirrorRules
	if err := rules.parse(text, "registries.conf"); err != nil {
		return nil, fmt.Errorf("registry: %w", err)
	}
	return rules.places, nil
}

// registriesFile is the file as it is written.
type registriesFile struct {
	Registry   []registryEntry
	Registries any // version 1
}

type registryEntry struct {
	Prefix             string
	Location           string
	Insecure           bool
	Blocked            bool
	MirrorByDigestOnly bool `toml:"mirror-by-digest-only"`
	Mirror             []mirrorEntry
}

type mirrorEntry struct {
	Location       string
	Insecure       bool
	PullFromMirror string `toml:"pull-from-mirror"`
}

// mirrorRules are the entries, those with longer prefixes first.
type mirrorRules []mirrorRule

type mirrorRule struct {
	prefix  string // host, host/path or *.host
	blocked bool
	file    string
	places  []rulePlace // the last one is the registry itself
}

type rulePlace struct {
	location  string // takes the place of the prefix; "" leaves it
	plainHTTP bool
	use       image.PlaceUse
}

func (rules *mirrorRules) read(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxMirrorsFile+1))
	if err != nil {
		return err
	}
	return rules.parse(text, path)
}

func (rules *mirrorRules) parse(text []byte, file string) error {
	if len(text) > maxMirrorsFile {
		return fmt.Errorf("larger than %d bytes", maxMirrorsFile)
	}
	var parsed registriesFile
	if _, err := toml.Decode(string(text), &parsed); err != nil {
		return err
	}
	if parsed.Registries != nil {
		return errors.New("[registries] is version 1 of the format: write [[registry]] tables")
	}
	count := len(*rules)
	for i, e := range parsed.Registry {
		rule, err := e.rule()
		if err != nil {
			return fmt.Errorf("registry %d: %w", i+1, err)
		}
		rule.file = file
		if count += len(rule.places); count > maxMirrorRules {
			return fmt.Errorf("more than %d registries and mirrors", maxMirrorRules)
		}
		*rules = slices.DeleteFunc(*rules, func(old mirrorRule) bool { return old.prefix == rule.prefix && old.file != file })
		if slices.ContainsFunc(*rules, func(old mirrorRule) bool { return old.prefix == rule.prefix }) {
			return fmt.Errorf("registry %d: there is another entry for %q", i+1, rule.prefix)
		}
		*rules = append(*rules, rule)
	}
	slices.SortStableFunc(*rules, func(a, b mirrorRule) int {
		return cmp.Or(strings.Count(a.prefix, "*")-strings.Count(b.prefix, "*"), len(b.prefix)-len(a.prefix))
	})
	return nil
}

func (e registryEntry) rule() (mirrorRule, error) {
	r := mirrorRule{prefix: strings.TrimSuffix(cmp.Or(e.Prefix, e.Location), "/"), blocked: e.Blocked}
	domain, wild := strings.CutPrefix(r.prefix, "*.")
	if err := checkLocation("prefix", domain); err != nil {
		return r, err
	}
	if wild && strings.Contains(domain, "/") {
		return r, fmt.Errorf("prefix %q: a prefix with * is a host", r.prefix)
	}
	for i, m := range e.Mirror {
		use, err := m.use(e.MirrorByDigestOnly)
		if err == nil {
			err = checkLocation("location", m.Location)
		}
		if err != nil {
			return r, fmt.Errorf("mirror %d: %w", i+1, err)
		}
		r.places = append(r.places, rulePlace{strings.TrimSuffix(m.Location, "/"), m.Insecure, use})
	}
	if e.Location != "" {
		if err := checkLocation("location", e.Location); err != nil {
			return r, err
		}
	}
	r.places = append(r.places, rulePlace{strings.TrimSuffix(e.Location, "/"), e.Insecure, image.PlaceForAll})
	return r, nil
}

func (m mirrorEntry) use(byDigestOnly bool) (image.PlaceUse, error) {
	switch {
	case byDigestOnly && m.PullFromMirror != "":
		return 0, errors.New("pull-from-mirror and mirror-by-digest-only exclude each other")
	case byDigestOnly, m.PullFromMirror == "digest-only":
		return image.PlaceForDigests, nil
	case m.PullFromMirror == "tag-only":
		return image.PlaceForTags, nil
	case m.PullFromMirror == "", m.PullFromMirror == "all":
		return image.PlaceForAll, nil
	}
	return 0, fmt.Errorf("pull-from-mirror %q is not all, digest-only or tag-only", m.PullFromMirror)
}

// checkLocation accepts host, host:port, and either with the beginning of a path.
func checkLocation(what, s string) error {
	s = strings.TrimSuffix(s, "/")
	whole := s
	if !strings.Contains(s, "/") {
		whole += "/x"
	}
	host, _, _ := strings.Cut(s, "/")
	ref, err := image.ParseReference("docker://" + whole)
	if err != nil || ref.Tag != "latest" || ref.Digest != "" || !sameHost(ref.Host, host) {
		return fmt.Errorf("%s %q is not a host, or a host and a path, without tag or digest", what, s)
	}
	return nil
}

// sameHost reports whether a reference was read as of the host that it was meant to be of: without a dot or a port, it may be taken for a
// part of a name at Docker Hub.
func sameHost(got, want string) bool {
	return got == want || got == "docker.io" && want == "index.docker.io"
}

// rest returns what follows the prefix in a name, if it is the name's.
func (r mirrorRule) rest(name string) (string, bool) {
	if domain, wild := strings.CutPrefix(r.prefix, "*"); wild {
		host, path, _ := strings.Cut(name, "/")
		return "/" + path, strings.HasSuffix(host, domain)
	}
	rest, ok := strings.CutPrefix(name, r.prefix)
	return rest, ok && (rest == "" || rest[0] == '/')
}

// places is an image.Mirrors.
func (rules mirrorRules) places(host, repository string) ([]image.Place, error) {
	name := host + "/" + repository
	for _, r := range rules {
		rest, ok := r.rest(name)
		if !ok {
			continue
		}
		if r.blocked {
			return nil, fmt.Errorf("%w by %s, in the entry for %s", ErrBlocked, r.file, r.prefix)
		}
		var places []image.Place
		for _, p := range r.places {
			to := name
			if p.location != "" {
				to = p.location + rest
			}
			ref, err := image.ParseReference("docker://" + to)
			if err != nil {
				return nil, fmt.Errorf("entry for %s: %w", r.prefix, err)
			}
			places = append(places, image.Place{Host: ref.Host, Repository: ref.Repository, PlainHTTP: p.plainHTTP, Use: p.use})
		}
		return places, nil
	}
	return nil, nil
}
