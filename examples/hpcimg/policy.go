package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/spf13/cobra"

	"hpcimg/sign/policy"
)

// sitePolicy is consulted where it exists, whatever --policy says.
const sitePolicy = "/etc/hpcimg/policy.toml"

func (f *flags) addPolicy(c *cobra.Command) {
	c.Flags().StringVar(&f.policy, "policy", "", "accept only images that this policy or ecl.toml accepts (always: "+sitePolicy+", if it exists)")
}

// policies are all that have to agree.
func (f *flags) policies() ([]*policy.Policy, error) {
	var all []*policy.Policy
	switch p, err := policy.Load(sitePolicy, nil); {
	case err == nil:
		all = append(all, p)
	case !errors.Is(err, fs.ErrNotExist):
		return nil, err
	}
	if f.policy != "" {
		dir, err := f.keyDir()
		if err != nil {
			return nil, err
		}
		ring, err := dir.Public()
		if err != nil {
			return nil, err
		}
		p, err := policy.Load(f.policy, &policy.LoadOptions{Keyring: ring})
		if err != nil {
			return nil, err
		}
		all = append(all, p)
	}
	// Nobody has asked: people are told, and the output of programs stays theirs.
	if len(all) == 0 && f.isTerminal(f.std.err) {
		all = append(all, policy.Default())
	}
	return all, nil
}

// admit returns what asks the policies about l. What the command line has read of the image, its environment for one, was read from l.file:
// that has to be the file that is asked about.
func (f *flags) admit(l *localImage) (func(context.Context, *os.File, int64, int64) error, error) {
	policies, err := f.policies()
	if err != nil {
		return nil, err
	}
	return func(ctx context.Context, file *os.File, offset, size int64) error {
		mine, err := l.file.Stat()
		if err != nil {
			return err
		}
		theirs, err := file.Stat()
		if err != nil {
			return err
		}
		if !os.SameFile(mine, theirs) {
			return fmt.Errorf("%s: replaced while it was opened", l.path)
		}
		return f.checkFile(ctx, policies, file, offset, size)
	}, nil
}

// admitOther is admit for an image that is laid over another one, or bound.
func (f *flags) admitOther(ctx context.Context, file *os.File, offset, size int64) error {
	policies, err := f.policies()
	if err != nil {
		return err
	}
	return f.checkFile(ctx, policies, file, offset, size)
}

func (f *flags) checkFile(ctx context.Context, policies []*policy.Policy, file *os.File, offset, size int64) error {
	for _, p := range policies {
		d, err := p.CheckFile(ctx, file, offset, size)
		if err != nil {
			return err
		}
		if d.Warning != nil && !f.quiet {
			fmt.Fprintf(f.std.err, "hpcimg: note: %s\n", printable(d.Warning.Error()))
		}
	}
	return nil
}

// policyVerdict is `verify --policy --json`.
type policyVerdict struct {
	Image    string `json:"image"`
	Accepted bool   `json:"accepted"`
	Error    string `json:"error,omitempty"`
}

// verifyPolicy says what the policies say of an image, without any use of it.
func (f *flags) verifyPolicy(cmd *cobra.Command, ref string) error {
	err := f.askPolicies(cmd.Context(), ref)
	if err != nil && !errors.Is(err, policy.ErrDenied) {
		return err
	}
	if f.json {
		v := policyVerdict{Image: ref, Accepted: err == nil}
		if err != nil {
			v.Error = err.Error()
		}
		return errors.Join(printJSON(cmd.OutOrStdout(), v), err)
	}
	if err == nil {
		_, err = fmt.Fprintf(cmd.OutOrStdout(), "accepted: %s\n", printable(ref))
	}
	return err
}

func (f *flags) askPolicies(ctx context.Context, ref string) error {
	if isRegistry(ref) {
		_, closer, err := f.registryInput(ctx, ref)
		if err != nil {
			return err
		}
		return closer.Close()
	}
	l, err := openLocal(ref)
	if errors.Is(err, errLayers) {
		return f.askAboutLayers(ctx, ref)
	}
	if err != nil {
		return err
	}
	defer l.Close()
	policies, err := f.policies()
	if err != nil {
		return err
	}
	return f.checkFile(ctx, policies, l.file, l.offset, l.size)
}

// askAboutLayers asks about an OCI-SIF that is not one file system, as whatever makes one of it does.
func (f *flags) askAboutLayers(ctx context.Context, ref string) error {
	path, err := localPath(ref)
	if err != nil {
		return err
	}
	_, closer, err := f.imageInput(ctx, path, "sif:")
	if err != nil {
		return err
	}
	return closer.Close()
}
