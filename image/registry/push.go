package registry

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"sync"

	"golang.org/x/sync/errgroup"

	"hpcimg/image"
	"hpcimg/internal/distribution"
)

const defaultUploads = 3

// PushOptions says how an image is pushed. A nil *PushOptions and the zero value mean the same.
type PushOptions struct {
	Registry image.RegistryOptions
	// Uploads is the number of blobs sent at a time. Default 3.
	Uploads int
	// ChunkSize makes uploads chunked, for proxies that let no large body through: so many bytes at a time, or more if the registry
	// wants that, which are in memory then. Default: a blob is sent in one request; what breaks is continued in chunks.
	ChunkSize int64
	// MountFrom is another repository of the same registry, without the host, that may have the blobs. Default: the one that the image
	// was opened from, if that is of the same registry.
	MountFrom string
	// Progress is told about each blob, at most ten times a second and once when it is there. Calls do not overlap; they hold up
	// the push while they last.
	Progress func(Event)
	// Logger is told of decisions at debug level. Default: silent.
	Logger *slog.Logger
}

// Event is the progress of one blob or manifest.
type Event struct {
	Descriptor image.Descriptor
	Done       int64 // bytes sent, of Descriptor.Size
	Exists     bool  // the registry had it; nothing was sent
	Complete   bool  // the last event about this descriptor
}

// Push writes an image to the registry and repository that a docker:// reference names, under its tag, or under its digest if the
// reference has one. It returns the descriptor of the manifest, which is the image's own.
func Push(ctx context.Context, img *image.Image, ref string, opts *PushOptions) (image.Descriptor, error) {
	return push(ctx, img, ref, opts, func(r image.Reference) error {
		if r.Transport != image.TransportDocker {
			return errors.New("names a SIF file: an image in layers is pushed to docker://")
		}
		return nil
	})
}

// PushArtifact is [Push] for what is no image in layers. The reference may begin with oras:// as well.
func PushArtifact(ctx context.Context, a *image.Artifact, ref string, opts *PushOptions) (image.Descriptor, error) {
	return push(ctx, a, ref, opts, func(image.Reference) error { return nil })
}

// content is what both have that can be pushed.
type content interface {
	Reference() image.Reference
	Descriptor() image.Descriptor
	Manifest() image.Manifest
	RawManifest() []byte
	OpenBlob(ctx context.Context, d image.Descriptor) (io.ReadCloser, error)
}

