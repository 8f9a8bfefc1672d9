//go:build !linux

package main

import (
	"context"
	"errors"
	"flag"
	"io"
)

func runRead(context.Context, []string, io.Writer, io.Writer) error { return errors.ErrUnsupported }

func childServe(context.Context, *flag.FlagSet, []string, io.Writer) error {
	return errors.ErrUnsupported
}
