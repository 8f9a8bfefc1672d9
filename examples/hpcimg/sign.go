package main

import (
	"bytes"
	"context"
	"crypto"
	"fmt"
	"math"
	"os"

	"github.com/spf13/cobra"

	"hpcimg/sif"
	"hpcimg/sign"
)

func newSign(f *flags) *cobra.Command {
	c := &cobra.Command{
		Use:   "sign [flags] IMAGE",
		Short: "Sign a SIF file, or an image in a registry as cosign does",
		Args:  cobra.ExactArgs(1),
	}
	f.addKeysDir(c)
	f.addPassphrase(c)
	keyName := c.Flags().StringP("key", "k", "", "full fingerprint of the key, or a file with it: OpenPGP, or PEM for a DSSE signature (default: the only secret key there is)")
	replace := c.Flags().Bool("replace", false, "remove all earlier signatures")
	groups := c.Flags().UintSlice("group-id", nil, "sign this object group only (may be repeated)")
	objects := c.Flags().UintSlice("sif-id", nil, "sign this object only (may be repeated)")
	formats := c.Flags().StringSlice("cosign-format", []string{"tag"}, "where the signature of an image in a registry goes: tag (cosign 2), bundle (cosign 3), or both")
	f.addSource(c)
	c.RunE = func(cmd *cobra.Command, args []string) error {
		if isRegistry(args[0]) {
			return f.signRemote(cmd, args[0], *keyName, *formats)
		}
		path, err := localPath(args[0])
		if err != nil {
			return err
		}
		at, err := f.epoch()
		if err != nil {
			return err
		}
		opts := &sign.Options{Replace: *replace, Time: at, Groups: ids(*groups), Objects: ids(*objects)}
		with, err := f.signWith(cmd.Context(), path, *keyName, opts)
		if err != nil {
			return err
		}
		if !f.quiet {
			fmt.Fprintf(cmd.ErrOrStderr(), "signed %s with %s\n", path, with)
		}
		return nil
	}
	return c
}

func ids(list []uint) []uint32 {
	var out []uint32
	for _, id := range list {
		out = append(out, uint32(min(id, math.MaxUint32)))
	}
	return out
}

// signWith signs with the key that name asks for, and returns what to call it.
func (f *flags) signWith(ctx context.Context, path, name string, opts *sign.Options) (string, error) {
	if data, err := os.ReadFile(name); name != "" && err == nil && sign.IsPEM(data) {
		key, err := f.readPrivateKey(name, data)
		if err != nil {
			return "", err
		}
		id, err := sign.PublicKeyID(key.Public())
		if err != nil {
			return "", err
		}
		return id, sign.SignDSSE(ctx, path, []crypto.Signer{key}, opts)
	}
	key, err := f.signingKey(name)
	if err != nil {
		return "", err
	}
	opts.Passphrase = func(k *sign.Key) ([]byte, error) { return f.passphrase("key " + k.String()) }
	return key.String(), sign.Sign(ctx, path, key, opts)
}

func (f *flags) readPrivateKey(name string, data []byte) (crypto.Signer, error) {
	key, err := sign.ReadPrivateKey(bytes.NewReader(data), func() ([]byte, error) { return f.passphrase("key " + name) })
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return key, nil
}

// signingKey finds the key that name asks for: a fingerprint, a file, or
// nothing where there is only one to choose from.
func (f *flags) signingKey(name string) (*sign.Key, error) {
	if name != "" {
		if _, err := sign.ParseFingerprint(name); err == nil {
			return f.findKey(name)
		}
		ring, err := readKeyFile(name)
		if err != nil {
			return nil, err
		}
		return onlyKey(ring, name)
	}
	dir, err := f.keyDir()
	if err != nil {
		return nil, err
	}
	ring, err := dir.Secret()
	if err != nil {
		return nil, err
	}
	key, err := onlyKey(ring, "the key directory")
	if err != nil {
		return nil, err
	}
	return dir.Find(key.Fingerprint()) // with what the public ring says of it
}

// onlyKey returns the one secret key of ring, and refuses to choose.
func onlyKey(ring *sign.Keyring, where string) (*sign.Key, error) {
	var found *sign.Key
	for _, k := range ring.Keys() {
		if !k.HasSecret() {
			continue
		}
		if found != nil {
			return nil, usagef("several secret keys in %s: choose one with --key FINGERPRINT (hpcimg key list --secret)", where)
		}
		found = k
	}
	if found == nil {
		return nil, fmt.Errorf("no secret key in %s: make one with hpcimg key new, or import one", where)
	}
	return found, nil
}

func readKeyFile(name string) (*sign.Keyring, error) {
	file, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	ring, err := sign.ReadKeyring(file)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return ring, nil
}

// objectLine is one line of `inspect --layers` of a SIF.
func objectLine(o sif.Object) string {
	link := "-"
	if o.LinkedID != 0 {
		link = fmt.Sprint(o.LinkedID)
		if o.LinkedGroup {
			link = fmt.Sprintf("group %d", o.LinkedID)
		}
	}
	what := o.Type.String()
	if o.Name != "" {
		what += fmt.Sprintf(" %q", o.Name)
	}
	if o.Type == sif.DataPartition {
		what += fmt.Sprintf(" %v %v %s", o.Partition.FS, o.Partition.Type, o.Partition.Arch)
	}
	return fmt.Sprintf("%-3d %-5d %-12s %-12d %-12d %s", o.ID, o.GroupID, link, o.Offset, o.Size, what)
}
