//go:build !linux

package atomicfile

import "errors"

var errNoProcess = errors.New("no such process")

func signalZero(int) error { return nil }

// bootAndNamespace: nothing tells one machine from another of the same name.
func bootAndNamespace() string { return "" }
