package convert_test

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"path"
	"slices"
	"strings"
	"testing"
	"time"

	"hpcimg/convert"
	"hpcimg/internal/oracle"
	"hpcimg/internal/testtree"
	"hpcimg/squashfs"
)

var (
	stacks = flag.Int("stacks", 200, "how many random stacks of layers TestRandomStacks compares with umoci")
	seed   = flag.Uint64("seed", 1, "the first seed of TestRandomStacks")
)

// generator makes stacks of layers of few names, so that they meet.
type generator struct {
	*rand.Rand
	known []string // paths that some layer has had
	files []string // of files
	dirs  []string // of directories and links to them
	real  []string // of directories
}

func (g *generator) name() string { return string(rune('a' + g.IntN(4))) }

func (g *generator) pick(list []string) string {
	if len(list) == 0 {
		return g.name()
	}
	return list[g.IntN(len(list))]
}

func (g *generator) path() string {
	switch k := g.IntN(100); {
	case k < 40:
		return g.pick(g.known)
	case k < 80:
		return g.pick(g.dirs) + "/" + g.name()
	case k < 81:
		return g.pick(g.files) + "/" + g.name() // a file is in the way
	}
	return g.name()
}

func (g *generator) options() []testtree.Option {
	var o []testtree.Option
	if g.IntN(3) == 0 {
		o = append(o, testtree.Owner(g.IntN(3), g.IntN(3)*1000))
	}
	if g.IntN(3) == 0 {
		o = append(o, testtree.MTime(int64(g.IntN(1e9))))
	}
	if g.IntN(8) == 0 {
		o = append(o, testtree.Xattr("user."+g.name(), g.name()))
	}
	return o
}

func (g *generator) data() []byte {
	size := g.IntN(50)
	if g.IntN(10) == 0 {
		size = g.IntN(300_000)
	}
	return testtree.Bytes(g.Uint64N(20), size)
}

func (g *generator) entry() testtree.Entry {
	p := g.path()
	switch k := g.IntN(20); {
	case len(g.known) < 3 && k < 10:
		g.known, g.dirs, g.real = append(g.known, p), append(g.dirs, p), append(g.real, p)
		return testtree.Dir(p, 0o755, g.options()...)
	case k < 7:
		g.known, g.files = append(g.known, p), append(g.files, p)
		return testtree.File(p, 0o644, g.data(), g.options()...)
	case k < 12:
		g.known, g.dirs, g.real = append(g.known, p), append(g.dirs, p), append(g.real, p)
		return testtree.Dir(p, 0o755, g.options()...)
	case k < 14:
		target := strings.Repeat("../", strings.Count(p, "/")) + g.pick(g.real)
		if g.IntN(3) == 0 {
			target = "/" + target
		}
		g.known, g.dirs = append(g.known, p), append(g.dirs, p)
		return testtree.Symlink(p, target)
	case k < 15 && len(g.files) > 0:
		g.known = append(g.known, p)
		return testtree.Hardlink(p, g.pick(g.files))
	case k < 18:
		return testtree.Whiteout(p)
	case k < 19:
		return testtree.Opaque(path.Dir(p))
	}
	return testtree.FIFO(p, 0o600)
}

func (g *generator) layers() []tree {
	layers := make([]tree, 1+g.IntN(4))
	for i := range layers {
		for range 1 + g.IntN(12) {
			layers[i] = append(layers[i], g.entry())
		}
	}
	return layers
}

// TestRandomStacks compares random stacks with umoci. Of those that one of them refuses, both must, save where umoci has a
// directory to make and a file is in the way: umoci since 0.6, like us, replaces the file.
func TestRandomStacks(t *testing.T) {
	oracle.Tool(t, "umoci")
	oracle.Root(t)
	equal, refused, ours, repacked := 0, 0, 0, 0
	enough := *stacks
	if testing.Short() {
		enough = min(enough, 20)
	}
	for i := range uint64(enough) * 4 {
		if equal == enough {
			break
		}
		g := &generator{Rand: rand.New(rand.NewPCG(*seed+i, 7))}
		layers := g.layers()
		img := build(t, layers...)
		begin := time.Now()
		want, ok, out := unpack(t, img)
		got, result, err := squash(t, img, &convert.Options{Compression: squashfs.CompressionNone})
		switch {
		case ok && err == nil:
			settle(want, got, begin)
			if diff := testtree.Diff(want, got, nil); diff != "" {
				t.Fatalf("seed %d (-umoci +convert)\n%s\n%s", *seed+i, diff, describe(layers))
			}
			checkNothingLeaks(t, result, got)
			if slices.ContainsFunc(result.Layers, func(l convert.LayerResult) bool { return l.Repacked }) {
				repacked++
			}
			equal++
		case !ok && err != nil:
			refused++
		case !ok && strings.Contains(out, "not a directory"):
			ours++
		default:
			t.Fatalf("seed %d: convert: %v; umoci: %s\n%s", *seed+i, err, out, describe(layers))
		}
	}
	t.Logf("%d stacks equal, %d of them with a layer packed twice; %d refused by both, %d taken by us alone", equal, repacked, refused, ours)
	if equal < enough/2 {
		t.Errorf("only %d stacks could be compared", equal)
	}
}

func describe(layers []tree) string {
	var b strings.Builder
	for i, l := range layers {
		fmt.Fprintf(&b, "layer %d\n", i)
		for _, e := range l {
			fmt.Fprintf(&b, "  %v %s -> %s%s (%d bytes)\n", e.Mode, e.Path, e.Target, e.HardLink, len(e.Data))
		}
	}
	return b.String()
}

// checkNothingLeaks makes sure that an image is no larger than its visible files need, whatever was packed on the way.
func checkNothingLeaks(t *testing.T, result *convert.Result, list testtree.Listing) {
	t.Helper()
	var contents, segments int64
	for _, n := range list {
		if n.Mode.IsRegular() && n.Group == "" {
			contents += n.Size
		} else if n.Mode.IsRegular() {
			contents += n.Size / int64(n.Links)
		}
	}
	for _, l := range result.Layers {
		segments += l.Segment
	}
	if most := contents + int64(len(result.Layers))*4096 + 4096; segments > most {
		t.Errorf("segments have %d bytes, visible files %d", segments, contents)
	}
}
