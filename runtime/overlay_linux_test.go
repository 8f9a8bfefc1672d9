package runtime_test

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"strings"
	"testing"

	"hpcimg/internal/oracle"
	hpcrun "hpcimg/runtime"
)

// TestWritable: changes are seen inside, survive where they should, and leave the image alone.
func TestWritable(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, spec hpcrun.Spec) {
		dir := t.TempDir()
		mustAll(t, os.MkdirAll(dir+"/layer/opt", 0o755), os.WriteFile(dir+"/layer/opt/text", []byte("layer\n"), 0o644), os.Mkdir(dir+"/changes", 0o755))
		spec.Binds = []hpcrun.Bind{{Source: dir, Target: "/not/there", ReadOnly: true}}
		const change = `echo changed >/etc/marker && rm /opt/script && mkdir /made && touch /made/x && cat /etc/marker; cat /opt/text; test -d /not/there/layer && echo bound`
		const look = `cat /etc/marker; ls /made 2>/dev/null; test -e /opt/script || echo removed; cat /opt/text`
		for _, test := range []struct {
			name          string
			overlay       hpcrun.Overlay
			first, second string
		}{
			{"tmpfs", hpcrun.Overlay{Tmpfs: true, TmpfsSize: 1 << 20}, "changed\nno program\nbound\n", "image\nno program\n"},
			{"directory", hpcrun.Overlay{Dir: dir + "/changes"}, "changed\nno program\nbound\n", "changed\nx\nremoved\nno program\n"},
			{"layers", hpcrun.Overlay{Layers: []string{dir + "/layer"}}, "layer\nbound\n", "image\nlayer\n"},
			{"layers under tmpfs", hpcrun.Overlay{Layers: []string{dir + "/layer"}, Tmpfs: true}, "changed\nlayer\nbound\n", "image\nlayer\n"},
		} {
			for i, script := range []string{change, look} {
				spec.Overlay, spec.Args = test.overlay, sh(script)
				out, err := hpcrun.NewCmd(&spec).Output(t.Context())
				if want := []string{test.first, test.second}[i]; string(out) != want {
					t.Errorf("%s, command %d: %q, %v, want %q", test.name, i, out, err, want)
				}
			}
		}
		if data, err := os.ReadFile(rootDir() + "/etc/marker"); err != nil || string(data) != "image\n" {
			t.Errorf("the image: %q, %v", data, err)
		}
	})
}

func TestTmpfsSize(t *testing.T) {
	t.Parallel()
	oracle.UserNS(t)
	spec := hpcrun.Spec{
		Image: hpcrun.Image{Path: rootDir()}, Env: []string{"PATH=/bin:/usr/bin"}, Overlay: hpcrun.Overlay{Tmpfs: true, TmpfsSize: 1 << 20},
		Args: sh("i=0; while test $i -lt 40; do cat /bin/sh || exit 9; i=$((i+1)); done >/big"), Namespaces: hpcrun.Namespaces{User: true},
	}
	if out, err := output(t, spec); hpcrun.ExitCode(err) != 9 || !strings.Contains(out, "No space") {
		t.Errorf("%q, %v", out, err)
	}
}

