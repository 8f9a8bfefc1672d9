//go:build !linux

package images

import (
	"context"
	"errors"
	"fmt"
)

func (p *pot) debootstrap(context.Context, string) error { return onlyLinux() }
func (p *pot) run(context.Context, string, string) error { return onlyLinux() }
func (p *pot) extract(context.Context, string) error     { return onlyLinux() }

func onlyLinux() error {
	return fmt.Errorf("%w: %w except on Linux", ErrInstall, errors.ErrUnsupported)
}
