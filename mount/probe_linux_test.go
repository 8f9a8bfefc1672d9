package mount_test

import (
	"context"
	"fmt"
	"os"
	"regexp"
	"strings"
	"syscall"
	"testing"

	"hpcimg/internal/oracle"
	"hpcimg/mount"
)

// helperProbe prints what a probe says, after it has written to a setting if that is not empty: "vm/memfd_noexec 2".
func helperProbe(setting string) error {
	if name, value, ok := strings.Cut(setting, " "); ok {
		if err := os.WriteFile("/proc/sys/"+name, []byte(value), 0); err != nil {
			return err
		}
		if strings.HasPrefix(name, "user/") { // of which root has no need
			if err := syscall.Setuid(1); err != nil {
				return err
			}
		}
	}
	r, err := mount.Probe(context.Background())
	if err != nil {
		return err
	}
	for _, c := range r.Checks {
		fmt.Printf("%s: %t %s %s\n", c.Name, c.OK, c.Reason, c.Remedy)
	}
	return nil
}

// TestProbeNoExec forbids programs in memory, for the processes of a PID namespace: the probe finds that out, and says by what.
func TestProbeNoExec(t *testing.T) {
	t.Parallel()
	oracle.Root(t)
	for value, want := range map[string]string{"1": "memfd exec: true  \n", "2": "vm.memfd_noexec=1"} {
		cmd := helper("probe", "vm/memfd_noexec", value)
		cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWPID}
		out, err := cmd.Output()
		if err != nil || !strings.Contains(string(out), want) {
			t.Errorf("vm.memfd_noexec=%s: %v\n%s", value, err, out)
		}
		if !strings.Contains(string(out), "run: true") {
			t.Errorf("vm.memfd_noexec=%s: nothing runs any more:\n%s", value, out)
		}
	}
}

// TestProbeNoUserNS forbids user namespaces. What needs them then has no other remedy.
func TestProbeNoUserNS(t *testing.T) {
	t.Parallel()
	oracle.Root(t)
	cmd := helper("probe", "user/max_user_namespaces", "0")
	ids := []syscall.SysProcIDMap{{Size: 2}}
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWUSER | syscall.CLONE_NEWNS, UidMappings: ids, GidMappings: ids}
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for _, name := range []string{mount.CheckRun, mount.CheckUserNS, mount.CheckOverlay, mount.CheckFUSE, mount.CheckSetAttr} {
		if !regexp.MustCompile(`(?m)^` + name + `: false .* set user.max_user_namespaces`).Match(out) {
			t.Errorf("%s:\n%s", name, out)
		}
	}
}

// TestProbeHelper has no fusermount3, and one that fails.
func TestProbeHelper(t *testing.T) {
	for _, program := range []string{"", "#!/bin/sh\necho no such luck >&2; exit 1\n"} {
		dir := t.TempDir()
		want := "fuse3"
		if program != "" {
			want = "no such luck"
			if err := os.WriteFile(dir+"/fusermount3", []byte(program), 0o755); err != nil {
				t.Fatal(err)
			}
		}
		t.Setenv("PATH", dir)
		t.Setenv("TMPDIR", t.TempDir())
		r, err := mount.Probe(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if c := r.Lookup(mount.CheckFusermount); c.OK || !strings.Contains(c.Reason+c.Remedy, want) || c.Err == nil {
			t.Errorf("%+v, want %q", c, want)
		}
		if left, err := os.ReadDir(os.TempDir()); err != nil || len(left) > 0 {
			t.Errorf("left: %v, %v", left, err)
		}
	}
}
