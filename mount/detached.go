package mount

import "os"

// DetachedMount is a mount that is at no place yet: nobody can look into it but through its descriptor, and it is gone when that is
// closed before the mount has been moved somewhere. See [Detached].
type DetachedMount struct{ f *os.File }

// File is the root directory of the mount, opened for reference (O_PATH). It belongs to m.
func (m *DetachedMount) File() *os.File { return m.f }

// Close lets go of the mount: it disappears unless MoveTo has given it a place.
func (m *DetachedMount) Close() error { return m.f.Close() }
