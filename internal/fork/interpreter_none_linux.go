//go:build linux && !amd64 && !arm64

package fork

// interpreterCode returns nil: there is no interpreter for this machine.
func interpreterCode() []byte { return nil }
