package main

import (
	"context"
	"crypto"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"hpcimg/image"
	"hpcimg/image/registry"
	"hpcimg/sign"
	"hpcimg/sign/cosign"
	"hpcimg/sign/policy"
)

func isRegistry(ref string) bool {
	r, err := image.ParseReference(ref)
	return err == nil && (r.Transport == image.TransportDocker || r.Transport == image.TransportORAS)
}

func (f *flags) registryClient() *registry.Client {
	o := f.registryOptions()
	return registry.NewClient(&o)
}

// signRemote signs what a reference names at the moment.
func (f *flags) signRemote(cmd *cobra.Command, ref, keyName string, formats []string) error {
	if keyName == "" {
		return usagef("sign %s: give --key FILE, a private key in PEM (hpcimg key new --pem)", ref)
	}
	data, err := os.ReadFile(keyName)
	if err != nil {
		return err
	}
	key, err := f.readPrivateKey(keyName, data)
	if err != nil {
		return err
	}
	at, err := f.epoch()
	if err != nil {
		return err
	}
	opts := &cosign.Options{Time: at}
	for _, name := range formats {
		opts.Formats = append(opts.Formats, cosign.Format(name))
	}
	d, err := cosign.Sign(cmd.Context(), f.registryClient(), ref, key, opts)
	if err != nil {
		return err
	}
	if !f.quiet {
		fmt.Fprintf(cmd.ErrOrStderr(), "signed %s (%s)\n", ref, d.Digest)
	}
	return nil
}

// remoteVerdict is `verify --json` of an image in a registry.
type remoteVerdict struct {
	Reference  string            `json:"reference"`
	Digest     string            `json:"digest"`
	Verified   bool              `json:"verified"`
	Error      string            `json:"error,omitempty"`
	Signatures []remoteSignature `json:"signatures"`
}

type remoteSignature struct {
	Format      cosign.Format     `json:"format"`
	Key         string            `json:"key,omitempty"`
	Identity    string            `json:"identity,omitempty"`
	Annotations map[string]string `json:"annotations,omitempty"`
	Error       string            `json:"error,omitempty"`
}

func (f *flags) verifyRemote(cmd *cobra.Command, ref string, t *trustFlags) error {
	opts := &sign.VerifyOptions{}
	for _, name := range t.keys {
		file, err := os.Open(name)
		if err != nil {
			return err
		}
		keys, err := sign.ReadPublicKeys(file)
		file.Close()
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		opts.PublicKeys = append(opts.PublicKeys, keys...)
	}
	if len(t.keys) == 0 {
		return usagef("verify %s: give --key FILE, a public key in PEM", ref)
	}
	result, verifyErr := cosign.Verify(cmd.Context(), f.registryClient(), ref, opts.PublicKeys)
	if result == nil {
		return verifyErr
	}
	v := remoteVerdict{Reference: ref, Digest: result.Digest.String(), Verified: verifyErr == nil, Signatures: []remoteSignature{}}
	if verifyErr != nil {
		v.Error = verifyErr.Error()
	}
	for _, s := range result.Signatures {
		rs := remoteSignature{Format: s.Format, Identity: s.Identity, Annotations: s.Annotations}
		if s.Key != nil {
			rs.Key, _ = sign.PublicKeyID(s.Key)
		}
		if s.Err != nil {
			rs.Error = s.Err.Error()
		}
		v.Signatures = append(v.Signatures, rs)
	}
	if f.json {
		if err := printJSON(cmd.OutOrStdout(), v); err != nil {
			return err
		}
		return verifyErr
	}
	for _, s := range v.Signatures {
		if s.Error != "" {
			fmt.Fprintf(cmd.OutOrStdout(), "signature (%s): %s\n", s.Format, printable(s.Error))
			continue
		}
		fmt.Fprintf(cmd.OutOrStdout(), "signature (%s): good, by %s\n", s.Format, s.Key)
	}
	if v.Verified {
		fmt.Fprintf(cmd.OutOrStdout(), "verified: %s %s\n", ref, v.Digest)
	}
	return verifyErr
}

// checkManifest asks the policies about an image in a registry, by the digests of the index and of the manifest that were opened: either
// may be signed.
func (f *flags) checkManifest(ctx context.Context, r image.Reference, documents ...image.Descriptor) error {
	if r.Transport != image.TransportDocker && r.Transport != image.TransportORAS {
		return nil
	}
	policies, err := f.policies()
	if err != nil {
		return err
	}
	repo := r.Host + "/" + r.Repository
	verify := func(ctx context.Context, keys []crypto.PublicKey) ([]crypto.PublicKey, error) {
		var all []crypto.PublicKey
		for i, d := range documents {
			if i > 0 && d.Digest == documents[i-1].Digest {
				continue
			}
			result, err := cosign.Verify(ctx, f.registryClient(), "docker://"+repo+"@"+d.Digest.String(), keys)
			if err != nil && !errors.Is(err, cosign.ErrUnsigned) {
				return nil, err
			}
			all = append(all, result.Keys()...)
		}
		return all, nil
	}
	for _, p := range policies {
		d, err := p.CheckManifest(ctx, policy.Manifest{Repository: repo, Verify: verify})
		if err != nil {
			return err
		}
		if d.Warning != nil && !f.quiet {
			fmt.Fprintf(f.std.err, "hpcimg: note: %s\n", printable(strings.TrimSpace(d.Warning.Error())))
		}
	}
	return nil
}
