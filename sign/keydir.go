package sign

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"hpcimg/internal/atomicfile"
)

// The names of the two key rings in a key directory, as Apptainer and SingularityCE have them.
const (
	publicRing = "pgp-public"
	secretRing = "pgp-secret"
)

// KeyDir is a directory that holds a public and a secret key ring.
//
// The directory must belong to the user and is given mode 0700; the rings have mode 0600, belong to the user, and are never read through a
// symbolic link. Changes are made under a lock where the file system has locks, to a copy that replaces the ring in one step. Its
// methods may be called from several goroutines and processes.
type KeyDir struct {
	path string
}

// OpenKeyDir opens a key directory, and creates it if it is missing.
func OpenKeyDir(path string) (*KeyDir, error) {
	if err := os.MkdirAll(path, 0o700); err != nil {
		return nil, err
	}
	d := &KeyDir{path: filepath.Clean(path)}
	dir, err := os.Open(d.path)
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	info, err := dir.Stat()
	if err != nil {
		return nil, err
	}
	if !info.IsDir() {
		return nil, &fs.PathError{Op: "open", Path: path, Err: errors.New("not a directory")}
	}
	if err := checkOwner(path, info); err != nil {
		return nil, err
	}
	if info.Mode().Perm()&0o077 != 0 {
		if err := dir.Chmod(0o700); err != nil {
			return nil, err
		}
	}
	return d, nil
}

// Public returns the public keys.
func (d *KeyDir) Public() (*Keyring, error) { return d.read(publicRing) }

// Secret returns the keys whose secret half is there.
func (d *KeyDir) Secret() (*Keyring, error) { return d.read(secretRing) }

// Find returns a key, with its secret half if that is there. The error is fs.ErrNotExist if neither half is.
func (d *KeyDir) Find(fp Fingerprint) (*Key, error) {
	secret, err := d.Secret()
	if err != nil {
		return nil, err
	}
	public, err := d.Public()
	if err != nil {
		return nil, err
	}
	// A revocation is as a rule in the public ring only.
	return secret.With(public.Keys()...).Find(fp)
}

// Add stores keys: the public half of each, and the secret half where there is one.
func (d *KeyDir) Add(ctx context.Context, keys ...*Key) error {
	return d.change(ctx, func(public, secret *Keyring) (*Keyring, *Keyring) {
		for _, k := range keys {
			public = public.With(k.Public())
			if k.HasSecret() {
				secret = secret.With(k)
			}
		}
		return public, secret
	})
}

// Remove deletes both halves of the key with a fingerprint. The error is fs.ErrNotExist if neither is there.
func (d *KeyDir) Remove(ctx context.Context, fp Fingerprint) error {
	var found bool
	err := d.change(ctx, func(public, secret *Keyring) (*Keyring, *Keyring) {
		_, pubErr := public.Find(fp)
		_, secErr := secret.Find(fp)
		found = pubErr == nil || secErr == nil
		return public.Without(fp), secret.Without(fp)
	})
	if err == nil && !found {
		err = &KeyError{Fingerprint: fp, Err: fs.ErrNotExist}
	}
	return err
}

// change rewrites the rings that f changes. The secret one goes first: a crash in between leaves no public key that we could not sign with
// only to be told so.
func (d *KeyDir) change(ctx context.Context, f func(public, secret *Keyring) (*Keyring, *Keyring)) error {
	unlock, err := lockDir(ctx, d.path)
	if err != nil {
		return err
	}
	defer unlock()
	public, err := d.readWhole(publicRing)
	if err != nil {
		return err
	}
	secret, err := d.readWhole(secretRing)
	if err != nil {
		return err
	}
	newPublic, newSecret := f(public, secret)
	if err := d.write(secretRing, secret, newSecret, (*Key).ExportSecret); err != nil {
		return err
	}
	return d.write(publicRing, public, newPublic, (*Key).ExportPublic)
}

func (d *KeyDir) read(name string) (*Keyring, error) {
	ring, _, err := d.readRing(name)
	return ring, err
}

// readWhole is read for a ring that is going to be replaced: every key in it must have been understood, or it would be lost.
func (d *KeyDir) readWhole(name string) (*Keyring, error) {
	ring, unknown, err := d.readRing(name)
	if err == nil && unknown > 0 {
		err = fmt.Errorf("holds %d keys of an unknown kind, which a change would lose: %w", unknown, errors.ErrUnsupported)
		err = &fs.PathError{Op: "change", Path: filepath.Join(d.path, name), Err: err}
	}
	return ring, err
}

// readRing returns a ring, and the number of keys in it that the OpenPGP library does not know.
func (d *KeyDir) readRing(name string) (ring *Keyring, unknown int, err error) {
	path := filepath.Join(d.path, name)
	f, err := openNoFollow(path)
	if errors.Is(err, fs.ErrNotExist) {
		return NewKeyring(), 0, nil
	}
	if err != nil {
		return nil, 0, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, 0, err
	}
	if err := checkRing(path, info); err != nil {
		return nil, 0, err
	}
	if info.Size() == 0 { // Apptainer leaves empty rings behind
		return NewKeyring(), 0, nil
	}
	data, err := readLimited(f)
	if err != nil {
		return nil, 0, fmt.Errorf("%s: %w", path, err)
	}
	entities, err := readBinary(data)
	if err == nil {
		ring, err = keyringOf(entities)
	}
	if err != nil {
		return nil, 0, fmt.Errorf("%s: %w", path, err)
	}
	return ring, countKeys(data) - len(entities), nil
}

func checkRing(path string, info fs.FileInfo) error {
	if !info.Mode().IsRegular() {
		return &fs.PathError{Op: "open", Path: path, Err: errors.New("not a regular file")}
	}
	if err := checkOwner(path, info); err != nil {
		return err
	}
	forbidden := fs.FileMode(0o022)
	if filepath.Base(path) == secretRing {
		forbidden = 0o077
	}
	return checkMode(path, info, forbidden)
}

func (d *KeyDir) write(name string, before, after *Keyring, exportKey func(*Key, io.Writer, bool) error) error {
	old, err := serialize(before, exportKey)
	if err != nil {
		return err
	}
	data, err := serialize(after, exportKey)
	if err != nil {
		return err
	}
	if bytes.Equal(old, data) {
		return nil
	}
	f, err := atomicfile.Create(filepath.Join(d.path, name), &atomicfile.Options{Mode: 0o600})
	if err != nil {
		return err
	}
	defer f.Abort()
	if _, err := f.Write(data); err != nil {
		return err
	}
	return f.Commit()
}

func serialize(ring *Keyring, exportKey func(*Key, io.Writer, bool) error) ([]byte, error) {
	var b bytes.Buffer
	for _, k := range ring.Keys() {
		if err := exportKey(k, &b, false); err != nil {
			return nil, err
		}
	}
	return b.Bytes(), nil
}
