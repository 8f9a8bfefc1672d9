package policy

import (
	"bytes"
	"crypto"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/BurntSushi/toml"

	"hpcimg/sign"
)

const maxFile = 1 << 20

// document is a policy file.
type document struct {
	Version    int            `toml:"version"`
	Keyrings   []string       `toml:"keyrings"`
	PublicKeys []string       `toml:"public_keys"`
	Default    *ruleDocument  `toml:"default"`
	Rules      []ruleDocument `toml:"rule"`
}

type ruleDocument struct {
	Name          string   `toml:"name"`
	Paths         []string `toml:"paths"`
	Directories   []string `toml:"directories"`
	Repositories  []string `toml:"repositories"`
	Mode          Mode     `toml:"mode"`
	Signers       []string `toml:"signers"`
	Unsigned      Action   `toml:"unsigned"`
	PrimaryOnly   bool     `toml:"primary_only"`
	Legacy        bool     `toml:"legacy_insecure"`
	AllowWritable bool     `toml:"allow_writable"`
}

// LoadOptions say how a file is read.
type LoadOptions struct {
	// Keyring has keys besides those that the file names: as a rule the user's own.
	Keyring *sign.Keyring
}

// Load reads a policy file, and the keys that it names. A file that others than root and the caller can write is refused. A name that
// ends in ecl.toml is that of an execution control list; its keys are those of LoadOptions.
func Load(path string, opts *LoadOptions) (*Policy, error) {
	var o LoadOptions
	if opts != nil {
		o = *opts
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if info, err := f.Stat(); err != nil {
		return nil, err
	} else if err := (&check{info: info}).checkWriters(); err != nil {
		return nil, &fs.PathError{Op: "trust", Path: path, Err: err}
	}
	if strings.HasSuffix(filepath.Base(path), "ecl.toml") {
		p, err := ReadECL(f, o.Keyring)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		return p, nil
	}
	dir := filepath.Dir(path)
	p, err := Read(f, o.Keyring, func(name string) (io.ReadCloser, error) {
		if !filepath.IsAbs(name) {
			name = filepath.Join(dir, name)
		}
		return os.Open(name)
	})
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return p, nil
}

// Read reads a policy. The files of keys that it names are opened with open, which may be nil if there are none; ring has further keys.
func Read(r io.Reader, ring *sign.Keyring, open func(name string) (io.ReadCloser, error)) (*Policy, error) {
	var doc document
	if err := decode(r, &doc); err != nil {
		return nil, err
	}
	if doc.Version != 1 {
		return nil, fmt.Errorf("policy: version %d, want 1: %w", doc.Version, ErrSyntax)
	}
	c := &Config{Keyring: sign.NewKeyring(ring.Keys()...)}
	for _, name := range doc.Keyrings {
		err := openKeys(name, open, func(r io.Reader) error {
			ring, err := sign.ReadKeyring(r)
			if err == nil {
				c.Keyring = c.Keyring.With(ring.Keys()...)
			}
			return err
		})
		if err != nil {
			return nil, err
		}
	}
	for _, name := range doc.PublicKeys {
		err := openKeys(name, open, func(r io.Reader) error {
			keys, err := sign.ReadPublicKeys(r)
			c.PublicKeys = append(c.PublicKeys, keys...)
			return err
		})
		if err != nil {
			return nil, err
		}
	}
	if doc.Default != nil {
		c.Default = Rule(*doc.Default)
	}
	for _, r := range doc.Rules {
		c.Rules = append(c.Rules, Rule(r))
	}
	p, err := New(c)
	if err != nil {
		return nil, err
	}
	return p, p.knows()
}

func openKeys(name string, open func(string) (io.ReadCloser, error), read func(io.Reader) error) error {
	if open == nil {
		return fmt.Errorf("policy: %s: %w", name, fs.ErrNotExist)
	}
	f, err := open(name)
	if err != nil {
		return fmt.Errorf("policy: %w", err)
	}
	defer f.Close()
	if err := read(f); err != nil {
		return fmt.Errorf("policy: %s: %w", name, err)
	}
	return nil
}

// knows wants a key for every signer on a whitelist: without it the rule would refuse everything, and say only that it is signed by a stranger.
func (p *Policy) knows() error {
	known := make(map[string]bool)
	for _, k := range p.config.Keyring.Keys() {
		known[string(k.Fingerprint())] = true
	}
	for _, k := range p.config.PublicKeys {
		id, err := sign.PublicKeyID(k)
		if err != nil {
			return err
		}
		known[id] = true
	}
	for _, r := range append(p.config.Rules, p.config.Default) {
		for _, s := range r.Signers {
			if r.Mode != ModeBlacklist && !known[s] {
				return fmt.Errorf("policy: %s: no key for signer %s: %w", r.Name, s, ErrSyntax)
			}
		}
	}
	return nil
}

// decode reads TOML within the limits and refuses names that doc does not have.
func decode(r io.Reader, doc any) error {
	data, err := io.ReadAll(io.LimitReader(r, maxFile+1))
	if err != nil {
		return fmt.Errorf("policy: %w", err)
	}
	if len(data) > maxFile {
		return fmt.Errorf("policy: file of more than %d bytes: %w", maxFile, ErrSyntax)
	}
	meta, err := toml.NewDecoder(bytes.NewReader(data)).Decode(doc)
	if err != nil {
		if e, ok := errors.AsType[toml.ParseError](err); ok {
			return fmt.Errorf("policy: line %d: %s: %w", e.Position.Line, e.Message, ErrSyntax)
		}
		return fmt.Errorf("policy: %w: %w", ErrSyntax, err)
	}
	if unknown := meta.Undecoded(); len(unknown) > 0 {
		return fmt.Errorf("policy: %q is unknown: %w", unknown[0].String(), ErrSyntax)
	}
	return nil
}

// eclDocument is ecl.toml of Apptainer and SingularityCE.
type eclDocument struct {
	Activated bool       `toml:"activated"`
	Legacy    bool       `toml:"legacyinsecure"`
	Groups    []eclGroup `toml:"execgroup"`
}

type eclGroup struct {
	Tag     string   `toml:"tagname"`
	Mode    string   `toml:"mode"`
	Dir     string   `toml:"dirpath"`
	Signers []string `toml:"keyfp"`
}

// ReadECL reads an execution control list as Apptainer and SingularityCE have it: images directly in the directory of a group
// need what that group says, all others what the group without a directory says, and are refused if there is none. ring is the global key
// ring of that installation. A list that is not activated allows everything.
//
// There is no way in it to say that something may be unsigned, and what others than root and the caller can write is accepted as they accept it.
func ReadECL(r io.Reader, ring *sign.Keyring) (*Policy, error) {
	var doc eclDocument
	if err := decode(r, &doc); err != nil {
		return nil, err
	}
	if !doc.Activated {
		return New(&Config{Default: Rule{Name: "ecl that is not activated", Unsigned: ActionAllow}})
	}
	c := &Config{Keyring: ring, Default: Rule{Name: "ecl: no group", Mode: ModeDeny}, PublicKeys: []crypto.PublicKey{}}
	seen := make(map[string]bool)
	for _, g := range doc.Groups {
		rule := Rule{
			Name: "ecl: group " + g.Tag, Mode: Mode(g.Mode), Signers: g.Signers,
			PrimaryOnly: doc.Legacy, Legacy: doc.Legacy, AllowWritable: true,
		}
		if g.Mode == "whitestrict" {
			rule.Mode = ModeStrict
		}
		switch {
		case seen[g.Dir]:
			return nil, fmt.Errorf("policy: two groups for directory %q: %w", g.Dir, ErrSyntax)
		case rule.Mode != ModeWhitelist && rule.Mode != ModeStrict && rule.Mode != ModeBlacklist:
			return nil, fmt.Errorf("policy: %s: mode %q is unknown: %w", rule.Name, g.Mode, ErrSyntax)
		}
		seen[g.Dir] = true
		if g.Dir == "" {
			c.Default = rule
			continue
		}
		rule.Directories = []string{g.Dir}
		c.Rules = append(c.Rules, rule)
	}
	return New(c)
}
