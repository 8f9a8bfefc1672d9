package runtime

import (
	"context"
	"os"
)

// ask has somebody else decide about the open files that are going to be used.
func (p *Plan) ask(ctx context.Context) error {
	if err := p.askImage(ctx); err != nil || p.admitOthers == nil {
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

func (p *Plan) askImage(ctx context.Context) error {
	if p.admit == nil {
		return nil
	}
	if p.file == nil {
		dir, err := os.Open(p.image)
		if err != nil {
			return err
		}
		defer dir.Close()
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
