package atomicfile

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// maxScan bounds how much of a directory is looked through for what a killed process has left there.
const maxScan = 1 << 16

// mark stands in temporary names, behind that of the destination.
const mark = ".part-"

// prefix returns the beginning that all temporary names for a destination have.
func prefix(name string) string {
	if len(name) > maxNamePrefix {
		// Some file systems refuse half a character.
		name = strings.ToValidUTF8(name[:maxNamePrefix], "")
	}
	return "." + name + mark
}

// hostTag names the place in which a process ID means something: this machine since its start, and this namespace of process IDs. It is "" where
// that cannot be told.
func hostTag() string {
	host, err := os.Hostname()
	boot := bootAndNamespace()
	if err != nil || boot == "" {
		return ""
	}
	sum := sha256.Sum256([]byte(host + "\n" + boot))
	return fmt.Sprintf("%x", sum[:4])
}

// removeStale calls remove for the temporary names of a destination whose processes have ended without removing them. Those of other machines are not
// for us to judge.
func removeStale(dir, prefix, tag string, remove func(path string)) {
	if tag == "" {
		return
	}
	d, err := os.Open(filepath.Clean(dir))
	if err != nil {
		return
	}
	defer d.Close()
	for range maxScan / 1024 {
		names, err := d.Readdirnames(1024)
		for _, name := range names {
			rest, ok := strings.CutPrefix(name, prefix+tag+"-")
			if pid, _, found := strings.Cut(rest, "-"); ok && found && ended(pid) {
				remove(filepath.Join(dir, name))
			}
		}
		if err != nil {
			return
		}
	}
}

// Abandoned reports whether name is a temporary one of this package and, if so, whether the process that it belongs to is known to have ended: one of
// another machine never is.
func Abandoned(name string) (temporary, abandoned bool) {
	at := strings.LastIndex(name, mark)
	if at < 1 || name[0] != '.' {
		return false, false
	}
	parts := strings.Split(name[at+len(mark):], "-")
	if len(parts) != 3 || !isHex(parts[0]) || len(parts[0]) != 0 && len(parts[0]) != 8 || !isHex(parts[2]) || len(parts[2]) != 16 {
		return false, false
	}
	if n, err := strconv.Atoi(parts[1]); err != nil || n <= 0 {
		return false, false
	}
	tag := hostTag()
	return true, tag != "" && parts[0] == tag && ended(parts[1])
}

func isHex(s string) bool { return strings.Trim(s, "0123456789abcdef") == "" }

// ended reports whether there is no process of this number.
func ended(pid string) bool {
	n, err := strconv.Atoi(pid)
	return err == nil && n > 0 && errors.Is(signalZero(n), errNoProcess)
}

// removeFile removes a regular file, and nothing else that has its name.
func removeFile(path string) {
	if info, err := os.Lstat(path); err == nil && info.Mode().IsRegular() {
		_ = os.Remove(path)
	}
}
