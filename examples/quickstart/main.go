package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http/httptest"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"

	ggcrregistry "github.com/google/go-containerregistry/pkg/registry"

	"hpcimg/convert"
	"hpcimg/image"
	"hpcimg/image/registry"
	"hpcimg/sif"
	"hpcimg/sign"
	"hpcimg/squashfs"
)

func main() {
	keep := flag.String("keep", "", "leave image and key in this new directory")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Stdout, *keep)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "quickstart:", err)
		os.Exit(1)
	}
}

// run tells the story to out. Everything it makes is in one directory, removed
// at the end unless keep names it.
func run(ctx context.Context, out io.Writer, keep string) error {
	dir, remove, err := workDir(keep)
	if err != nil {
		return err
	}
	defer remove()
	s := &story{out: out, dir: dir, begin: time.Now()}
	for _, step := range []struct {
		title string
		run   func(context.Context) error
	}{
		{"start a registry in this process", s.startRegistry},
		{"make a two-layer image from this machine", s.build},
		{"push it", s.push},
		{"pull it and convert it to SIF", s.convert},
		{"sign it with a fresh key", s.sign},
		{"verify it", s.verify},
		{"inspect it", s.inspect},
		{"look into it through fs.FS", s.look},
		{"run a program in it", s.run},
	} {
		if err := s.step(ctx, step.title, step.run); err != nil {
			return errors.Join(fmt.Errorf("%s: %w", step.title, err), s.close())
		}
	}
	fmt.Fprintf(out, "\ndone in %.2f s", time.Since(s.begin).Seconds())
	if keep != "" {
		fmt.Fprintf(out, "; the image is %s", s.sifPath())
	}
	fmt.Fprintln(out)
	return s.close()
}

func workDir(keep string) (dir string, remove func(), err error) {
	if keep != "" {
		return keep, func() {}, os.Mkdir(keep, 0o755)
	}
	dir, err = os.MkdirTemp("", "hpcimg-quickstart-")
	return dir, func() { os.RemoveAll(dir) }, err
}

// story is what one step hands to the next.
type story struct {
	out   io.Writer
	dir   string
	begin time.Time
	steps int

	server *httptest.Server
	ref    string
	img    *image.Image
	key    *sign.Key
	file   *sif.File
	reader *squashfs.Reader
}

func (s *story) step(ctx context.Context, title string, run func(context.Context) error) error {
	s.steps++
	fmt.Fprintf(s.out, "\n%d. %s\n", s.steps, title)
	begin := time.Now()
	err := run(ctx)
	if err == nil {
		s.say("(%.1f ms)", float64(time.Since(begin).Microseconds())/1000)
	}
	return err
}

// say prints a line about the current step.
func (s *story) say(format string, args ...any) {
	fmt.Fprintf(s.out, "   "+format+"\n", args...)
}

func (s *story) close() error {
	if s.server != nil {
		s.server.Close()
	}
	if s.file == nil {
		return nil
	}
	return s.file.Close()
}

func (s *story) sifPath() string { return filepath.Join(s.dir, "quickstart.sif") }

func (s *story) startRegistry(context.Context) error {
	s.server = httptest.NewServer(ggcrregistry.New(ggcrregistry.Logger(discardLogger())))
	s.ref = "docker://" + s.server.Listener.Addr().String() + "/quickstart/hello:latest"
	s.say("it listens on %s and keeps its blobs in memory", s.server.Listener.Addr())
	return nil
}

func (s *story) build(context.Context) error {
	base, found, err := baseLayer()
	if err != nil {
		return err
	}
	patch, err := patchLayer()
	if err != nil {
		return err
	}
	config := image.Config{}
	config.OS, config.Architecture = "linux", runtime.GOARCH
	config.Config.Env = []string{"PATH=/bin", "GREETING=hello from the image"}
	config.Config.Entrypoint = []string{"/bin/sh", "-c"}
	config.Config.Cmd = []string{`echo "$GREETING"`}
	config.Config.Labels = map[string]string{"org.opencontainers.image.title": "quickstart"}
	s.img, err = image.Build(config, image.LayerInput{Tar: base}, image.LayerInput{Tar: patch})
	if err != nil {
		return err
	}
	s.say("layer 1: %s and the libraries they need, %d KiB", strings.Join(found, " "), len(base)>>10)
	s.say("layer 2: replaces srv/version.txt and removes srv/build.log")
	return nil
}

func (s *story) push(ctx context.Context) error {
	desc, err := registry.Push(ctx, s.img, s.ref, nil)
	if err != nil {
		return err
	}
	s.say("%s is now %s", s.ref, desc.Digest)
	return nil
}

func (s *story) convert(ctx context.Context) error {
	img, err := image.Open(ctx, s.ref, nil)
	if err != nil {
		return err
	}
	result, err := convert.Convert(ctx, convert.FromImage(img), s.sifPath(), nil)
	if err != nil {
		return err
	}
	for i, l := range result.Layers {
		s.say("layer %d: %d KiB fetched, %d files kept, %d hidden, %d KiB of the image", i+1, l.Size>>10, l.Files, l.Hidden, l.Segment>>10)
	}
	s.say("%d entries in %d KiB; nothing was unpacked on the way", result.Entries, result.Size>>10)
	return nil
}

func (s *story) sign(ctx context.Context) error {
	var err error
	s.key, err = sign.GenerateKey(&sign.KeyOptions{Name: "Quickstart", Comment: "made for this run"})
	if err != nil {
		return err
	}
	s.say("key %s", s.key.Fingerprint())
	return sign.Sign(ctx, s.sifPath(), s.key, nil)
}

// verify opens the file that all later steps use: what is run is what was
// verified, even if somebody replaced the file in between.
func (s *story) verify(ctx context.Context) error {
	var err error
	if s.file, err = sif.Open(s.sifPath()); err != nil {
		return err
	}
	result, err := sign.Verify(ctx, s.file, &sign.VerifyOptions{Keyring: sign.NewKeyring(s.key.Public())})
	if err != nil {
		return err
	}
	for _, o := range result.Objects {
		s.say("object %d (%v) is covered: %t", o.ID, o.Type, o.Covered())
	}
	return nil
}

func (s *story) inspect(context.Context) error {
	meta, err := s.file.Metadata()
	if err != nil {
		return err
	}
	s.say("%q for %s, made from:", meta.Data.Attributes.Labels["org.opencontainers.image.title"], s.file.Header().Arch)
	for line := range strings.Lines(meta.Data.Attributes.Deffile) {
		s.say("  %s", strings.TrimSpace(line))
	}
	return nil
}

func (s *story) look(context.Context) error {
	primary, err := s.file.Primary()
	if err != nil {
		return err
	}
	if s.reader, err = squashfs.NewReader(primary.Open(), primary.Size, nil); err != nil {
		return err
	}
	return s.show()
}
