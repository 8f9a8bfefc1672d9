package policy_test

import (
	"maps"
	"slices"
	"strings"
	"testing"
)

// rule says what a package may import, apart from the standard library.
type rule struct {
	ours    string // packages of this module
	modules string // modules of others, by path without the version
	why     string
}

// arrows has a line for each package that there is or will be. An import that is missing here is a decision to take: arrows point
// one way, only convert and runtime compose, and a program that wants a squashfs reader gets just that. A module of others
// also wants a line in docs/DEPENDENCIES.md.
var arrows = map[string]rule{
	".": {"", "", "the map of the module; it holds no code"},

	"image": {
		"internal/atomicfile internal/distribution internal/inflate",
		"opencontainers/go-digest opencontainers/image-spec google/go-containerregistry klauspost/compress",
		"the OCI model and the sources that need no configuration",
	},
	"image/registry": {
		"image internal/distribution", "opencontainers/go-digest opencontainers/image-spec golang.org/x/sync google/go-containerregistry BurntSushi/toml",
		"what a program does with a registry beyond reading one image",
	},
	"image/cache":               {"image/cache/internal/disk", "golang.org/x/sys", "a store by key knows neither registries nor file systems"},
	"image/cache/internal/disk": {"", "", "the byte layout; values in, bytes out"},
	"image/ggcr": {
		"image", "opencontainers/go-digest opencontainers/image-spec google/go-containerregistry",
		"the adapter is the one place where go-containerregistry's types show",
	},
	"image/recipe": {"", "", "a parser of text"},

	"squashfs": {
		"internal/atomicfile internal/garbage internal/inflate squashfs/internal/disk",
		"klauspost/compress pierrec/lz4 ulikunitz/xz golang.org/x/sync golang.org/x/sys",
		"the format alone: nothing of layers, digests of blobs, caches or SIF",
	},
	"squashfs/internal/disk": {"", "", "the byte layout; values in, bytes out"},
	"squashfs/calebq42": {
		"squashfs", "CalebQ42/squashfs",
		"opt-in for trusted images: it links GPL code and panics on damaged ones",
	},

	"sif": {
		"internal/sifedit sif/internal/disk internal/atomicfile", "sylabs/sif",
		"the container and its metadata objects; a partition's contents are bytes to it",
	},
	"sif/internal/disk": {"", "", "the byte layout; values in, bytes out"},
	"sign": {
		"sif image internal/sifedit internal/atomicfile", "ProtonMail/go-crypto sylabs/sif opencontainers/go-digest golang.org/x/crypto golang.org/x/sync golang.org/x/sys",
		"signatures are over SIF objects and manifests, not over what is in them",
	},

	"sign/cosign": {"sign image", "opencontainers/go-digest opencontainers/image-spec", "signatures beside images in a registry, through whatever client the caller has"},
	"sign/hkp":    {"sign", "", "key servers, for those who ask one; package sign never does"},
	"sign/policy": {"sign sif", "BurntSushi/toml", "decides by what sign has found; a file says how"},

	"convert": {
		"image image/cache sif squashfs convert/internal/layer convert/internal/merge convert/internal/index convert/internal/export convert/internal/estargz internal/atomicfile internal/garbage internal/inflate internal/meter",
		"opencontainers/go-digest opencontainers/image-spec klauspost/compress golang.org/x/sync golang.org/x/sys",
		"the pipeline is where image, sif and squashfs meet",
	},

	"convert/internal/layer": {
		"image internal/inflate", "opencontainers/go-digest opencontainers/image-spec klauspost/compress golang.org/x/sys",
		"one layer read as a stream of entries; nothing of where they go",
	},
	"convert/internal/index": {
		"convert/internal/layer squashfs", "klauspost/compress",
		"what is known of layers and segments, as bytes; nothing of where they are kept",
	},
	"convert/internal/estargz": {
		"convert/internal/layer", "opencontainers/go-digest klauspost/compress",
		"a tar stream in, a blob out; of package layer the errors and limits",
	},
	"convert/internal/export": {
		"squashfs convert/internal/layer internal/atomicfile", "opencontainers/go-digest opencontainers/image-spec klauspost/compress golang.org/x/sys",
		"a finished tree as a tar stream, a layer or a directory; where it comes from is nobody's business there",
	},
	"convert/internal/merge": {"convert/internal/layer", "", "names and attributes of several layers, no contents"},

	"mount": {
		"squashfs internal/fork internal/squashfuse mount/internal/wire", "golang.org/x/sys",
		"mounts a file, serves a tree; what is in it is the reader's business",
	},
	"mount/internal/wire": {"", "", "the byte layout of FUSE; values in, bytes out"},
	"runtime":             {"image mount squashfs sif internal/fork internal/squashfuse", "golang.org/x/sys", "from a specification to a process"},
	"runtime/gpu":         {"runtime internal/ldcache", "golang.org/x/sys tags.cncf.io/container-device-interface", "an injection is data that runtime applies"},
	"runtime/seccomp":     {"", "", "a filter is bytes that runtime hands to the kernel"},
	"runtime/mpi":         {"runtime", "golang.org/x/sys", "an injection is data that runtime applies"},
	"runtime/oci":         {"runtime", "opencontainers/runtime-spec", "bundles for other runtimes"},

	"internal/atomicfile":   {"", "golang.org/x/sys", "publishing a file, for whoever writes one"},
	"internal/distribution": {"", "google/go-containerregistry opencontainers/go-digest", "what image and image/registry share of the protocol"},
	"internal/elfclosure":   {"", "", "which shared libraries a program needs; for examples and tests that build images from the host"},
	"internal/fork":         {"", "golang.org/x/sys", "a table of system calls in a forked child; knows nothing of images"},
	"internal/garbage":      {"", "", "when to collect garbage early"},
	"internal/inflate":      {"", "", "deflate, zlib and gzip: bytes in, bytes out"},
	"internal/ldcache":      {"", "", "the dynamic linker's cache: which library files a host has"},
	"internal/meter":        {"", "", "counters and a ticker"},
	"internal/squashfuse":   {"internal/fork", "golang.org/x/sys", "a program of the host for one FUSE device; who mounts that, and where, is nobody's business there"},
	"internal/sifedit":      {"internal/atomicfile", "sylabs/sif golang.org/x/sys", "what sif and sign share of sylabs/sif"},

	"internal/oracle":      {"", "golang.org/x/sys", "test support"},
	"internal/testtree":    {"internal/oracle", "golang.org/x/sys", "test support"},
	"internal/golden":      {"", "google/go-cmp", "test support"},
	"internal/fstestx":     {"internal/oracle internal/testtree", "google/go-cmp", "test support"},
	"internal/policy":      {"", "", "tests only"},
	"internal/conformance": {"", "", "tests only"},
}

