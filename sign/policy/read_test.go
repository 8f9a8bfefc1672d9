package policy_test

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"hpcimg/sign"
	"hpcimg/sign/policy"
)

const header = "version = 1\n"

func TestReadErrors(t *testing.T) {
	a := newKey(t, "A")
	for name, text := range map[string]string{
		"empty":                "",
		"version":              "version = 2\n",
		"not TOML":             header + "[[rule\n",
		"unknown name":         header + "mode = \"deny\"\n",
		"unknown name in rule": header + "[[rule]]\npath = [\"/a\"]\nmode = \"deny\"\n",
		"unknown mode":         header + "[default]\nmode = \"strikt\"\n",
		"unknown action":       header + "[default]\nunsigned = \"block\"\n",
		"rule without place":   header + "[[rule]]\nmode = \"deny\"\n",
		"default with place":   header + "[default]\npaths = [\"/a\"]\n",
		"relative path":        header + "[[rule]]\npaths = [\"a\"]\n",
		"path with dots":       header + "[[rule]]\npaths = [\"/a/../b\"]\n",
		"path with slash":      header + "[[rule]]\npaths = [\"/a/\"]\n",
		"repository with tag":  header + "[[rule]]\nrepositories = [\"docker://a/b\"]\n",
		"wildcard":             header + "[[rule]]\nrepositories = [\"a/*\"]\n",
		"nobody on the list":   header + "[default]\nmode = \"whitelist\"\n",
		"short key ID":         header + "[default]\nmode = \"whitelist\"\nsigners = [\"7FF7BA84\"]\n",
		"long key ID":          header + "[default]\nmode = \"whitelist\"\nsigners = [\"A20C27EE7FF7BA84\"]\n",
		"short sha256":         header + "[default]\nmode = \"whitelist\"\nsigners = [\"sha256:00\"]\n",
		"list without mode":    header + "[default]\nsigners = [\"" + fp(a) + "\"]\n",
		"signer without key":   header + "[default]\nmode = \"whitelist\"\nsigners = [\"" + fp(a) + "\"]\n",
		"key file missing":     header + "keyrings = [\"missing\"]\n",
		"too long":             header + strings.Repeat("# comment\n", 200_000),
		"too many rules":       header + strings.Repeat("[[rule]]\npaths = [\"/a\"]\n", 1001),
	} {
		_, err := policy.Read(strings.NewReader(text), nil, nil)
		if err == nil || name != "key file missing" && !errors.Is(err, policy.ErrSyntax) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestLoad(t *testing.T) {
	a := newKey(t, "A")
	pem, err := sign.GeneratePrivateKey(sign.KeyECDSA)
	must(t, err)
	dir := t.TempDir()
	var ring, pub bytes.Buffer
	must(t, a.ExportPublic(&ring, true))
	must(t, sign.WritePublicKey(&pub, pem.Public()))
	id, err := sign.PublicKeyID(pem.Public())
	must(t, err)
	must(t, os.WriteFile(filepath.Join(dir, "site.asc"), ring.Bytes(), 0o600))
	must(t, os.WriteFile(filepath.Join(dir, "site.pub"), pub.Bytes(), 0o600))
	path := filepath.Join(dir, "policy.toml")
	text := header + `keyrings = ["site.asc"]
public_keys = ["site.pub"]
[default]
unsigned = "deny"
[[rule]]
name = "site software"
paths = ["/apps/images"]
mode = "strict"
signers = ["` + fp(a) + `", "` + id + `"]
`
	must(t, os.WriteFile(path, []byte(text), 0o600))
	p, err := policy.Load(path, nil)
	must(t, err)
	if r := p.ForPath("/apps/images/x.sif"); r.Mode != policy.ModeStrict || len(r.Signers) != 2 || r.Unsigned != policy.ActionDeny {
		t.Errorf("%+v", r)
	}
	if _, err := checkPath(t, p, newImage(t)); !errors.Is(err, policy.ErrDenied) {
		t.Errorf("default: %v", err)
	}
	must(t, os.Chmod(path, 0o666))
	if _, err := policy.Load(path, nil); err == nil {
		t.Error("a policy that anybody can write is trusted")
	}
	if _, err := policy.Load(filepath.Join(dir, "none"), nil); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
}

func TestECL(t *testing.T) {
	a, b := newKey(t, "A"), newKey(t, "B")
	path := signedBy(t, newImage(t), a)
	dir, err := filepath.EvalSymlinks(filepath.Dir(path))
	must(t, err)
	group := func(dir, mode string, keys ...string) string {
		return "[[execgroup]]\n  dirpath = \"" + dir + "\"\n  keyfp = [\"" + strings.Join(keys, "\", \"") + "\"]\n  mode = \"" + mode + "\"\n  tagname = \"name\"\n"
	}
	const on = "activated = true\nlegacyinsecure = false\n"
	for name, tt := range map[string]struct {
		text    string
		allowed bool
		syntax  bool
	}{
		"not activated":       {"activated = false\n" + group(dir, "whitelist", fp(b)), true, false},
		"whitelist":           {on + group(dir, "whitelist", strings.ToLower(fp(a)), fp(b)), true, false},
		"other on whitelist":  {on + group(dir, "whitelist", fp(b)), false, false},
		"whitestrict":         {on + group(dir, "whitestrict", fp(a)), true, false},
		"whitestrict of two":  {on + group(dir, "whitestrict", fp(a), fp(b)), false, false},
		"blacklist":           {on + group(dir, "blacklist", fp(b)), true, false},
		"on blacklist":        {on + group(dir, "blacklist", fp(a)), false, false},
		"no group":            {on + group("/elsewhere", "whitelist", fp(a)), false, false},
		"parent directory":    {on + group(filepath.Dir(dir), "whitelist", fp(a)), false, false},
		"prefix of directory": {on + group(dir[:len(dir)-1], "whitelist", fp(a)), false, false},
		"without directory":   {on + group("/elsewhere", "whitelist", fp(b)) + group("", "whitelist", fp(a)), true, false},
		"nothing":             {on, false, false},
		"two groups":          {on + group(dir, "whitelist", fp(a)) + group(dir, "whitelist", fp(b)), false, true},
		"bad mode":            {on + group(dir, "greylist", fp(a)), false, true},
		"short key":           {on + group(dir, "whitelist", "7FF7BA84"), false, true},
		"misspelt":            {"aktivated = true\n", false, true},
	} {
		t.Run(name, func(t *testing.T) {
			p, err := policy.ReadECL(strings.NewReader(tt.text), sign.NewKeyring(a, b))
			if tt.syntax {
				if !errors.Is(err, policy.ErrSyntax) {
					t.Errorf("%v", err)
				}
				return
			}
			must(t, err)
			if _, err := checkPath(t, p, path); (err == nil) != tt.allowed {
				t.Errorf("%v", err)
			}
			if _, err := checkPath(t, p, newImage(t)); err == nil && name != "not activated" {
				t.Error("unsigned image in a directory without group, or unsigned")
			}
		})
	}
}

// FuzzRead wants of every policy that is read that each image falls to exactly one complete rule, and that errors are those of the package.
func FuzzRead(f *testing.F) {
	f.Add([]byte(header + "[default]\nmode = \"deny\"\n[[rule]]\npaths = [\"/a\"]\nunsigned = \"warn\"\n"))
	f.Add([]byte("activated = true\n[[execgroup]]\ndirpath = \"/a\"\nmode = \"whitelist\"\nkeyfp = [\"12045C8C0B1004D058DE4BEDA20C27EE7FF7BA84\"]\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		for _, read := range []func() (*policy.Policy, error){
			func() (*policy.Policy, error) {
				return policy.Read(bytes.NewReader(data), nil, func(string) (io.ReadCloser, error) { return nil, policy.ErrSyntax })
			},
			func() (*policy.Policy, error) { return policy.ReadECL(bytes.NewReader(data), nil) },
		} {
			p, err := read()
			if err != nil {
				if !errors.Is(err, policy.ErrSyntax) {
					t.Errorf("%v", err)
				}
				continue
			}
			for _, r := range []policy.Rule{p.ForPath("/a/b"), p.ForPath("/"), p.ForRepository("a.example/b")} {
				if r.Name == "" || r.Mode == "" || r.Mode != policy.ModeDeny && r.Unsigned == "" {
					t.Errorf("%+v", r)
				}
			}
		}
	})
}
