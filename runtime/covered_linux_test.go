package runtime_test

import (
	"bufio"
	"context"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"hpcimg/internal/oracle"
	hpcrun "hpcimg/runtime"
	"hpcimg/squashfs"
)

// served runs a test with the backends that serve the image.
func served(t *testing.T, test func(t *testing.T, spec hpcrun.Spec)) {
	for _, b := range backends(t) {
		if b.image.Backend != hpcrun.BackendFUSE {
			continue
		}
		t.Run(b.name, func(t *testing.T) {
			t.Parallel()
			spec := hpcrun.Spec{Image: b.image, Env: []string{"PATH=/usr/bin:/bin"}, Namespaces: hpcrun.Namespaces{User: b.user}}
			withFUSE(t, &spec)
			test(t, spec)
		})
	}
}

// TestTerminalQuestion has a command ask whether files are terminals while the process that serves them is stopped: who asks that
// of a file that is known already must not have to wait for anybody.
func TestTerminalQuestion(t *testing.T) {
	t.Parallel()
	served(t, func(t *testing.T, spec hpcrun.Spec) {
		data := dataImage(t, "data")
		cmd := exec.Command("/proc/self/exe", data, spec.Image.FUSEDevice)
		cmd.Env = []string{helpVar + "=ask", rootVar + "=" + os.Getenv(rootVar)}
		if spec.Namespaces.User {
			cmd.Env = append(cmd.Env, userVar+"=1")
		}
		in, err := cmd.StdinPipe()
		mustAll(t, err)
		out, err := cmd.StdoutPipe()
		mustAll(t, err, cmd.Start())
		kill := time.AfterFunc(30*time.Second, func() { _ = cmd.Process.Kill() })
		defer kill.Stop()
		lines := bufio.NewReader(out)
		first, err := lines.ReadString('\n')
		mustAll(t, err, cmd.Process.Signal(unix.SIGSTOP))
		_, err = in.Write([]byte("\n"))
		mustAll(t, err)
		second, err := lines.ReadString('\n')
		if first != "ready\n" || second != "none is\n" || err != nil {
			t.Errorf("%q, then %q, %v", first, second, err)
		}
		_ = cmd.Process.Signal(unix.SIGCONT)
		if err := cmd.Wait(); err != nil {
			t.Error(err)
		}
	})
}

// ask is the process that TestTerminalQuestion stops.
func ask() int {
	const question = "for i in 1 2 3 4 5 6 7 8 9; do test -t 3 && echo 3 is; test -t 4 && echo 4 is; done"
	cmd := hpcrun.Cmd{Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stdout, Spec: &hpcrun.Spec{
		Image: hpcrun.Image{Path: imageFile(), Backend: hpcrun.BackendFUSE, FUSEDevice: os.Args[2]}, Env: []string{"PATH=/bin"},
		Namespaces: hpcrun.Namespaces{User: os.Getenv(userVar) != ""}, Binds: []hpcrun.Bind{{Source: os.Args[1], Target: "/mnt", ImageDir: "/set"}},
		Args: sh("exec 3</etc/marker 4</mnt/deep/file; " + question + "; echo ready; read line; " + question + "; echo none is"),
	}}
	if err := cmd.Run(context.Background()); err != nil {
		fmt.Println(err)
	}
	return 0
}

// hostileLayer makes an image that says all that a layer of an overlay can say.
func hostileLayer(t testing.TB) string {
	t.Helper()
	attrs := func(pairs ...string) map[string]string {
		set := map[string]string{"user.own": "1"}
		for i := 0; i < len(pairs); i += 2 {
			set["trusted.overlay."+pairs[i]], set["user.overlay."+pairs[i]] = pairs[i+1], pairs[i+1]
		}
		return set
	}
	image := oracle.UserDir(t) + "/hostile.sqfs"
	mustAll(t, squashfs.Create(t.Context(), image, nil, func(ctx context.Context, w *squashfs.Writer) error {
		if err := w.FromDir(ctx, rootDir(), nil); err != nil {
			return err
		}
		for _, e := range []squashfs.Entry{
			{Path: "say", Mode: fs.ModeDir | 0o755, Xattrs: attrs("opaque", "x", "impure", "y", "origin", "x")},
			{Path: "say/white", Mode: fs.ModeDevice | fs.ModeCharDevice | 0o644},
			{Path: "say/absent", Mode: 0o644, Xattrs: attrs("whiteout", "y")},
			{Path: "say/opaque", Mode: fs.ModeDir | 0o755, Xattrs: attrs("opaque", "y")},
			{Path: "say/opaque/file", Mode: 0o644, Xattrs: attrs("metacopy", "", "redirect", "/etc/marker", "protattr", "a")},
			{Path: "say/moved", Mode: fs.ModeDir | 0o755, Xattrs: attrs("redirect", "/etc")},
			{Path: "say/moved/own", Mode: 0o644},
		} {
			if err := w.Add(ctx, e, strings.NewReader("")); err != nil {
				return err
			}
		}
		return nil
	}))
	return image
}

