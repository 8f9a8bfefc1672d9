package runtime

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"hpcimg/internal/squashfuse"
	"hpcimg/squashfs"
)

// compiler turns a specification into a plan. First every mount is placed in the layout, then the calls are written.
type compiler struct {
	ctx    context.Context
	spec   Spec
	host   *host
	image  image
	layout layout
	root   *layer // the image's
	items  []*item
	plan   *Plan
	user   User
	home   string // in the image; "" if there is none
	// homeGiven: the specification names the home directory, which therefore has to exist.
	homeGiven bool
	cwd       string
	reader    *squashfs.Reader // of an image in a file
	// opened is the file of the image, if it is open already.
	opened *os.File
	// upper and lowers are directories of the overlay; subIDs are the ranges for IdentityRootRange.
	upper  string
	lowers []lower
	subIDs [2][]idRange
}

func compile(ctx context.Context, spec *Spec) (*Plan, error) {
	h, err := inspect()
	if err != nil {
		return nil, err
	}
	return compileOn(ctx, spec, h)
}

func compileOn(ctx context.Context, spec *Spec, h *host) (*Plan, error) {
	return (&compiler{ctx: ctx, spec: *spec, host: h, plan: newPlan()}).compile()
}

// check is what needs no look at the image.
func (c *compiler) check() error {
	if err := c.spec.validate(); err != nil {
		return err
	}
	return c.limits()
}

func (c *compiler) compile() (_ *Plan, err error) {
	if err := c.check(); err != nil {
		return nil, err
	}
	if err := c.openImage(); err != nil {
		return nil, err
	}
	defer func() {
		c.image.Close()
		if err != nil {
			c.plan.Close()
		}
	}()
	if c.spec.Shared {
		c.plan.likeness = c.likeness()
	}
	if err := c.openOverlay(); err != nil {
		return nil, err
	}
	c.identity()
	c.root = c.layout.add(&layer{at: "/", tree: c.image, fd: "skeleton"})
	for _, step := range []func() error{c.system, c.userDirs, c.binds, c.libraries, c.workDir} {
		if err := step(); err != nil {
			return nil, err
		}
		if err := c.ctx.Err(); err != nil {
			return nil, err
		}
	}
	if err := c.serveImage(); err != nil {
		return nil, err
	}
	c.emit()
	for _, note := range c.plan.notes {
		c.debug(note)
	}
	return c.plan, nil
}

func (c *compiler) note(format string, args ...any) {
	c.plan.notes = append(c.plan.notes, fmt.Sprintf(format, args...))
}

func (c *compiler) debug(msg string) {
	if c.spec.Logger != nil {
		c.spec.Logger.Debug(msg)
	}
}

// userNS says whether the command gets a user namespace.
func (c *compiler) userNS() bool { return !c.host.admin || c.spec.Namespaces.User }

// openFile opens the image, whatever it is.
func (c *compiler) openFile() (*os.File, fs.FileInfo, error) {
	img := c.spec.Image
	name, err := filepath.Abs(img.Path)
	if err != nil {
		return nil, nil, err
	}
	f := c.opened
	if f == nil {
		if f, err = os.Open(name); err != nil {
			return nil, nil, err
		}
	}
	info, err := f.Stat()
	if err != nil {
		f.Close()
		return nil, nil, err
	}
	c.plan.image, c.plan.identity, c.plan.admit, c.plan.admitOthers = name, identityOf(info), img.Admit, c.spec.AdmitOthers
	c.plan.onError = img.OnError
	if info.IsDir() {
		// A link there must not be what is mounted. What it leads to is compared with what was opened here.
		if c.plan.image, err = filepath.EvalSymlinks(name); err != nil {
			f.Close()
			return nil, nil, err
		}
	}
	return f, info, nil
}

