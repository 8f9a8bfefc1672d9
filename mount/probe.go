package mount

import (
	"context"
	"fmt"
	"os"
	"runtime"
	"strings"
)

// Names of the checks of Probe.
const (
	// CheckRun: commands can be run in images, one way or another.
	CheckRun = "run"
	// CheckRoot: this process may mount in the initial user namespace.
	CheckRoot = "root"
	// CheckUserNS: this process can make a user namespace and mount in it.
	CheckUserNS = "user namespace"
	// CheckOverlay: overlays can be mounted, in a user namespace unless root.
	CheckOverlay = "overlay"
	// CheckKernelSquashfs: the kernel can mount squashfs images for this process.
	CheckKernelSquashfs = "kernel squashfs"
	// CheckLoop: this process can make loop devices.
	CheckLoop = "loop devices"
	// CheckFUSE: file systems in user space can be mounted without a setuid helper.
	CheckFUSE = "fuse"
	// CheckOpenat2: paths can be resolved within an image by the kernel (Linux 5.6).
	CheckOpenat2 = "openat2"
	// CheckSetAttr: attributes of whole mount trees can be set (Linux 5.12).
	CheckSetAttr = "mount_setattr"
	// CheckMemfdExec: programs in memory can be executed.
	CheckMemfdExec = "memfd exec"
	// CheckFusermount: the set-uid program fusermount3 mounts file systems in user space where all of the host sees them.
	CheckFusermount = "fusermount3"
	// CheckSquashfuse: the program squashfuse_ll serves images, without fusermount3. Its version is the Detail.
	CheckSquashfuse = "squashfuse_ll"
)

// A Check is something that was tried.
type Check struct {
	Name string `json:"name"`
	OK   bool   `json:"ok"`
	// Detail is what was found, such as the path and version of a program, whether it works or not; empty if there is nothing to say.
	Detail string `json:"detail,omitempty"`
	// Reason says what happened, Remedy what would help; both are empty if it worked.
	Reason string `json:"reason,omitempty"`
	Remedy string `json:"remedy,omitempty"`
	// Err is the error behind the reason, where there is one.
	Err error `json:"-"`
}

// Report is what Probe found.
type Report struct {
	OS     string  `json:"os"`
	Arch   string  `json:"arch"`
	Kernel string  `json:"kernel,omitempty"`
	UID    int     `json:"uid"`
	Checks []Check `json:"checks"`
}

// Probe tries what mounting and running images needs, in children that are thrown away, with their mounts. Only what fusermount3 does
// for an ordinary user cannot be tried there: it mounts an empty file system on a new temporary directory, for a moment. It
// takes some milliseconds. The error is that of the context.
func Probe(ctx context.Context) (*Report, error) {
	r := &Report{OS: runtime.GOOS, Arch: runtime.GOARCH, Kernel: kernelRelease(), UID: os.Geteuid()}
	r.Checks = probe(ctx)
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	return r, nil
}

// Lookup returns the check of the given name; a name that there is no check of is one that failed.
func (r *Report) Lookup(name string) Check {
	for _, c := range r.Checks {
		if c.Name == name {
			return c
		}
	}
	return Check{Name: name, Reason: "not tried"}
}

// Has says whether the check of the given name succeeded.
func (r *Report) Has(name string) bool { return r.Lookup(name).OK }

// String is a table for people.
func (r *Report) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s/%s %s, user %d\n", r.OS, r.Arch, r.Kernel, r.UID)
	for _, c := range r.Checks {
		verdict := "yes"
		if !c.OK {
			verdict = "no "
		}
		fmt.Fprintf(&b, "%s  %s\n", verdict, c.Name)
		for _, line := range []string{c.Detail, c.Reason, c.Remedy} {
			if line != "" {
				fmt.Fprintf(&b, "       %s\n", line)
			}
		}
	}
	return b.String()
}

func kernelRelease() string {
	release, err := os.ReadFile("/proc/sys/kernel/osrelease")
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(release))
}
