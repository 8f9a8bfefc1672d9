package main

import (
	"context"
	"crypto/sha256"
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"

	ggcrregistry "github.com/google/go-containerregistry/pkg/registry"

	"hpcimg/convert"
	"hpcimg/examples/bench/images"
	"hpcimg/image"
	"hpcimg/image/cache"
	"hpcimg/image/registry"
)

// runSegments pushes the versions of images in one piece and in segments, and
// pulls them.
func runSegments(ctx context.Context, args []string, stdout, stderr io.Writer) (err error) {
	f := flag.NewFlagSet("segments", flag.ContinueOnError)
	f.SetOutput(stderr)
	dir := f.String("images", "", "`directory` that bench images keeps the images in")
	only := f.String("only", "python", "`list` of images")
	host := f.String("registry", "", "`host:port` of a registry without a password (default: one in this process)")
	work := f.String("dir", "", "where the temporary `directory` is made (default the system's)")
	if err := parse(f, args, 0); err != nil {
		return err
	}
	names, err := imageNames(f.Name(), *only, stderr)
	if err != nil {
		return err
	}
	temp, err := os.MkdirTemp(*work, "hpcimg-bench-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(temp)) }()
	var out strings.Builder
	thisMachine().write(&out)
	for _, name := range names {
		layout, err := makeImage(ctx, *dir, name, stderr)
		if err != nil {
			return err
		}
		for _, form := range []convert.Form{convert.FormSIF, convert.FormSquashfs} {
			at, stop := *host, func() {}
			if at == "" {
				at, stop = newRegistry()
			}
			defer stop()
			// Names of the moment: the registry may be one that stays.
			repo := fmt.Sprintf("%s/bench-%d/%s-%s", at, time.Now().UnixNano(), name, form)
			s := &segments{form: form, layout: layout, repo: repo, dir: filepath.Join(temp, name+"-"+string(form))}
			if err := s.hold(ctx, append(images.Versions(), images.Rebuilt)); err != nil {
				return err
			}
			fmt.Fprintf(&out, "\n%s, %s\n\n", name, form)
			writeRows(&out, s.table())
		}
	}
	_, err = io.WriteString(stdout, out.String())
	return err
}

// newRegistry starts a registry in this process that has nothing.
func newRegistry() (host string, stop func()) {
	s := httptest.NewServer(ggcrregistry.New(ggcrregistry.Logger(log.New(io.Discard, "", 0))))
	return strings.TrimPrefix(s.URL, "http://"), s.Close
}

// segments is an image whose versions go to a registry and come back.
type segments struct {
	form         convert.Form
	layout, repo string
	dir          string
	rows         []segmentsRow
}

// segmentsRow is what a version has taken.
type segmentsRow struct {
	version string
	size    int64 // of the file
	// What went over the wire: pushed whole, pushed in segments; pulled by a
	// node that has nothing, one that has the version before in its cache,
	// and one that has it in a file.
	whole, pushed, cold, warm, reused transfer
}

type transfer struct {
	bytes int64
	time  time.Duration
}

// wire counts the bytes of bodies.
type wire struct {
	inner    http.RoundTripper
	up, down atomic.Int64
}

// RoundTrip implements http.RoundTripper.
func (w *wire) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.Body != nil {
		r = r.Clone(r.Context())
		r.Body = &countedBody{r.Body, &w.up}
	}
	res, err := w.inner.RoundTrip(r)
	if err == nil {
		res.Body = &countedBody{res.Body, &w.down}
	}
	return res, err
}

type countedBody struct {
	io.ReadCloser
	n *atomic.Int64
}

func (b *countedBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	b.n.Add(int64(n))
	return n, err
}

// measure counts what do sends and receives.
func measure(do func(image.RegistryOptions) error) (transfer, error) {
	w := &wire{inner: &http.Transport{DisableCompression: true}}
	begin := time.Now()
	err := do(image.RegistryOptions{Transport: w})
	return transfer{w.up.Load() + w.down.Load(), time.Since(begin)}, err
}

// hold pushes and pulls all versions, in their order. What comes back is
// compared with what was pushed.
func (s *segments) hold(ctx context.Context, versions []string) error {
	if err := os.Mkdir(s.dir, 0o700); err != nil {
		return err
	}
	c, err := cache.Open(filepath.Join(s.dir, "node"), nil)
	if err != nil {
		return err
	}
	builder, err := cache.Open(filepath.Join(s.dir, "builder"), nil)
	if err != nil {
		return err
	}
	previous := ""
	for _, version := range versions {
		file, err := s.once(ctx, version, previous, c, builder)
		if err != nil {
			return fmt.Errorf("%s: %w", version, err)
		}
		previous = file
	}
	return nil
}