// openImage opens the image for planning and chooses the backend.
func (c *compiler) openImage() error {
	f, info, err := c.openFile()
	if err != nil {
		return err
	}
	img, name := c.spec.Image, c.plan.image
	if info.IsDir() {
		c.image = &dirImage{dir: f}
		c.plan.backend = BackendDirectory
		if img.Backend != BackendAuto && img.Backend != BackendDirectory {
			f.Close()
			return &fs.PathError{Op: "open", Path: name, Err: fmt.Errorf("a directory, which the %s backend cannot use: %w", img.Backend, fs.ErrInvalid)}
		}
		return nil
	}
	err = c.openSquashfs(f, info)
	if err != nil {
		f.Close()
	}
	return err
}

// locate finds the image in its file.
func (c *compiler) locate(info fs.FileInfo) error {
	img := c.spec.Image
	size := img.Size
	if size == 0 {
		size = info.Size() - img.Offset
	}
	if !info.Mode().IsRegular() || size < 0 || img.Offset > info.Size() || size > info.Size()-img.Offset {
		return &fs.PathError{Op: "open", Path: c.plan.image, Err: fmt.Errorf("no image of %d bytes at %d: %w", size, img.Offset, fs.ErrInvalid)}
	}
	c.plan.offset, c.plan.size = img.Offset, size
	return nil
}

func (c *compiler) openSquashfs(f *os.File, info fs.FileInfo) error {
	if err := c.locate(info); err != nil {
		return err
	}
	r, err := squashfs.NewReader(io.NewSectionReader(f, c.plan.offset, c.plan.size), c.plan.size, nil)
	if err != nil {
		return err
	}
	c.image, c.plan.file = newSquashImage(c.ctx, r), f
	c.reader = r
	if err := c.chooseBackend(); err != nil {
		return err
	}
	if c.plan.backend == BackendExtract {
		c.plan.extractDir = c.spec.Image.ExtractDir
		return c.measure(r)
	}
	return nil
}

// obstacle says why a backend cannot be used; empty if nothing speaks against it.
func (c *compiler) obstacle(b Backend) string {
	switch {
	case b == BackendKernel && c.userNS():
		return "only root mounts squashfs by the kernel"
	case b == BackendKernel && !c.host.initial:
		return "the kernel mounts no squashfs in a user namespace"
	case b == BackendKernel && !c.host.loop:
		return "there are no loop devices here"
	case b == BackendKernel && !c.host.squashfs():
		return "the kernel has no squashfs (an administrator can load the module: modprobe squashfs)"
	case b == BackendKernel && c.plan.offset%512 != 0:
		return "the image is not aligned"
	case b == BackendKernel:
		return c.doubt("the kernel")
	case b == BackendSquashfuse:
		if why := c.obstacle(BackendFUSE); why != "" {
			return why
		}
		var err error
		if c.plan.squashfuse, err = squashfuse.Find(c.ctx, c.spec.Image.Squashfuse); err != nil {
			return err.Error()
		}
		if c.userNS() && c.host.uid != 0 && c.spec.Identity == IdentitySame && !c.plan.squashfuse.SetsOwner {
			c.note("%s cannot be told who the files belong to: what users other than the caller keep to themselves in the image cannot be read", c.plan.squashfuse.Version)
		}
		return c.doubt(squashfuse.Name)
	case b == BackendFUSE:
		f, err := os.OpenFile(c.fuseDevice(), os.O_RDWR, 0)
		switch {
		case errors.Is(err, fs.ErrPermission):
			return err.Error() + " (an administrator can make it accessible: chmod 0666 " + c.fuseDevice() + ")"
		case errors.Is(err, fs.ErrNotExist):
			return err.Error() + " (an administrator can load the module: modprobe fuse)"
		case err != nil:
			return err.Error()
		}
		f.Close()
	}
	return ""
}

// merits say why BackendAuto takes what it takes, where it can.
var merits = map[Backend]string{
	BackendKernel:  "for root nothing is faster",
	BackendFUSE:    "this process serves it to the command's namespaces, for which nobody else is needed",
	BackendExtract: "unpacked for this command, which takes neither device nor privileges, and longest",
}

