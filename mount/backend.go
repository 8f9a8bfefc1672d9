package mount

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"
	"syscall"

	"hpcimg/squashfs"
)

// Backend is a way of mounting an image.
type Backend string

// The backends. The zero value lets [Image] choose.
const (
	// BackendKernel is the kernel's squashfs over a loop device, for root.
	BackendKernel Backend = "kernel"
	// BackendFUSE is our own server, see [Fuse].
	BackendFUSE Backend = "fuse"
	// BackendSquashfuse is the program squashfuse_ll, a server in a process of its own.
	BackendSquashfuse Backend = "squashfuse"
)

// ImageOptions are the options of [Image].
type ImageOptions struct {
	FuseOptions
	// Backend is the only one to try; "" tries what there is, best first.
	Backend Backend
	// NoCheck lets the kernel mount an image whose tables have not been checked.
	NoCheck bool
	// Squashfuse is the program of BackendSquashfuse; "" means squashfuse_ll in PATH.
	Squashfuse string
}

// Mounted is an image that [Image] has mounted.
type Mounted struct {
	Backend Backend
	// Why says in a few words why it is this one.
	Why string
	// Server works in this process if the backend is BackendFUSE, and is nil otherwise.
	Server *Server
}

// Image mounts the image in the file at path on the directory target: read-only, nosuid, nodev.
//
// For root the kernel does it, which is fastest. Its code trusts what it reads, so an image whose tables [squashfs.Check] finds
// fault with goes to our server, which trusts nothing. The owner of the file can still change it later: whose images are
// not to be trusted gets BackendFUSE. Ordinary users get our server, or squashfuse_ll if that fails. An error of mounting is an
// *Error with one attempt for each backend that was tried; that target is no directory is an *fs.PathError.
func Image(ctx context.Context, path, target string, o *ImageOptions) (*Mounted, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return ImageFile(ctx, f, target, o)
}

// ImageFile is Image with an open file, which may be closed afterwards.
func ImageFile(ctx context.Context, f *os.File, target string, o *ImageOptions) (*Mounted, error) {
	if o == nil {
		o = &ImageOptions{}
	}
	st, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if err := directory(target); err != nil {
		return nil, err
	}
	v := *o
	v.Size = cmp.Or(v.Size, st.Size()-v.Offset)
	if v.Admit != nil {
		if err := v.Admit(ctx, f, v.Offset, v.Size); err != nil {
			return nil, err
		}
	}
	a := attempt{ctx: ctx, f: f, target: target, o: &v, admitted: v.Admit != nil}
	v.Admit = nil // once is enough
	switch v.Backend {
	case "":
		return a.best(os.Geteuid() == 0)
	case BackendKernel, BackendFUSE, BackendSquashfuse:
		if err := a.try(v.Backend); err != nil {
			return nil, a.failed()
		}
		return a.done(v.Backend, "asked for"), nil
	}
	return nil, &fs.PathError{Op: "mount", Path: target, Err: fmt.Errorf("backend %q: %w", v.Backend, fs.ErrInvalid)}
}

// directory says what target is if it is no directory: no backend has to be asked about that.
func directory(target string) error {
	info, err := os.Stat(target)
	if err == nil && !info.IsDir() {
		err = syscall.ENOTDIR
	}
	if path, ok := errors.AsType[*fs.PathError](err); ok {
		err = path.Err
	}
	if err != nil {
		return &fs.PathError{Op: "mount", Path: target, Err: err}
	}
	return nil
}

// attempt is what has been tried.
type attempt struct {
	ctx    context.Context
	f      *os.File
	target string
	o      *ImageOptions
	// admitted: somebody has looked at f, so it has to be that file and not its path.
	admitted bool
	server   *Server
	note     string // about how it was done, for Why
	errs     []error
	last     []string // in a few words, for Why
}

func (a *attempt) best(root bool) (*Mounted, error) {
	order := []Backend{BackendFUSE, BackendSquashfuse}
	why := "an ordinary user cannot have the kernel mount an image"
	if root {
		order, why = append([]Backend{BackendKernel}, order...), "root, and nothing is faster"
	}
	for _, b := range order {
		if err := a.try(b); err == nil {
			if len(a.errs) > 0 {
				why = a.last[len(a.last)-1]
			}
			return a.done(b, why), nil
		}
		if a.ctx.Err() != nil {
			return nil, a.ctx.Err()
		}
	}
	return nil, a.failed()
}

func (a *attempt) done(b Backend, why string) *Mounted {
	if a.note != "" {
		why += " (" + a.note + ")"
	}
	return &Mounted{Backend: b, Why: why, Server: a.server}
}

func (a *attempt) failed() error {
	if err := a.ctx.Err(); err != nil {
		return err
	}
	return &Error{Target: a.target, Attempts: a.errs}
}

// try is one backend. What went wrong is noted.
func (a *attempt) try(b Backend) (err error) {
	switch b {
	case BackendKernel:
		if err = a.check(); err == nil {
			a.note, err = kernel(a.ctx, a.f, a.target, &a.o.Options)
		}
	case BackendFUSE:
		var own *os.File
		if own, err = reopen(a.f); err == nil {
			if a.server, err = FuseFile(a.ctx, own, a.target, &a.o.FuseOptions); err != nil {
				_ = own.Close()
			}
		}
	case BackendSquashfuse:
		err = mountSquashfuse(a.ctx, a.f, a.target, a.o, a.admitted)
	}
	if err != nil {
		err = fmt.Errorf("%s: %w", b, err)
		a.errs = append(a.errs, err)
		a.last = append(a.last, err.Error())
	}
	return err
}

// ErrUnsound is matched by the error about an image that the kernel had better not see.
var ErrUnsound = errors.New("the image is not sound")

func (a *attempt) check() error {
	if a.o.NoCheck {
		return nil
	}
	if err := a.ctx.Err(); err != nil {
		return err
	}
	if a.o.Offset < 0 || a.o.Size < 0 {
		return fs.ErrInvalid // what Loop would say, with more words
	}
	section := io.NewSectionReader(a.f, a.o.Offset, a.o.Size)
	report, err := squashfs.Check(a.ctx, section, a.o.Size, &squashfs.CheckOptions{NoData: true, MaxFindings: 3})
	if err != nil {
		return err
	}
	if report.OK() {
		return nil
	}
	var texts []string
	for _, f := range report.Findings {
		texts = append(texts, fmt.Sprintf("%s at %#x: %s", f.Structure, f.Offset, f.Message))
	}
	return fmt.Errorf("%w: %s", ErrUnsound, strings.Join(texts, "; "))
}
