//go:build unix

package sign_test

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"hpcimg/internal/oracle"
	"hpcimg/sif"
	"hpcimg/sign"
)

const killEnv = "HPCIMG_TEST_SIGN_FILE"

// TestKillChild is the process that TestKill kills. It signs a file over and over.
func TestKillChild(t *testing.T) {
	path := os.Getenv(killEnv)
	if path == "" {
		return // not the child
	}
	key, err := sign.ReadKeyring(bytes.NewReader(must2(os.ReadFile(path + ".key"))(t)))
	must(t, err)
	for {
		must(t, sign.Sign(t.Context(), path, key.Keys()[0], &sign.Options{Replace: true}))
	}
}

// TestKill kills a signing process again and again. The file is whole every time, signed or as it was.
func TestKill(t *testing.T) {
	oracle.Short(t, "kills 25 processes")
	path := newImage(t)
	k := generate(t, sign.KeyOptions{})
	var secret bytes.Buffer
	must(t, k.ExportSecret(&secret, false))
	must(t, os.WriteFile(path+".key", secret.Bytes(), 0o600))
	for i := range 25 {
		cmd := exec.Command(os.Args[0], "-test.run=^TestKillChild$")
		cmd.Env = append(os.Environ(), killEnv+"="+path)
		must(t, cmd.Start())
		time.Sleep(60*time.Millisecond + time.Duration(i)*3*time.Millisecond)
		must(t, cmd.Process.Kill())
		_ = cmd.Wait()
		f, err := sif.Open(path)
		must(t, err)
		if _, err := sign.Verify(t.Context(), f, trust(k)); err != nil && err != sign.ErrUnsigned {
			t.Errorf("after kill %d: %v", i, err)
		}
		must(t, f.Close())
		left, err := filepath.Glob(filepath.Join(filepath.Dir(path), ".image.sif.part-*"))
		must(t, err)
		if len(left) > 1 {
			t.Errorf("after kill %d: %v", i, left)
		}
		for _, name := range left {
			must(t, os.Remove(name))
		}
	}
	if _, err := sign.VerifyPath(t.Context(), path, trust(k)); err != nil {
		t.Errorf("no child ever signed: %v", err)
	}
}