func TestOverlayErrors(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		overlay hpcrun.Overlay
		is      error
	}{
		"both":     {hpcrun.Overlay{Tmpfs: true, Dir: "/tmp"}, fs.ErrInvalid},
		"negative": {hpcrun.Overlay{Tmpfs: true, TmpfsSize: -1}, fs.ErrInvalid},
		"absent":   {hpcrun.Overlay{Dir: "/no/such/directory"}, fs.ErrNotExist},
		"a file":   {hpcrun.Overlay{Layers: []string{"/etc/passwd"}}, errors.ErrUnsupported},
		"NUL":      {hpcrun.Overlay{Layers: []string{"/x\x00"}}, fs.ErrInvalid},
	} {
		_, err := hpcrun.Compile(t.Context(), &hpcrun.Spec{Image: hpcrun.Image{Path: rootDir()}, Args: []string{"true"}, Overlay: test.overlay})
		if err == nil || test.is != errors.ErrUnsupported && !errors.Is(err, test.is) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestHostileOverlay: links in the directory of an overlay lead nowhere.
func TestHostileOverlay(t *testing.T) {
	t.Parallel()
	namespaces(t)
	dir := t.TempDir()
	outside := t.TempDir()
	mustAll(t, os.Symlink(outside, dir+"/upper"))
	spec := hpcrun.Spec{Image: hpcrun.Image{Path: rootDir()}, Args: sh("touch /made"), Env: []string{"PATH=/bin:/usr/bin"}, Overlay: hpcrun.Overlay{Dir: dir}}
	_, err := output(t, spec)
	if e, ok := errors.AsType[*hpcrun.SetupError](err); !ok || e.Exec || !strings.Contains(err.Error(), "upper") {
		t.Errorf("got %v", err)
	}
	if names, _ := os.ReadDir(outside); len(names) > 0 {
		t.Errorf("made outside: %v", names)
	}
}

// TestFakerootRange maps further users and groups, which the host's files have to allow: in a mount namespace of the test's
// own.
func TestFakerootRange(t *testing.T) {
	t.Parallel()
	oracle.Root(t)
	oracle.UserNS(t)
	oracle.Tool(t, "newuidmap")
	uid, gid := oracle.User(t)
	dir := oracle.UserDir(t)
	binary, err := os.ReadFile("/proc/self/exe")
	mustAll(t, err, os.WriteFile(dir+"/test", binary, 0o755), os.WriteFile(dir+"/sub", fmt.Appendf(nil, "other:1:5\n%d:200000:1000\n%d:junk\n", uid, uid), 0o644))
	mustAll(t, os.WriteFile(dir+"/passwd", fmt.Appendf(nil, "root:x:0:0::/root:/bin/sh\ntester:x:%d:%d::/:/bin/sh\n", uid, gid), 0o644))
	script := `mount --bind "$1/passwd" /etc/passwd && mount --bind "$1/sub" /etc/subuid && mount --bind "$1/sub" /etc/subgid && cd "$1" && exec setpriv --reuid ` + fmt.Sprint(uid) + ` --regid ` + fmt.Sprint(gid) + ` --clear-groups "$1/test" "$2"`
	cmd := exec.Command(oracle.Tool(t, "unshare"), "--mount", "sh", "-c", script, "sh", dir, rootDir())
	cmd.Env = []string{helpVar + "=fakeroot", "PATH=" + os.Getenv("PATH")}
	out, err := cmd.CombinedOutput()
	want := fmt.Sprintf("0\n0 %d 1\n1 200000 1000\n0 %d 1\n1 200000 1000\n5:6\n", uid, gid)
	if got := squeeze(string(out)); err != nil || got != want {
		t.Errorf("got %q, %v, want %q", got, err, want)
	}
}

func squeeze(s string) string {
	var b strings.Builder
	for line := range strings.Lines(s) {
		b.WriteString(strings.Join(strings.Fields(line), " ") + "\n")
	}
	return b.String()
}

// fakeroot is what TestFakerootRange runs.
func fakeroot(root string) hpcrun.Spec {
	return hpcrun.Spec{
		Image: hpcrun.Image{Path: root}, Identity: hpcrun.IdentityRootRange, Overlay: hpcrun.Overlay{Tmpfs: true}, Env: []string{"PATH=/bin:/usr/bin"},
		Args: sh("id -u; cat /proc/self/uid_map /proc/self/gid_map; touch /x; chown 5:6 /x; stat -c %u:%g /x"),
	}
}

// TestFakerootWithoutRange: who has no range is root all the same.
func TestFakerootWithoutRange(t *testing.T) {
	t.Parallel()
	oracle.UserNS(t)
	spec := hpcrun.Spec{Image: hpcrun.Image{Path: rootDir()}, Args: sh("id -u"), Identity: hpcrun.IdentityRootRange, Namespaces: hpcrun.Namespaces{User: true}, Env: []string{"PATH=/bin:/usr/bin"}}
	plan, err := hpcrun.Compile(t.Context(), &spec)
	mustAll(t, err)
	if os.Geteuid() == 0 && !strings.Contains(plan.String(), "no subordinate users") {
		t.Errorf("the plan does not say so:\n%s", plan)
	}
	if got := mustOutput(t, spec); got != "0\n" {
		t.Errorf("got %q", got)
	}
}
