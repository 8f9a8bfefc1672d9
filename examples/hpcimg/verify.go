package main

import (
	"bytes"
	"cmp"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"hpcimg/sif"
	"hpcimg/sign"
)

func newVerify(f *flags) *cobra.Command {
	c := &cobra.Command{
		Use:   "verify [flags] IMAGE",
		Short: "Check the signatures of a SIF file, or of an image in a registry",
		Long: "Check the signatures of a SIF file. It passes if every object is covered by a valid signature of a trusted key:\n" +
			"one of the key directory, or of the files (OpenPGP or PEM) and fingerprints that --key names, or of a certificate.",
		Args: cobra.ExactArgs(1),
	}
	f.addJSON(c)
	f.addKeysDir(c)
	var t trustFlags
	t.add(c)
	f.addSource(c)
	f.addPolicy(c)
	legacy := c.Flags().Bool("legacy-insecure", false, "accept signatures from before Singularity 3.6, which cover only contents")
	apptainer := c.Flags().Bool("apptainer-json", false, "print JSON in the shape that Apptainer prints")
	rebuild := c.Flags().Bool("rebuild", false, "look at no signature: convert the source again and compare")
	source := c.Flags().String("source", "", "with --rebuild: where the source is now")
	c.RunE = func(cmd *cobra.Command, args []string) error {
		if *rebuild {
			path, err := localPath(args[0])
			if err != nil {
				return err
			}
			return f.rebuild(cmd, path, *source)
		}
		if f.policy != "" {
			return f.verifyPolicy(cmd, args[0])
		}
		if isRegistry(args[0]) {
			return f.verifyRemote(cmd, args[0], &t)
		}
		path, err := localPath(args[0])
		if err != nil {
			return err
		}
		opts, err := f.trust(&t)
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
			print := f.printVerdict
			if *apptainer {
				print = printApptainer
			}
			if err := print(cmd.OutOrStdout(), path, result, verifyErr); err != nil {
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

// trustFlags say whom to trust.
type trustFlags struct {
	keys                              []string
	certificate, intermediates, roots string
}

func (t *trustFlags) add(c *cobra.Command) {
	fl := c.Flags()
	fl.StringArrayVarP(&t.keys, "key", "k", nil, "accept only this signer: a full fingerprint, or a file with public keys (may be repeated)")
	fl.StringVar(&t.certificate, "certificate", "", "accept the key of this X.509 certificate (PEM)")
	fl.StringVar(&t.roots, "certificate-roots", "", "file with the roots that --certificate has to lead to")
	fl.StringVar(&t.intermediates, "certificate-intermediates", "", "file with the certificates between it and a root")
}

// certify reads the certificates.
func (t *trustFlags) certify(opts *sign.VerifyOptions) error {
	if t.certificate == "" {
		return nil
	}
	if t.roots == "" {
		return usagef("--certificate needs --certificate-roots")
	}
	roots, err := readCertificates(t.roots)
	if err != nil {
		return err
	}
	opts.Roots, opts.Intermediates = x509.NewCertPool(), x509.NewCertPool()
	for _, c := range roots {
		opts.Roots.AddCert(c)
	}
	if t.intermediates != "" {
		certs, err := readCertificates(t.intermediates)
		if err != nil {
			return err
		}
		for _, c := range certs {
			opts.Intermediates.AddCert(c)
		}
	}
	certs, err := readCertificates(t.certificate)
	if err != nil {
		return err
	}
	opts.Certificates = certs[:1] // as a rule those that follow lead to the root
	for _, c := range certs[1:] {
		opts.Intermediates.AddCert(c)
	}
	return nil
}

func readCertificates(name string) ([]*x509.Certificate, error) {
	file, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	certs, err := sign.ReadCertificates(file)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return certs, nil
}

// trust is what the key directory and --key make of trust.
func (f *flags) trust(t *trustFlags) (*sign.VerifyOptions, error) {
	ring := sign.NewKeyring()
	opts := &sign.VerifyOptions{}
	if err := t.certify(opts); err != nil {
		return nil, err
	}
	var signers []sign.Fingerprint
	needDir := len(t.keys) == 0 && len(opts.Certificates) == 0
	for _, name := range t.keys {
		if fp, err := sign.ParseFingerprint(name); err == nil {
			signers, needDir = append(signers, fp), true
			continue
		}
		data, err := os.ReadFile(name)
		if err != nil {
			return nil, err
		}
		if sign.IsPEM(data) {
			public, err := sign.ReadPublicKeys(bytes.NewReader(data))
			if err != nil {
				return nil, fmt.Errorf("%s: %w", name, err)
			}
			opts.PublicKeys = append(opts.PublicKeys, public...)
			continue
		}
		fileRing, err := sign.ReadKeyring(bytes.NewReader(data))
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
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
	opts.Keyring, opts.Signers = ring, signers
	return opts, nil
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
	Keys    []string         `json:"keys,omitempty"`
	KeyIDs  []string         `json:"claimedKeyIDs,omitempty"`
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
		sv := signatureVerdict{ID: s.ObjectID, Format: s.Format, Group: s.GroupID, Claimed: s.Claimed, KeyIDs: s.ClaimedKeyIDs, Trusted: s.Trusted}
		if s.Signer != nil {
			sv.Signer, sv.Names = s.Signer.Fingerprint(), s.Signer.Identities()
		}
		for _, k := range s.PublicKeys {
			if id, err := sign.PublicKeyID(k); err == nil {
				sv.Keys = append(sv.Keys, id)
			}
		}
		for _, c := range s.Certificates {
			sv.Names = append(sv.Names, c.Subject.String())
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
			fmt.Fprintf(out, "signature %d: by %s, which is not a trusted key\n", s.ID, cmp.Or(strings.Join(s.KeyIDs, ", "), string(s.Claimed)))
		case s.Error != "":
			fmt.Fprintf(out, "signature %d: %s\n", s.ID, s.Error)
		default:
			fmt.Fprintf(out, "signature %d: good, by %s %q\n", s.ID, cmp.Or(string(s.Signer), strings.Join(s.Keys, ", ")), s.Names)
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

// apptainerVerdict is what `apptainer verify --json` prints.
type apptainerVerdict struct {
	Signatures int
	SignerKeys []apptainerSigner
}

type apptainerSigner struct {
	Signer struct {
		Partition   string
		Name        string
		Fingerprint string
		KeyLocal    bool
		KeyCheck    bool
		DataCheck   bool
	}
}

func printApptainer(out io.Writer, _ string, r *sign.Result, _ error) error {
	v := apptainerVerdict{Signatures: len(r.Signatures)}
	for _, s := range r.Signatures {
		var a apptainerSigner
		a.Signer.Name = "unknown"
		if s.Signer != nil {
			if names := s.Signer.Identities(); len(names) > 0 {
				a.Signer.Name = names[0]
			}
			a.Signer.Fingerprint = strings.ToLower(string(s.Signer.Fingerprint()))
			a.Signer.KeyLocal, a.Signer.KeyCheck = true, true
		}
		add := func(id uint32, good bool) {
			for _, o := range r.Objects {
				if o.ID == id {
					a.Signer.Partition, a.Signer.DataCheck = o.Type.String(), good
					v.SignerKeys = append(v.SignerKeys, a)
				}
			}
		}
		for _, id := range s.Covers {
			add(id, true)
		}
		if bad, ok := errors.AsType[*sign.VerifyError](s.Err); ok && s.Trusted {
			add(bad.ObjectID, false)
		}
	}
	enc := json.NewEncoder(out)
	enc.SetIndent("", "  ")
	return enc.Encode(v)
}
