package images

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"time"

	"hpcimg/image"
)

// ErrInstall is a failure of debootstrap or apt: more often than not there is no way to the mirror.
var ErrInstall = errors.New("installing packages")

// Rebuilt is the tag of the image whose files are those of v1 and whose largest layer has other times.
const Rebuilt = "v1-rebuilt"

// edition is part of the path of what is made, and changes with the recipes.
const edition = 1

// Names returns the names of the images, smaller ones first.
func Names() []string {
	var names []string
	for _, r := range recipes() {
		names = append(names, r.name)
	}
	return names
}

// Versions returns the tags of an image's versions, oldest first. [Rebuilt] is not among them.
func Versions() []string { return []string{"v1", "v2", "v3", "v4", "v5"} }

// DefaultDir is where images are kept unless the caller knows a better place: the user's cache directory.
func DefaultDir() (string, error) {
	dir, err := os.UserCacheDir()
	if err != nil {
		return "", err
	}
	return filepath.Join(dir, "hpcimg-images"), nil
}

// Reference is what image.Open opens a version by.
func Reference(layout, version string) string { return "oci:" + layout + ":" + version }

// Make makes the named image with all its versions below dir, unless it is there, and returns the path of its OCI layout. What it
// does goes to log. Any number of processes may make the same image; one of the results stays.
func Make(ctx context.Context, dir, name string, log io.Writer) (layout string, err error) {
	var r recipe
	for _, one := range recipes() {
		if one.name == name {
			r = one
		}
	}
	if r.name == "" {
		return "", fmt.Errorf("%w: there is no image %q", fs.ErrInvalid, name)
	}
	dir, err = filepath.Abs(dir)
	if err != nil {
		return "", err
	}
	m, err := aptMirror("/etc")
	if err != nil {
		return "", fmt.Errorf("%w: %w", ErrInstall, err)
	}
	k := kitchen{mirror: m, dir: filepath.Join(dir, fmt.Sprintf("%s-%s-%d", m.suite, runtime.GOARCH, edition)), log: log}
	return k.make(ctx, r)
}

// kitchen is where images are made.
type kitchen struct {
	mirror mirror
	dir    string
	log    io.Writer
}

// blob is a layer in a file, compressed.
type blob struct {
	path string
}

func (k *kitchen) make(ctx context.Context, r recipe) (layout string, err error) {
	layout = filepath.Join(k.dir, r.name)
	if _, err := os.Stat(layout); err == nil {
		return layout, nil // it came here whole
	}
	var base string
	if r.name != baseName {
		if base, err = k.make(ctx, recipes()[0]); err != nil {
			return "", err
		}
	}
	if err := os.MkdirAll(k.dir, 0o755); err != nil {
		return "", err
	}
	tmp, err := os.MkdirTemp(k.dir, ".making-")
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(tmp)) }()
	p := pot{kitchen: k, recipe: r, tmp: tmp, rootfs: filepath.Join(tmp, "rootfs")}
	if err := p.cook(ctx, base); err != nil {
		return "", fmt.Errorf("image %s: %w", r.name, err)
	}
	if err := p.writeVersions(ctx); err != nil {
		return "", fmt.Errorf("image %s: %w", r.name, err)
	}
	err = os.Rename(p.layout(), layout)
	if errors.Is(err, fs.ErrExist) {
		err = nil // somebody else was faster
	}
	return layout, err
}

// pot is an image being made.
type pot struct {
	*kitchen
	recipe recipe
	tmp    string
	rootfs string
	layers []blob // bottom first
}

func (p *pot) layout() string { return filepath.Join(p.tmp, "layout") }

// cook makes the layers that all versions share.
func (p *pot) cook(ctx context.Context, base string) error {
	if base != "" {
		bottom, err := bottomLayer(ctx, base)
		if err != nil {
			return err
		}
		p.layers = append(p.layers, blob{path: bottom})
		if p.recipe.installs() {
			if err := p.extract(ctx, bottom); err != nil {
				return err
			}
		}
	}
	for _, s := range p.recipe.steps {
		begin := time.Now()
		fmt.Fprintf(p.log, "%s: %s\n", p.recipe.name, s.name)
		l := blob{path: filepath.Join(p.tmp, fmt.Sprintf("layer-%d.tar.gz", len(p.layers)))}
		if err := s.layer(ctx, p, l.path); err != nil {
			return fmt.Errorf("%s: %w", s.name, err)
		}
		p.layers = append(p.layers, l)
		info, err := os.Stat(l.path)
		if err != nil {
			return err
		}
		fmt.Fprintf(p.log, "%s: %s: %.0f MB, %.0f s\n", p.recipe.name, s.name, float64(info.Size())/1e6, time.Since(begin).Seconds())
	}
	return nil
}

// writeVersions writes all versions to the layout.
func (p *pot) writeVersions(ctx context.Context) error {
	for i, version := range Versions() {
		if err := p.write(ctx, p.layers, version, i); err != nil {
			return err
		}
	}
	layers := append([]blob(nil), p.layers...)
	rebuilt := filepath.Join(p.tmp, "rebuilt.tar.gz")
	if err := later(ctx, layers[p.recipe.largest].path, rebuilt); err != nil {
		return err
	}
	layers[p.recipe.largest].path = rebuilt
	return p.write(ctx, layers, Rebuilt, 0)
}

func (p *pot) write(ctx context.Context, layers []blob, tag string, version int) error {
	var inputs []image.LayerInput
	for _, l := range layers {
		inputs = append(inputs, image.LayerInput{
			Blob:        func() (io.ReadCloser, error) { return os.Open(l.path) },
			Compression: image.CompressionGzip,
		})
	}
	top, err := versionLayer(version)
	if err != nil {
		return err
	}
	inputs = append(inputs, image.LayerInput{Tar: top})
	created := buildTime().AddDate(0, version, 0)
	config := image.Config{Created: &created}
	config.Config.Env = []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG=C.UTF-8"}
	config.Config.Cmd = p.recipe.cmd
	config.Config.Labels = map[string]string{"org.opencontainers.image.version": tag}
	img, err := image.Build(config, inputs...)
	if err != nil {
		return err
	}
	_, err = image.WriteLayout(ctx, p.layout(), img, tag)
	return err
}

// bottomLayer returns the path of an image's first layer in its layout.
func bottomLayer(ctx context.Context, layout string) (string, error) {
	img, err := image.Open(ctx, Reference(layout, "v1"), nil)
	if err != nil {
		return "", err
	}
	d := img.Layers()[0].Descriptor.Digest
	return filepath.Join(layout, "blobs", d.Algorithm().String(), d.Encoded()), nil
}
