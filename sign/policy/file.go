package policy

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"hpcimg/sif"
	"hpcimg/sign"
)

// CheckFile decides about an open file: a SIF file, a bare squashfs image or a directory. offset and size say which part is going to be
// mounted; size 0 stands for all from offset, and a negative size says that none is, but all that is in it read. The error is a *DeniedError if it is refused. CheckFile may read all of it.
func (p *Policy) CheckFile(ctx context.Context, f *os.File, offset, size int64) (*Decision, error) {
	path, err := pathOf(f)
	if err != nil {
		return nil, err
	}
	before, err := f.Stat()
	if err != nil {
		return nil, err
	}
	c := &check{rule: p.ForPath(path), path: path, file: f, info: before, policy: p, offset: offset, size: size}
	d, err := c.decide(ctx)
	if err != nil {
		return d, err
	}
	after, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if before.Size() != after.Size() || !before.ModTime().Equal(after.ModTime()) || changed(before) != changed(after) {
		_, err := c.deny(errors.New("it changed while it was looked at"))
		return d, err
	}
	return d, nil
}

// pathOf returns where an open file is, without links.
func pathOf(f *os.File) (string, error) {
	if path, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", f.Fd())); err == nil && filepath.IsAbs(path) {
		return path, nil
	}
	path, err := filepath.Abs(f.Name())
	if err != nil {
		return "", err
	}
	return filepath.EvalSymlinks(path)
}

type check struct {
	policy       *Policy
	rule         Rule
	path         string
	file         *os.File
	info         fs.FileInfo
	offset, size int64
}

func (c *check) deny(err error) (*Decision, error) {
	return &Decision{Rule: c.rule}, &DeniedError{Subject: c.path, Rule: c.rule.Name, Err: err}
}

func (c *check) decide(ctx context.Context) (*Decision, error) {
	d := &Decision{Rule: c.rule}
	if c.rule.Mode == ModeDeny {
		return c.deny(errors.New("nothing there is accepted"))
	}
	if c.info.IsDir() {
		return d.unsigned(c.path, fmt.Errorf("a directory: %w", sign.ErrUnsigned))
	}
	f, err := sif.NewFile(c.file, c.info.Size())
	if errors.Is(err, sif.ErrFormat) && !looksLikeSIF(c.file) {
		return d.unsigned(c.path, fmt.Errorf("not a SIF file: %w", sign.ErrUnsigned))
	}
	if err != nil {
		return c.deny(err)
	}
	if c.rule.Mode == ModeOpen {
		signed := slices.ContainsFunc(f.Objects(), func(o sif.Object) bool { return o.Type == sif.DataSignature })
		if !signed {
			return d.unsigned(c.path, sign.ErrUnsigned)
		}
		return d, nil
	}
	if err := c.checkWriters(); err != nil {
		return c.deny(err)
	}
	return c.verify(ctx, f)
}

func looksLikeSIF(f *os.File) bool {
	const magicOffset, magic = 32, "SIF_MAGIC"
	b := make([]byte, len(magic))
	_, err := f.ReadAt(b, magicOffset)
	return err == nil && string(b) == magic
}

func (c *check) verify(ctx context.Context, f *sif.File) (*Decision, error) {
	d := &Decision{Rule: c.rule}
	config := &c.policy.config
	result, err := sign.Verify(ctx, f, &sign.VerifyOptions{
		Keyring: config.Keyring, PublicKeys: config.PublicKeys, Legacy: c.rule.Legacy, AllowUncovered: c.rule.PrimaryOnly, Workers: config.Workers,
	})
	if result == nil {
		return c.deny(err)
	}
	d.Result = result
	all, anything := signers(result, c.rule.PrimaryOnly)
	d.Signers = all
	if err := c.rule.judge(all, anything); err != nil {
		_, err = c.deny(err)
		return d, err
	}
	switch {
	case len(result.Signatures) == 0 || err == sign.ErrUntrusted: // and not a join that has it in it
		return d.unsigned(c.path, err)
	case err != nil:
		_, err = c.deny(err)
		return d, err
	case c.rule.Mode != ModeSigned && c.rule.Mode != ModeBlacklist && len(all) == 0:
		_, err = c.deny(errors.New("nobody has signed all of it"))
		return d, err
	}
	if !c.covered(result) {
		what := fmt.Errorf("bytes %d to %d, which are to be mounted, are not an object that was verified", c.offset, c.offset+c.size)
		if c.size < 0 {
			what = errors.New("not all of it is covered by a signature")
		}
		_, err = c.deny(what)
		return d, err
	}
	return d, nil
}

// covered reports whether what is to be mounted is a partition, or a layer of an OCI-SIF, that has been verified, and no other bytes.
func (c *check) covered(r *sign.Result) bool {
	if c.size < 0 {
		return !slices.ContainsFunc(r.Objects, func(o sign.Object) bool { return !o.Covered() })
	}
	return slices.ContainsFunc(r.Objects, func(o sign.Object) bool {
		return o.Covered() && (o.Type == sif.DataPartition || o.Type == sif.DataOCIBlob) && o.Offset == c.offset && (o.Size == c.size || c.size == 0 && o.Offset+o.Size == c.info.Size())
	})
}

// signers returns who has signed all objects, and who has signed, or is said to have signed, anything.
func signers(r *sign.Result, primaryOnly bool) (all, anything []string) {
	by := make(map[uint32][]string) // by signature
	for _, s := range r.Signatures {
		var names []string
		if s.Signer != nil {
			names = append(names, string(s.Signer.Fingerprint()))
		}
		for _, k := range s.PublicKeys {
			if id, err := sign.PublicKeyID(k); err == nil {
				names = append(names, id)
			}
		}
		by[s.ObjectID] = names
		anything = append(append(anything, names...), string(s.Claimed))
	}
	first := true
	for _, o := range r.Objects {
		if primaryOnly && (o.Type != sif.DataPartition || o.Partition.Type != sif.PartitionPrimarySystem) {
			continue
		}
		var here []string
		for _, id := range o.Signatures {
			here = append(here, by[id]...)
		}
		if first {
			all, first = here, false
			continue
		}
		all = slices.DeleteFunc(all, func(s string) bool { return !slices.Contains(here, s) })
	}
	slices.Sort(all)
	return slices.Compact(all), anything
}
