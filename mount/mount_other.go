//go:build !linux

package mount

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
)

func unsupported() error {
	return fmt.Errorf("mount: %w on %s", errors.ErrUnsupported, runtime.GOOS)
}

// Loop is for Linux.
func Loop(context.Context, *os.File, *Options) (*LoopDevice, error) { return nil, unsupported() }

// Unmount is for Linux.
func Unmount(string) error { return unsupported() }

// Detached is for Linux.
func Detached(context.Context, *os.File, *Options) (*DetachedMount, error) { return nil, unsupported() }

// MoveTo is for Linux.
func (m *DetachedMount) MoveTo(string) error { return unsupported() }

func kernel(_ context.Context, f *os.File, _ string, o *Options) (string, error) {
	if _, _, err := extent(f, o); err != nil {
		return "", err
	}
	return "", unsupported()
}

func probe(context.Context) []Check {
	var checks []Check
	for _, name := range []string{CheckRun, CheckKernelSquashfs} {
		checks = append(checks, Check{Name: name, Reason: runtime.GOOS + " is not Linux", Remedy: "mount and run images on Linux; building and reading them works here"})
	}
	return checks
}
