//go:build unix

package sign_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/ProtonMail/go-crypto/openpgp"

	"hpcimg/sign"
)

func TestKeyDir(t *testing.T) {
	path := filepath.Join(t.TempDir(), "keys")
	d, err := sign.OpenKeyDir(path)
	must(t, err)
	secret, public := generate(t, sign.KeyOptions{Name: "S", Passphrase: []byte("x")}), generate(t, sign.KeyOptions{Name: "P"}).Public()
	must(t, d.Add(t.Context(), secret, public))
	for name, mode := range map[string]fs.FileMode{"": fs.ModeDir | 0o700, "pgp-public": 0o600, "pgp-secret": 0o600} {
		if info, err := os.Stat(filepath.Join(path, name)); err != nil || info.Mode() != mode {
			t.Errorf("%q: %v %v", name, info.Mode(), err)
		}
	}
	if k, err := d.Find(secret.Fingerprint()); err != nil || !k.HasSecret() || !k.Protected() {
		t.Errorf("secret key: %v", err)
	}
	if k, err := d.Find(public.Fingerprint()); err != nil || k.HasSecret() {
		t.Errorf("public key: %v", err)
	}
	// What is stored are plain binary key rings, which other tools read.
	data, err := os.ReadFile(filepath.Join(path, "pgp-public"))
	must(t, err)
	if list, err := openpgp.ReadKeyRing(bytes.NewReader(data)); err != nil || len(list) != 2 {
		t.Errorf("pgp-public: %d keys, %v", len(list), err)
	}
	must(t, d.Remove(t.Context(), secret.Fingerprint()))
	if _, err := d.Find(secret.Fingerprint()); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("removed key: %v", err)
	}
	if err := d.Remove(t.Context(), secret.Fingerprint()); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("removed twice: %v", err)
	}
	must(t, d.Remove(t.Context(), public.Fingerprint()))
	if ring, err := d.Public(); err != nil || len(ring.Keys()) != 0 {
		t.Errorf("empty ring: %v", err)
	}
}

func TestKeyDirConcurrent(t *testing.T) {
	path := t.TempDir()
	var keys []*sign.Key
	for i := range 8 {
		keys = append(keys, generate(t, sign.KeyOptions{Name: fmt.Sprint("K", i)}))
	}
	var wg sync.WaitGroup
	for _, k := range keys {
		wg.Go(func() {
			d, err := sign.OpenKeyDir(path)
			if err == nil {
				err = d.Add(t.Context(), k)
			}
			if err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	d, err := sign.OpenKeyDir(path)
	must(t, err)
	ring, err := d.Secret()
	if err != nil || len(ring.Keys()) != len(keys) {
		t.Fatalf("%d of %d keys survived: %v", len(ring.Keys()), len(keys), err)
	}
}

func TestKeyDirHostile(t *testing.T) {
	k := generate(t, sign.KeyOptions{})
	var secret bytes.Buffer
	must(t, k.ExportSecret(&secret, false))
	tests := []struct {
		name  string
		plant func(t *testing.T, path string)
		is    error
	}{
		{"symlink", func(t *testing.T, path string) {
			target := filepath.Join(t.TempDir(), "target")
			must(t, os.WriteFile(target, secret.Bytes(), 0o600))
			must(t, os.Symlink(target, path))
		}, nil},
		{"dangling symlink", func(t *testing.T, path string) { must(t, os.Symlink(filepath.Join(t.TempDir(), "none"), path)) }, nil},
		{"FIFO", func(t *testing.T, path string) { must(t, syscall.Mkfifo(path, 0o600)) }, nil},
		{"directory", func(t *testing.T, path string) { must(t, os.Mkdir(path, 0o700)) }, nil},
		{"readable by others", func(t *testing.T, path string) {
			must(t, os.WriteFile(path, secret.Bytes(), 0o600))
			must(t, os.Chmod(path, 0o644))
		}, fs.ErrPermission},
		{"garbage", func(t *testing.T, path string) { must(t, os.WriteFile(path, []byte("garbage"), 0o600)) }, nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			d, err := sign.OpenKeyDir(dir)
			must(t, err)
			tt.plant(t, filepath.Join(dir, "pgp-secret"))
			if _, err := d.Secret(); err == nil || tt.is != nil && !errors.Is(err, tt.is) {
				t.Errorf("read: %v", err)
			}
			if err := d.Add(t.Context(), k); err == nil {
				t.Error("added a key to it")
			}
			if _, err := os.Lstat(filepath.Join(dir, "pgp-public")); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("the other ring was written: %v", err)
			}
		})
	}
	open := t.TempDir()
	must(t, os.Chmod(open, 0o777))
	if _, err := sign.OpenKeyDir(open); err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(open); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("directory mode %v", info.Mode())
	}
	file := filepath.Join(t.TempDir(), "file")
	must(t, os.WriteFile(file, nil, 0o600))
	if _, err := sign.OpenKeyDir(file); err == nil {
		t.Error("took a file as key directory")
	}
}

func TestKeyDirLockEnds(t *testing.T) {
	dir := t.TempDir()
	d, err := sign.OpenKeyDir(dir)
	must(t, err)
	// Writable, or it could not be locked on NFS.
	holder, err := os.OpenFile(filepath.Join(dir, ".hpcimg-lock"), os.O_RDWR|os.O_CREATE, 0o600)
	must(t, err)
	defer holder.Close()
	must(t, syscall.Flock(int(holder.Fd()), syscall.LOCK_EX))
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if err := d.Add(ctx, generate(t, sign.KeyOptions{})); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("add to a locked directory: %v", err)
	}
}
