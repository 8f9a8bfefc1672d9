package main

import (
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"hpcimg/sif"
	"hpcimg/sign"
)

func newSign(f *flags) *cobra.Command {
	c := &cobra.Command{
		Use:   "sign [flags] IMAGE",
		Short: "Sign all of a SIF file",
		Args:  cobra.ExactArgs(1),
	}
	f.addKeysDir(c)
	f.addPassphrase(c)
	keyName := c.Flags().StringP("key", "k", "", "full fingerprint of the key, or a file with it (default: the only secret key there is)")
	replace := c.Flags().Bool("replace", false, "remove all earlier signatures")
	c.RunE = func(cmd *cobra.Command, args []string) error {
		path, err := localPath(args[0])
		if err != nil {
			return err
		}
		key, err := f.signingKey(*keyName)
		if err != nil {
			return err
		}
		at, err := f.epoch()
		if err != nil {
			return err
		}
		err = sign.Sign(cmd.Context(), path, key, &sign.Options{
			Replace: *replace,
			Time:    at,
			Passphrase: func(k *sign.Key) ([]byte, error) {
				return f.passphrase("key " + k.String())
			},
		})
		if err != nil {
			return err
		}
		if !f.quiet {
			fmt.Fprintf(cmd.ErrOrStderr(), "signed %s with %s\n", path, key)
		}
		return nil
	}
	return c
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

func newVerify(f *flags) *cobra.Command {
	c := &cobra.Command{
		Use:   "verify [flags] IMAGE",
		Short: "Check the signatures of a SIF file",
		Long: "Check the signatures of a SIF file. It passes if every object is covered by a valid signature of a trusted key:\n" +
			"one of the key directory, or of the files and fingerprints that --key names.",
		Args: cobra.ExactArgs(1),
	}
	f.addJSON(c)
	f.addKeysDir(c)
	keys := c.Flags().StringArrayP("key", "k", nil, "accept only this signer: a full fingerprint, or a file with public keys (may be repeated)")
	legacy := c.Flags().Bool("legacy-insecure", false, "accept signatures from before Singularity 3.6, which cover only contents")
	c.RunE = func(cmd *cobra.Command, args []string) error {
		path, err := localPath(args[0])
		if err != nil {
			return err
		}
		opts, err := f.trust(*keys)
		if err != nil {
			return err
		}
		opts.Legacy = *legacy
		file, err := openSIF(path)
		if err != nil {
			return err
		}
		defer file.Close()
		result, verifyErr := sign.Verify(cmd.Context(), file, opts)
		if result != nil {
			if err := f.printVerdict(cmd.OutOrStdout(), path, result, verifyErr); err != nil {
				return err
			}
		}
		if verifyErr != nil {
			return fmt.Errorf("%s: %w", path, verifyErr)
		}
		return nil
	}
	return c
}

// openSIF opens a SIF file and says of anything else that it is none.
func openSIF(path string) (*sif.File, error) {
	file, err := sif.Open(path)
	if !errors.Is(err, sif.ErrFormat) {
		return file, err
	}
	if f, openErr := os.Open(path); openErr == nil {
		defer f.Close()
		if !looksLikeSIF(f) {
			return nil, fmt.Errorf("%s: not a SIF file", path)
		}
	}
	return nil, fmt.Errorf("%s: %w", path, err)
}

// trust is what the key directory and --key make of trust.
func (f *flags) trust(keys []string) (*sign.VerifyOptions, error) {
	ring := sign.NewKeyring()
	var signers []sign.Fingerprint
	needDir := len(keys) == 0
	for _, name := range keys {
		if fp, err := sign.ParseFingerprint(name); err == nil {
			signers, needDir = append(signers, fp), true
			continue
		}
		fileRing, err := readKeyFile(name)
		if err != nil {
			return nil, err
		}
		for _, k := range fileRing.Keys() {
			ring, signers = ring.With(k.Public()), append(signers, k.Fingerprint())
		}
	}
	if needDir {
		dir, err := f.keyDir()
		if err != nil {
			return nil, err
		}
		public, err := dir.Public()
		if err != nil {
			return nil, err
		}
		ring = ring.With(public.Keys()...)
	}
	return &sign.VerifyOptions{Keyring: ring, Signers: signers}, nil
}

// verdict is `verify --json`.
type verdict struct {
	Path       string             `json:"path"`
	Verified   bool               `json:"verified"`
	Error      string             `json:"error,omitempty"`
	Signatures []signatureVerdict `json:"signatures"`
	Objects    []objectVerdict    `json:"objects"`
}

type signatureVerdict struct {
	ID      uint32           `json:"id"`
	Format  sign.Format      `json:"format"`
	Group   uint32           `json:"group,omitempty"`
	Claimed sign.Fingerprint `json:"claimedFingerprint,omitempty"`
	Trusted bool             `json:"trusted"`
	Signer  sign.Fingerprint `json:"signer,omitempty"`
	Names   []string         `json:"names,omitempty"`
	Error   string           `json:"error,omitempty"`
}

type objectVerdict struct {
	ID         uint32   `json:"id"`
	Type       string   `json:"type"`
	Name       string   `json:"name"`
	Covered    bool     `json:"covered"`
	Signatures []uint32 `json:"signatures"`
}

func newVerdict(path string, r *sign.Result, err error) verdict {
	v := verdict{Path: path, Verified: err == nil, Signatures: []signatureVerdict{}, Objects: []objectVerdict{}}
	if err != nil {
		v.Error = err.Error()
	}
	for _, s := range r.Signatures {
		sv := signatureVerdict{ID: s.ObjectID, Format: s.Format, Group: s.GroupID, Claimed: s.Claimed, Trusted: s.Trusted}
		if s.Signer != nil {
			sv.Signer, sv.Names = s.Signer.Fingerprint(), s.Signer.Identities()
		}
		if s.Err != nil {
			sv.Error = s.Err.Error()
		}
		v.Signatures = append(v.Signatures, sv)
	}
	for _, o := range r.Objects {
		v.Objects = append(v.Objects, objectVerdict{
			ID: o.ID, Type: o.Type.String(), Name: o.Name, Covered: o.Covered(), Signatures: append([]uint32{}, o.Signatures...),
		})
	}
	return v
}

func (f *flags) printVerdict(out io.Writer, path string, r *sign.Result, err error) error {
	v := newVerdict(path, r, err)
	if f.json {
		return printJSON(out, v)
	}
	for _, s := range v.Signatures {
		switch {
		case s.Error != "" && errors.Is(err, sign.ErrUntrusted):
			fmt.Fprintf(out, "signature %d: by %s, which is not a trusted key\n", s.ID, s.Claimed)
		case s.Error != "":
			fmt.Fprintf(out, "signature %d: %s\n", s.ID, s.Error)
		default:
			fmt.Fprintf(out, "signature %d: good, by %s %q\n", s.ID, s.Signer, s.Names)
		}
	}
	for _, o := range v.Objects {
		state := "NOT covered"
		if o.Covered {
			state = "covered"
		}
		fmt.Fprintf(out, "object %d: %s (%s %q)\n", o.ID, state, o.Type, o.Name)
	}
	if v.Verified {
		fmt.Fprintf(out, "verified: %s\n", path)
	}
	return nil
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
