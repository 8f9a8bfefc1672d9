package policy

import (
	"context"
	"crypto"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"

	"hpcimg/sign"
)

// Mode is how a rule decides.
type Mode string

// The modes, see the package comment.
const (
	ModeOpen      Mode = "open"
	ModeSigned    Mode = "signed"
	ModeWhitelist Mode = "whitelist"
	ModeStrict    Mode = "strict"
	ModeBlacklist Mode = "blacklist"
	ModeDeny      Mode = "deny"
)

// Action is what happens to an image without a signature.
type Action string

// The actions.
const (
	ActionAllow Action = "allow"
	ActionWarn  Action = "warn"
	ActionDeny  Action = "deny"
)

// Rule says what is wanted of some images. In a default rule Paths, Directories and Repositories are empty.
type Rule struct {
	Name string
	// Paths are absolute directories: everything below them is meant.
	Paths []string
	// Directories are absolute directories: only what is directly in them is meant.
	Directories []string
	// Repositories are those of a registry, as host/path, or leading components of one.
	Repositories []string
	Mode         Mode // empty: ModeOpen
	// Signers are full OpenPGP fingerprints or what sign.PublicKeyID returns.
	Signers  []string
	Unsigned Action // empty: ActionWarn in ModeOpen, else ActionDeny
	// PrimaryOnly is content if the primary partition is covered; Legacy accepts signatures from before Singularity 3.6 as well.
	PrimaryOnly, Legacy bool
	// AllowWritable accepts files that others than root and the caller can write.
	AllowWritable bool
}

// Config is a policy to be.
type Config struct {
	Rules []Rule
	// Default is for what no rule applies to.
	Default Rule
	// Keyring and PublicKeys are all keys that count.
	Keyring    *sign.Keyring
	PublicKeys []crypto.PublicKey
	// Workers is how many objects are read at a time; 0 means GOMAXPROCS.
	Workers int
}

// Policy decides. It is immutable and safe for concurrent use.
type Policy struct {
	config Config
}

const (
	maxRules   = 1000
	maxSigners = 1000
)

// New checks a configuration and makes a policy of it.
func New(c *Config) (*Policy, error) {
	p := &Policy{config: *c}
	p.config.Rules = slices.Clone(c.Rules)
	if len(c.Rules) > maxRules {
		return nil, fmt.Errorf("policy: more than %d rules: %w", maxRules, ErrSyntax)
	}
	for i := range p.config.Rules {
		r := &p.config.Rules[i]
		if r.Name == "" {
			r.Name = fmt.Sprintf("rule %d", i+1)
		}
		if len(r.Paths)+len(r.Directories)+len(r.Repositories) == 0 {
			return nil, fmt.Errorf("policy: %s: neither paths nor repositories: %w", r.Name, ErrSyntax)
		}
		if err := r.complete(); err != nil {
			return nil, err
		}
	}
	d := &p.config.Default
	if d.Name == "" {
		d.Name = "default rule"
	}
	if len(d.Paths)+len(d.Directories)+len(d.Repositories) > 0 {
		return nil, fmt.Errorf("policy: %s: paths and repositories do not belong there: %w", d.Name, ErrSyntax)
	}
	return p, d.complete()
}

// Default returns the policy without a file: everything may be run, and what is unsigned is said to be.
func Default() *Policy {
	p, err := New(&Config{})
	if err != nil {
		return &Policy{config: Config{Default: Rule{Name: "default rule", Mode: ModeDeny}}}
	}
	return p
}

// complete checks a rule and fills in what is left out.
func (r *Rule) complete() error {
	fail := func(format string, args ...any) error {
		return fmt.Errorf("policy: %s: %s: %w", r.Name, fmt.Sprintf(format, args...), ErrSyntax)
	}
	if r.Mode == "" {
		r.Mode = ModeOpen
	}
	listed := r.Mode == ModeWhitelist || r.Mode == ModeStrict || r.Mode == ModeBlacklist
	switch {
	case !slices.Contains([]Mode{ModeOpen, ModeSigned, ModeWhitelist, ModeStrict, ModeBlacklist, ModeDeny}, r.Mode):
		return fail("mode %q is unknown", r.Mode)
	case listed && len(r.Signers) == 0:
		return fail("mode %q without signers", r.Mode)
	case !listed && len(r.Signers) > 0:
		return fail("mode %q does not look at signers", r.Mode)
	case len(r.Signers) > maxSigners:
		return fail("more than %d signers", maxSigners)
	case r.Mode == ModeDeny && r.Unsigned != "":
		return fail("mode %q does not look at signatures", r.Mode)
	}
	if r.Unsigned == "" {
		r.Unsigned = ActionDeny
		if r.Mode == ModeOpen {
			r.Unsigned = ActionWarn
		}
	}
	if !slices.Contains([]Action{ActionAllow, ActionWarn, ActionDeny}, r.Unsigned) {
		return fail("unsigned = %q is unknown", r.Unsigned)
	}
	for _, dir := range slices.Concat(r.Paths, r.Directories) {
		if !filepath.IsAbs(dir) || filepath.Clean(dir) != dir {
			return fail("%q is not an absolute, clean path", dir)
		}
	}
	for _, repo := range r.Repositories {
		if repo == "" || strings.HasPrefix(repo, "/") || strings.HasSuffix(repo, "/") || strings.ContainsAny(repo, "*?@ ") || strings.Contains(repo, "://") {
			return fail("%q is not a repository: write host/path", repo)
		}
	}
	signers := make([]string, len(r.Signers))
	for i, s := range r.Signers {
		id, err := signerID(s)
		if err != nil {
			return fail("%v", err)
		}
		signers[i] = id
	}
	r.Signers = signers
	return nil
}

