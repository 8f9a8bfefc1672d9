//go:build linux

package conformance_test

import (
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"hpcimg/internal/oracle"
)

// pullAndExec does what a person does: the command line pulls the image and runs a program in it, as root, who mounts it, and as
// an ordinary user, for whom it is unpacked into memory.
func pullAndExec(t *testing.T, reference string) {
	t.Helper()
	// Both must be able to reach command and image, which t.TempDir keeps from the user.
	dir := oracle.UserDir(t)
	hpcimg, file := filepath.Join(dir, "hpcimg"), filepath.Join(dir, "debian.sif")
	oracle.Run(t, "go", "build", "-o", hpcimg, "hpcimg/examples/hpcimg")
	oracle.Run(t, hpcimg, "pull", "-q", file, reference)
	for _, who := range []struct {
		name string
		as   func(testing.TB, *exec.Cmd) *exec.Cmd
	}{
		{"root", func(_ testing.TB, cmd *exec.Cmd) *exec.Cmd { return cmd }},
		{"user", oracle.AsUser},
	} {
		cmd := exec.Command(hpcimg, "exec", "--cleanenv", "--no-home", "--pwd", "/", file,
			"python3", "-B", "-c", "import numpy, os; print(os.getuid(), numpy.arange(10).sum())")
		cmd.Dir = "/"
		want := "0 45"
		if who.name == "user" {
			uid, _ := oracle.User(t)
			want = strings.Replace(want, "0", strconv.Itoa(uid), 1)
		}
		out, err := who.as(t, cmd).CombinedOutput()
		if err != nil || strings.TrimSpace(string(out)) != want {
			t.Errorf("hpcimg exec as %s: %q, %v; want %q", who.name, out, err, want)
		}
	}
}
