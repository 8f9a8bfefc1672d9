//go:build !linux

package runtime

import (
	"context"
	"errors"
	"fmt"
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

func (p *Plan) start(context.Context, *StartOptions) (*Process, error) { return nil, unsupported() }
