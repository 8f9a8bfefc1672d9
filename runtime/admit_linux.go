package runtime

import (
	"context"
	"io/fs"
	"os"
)

// ask has somebody else decide about the open files that are going to be used; dir is the image if that is a directory.
func (p *Plan) ask(ctx context.Context, dir *os.File) error {
	if err := p.askImage(ctx, dir); err != nil || p.admitOthers == nil {
		return err
	}
	for _, x := range p.extras {
		if err := p.admitOthers(ctx, x.file, x.offset, x.size); err != nil {
			return err
		}
		if err := x.unwritten(); err != nil {
			return err
		}
	}
	return nil
}

func (p *Plan) askImage(ctx context.Context, dir *os.File) error {
	if p.admit == nil {
		return nil
	}
	if p.file == nil {
		return p.admit(ctx, dir, 0, 0)
	}
	if err := p.admit(ctx, p.file, p.offset, p.size); err != nil {
		return err
	}
	return p.unwritten()
}

// unwritten says whether the open file is as it was when the plan was made. What its path leads to by now does not matter.
func (p *Plan) unwritten() error {
	info, err := p.file.Stat()
	return p.identity.check("read", p.image, info, err)
}

// compares says whether this process looks at the directory that the child has opened for the image. The child can open it by its path only, at which
// others may have put another one since somebody was asked about it, or since it was unpacked; and who joins a session relies on who leads it.
func (c *compiler) compares() bool {
	if c.plan.backend == BackendDirectory {
		return c.plan.admit != nil || c.spec.Shared
	}
	return c.plan.backend == BackendExtract && c.plan.extractDir != ""
}

// compare waits for that directory, and lets the child go on if it is dir.
func (p *Plan) compare(ctx context.Context, socket, dir *os.File) error {
	opened, err := receive(ctx, socket)
	if err != nil {
		return err
	}
	defer opened.Close()
	info, err := opened.Stat()
	if err != nil {
		return err
	}
	want, err := dir.Stat()
	if err != nil {
		return err
	}
	if !os.SameFile(info, want) {
		return &fs.PathError{Op: "open", Path: dir.Name(), Err: ErrImageChanged}
	}
	return goOn(socket)
}
