//go:build !linux

package runtime

import (
	"context"
	"errors"
	"fmt"
	"os"
	goruntime "runtime"
	"strings"
)

type table struct{}

func (table) write(*strings.Builder) {}

func unsupported() error {
	return fmt.Errorf("%w on %s", errors.ErrUnsupported, goruntime.GOOS)
}

func compile(_ context.Context, spec *Spec) (*Plan, error) {
	if err := spec.validate(); err != nil {
		return nil, err
	}
	return nil, unsupported()
}

// session is nothing here.
type session struct{}

// OpenSession returns errors.ErrUnsupported.
func OpenSession(dir, _ string) (*Session, error) {
	return nil, &SessionError{Path: dir, Err: unsupported()}
}

// Wait returns at once.
func (s *Session) Wait(ctx context.Context) error { return ctx.Err() }

// Close does nothing.
func (s *Session) Close() error { return nil }

func (s *Session) join(context.Context, *Spec, *StartOptions) (*Process, error) {
	return nil, unsupported()
}

func (p *Process) signal(os.Signal) error { return unsupported() }

func (p *Plan) start(context.Context, *StartOptions) (*Process, error) { return nil, unsupported() }
