package images

import (
	"archive/tar"
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"path"
	"time"
)

// The conda image: how many files, and how large the asset is that is one of them.
const (
	condaFiles    = 60_000
	condaPackages = 400
	condaAsset    = 1 << 30
)

// condaTree writes the layer of the conda image. The same seed gives the same layer.
type condaTree struct {
	tw    *tar.Writer
	rng   *rand.Rand
	made  *content
	files int
	dirs  map[string]bool
	buf   []byte
}

func fillConda(ctx context.Context, tw *tar.Writer) error {
	rng := rand.New(rand.NewPCG(60_000, 1))
	t := &condaTree{tw: tw, rng: rng, made: newContent(rng), dirs: map[string]bool{".": true}}
	for i := range condaPackages {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := t.addPackage(i); err != nil {
			return err
		}
	}
	return t.asset("opt/conda/share/models/weights.bin")
}

// addPackage adds a package: modules and what they compile to, a few shared libraries, headers, data and metadata, and the copies
// in Conda's package cache, which are hard links.
func (t *condaTree) addPackage(i int) error {
	name := fmt.Sprintf("package%03d", i)
	site := "opt/conda/lib/python3.12/site-packages/" + name
	last := i == condaPackages-1
	for n := 0; n < (condaFiles-1)/condaPackages || last && t.files < condaFiles-1; n++ {
		sub := fmt.Sprintf("%s/sub%02d", site, n/24)
		var err error
		switch k := t.rng.IntN(100); {
		case k < 40:
			err = t.file(fmt.Sprintf("%s/module%03d.py", sub, n), 0o644, t.size(200, 60_000), t.made.text)
		case k < 72:
			err = t.file(fmt.Sprintf("%s/__pycache__/module%03d.cpython-312.pyc", sub, n), 0o644, t.size(300, 60_000), t.made.code)
		case k < 74:
			err = t.library(fmt.Sprintf("%s/_native%03d.cpython-312-x86_64-linux-gnu.so", sub, n))
		case k < 86:
			err = t.file(fmt.Sprintf("opt/conda/include/%s/header%03d.h", name, n), 0o644, t.size(200, 40_000), t.made.text)
		case k < 96:
			err = t.file(fmt.Sprintf("opt/conda/share/%s/data%03d.json", name, n), 0o644, t.size(100, 100_000), t.made.text)
		case k < 98:
			err = t.file(fmt.Sprintf("%s/py.typed%03d", sub, n), 0o644, 0, t.made.text)
		default:
			err = t.file(fmt.Sprintf("opt/conda/bin/%s-%03d", name, n), 0o755, t.size(150, 400), t.made.text)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// size draws a size; each factor of two between the bounds is as likely.
func (t *condaTree) size(from, to float64) int {
	return int(from * math.Pow(to/from, t.rng.Float64()))
}

// library adds a shared library, a link to it, and its other name in the package cache.
func (t *condaTree) library(name string) error {
	if err := t.file(name, 0o755, t.size(30_000, 1_200_000), t.made.code); err != nil {
		return err
	}
	pkg := "opt/conda/pkgs/" + path.Base(name) + ".d/"
	if err := t.parents(path.Dir(pkg)); err != nil {
		return err
	}
	h := t.header(pkg+path.Base(name), 0o755)
	h.Typeflag, h.Linkname = tar.TypeLink, name
	if err := t.tw.WriteHeader(h); err != nil {
		return err
	}
	h = t.header(name+".1", 0o777)
	h.Typeflag, h.Linkname = tar.TypeSymlink, path.Base(name)
	return t.tw.WriteHeader(h)
}

func (t *condaTree) header(name string, mode int64) *tar.Header {
	return &tar.Header{Name: name, Mode: mode, ModTime: buildTime().Add(time.Duration(t.files) * time.Second)}
}

func (t *condaTree) file(name string, mode int64, size int, fill func([]byte)) error {
	if err := t.parents(path.Dir(name)); err != nil {
		return err
	}
	h := t.header(name, mode)
	h.Size = int64(size)
	t.files++
	if err := t.tw.WriteHeader(h); err != nil {
		return err
	}
	if size > len(t.buf) {
		t.buf = make([]byte, size)
	}
	fill(t.buf[:size])
	_, err := t.tw.Write(t.buf[:size])
	return err
}

// asset adds the large file: text, code and numbers by turns, a mebibyte each.
func (t *condaTree) asset(name string) error {
	if err := t.parents(path.Dir(name)); err != nil {
		return err
	}
	h := t.header(name, 0o644)
	h.Size = condaAsset
	if err := t.tw.WriteHeader(h); err != nil {
		return err
	}
	const piece = 1 << 20
	buf := make([]byte, piece)
	for i := range condaAsset / piece {
		[]func([]byte){t.made.text, t.made.code, t.made.numbers}[i%3](buf)
		if _, err := t.tw.Write(buf); err != nil {
			return err
		}
	}
	return nil
}

func (t *condaTree) parents(dir string) error {
	if t.dirs[dir] {
		return nil
	}
	t.dirs[dir] = true
	if err := t.parents(path.Dir(dir)); err != nil {
		return err
	}
	h := t.header(dir+"/", 0o755)
	h.Typeflag = tar.TypeDir
	return t.tw.WriteHeader(h)
}

// content makes up what files contain. With gzip, text shrinks to about a quarter, code to about half, and numbers hardly.
type content struct {
	rng   *rand.Rand
	words [][]byte
	code8 [][]byte
}

func newContent(rng *rand.Rand) *content {
	c := &content{rng: rng}
	for range 6000 {
		word := make([]byte, 2+rng.IntN(9))
		for i := range word {
			word[i] = "etaoinshrdlucmfwypvbgkjqxz_.()=:"[min(rng.IntN(32), rng.IntN(32))]
		}
		c.words = append(c.words, append(word, " \n    \t"[rng.IntN(3)]))
	}
	for range 5000 {
		op := make([]byte, 2+rng.IntN(7))
		for i := range op {
			op[i] = byte(rng.Uint32())
		}
		c.code8 = append(c.code8, op)
	}
	return c
}

// skewed draws from a list whose first elements are the most frequent.
func (c *content) skewed(list [][]byte) []byte {
	u := c.rng.Float64()
	return list[int(u*u*u*float64(len(list)))]
}

func (c *content) text(p []byte) {
	for n := 0; n < len(p); {
		n += copy(p[n:], c.skewed(c.words))
	}
}

func (c *content) code(p []byte) {
	for n := 0; n < len(p); {
		n += copy(p[n:], c.skewed(c.code8))
		if c.rng.IntN(4) == 0 && n < len(p) {
			p[n] = byte(c.rng.Uint32()) // an operand
			n++
		}
	}
}

// numbers are 32-bit floats of one magnitude: sign and exponent repeat, the rest does not.
func (c *content) numbers(p []byte) {
	for n := 0; n < len(p); n += 4 {
		x := math.Float32bits(float32(c.rng.NormFloat64() * 0.02))
		_ = copy(p[n:], []byte{byte(x), byte(x >> 8), byte(x >> 16), byte(x >> 24)})
	}
}