// testSupport is imported by tests only.
var testSupport = []string{"internal/oracle", "internal/testtree", "internal/golden", "internal/fstestx"}

func TestArrows(t *testing.T) {
	for _, env := range [][]string{{"GOOS=linux", "CGO_ENABLED=0"}, {"GOOS=darwin", "CGO_ENABLED=0"}} {
		for _, p := range listPackages(t, env...) {
			name := short(p.ImportPath)
			if strings.HasPrefix(name, "examples/") {
				continue // examples show how all of it is used
			}
			r, ok := arrows[name]
			if !ok {
				t.Errorf("%s has no line in the table of arrows (%s): decide what it may import, and why", name, "internal/policy/arrows_test.go")
				continue
			}
			for _, imp := range p.Imports {
				checkImport(t, name, r, imp)
			}
		}
	}
}

func checkImport(t *testing.T, name string, r rule, imp string) {
	t.Helper()
	switch {
	case isStd(imp):
	case isOurs(imp):
		if !slices.Contains(strings.Fields(r.ours), short(imp)) {
			t.Errorf("%s imports %s; it may import: %s (%s)", name, short(imp), orNothing(r.ours), r.why)
		}
		if slices.Contains(testSupport, short(imp)) && !slices.Contains(testSupport, name) {
			t.Errorf("%s imports %s outside its tests", name, short(imp))
		}
	default:
		for m := range strings.FieldsSeq(r.modules) {
			path := strings.TrimPrefix(imp, "github.com/")
			if path == m || strings.HasPrefix(path, m+"/") {
				return
			}
		}
		t.Errorf("%s imports %s; of others it may import: %s (%s)", name, imp, orNothing(r.modules), r.why)
	}
}

func orNothing(s string) string {
	if s == "" {
		return "nothing"
	}
	return s
}

// TestArrowsPointOneWay holds the table itself to the design, so that a line added in a hurry does not undo it.
func TestArrowsPointOneWay(t *testing.T) {
	for name, r := range arrows {
		if r.why == "" {
			t.Errorf("%s: no reason given", name)
		}
		for imp := range strings.FieldsSeq(r.ours) {
			if _, ok := arrows[imp]; !ok {
				t.Errorf("%s may import %s, which has no line of its own", name, imp)
			}
		}
	}
	for _, leaf := range []string{"squashfs", "image", "sif"} {
		for name := range reach(leaf) {
			if isPublic(name) && name != leaf {
				t.Errorf("%s is a leaf, but may reach %s", leaf, name)
			}
		}
	}
	for name := range arrows {
		if reach(name)[name] {
			t.Errorf("%s may import itself by way of others", name)
		}
	}
}

// reach returns what a package may import, directly or not.
func reach(name string) map[string]bool {
	seen := make(map[string]bool)
	todo := strings.Fields(arrows[name].ours)
	for len(todo) > 0 {
		next := todo[0]
		todo = todo[1:]
		if !seen[next] {
			seen[next] = true
			todo = append(todo, strings.Fields(arrows[next].ours)...)
		}
	}
	return seen
}

// TestDependenciesAreExplained wants a line in docs/DEPENDENCIES.md for each module that go.mod requires directly.
func TestDependenciesAreExplained(t *testing.T) {
	text := readFile(t, "docs/DEPENDENCIES.md")
	for _, m := range slices.Sorted(maps.Keys(directModules(t))) {
		if !strings.Contains(text, m) {
			t.Errorf("docs/DEPENDENCIES.md does not say why %s is required", m)
		}
	}
}