const keyIDPrefix, keyIDSize = "sha256:", len("sha256:") + 64

func signerID(s string) (string, error) {
	if strings.HasPrefix(s, keyIDPrefix) {
		if len(s) != keyIDSize || strings.Trim(s[len(keyIDPrefix):], "0123456789abcdef") != "" {
			return "", fmt.Errorf("%q is not the ID of a public key", s)
		}
		return s, nil
	}
	fp, err := sign.ParseFingerprint(s)
	if err != nil {
		return "", fmt.Errorf("%q is not a full fingerprint", s)
	}
	return string(fp), nil
}

// ForPath returns the rule that applies to a file, by the path that has no links in it.
func (p *Policy) ForPath(path string) Rule {
	for _, r := range p.config.Rules {
		if slices.Contains(r.Directories, filepath.Dir(path)) || slices.ContainsFunc(r.Paths, func(dir string) bool { return below(path, dir, "/") }) {
			return r
		}
	}
	return p.config.Default
}

// ForRepository returns the rule that applies to a repository, given as host/path.
func (p *Policy) ForRepository(repo string) Rule {
	for _, r := range p.config.Rules {
		if slices.ContainsFunc(r.Repositories, func(prefix string) bool { return below(repo, prefix, "/") }) {
			return r
		}
	}
	return p.config.Default
}

// below compares component by component: /apps2 is not below /apps.
func below(path, dir, separator string) bool {
	return path == dir || dir == separator || strings.HasPrefix(path, dir+separator)
}

// Manifest is an image in a registry that is asked about.
type Manifest struct {
	// Repository is host/path, without tag and digest.
	Repository string
	// Verify returns those of keys that have validly signed the manifest.
	Verify func(ctx context.Context, keys []crypto.PublicKey) ([]crypto.PublicKey, error)
}

// CheckManifest decides about an image in a registry. The error is a *DeniedError if it is refused.
func (p *Policy) CheckManifest(ctx context.Context, m Manifest) (*Decision, error) {
	rule := p.ForRepository(m.Repository)
	d := &Decision{Rule: rule}
	deny := func(err error) (*Decision, error) {
		return d, &DeniedError{Subject: m.Repository, Rule: rule.Name, Err: err}
	}
	switch rule.Mode {
	case ModeOpen:
		return d, nil
	case ModeDeny:
		return deny(errors.New("nothing from there is accepted"))
	}
	keys, err := m.Verify(ctx, p.config.PublicKeys)
	if err != nil {
		return deny(err)
	}
	for _, k := range keys {
		id, err := sign.PublicKeyID(k)
		if err != nil {
			return deny(err)
		}
		d.Signers = append(d.Signers, id)
	}
	if err := rule.judge(d.Signers, d.Signers); err != nil {
		return deny(err)
	}
	if len(keys) == 0 {
		return d.unsigned(m.Repository, sign.ErrUntrusted)
	}
	return d, nil
}

// judge compares those who have signed all, and those who have signed anything, with the list.
func (r *Rule) judge(all, anything []string) error {
	has := func(list []string) func(string) bool {
		return func(s string) bool { return slices.Contains(list, s) }
	}
	switch r.Mode {
	case ModeBlacklist:
		if i := slices.IndexFunc(r.Signers, has(anything)); i >= 0 {
			return fmt.Errorf("signed by %s, who is on the blacklist", r.Signers[i])
		}
	case ModeWhitelist:
		if len(all) > 0 && !slices.ContainsFunc(r.Signers, has(all)) {
			return fmt.Errorf("signed by %s, of whom none is on the whitelist", strings.Join(all, ", "))
		}
	case ModeStrict:
		for _, s := range r.Signers {
			if len(all) > 0 && !slices.Contains(all, s) {
				return fmt.Errorf("not all of it is signed by %s", s)
			}
		}
	}
	return nil
}

// Decision is why an image is accepted.
type Decision struct {
	Rule Rule
	// Warning is what the user should know; nil: nothing.
	Warning error
	// Signers are those who have signed all of it.
	Signers []string
	// Result is that of the verification of a SIF file, if there was one.
	Result *sign.Result
}

// unsigned finishes the decision about an image that nobody who counts has signed.
func (d *Decision) unsigned(subject string, why error) (*Decision, error) {
	switch d.Rule.Unsigned {
	case ActionAllow:
		return d, nil
	case ActionWarn:
		d.Warning = fmt.Errorf("%s: %w", subject, why)
		return d, nil
	}
	return d, &DeniedError{Subject: subject, Rule: d.Rule.Name, Err: why}
}

var (
	// ErrDenied is matched by every *DeniedError.
	ErrDenied = errors.New("policy: denied")
	// ErrSyntax is matched by errors about what a policy says. It is fs.ErrInvalid.
	ErrSyntax = fmt.Errorf("malformed policy: %w", fs.ErrInvalid)
)

// DeniedError says that an image is refused. errors.Is(err, ErrDenied) holds.
type DeniedError struct {
	Subject string // path or repository
	Rule    string
	Err     error
}

func (e *DeniedError) Error() string {
	return fmt.Sprintf("policy: %s: refused by %s: %v", e.Subject, e.Rule, e.Err)
}

// Unwrap returns Err.
func (e *DeniedError) Unwrap() error { return e.Err }

// Is reports whether target is ErrDenied.
func (e *DeniedError) Is(target error) bool { return target == ErrDenied }