func push(ctx context.Context, img content, ref string, opts *PushOptions, accept func(image.Reference) error) (image.Descriptor, error) {
	var o PushOptions
	if opts != nil {
		o = *opts
	}
	if o.Uploads <= 0 {
		o.Uploads = defaultUploads
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	c := &Client{wire: newWire(o.Registry, o.Logger)}
	r, repo, err := c.repository(ref, distribution.PullPush)
	if err != nil {
		return image.Descriptor{}, err
	}
	if err := accept(r); err != nil {
		return image.Descriptor{}, &image.ReferenceError{Reference: ref, Err: err}
	}
	p := &pusher{img: img, repo: repo, options: o, report: newReporter(o.Progress), from: o.MountFrom}
	if from := img.Reference(); p.from == "" && from.Host == r.Host && from.Repository != r.Repository {
		p.from = from.Repository
	}
	d, err := p.push(ctx, r)
	if err != nil {
		return image.Descriptor{}, describe("push", r, err)
	}
	return d, nil
}

type pusher struct {
	img     content
	repo    *distribution.Repository
	options PushOptions
	report  *reporter
	from    string // repository to mount blobs from
}

func (p *pusher) push(ctx context.Context, ref image.Reference) (image.Descriptor, error) {
	d := p.img.Descriptor()
	if ref.Digest != "" && ref.Digest != d.Digest {
		return image.Descriptor{}, &image.DigestError{
			Descriptor: image.Descriptor{Digest: ref.Digest, Size: d.Size}, Got: d.Digest, GotSize: d.Size,
		}
	}
	if err := p.blobs(ctx); err != nil {
		return image.Descriptor{}, err
	}
	name := ref.Tag
	if name == "" {
		name = d.Digest.String()
	}
	pushed, err := p.repo.PushManifest(ctx, name, d.MediaType, p.img.RawManifest())
	if err != nil {
		return image.Descriptor{}, err
	}
	got := pushed.Digest
	if got != "" && got.Validate() != nil {
		return image.Descriptor{}, fmt.Errorf("the registry says that it stored the manifest as %q, which is no digest",
			distribution.Clip(got.String(), 100))
	}
	if got != "" && got != d.Digest {
		return image.Descriptor{}, &image.DigestError{Descriptor: d, Got: got, GotSize: d.Size}
	}
	if err := listReferrer(ctx, p.repo, pushed, d, p.img.Manifest()); err != nil {
		return image.Descriptor{}, err
	}
	p.report.send(Event{Descriptor: d, Done: d.Size, Complete: true})
	return d, nil
}

// blobs uploads what the manifest refers to, each blob once.
func (p *pusher) blobs(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(p.options.Uploads)
	seen := map[string]bool{}
	m := p.img.Manifest()
	for _, d := range append(slices.Clone(m.Layers), m.Config) {
		if !seen[d.Digest.String()] {
			seen[d.Digest.String()] = true
			g.Go(func() error { return p.blob(ctx, d) })
		}
	}
	return g.Wait()
}

func (p *pusher) blob(ctx context.Context, d image.Descriptor) error {
	has, err := p.repo.HasBlob(ctx, d.Digest)
	if err != nil {
		return err
	}
	if has {
		p.options.Logger.DebugContext(ctx, "blob exists", "digest", d.Digest)
		p.report.send(Event{Descriptor: d, Done: d.Size, Exists: true, Complete: true})
		return nil
	}
	up := &upload{report: p.report, event: Event{Descriptor: d}}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	mounted, err := p.repo.PushBlob(ctx, d.Digest, d.Size, func() (io.ReadCloser, error) {
		rc, err := p.img.OpenBlob(ctx, d)
		if err != nil {
			up.fail(err)
			return nil, err
		}
		return up.start(rc), nil
	}, &distribution.UploadOptions{ChunkSize: p.options.ChunkSize, MountFrom: p.from})
	// A transport may go on reading for a moment. What it reads then is of no interest.
	cause := up.end()
	switch {
	case err != nil && cause != nil:
		// The upload failed because our side did; that error says more than the registry's.
		return fmt.Errorf("read %s: %w", d.Digest, cause)
	case err != nil:
		return err
	}
	p.report.send(Event{Descriptor: d, Done: d.Size, Exists: mounted, Complete: true})
	return nil
}

// upload reports the progress of a blob, whatever number of attempts it takes, and keeps the error that ended one on our side.
type upload struct {
	report *reporter

	mu    sync.Mutex
	event Event
	err   error
	ended bool
}

// start begins an attempt with a new reader.
func (u *upload) start(rc io.ReadCloser) io.ReadCloser {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.err = nil
	return &uploadBody{ReadCloser: rc, upload: u}
}

func (u *upload) fail(err error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if !u.ended {
		u.err = err
	}
}

// sent reports that an attempt has come to byte n. Bytes that are sent again are no progress.
func (u *upload) sent(n int64) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if !u.ended && n > u.event.Done {
		u.event.Done = n
		u.report.tick(u.event)
	}
}

func (u *upload) end() error {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.ended = true
	return u.err
}

type uploadBody struct {
	io.ReadCloser
	upload *upload
	n      int64
}

func (b *uploadBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	b.n += int64(n)
	if err != nil && err != io.EOF {
		b.upload.fail(err)
		return n, err
	}
	b.upload.sent(b.n)
	return n, err
}