// chooseBackend takes the backend of the specification, or the first that works, and notes why, and why none before it does.
// BackendSquashfuse is not among those: it needs what BackendFUSE needs, and what that cannot read no plan can be made for.
func (c *compiler) chooseBackend() error {
	switch b := c.spec.Image.Backend; b {
	case BackendExtract, BackendKernel, BackendFUSE, BackendSquashfuse:
		if why := c.obstacle(b); c.ctx.Err() != nil {
			return c.ctx.Err()
		} else if why != "" {
			return fmt.Errorf("backend %s: %s: %w", b, why, errors.ErrUnsupported)
		}
		c.plan.backend = b
		return nil
	case BackendAuto:
		candidates := []Backend{BackendKernel, BackendFUSE, BackendExtract}
		if c.spec.Image.ExtractDir != "" {
			candidates = []Backend{BackendKernel, BackendExtract} // somebody knows what they want
		}
		for _, b := range candidates {
			why := c.obstacle(b)
			if err := c.ctx.Err(); err != nil {
				return err
			}
			if why == "" {
				c.plan.backend = b
				c.note("backend %s: %s", b, merits[b])
				return nil
			}
			c.note("not backend %s: %s", b, why)
		}
	}
	return fmt.Errorf("backend %q does not apply to a squashfs image: %w", c.spec.Image.Backend, fs.ErrInvalid)
}

// harmless are deviations from the format that no reader minds; older tools have written them.
var harmless = []squashfs.CheckRule{squashfs.RuleLinkCount, squashfs.RulePadding4K, squashfs.RuleUnused}

// doubt says what is in an image that the kernel, or whoever else parses it, should not be given. It looks at tables, not at the contents of files,
// which kernels have always had to expect damage in.
func (c *compiler) doubt(parser string) string {
	if c.spec.Image.Trusted {
		return ""
	}
	f := io.NewSectionReader(c.plan.file, c.plan.offset, c.plan.size)
	report, err := squashfs.Check(c.ctx, f, c.plan.size, &squashfs.CheckOptions{NoData: true})
	if err != nil {
		return "checking the image: " + err.Error()
	}
	for _, finding := range report.Findings {
		if !slices.Contains(harmless, finding.Rule) {
			return fmt.Sprintf("the image is not given to %s, unless it is trusted: %s at %d: %s", parser, finding.Structure, finding.Offset, finding.Message)
		}
	}
	return ""
}

const (
	pageSize    = 4096
	inodeMemory = 1024    // of the kernel's, for a file in a tmpfs
	extraSpace  = 4 << 20 // mount points
	extraInodes = 4096
)

// measure finds out how much memory the unpacked image takes, and refuses what there is no room for: a tmpfs that fills
// the memory does not fail, the kernel kills processes instead.
func (c *compiler) measure(r *squashfs.Reader) error {
	var size, inodes int64
	linked := make(map[uint32]bool)
	err := fs.WalkDir(r, ".", func(_ string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if inodes++; inodes%1024 == 0 && c.ctx.Err() != nil {
			return c.ctx.Err()
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		fi, ok := info.(*squashfs.FileInfo)
		if !ok || !info.Mode().IsRegular() {
			size += pageSize
			return nil
		}
		if fi.LinkCount() > 1 {
			if linked[fi.Inode()] {
				return nil
			}
			linked[fi.Inode()] = true
		}
		stored, err := storedSize(fi)
		size += (stored + pageSize - 1) / pageSize * pageSize
		return err
	})
	if err != nil {
		return err
	}
	c.plan.tmpfsSize, c.plan.tmpfsInodes = size+size/64+extraSpace, inodes+extraInodes
	if c.plan.extractDir != "" {
		return nil
	}
	if need, have := size+inodes*inodeMemory, memory(); need > have {
		return &MemoryError{Need: need, Have: have}
	}
	return nil
}

// storedSize is the size of a file without its holes, which take no memory.
func storedSize(fi *squashfs.FileInfo) (int64, error) {
	in, ok := fi.Sys().(*squashfs.Inode)
	if !ok || fi.Size() <= 16*pageSize {
		return fi.Size(), nil
	}
	size := fi.Size()
	for b, err := range in.Blocks() {
		if err != nil {
			return 0, err
		}
		if b.Hole() {
			size -= int64(b.Size)
		}
	}
	return size, nil
}
