//go:build !linux

package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"runtime"
)

var errNoStart = fmt.Errorf("start: %w on %s", errors.ErrUnsupported, runtime.GOOS)

func (o *startFlags) measure(context.Context, io.Writer) ([]*startResult, error) {
	return nil, errNoStart
}

func (o *startFlags) measureMemory(context.Context) ([]*startResult, error) { return nil, errNoStart }

func childStart(context.Context, *flag.FlagSet, []string, io.Writer) error { return errNoStart }