// TestHostileLayers has images with all that means something to overlays. Nothing of it does, in the image that a command runs in or in one
// that is bound.
func TestHostileLayers(t *testing.T) {
	t.Parallel()
	served(t, func(t *testing.T, spec hpcrun.Spec) {
		spec.Image.Path = hostileLayer(t)
		spec.Binds = []hpcrun.Bind{{Source: spec.Image.Path, Target: "/mnt", ImageDir: "/say"}}
		spec.Args = sh(`for d in /say /mnt; do
			ls $d $d/opaque $d/moved; stat -c "%n %F %s" $d/absent $d/opaque/file $d/moved/own && cat $d/absent $d/opaque/file $d/moved/own; stat -c "%F %t:%T" $d/white
		done`)
		var want strings.Builder
		for _, dir := range []string{"/say", "/mnt"} {
			want.WriteString(strings.ReplaceAll("D:\nabsent\nmoved\nopaque\nwhite\n\nD/moved:\nown\n\nD/opaque:\nfile\nD/absent regular empty file 0\nD/opaque/file regular empty file 0\n"+
				"D/moved/own regular empty file 0\ncharacter special file 0:1\n", "D", dir))
		}
		if out := mustOutput(t, spec); out != want.String() {
			t.Errorf("got %q, want %q", out, want.String())
		}
	})
}

// TestCovered looks at what is mounted: an overlay over what is served, and no second one where changes or other layers make one.
func TestCovered(t *testing.T) {
	t.Parallel()
	served(t, func(t *testing.T, spec hpcrun.Spec) {
		spec.Args = sh("cat /proc/self/mountinfo; stat -c '%n %a %Y %i' / /etc /etc/marker /opt/deep")
		var attributes []string
		for _, overlay := range []hpcrun.Overlay{{}, {Tmpfs: true}} {
			for _, binds := range [][]hpcrun.Bind{nil, {{Source: dataImage(t, "data"), Target: "/mnt", ImageDir: "/set"}}} {
				spec.Overlay, spec.Binds = overlay, binds
				types := make(map[string]string)
				out, attrs, _ := strings.Cut(mustOutput(t, spec), "/ 755 ")
				for line := range strings.Lines(out) {
					f := strings.Fields(line)
					_, rest, _ := strings.Cut(line, " - ")
					types[f[4]], _, _ = strings.Cut(rest, " ")
				}
				if types["/"] != "overlay" || len(binds) > 0 && types["/mnt"] != "overlay" {
					t.Errorf("overlay %+v, %d binds: %v", overlay, len(binds), types)
				}
				if overlay.Tmpfs {
					continue
				}
				attributes = append(attributes, attrs)
			}
		}
		info, err := os.Stat(rootDir())
		mustAll(t, err)
		if len(attributes) != 2 || !strings.HasPrefix(attributes[0], fmt.Sprint(info.ModTime().Unix())+" ") || !strings.HasPrefix(attributes[1], fmt.Sprint(info.ModTime().Unix())+" ") {
			t.Errorf("attributes of / and others: %q, want the time %d first", attributes, info.ModTime().Unix())
		}
	})
}

// TestCoverRefused has a kernel without overlays: the command sees the image all the same.
func TestCoverRefused(t *testing.T) {
	t.Parallel()
	served(t, func(t *testing.T, spec hpcrun.Spec) {
		spec.Args = sh("cat /etc/marker; cat /proc/self/mountinfo; cat /mnt/deep/file")
		spec.Binds = []hpcrun.Bind{{Source: dataImage(t, "data"), Target: "/mnt", ImageDir: "/set"}}
		plan, err := hpcrun.Compile(t.Context(), &spec)
		mustAll(t, err)
		defer plan.Close()
		if !strings.Contains(plan.String(), "\n# where the kernel makes no overlay") {
			t.Errorf("the plan does not say what happens without overlays:\n%s", plan)
		}
		for i, call := range plan.Calls() {
			if !strings.Contains(call.String(), `"overlay"`) {
				continue
			}
			get, out, err := os.Pipe()
			mustAll(t, err)
			p, err := plan.Inject(i, failing(unix.SYS_MOUNT)).Start(t.Context(), &hpcrun.StartOptions{Stdout: out, Stderr: out})
			mustAll(t, err, out.Close())
			text, err := bufio.NewReader(get).ReadString(0)
			state, waitErr := p.Wait()
			mustAll(t, waitErr, get.Close())
			if state.ExitCode() != 0 || !strings.HasPrefix(text, "image\n") || !strings.HasSuffix(text, "\ndata\n") || strings.Contains(text, " - overlay ") {
				t.Errorf("%q, %v, %v", text, err, state)
			}
			return
		}
		t.Error("there is no overlay")
	})
}