func (s *segments) once(ctx context.Context, version, previous string, node, builder *cache.Cache) (file string, err error) {
	row := segmentsRow{version: version}
	file = filepath.Join(s.dir, version+"."+string(s.form))
	img, err := image.Open(ctx, images.Reference(s.layout, version), nil)
	if err != nil {
		return "", err
	}
	result, err := convert.Convert(ctx, convert.FromImage(img), file, &convert.Options{Form: s.form, Cache: builder})
	if err != nil {
		return "", err
	}
	row.size = result.Size
	if row.whole, err = s.pushWhole(ctx, version, file); err != nil {
		return "", err
	}
	if row.pushed, err = s.push(ctx, version, file, img, builder); err != nil {
		return "", err
	}
	for _, p := range []struct {
		to   *transfer
		opts convert.Options
	}{
		{&row.cold, convert.Options{}}, {&row.warm, convert.Options{Cache: node}}, {&row.reused, convert.Options{Reuse: list(previous)}},
	} {
		if *p.to, err = s.pull(ctx, version, file, p.opts); err != nil {
			return "", err
		}
	}
	s.rows = append(s.rows, row)
	return file, nil
}

func list(path string) []string {
	if path == "" {
		return nil
	}
	return []string{path}
}

// pushWhole pushes the file in one piece: a SIF file as Apptainer does it, a
// squashfs as one layer.
func (s *segments) pushWhole(ctx context.Context, version, file string) (transfer, error) {
	if s.form != convert.FormSIF {
		return transfer{}, nil
	}
	a, err := convert.SIFArtifact(ctx, file, filepath.Base(file))
	if err != nil {
		return transfer{}, err
	}
	defer a.Close()
	return measure(func(o image.RegistryOptions) error {
		_, err := registry.PushArtifact(ctx, a.Artifact, "oras://"+s.repo+"-whole:"+version, &registry.PushOptions{Registry: o})
		return err
	})
}

func (s *segments) push(ctx context.Context, version, file string, img *image.Image, builder *cache.Cache) (transfer, error) {
	var b *convert.BuiltImage
	var err error
	if s.form == convert.FormSIF {
		b, err = convert.CutSIF(ctx, file)
	} else {
		b, err = convert.ToImage(ctx, convert.FromImage(img), &convert.Options{
			Cache: builder, TempDir: s.dir, OCI: convert.OCIOptions{Layers: convert.LayersSegments},
		})
	}
	if err != nil {
		return transfer{}, err
	}
	defer b.Close()
	return measure(func(o image.RegistryOptions) error {
		_, err := registry.Push(ctx, b.Image, "docker://"+s.repo+":"+version, &registry.PushOptions{Registry: o})
		return err
	})
}

func (s *segments) pull(ctx context.Context, version, want string, opts convert.Options) (transfer, error) {
	got := filepath.Join(s.dir, "pulled")
	defer os.Remove(got)
	t, err := measure(func(o image.RegistryOptions) error {
		open := &image.Options{Registry: o}
		if opts.Cache != nil {
			open.Cache = opts.Cache
		}
		img, err := image.Open(ctx, "docker://"+s.repo+":"+version, open)
		if err != nil {
			return err
		}
		opts.Form, opts.Force = s.form, true
		_, err = convert.Convert(ctx, convert.FromImage(img), got, &opts)
		return err
	})
	if err != nil {
		return t, err
	}
	return t, sameFiles(want, got)
}

// sameFiles reads two files and wants them to be equal.
func sameFiles(a, b string) error {
	var sums [2]string
	for i, name := range []string{a, b} {
		sum, err := sumOf(name)
		if err != nil {
			return err
		}
		sums[i] = sum
	}
	if sums[0] != sums[1] {
		return fmt.Errorf("%s has come back as another file", a)
	}
	return nil
}

func sumOf(name string) (string, error) {
	f, err := os.Open(name)
	if err != nil {
		return "", err
	}
	defer f.Close()
	h := sha256.New()
	_, err = io.Copy(h, f)
	return string(h.Sum(nil)), err
}

func (s *segments) table() [][]string {
	rows := [][]string{{"version", "file MB", "push whole MB", "push MB", "of whole", "s", "pull MB", "s", "with cache MB", "of file", "s", "with file MB", "of file", "s"}}
	mb := func(n int64) string {
		if n == 0 {
			return "" // not done
		}
		return fmt.Sprintf("%.2f", float64(n)/1e6)
	}
	for _, r := range s.rows {
		whole := r.whole.bytes
		if whole == 0 {
			whole = r.size
		}
		share := func(t transfer, of int64) string { return fmt.Sprintf("%.2f %%", 100*float64(t.bytes)/float64(of)) }
		seconds := func(t transfer) string { return fmt.Sprintf("%.2f", t.time.Seconds()) }
		rows = append(rows, []string{
			r.version, mb(r.size), mb(r.whole.bytes), mb(r.pushed.bytes), share(r.pushed, whole), seconds(r.pushed), mb(r.cold.bytes), seconds(r.cold),
			mb(r.warm.bytes), share(r.warm, r.size), seconds(r.warm), mb(r.reused.bytes), share(r.reused, r.size), seconds(r.reused),
		})
	}
	return rows
}
