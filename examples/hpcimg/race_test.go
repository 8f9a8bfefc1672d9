package main

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"hpcimg/convert"
	"hpcimg/image"
	"hpcimg/internal/oracle"
	hpcrun "hpcimg/runtime"
	"hpcimg/sif"
	"hpcimg/sign"
	"hpcimg/sign/policy"
)

// TestSwapBetweenVerifyAndMount replaces a signed image by another one all the time, and once at the worst moment. The command that runs is
// always that of the signed one.
func TestSwapBetweenVerifyAndMount(t *testing.T) {
	oracle.UserNS(t)
	dir := oracle.UserDir(t)
	layers := demoLayers(t)
	key, err := sign.GenerateKey(&sign.KeyOptions{Name: "Site"})
	if err != nil {
		t.Fatal(err)
	}
	good, evil := filepath.Join(dir, "good.sif"), filepath.Join(dir, "evil.sif")
	for path, text := range map[string]string{good: "good", evil: "evil"} {
		var who bytes.Buffer
		tw := tar.NewWriter(&who)
		putTar(t, tw, &tar.Header{Typeflag: tar.TypeReg, Name: "who", Mode: 0o644}, text+"\n")
		tw.Close()
		config := image.Config{}
		config.OS, config.Architecture = "linux", runtime.GOARCH
		img, err := image.Build(config, image.LayerInput{Tar: layers[0]}, image.LayerInput{Tar: who.Bytes()})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := convert.Convert(t.Context(), convert.FromImage(img), path, nil); err != nil {
			t.Fatal(err)
		}
	}
	if err := sign.Sign(t.Context(), good, key, nil); err != nil {
		t.Fatal(err)
	}
	p, err := policy.New(&policy.Config{
		Default: policy.Rule{Mode: policy.ModeWhitelist, Signers: []string{string(key.Fingerprint())}}, Keyring: sign.NewKeyring(key),
	})
	if err != nil {
		t.Fatal(err)
	}
	link := filepath.Join(dir, "image.sif")
	swap := func(to string) {
		tmp := filepath.Join(dir, "new")
		_ = os.Remove(tmp)
		if err := os.Link(to, tmp); err != nil {
			t.Error(err)
		}
		if err := os.Rename(tmp, link); err != nil {
			t.Error(err)
		}
		_ = os.Remove(tmp) // rename does nothing where both are one file
	}
	part := func(path string) (offset, size int64) {
		f, err := sif.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		o, err := f.Primary()
		if err != nil {
			t.Fatal(err)
		}
		return o.Offset, o.Size
	}
	run := func(backend hpcrun.Backend, after func()) (string, error) {
		offset, size := part(link)
		cmd := hpcrun.NewCmd(&hpcrun.Spec{
			Image: hpcrun.Image{Path: link, Backend: backend, Offset: offset, Size: size, Admit: func(ctx context.Context, f *os.File, offset, size int64) error {
				_, err := p.CheckFile(ctx, f, offset, size)
				after()
				return err
			}},
			Args: []string{"/bin/sh", "-c", "read x </who; echo $x"}, Contain: hpcrun.ContainAll,
		})
		var out, stderr bytes.Buffer
		cmd.Stdout, cmd.Stderr = &out, &stderr
		err := cmd.Run(t.Context())
		return strings.TrimSpace(out.String() + stderr.String()), err
	}

	backends := []hpcrun.Backend{hpcrun.BackendAuto, hpcrun.BackendExtract}
	for _, backend := range backends {
		swap(evil)
		if out, err := run(backend, func() {}); !errors.Is(err, policy.ErrDenied) || out != "" {
			t.Fatalf("backend %v: unsigned: %q, %v", backend, out, err)
		}
		swap(good)
		if out, err := run(backend, func() { swap(evil) }); err != nil || out != "good" {
			t.Errorf("backend %v: swapped after it was admitted: %q, %v", backend, out, err)
		}
		swap(evil)
		if out, err := run(backend, func() { swap(good) }); !errors.Is(err, policy.ErrDenied) || out != "" {
			t.Errorf("backend %v: swapped after it was refused: %q, %v", backend, out, err)
		}
	}

	done := make(chan struct{})
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		for {
			for _, to := range []string{evil, good} {
				select {
				case <-done:
					return
				case <-time.After(200 * time.Microsecond):
					swap(to)
				}
			}
		}
	}()
	ran, tries := 0, 0
	for begin := time.Now(); time.Since(begin) < 2*time.Second; tries++ {
		switch out, err := run(backends[tries%len(backends)], func() {}); {
		case err == nil && out == "good":
			ran++
		case err == nil || out != "":
			t.Errorf("%q, %v", out, err)
		case !errors.Is(err, policy.ErrDenied) && !errors.Is(err, hpcrun.ErrImageChanged):
			t.Logf("%v", err) // the part was another file's
		}
	}
	close(done)
	<-stopped
	t.Logf("%d commands ran, all of the signed image", ran)
}
