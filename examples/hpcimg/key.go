package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"hpcimg/internal/atomicfile"
	"hpcimg/sign"
)

func newKey(f *flags) *cobra.Command {
	c := &cobra.Command{
		Use:   "key",
		Short: "Make, list, import, export and remove OpenPGP keys",
		Long: "Make, list, import, export and remove OpenPGP keys. They live where Apptainer has its own:\n" +
			"--keys-dir, $APPTAINER_KEYSDIR, or ~/.apptainer/keys. A key in there is trusted by verify.",
		Args: cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				return usagef("key: unknown command %q", args[0])
			}
			return cmd.Help()
		},
	}
	c.AddCommand(newKeyNew(f), newKeyImport(f), newKeyExport(f), newKeyList(f), newKeyRemove(f), newKeyID(f),
		newKeySearch(f), newKeyPull(f), newKeyPush(f))
	for _, sub := range c.Commands() {
		f.addKeysDir(sub)
	}
	return c
}

func (f *flags) addKeysDir(c *cobra.Command) {
	c.Flags().StringVar(&f.keysDir, "keys-dir", "", "directory of the key rings (default $APPTAINER_KEYSDIR or ~/.apptainer/keys)")
}

// keyDir opens the key directory that flags and environment name.
func (f *flags) keyDir() (*sign.KeyDir, error) {
	for _, dir := range []string{f.keysDir, f.std.getenv("APPTAINER_KEYSDIR"), f.std.getenv("SINGULARITY_SYPGPDIR")} {
		if dir != "" {
			return sign.OpenKeyDir(dir)
		}
	}
	home := f.std.getenv("HOME")
	if home == "" {
		return nil, usagef("no key directory: HOME is not set, and neither --keys-dir nor APPTAINER_KEYSDIR is given")
	}
	return sign.OpenKeyDir(filepath.Join(home, ".apptainer", "keys"))
}

func newKeyNew(f *flags) *cobra.Command {
	c := &cobra.Command{
		Use:   "new --name NAME [--email ADDRESS] | new --pem TYPE --output NAME",
		Short: "Make a key pair and store it",
		Args:  cobra.NoArgs,
	}
	var opts sign.KeyOptions
	fl := c.Flags()
	fl.StringVar(&opts.Name, "name", "", "name of the owner")
	fl.StringVar(&opts.Email, "email", "", "e-mail address of the owner")
	fl.StringVar(&opts.Comment, "comment", "", "comment, such as what the key is for")
	rsa := fl.Int("rsa", 0, "make an RSA key of so many bits instead of an EdDSA one")
	kind := fl.String("pem", "", "make a key for DSSE and cosign instead: ecdsa, ed25519 or rsa, in the files that --output names")
	output := fl.String("output", "", "with --pem: write NAME.key and NAME.pub")
	protect := fl.Bool("passphrase", false, "ask for a passphrase that protects the secret half")
	f.addPassphrase(c)
	c.RunE = func(cmd *cobra.Command, _ []string) error {
		if *kind != "" {
			return f.newPEM(cmd, sign.KeyType(*kind), *output, *protect || f.passphraseFD >= 0)
		}
		if opts.Name == "" && opts.Email == "" {
			return usagef("key new: whose key is it? give --name or --email")
		}
		if *rsa != 0 {
			opts.Algorithm, opts.Bits = sign.RSA, *rsa
		}
		if *protect || f.passphraseFD >= 0 {
			pass, err := f.passphrase("new key")
			if err != nil {
				return err
			}
			opts.Passphrase = pass
		}
		dir, err := f.keyDir()
		if err != nil {
			return err
		}
		key, err := sign.GenerateKey(&opts)
		if err != nil {
			return err
		}
		if err := dir.Add(cmd.Context(), key); err != nil {
			return err
		}
		_, err = fmt.Fprintln(cmd.OutOrStdout(), key.Fingerprint())
		return err
	}
	return c
}

// newPEM makes a key pair in two files, and overwrites none.
func (f *flags) newPEM(cmd *cobra.Command, kind sign.KeyType, name string, protect bool) error {
	if name == "" {
		return usagef("key new --pem: give --output NAME")
	}
	var pass []byte
	if protect {
		var err error
		if pass, err = f.passphrase("new key"); err != nil {
			return err
		}
	}
	key, err := sign.GeneratePrivateKey(kind)
	if err != nil {
		return err
	}
	write := func(path string, mode fs.FileMode, write func(io.Writer) error) error {
		out, err := atomicfile.Create(path, &atomicfile.Options{Mode: mode, NoReplace: true})
		if err != nil {
			return err
		}
		defer out.Abort()
		if err := write(out); err != nil {
			return err
		}
		return out.Commit()
	}
	if err := write(name+".key", 0o600, func(w io.Writer) error { return sign.WritePrivateKey(w, key, pass) }); err != nil {
		return err
	}
	if err := write(name+".pub", 0o644, func(w io.Writer) error { return sign.WritePublicKey(w, key.Public()) }); err != nil {
		return err
	}
	id, err := sign.PublicKeyID(key.Public())
	if err == nil {
		_, err = fmt.Fprintln(cmd.OutOrStdout(), id)
	}
	return err
}

func newKeyImport(f *flags) *cobra.Command {
	c := &cobra.Command{
		Use:   "import FILE",
		Short: "Add the keys of a file, armoured or binary, to the key rings; - is standard input",
		Args:  cobra.ExactArgs(1),
	}
	c.RunE = func(cmd *cobra.Command, args []string) error {
		var in io.Reader = cmd.InOrStdin()
		if args[0] != "-" {
			file, err := os.Open(args[0])
			if err != nil {
				return err
			}
			defer file.Close()
			in = file
		}
		ring, err := sign.ReadKeyring(in)
		if err != nil {
			return fmt.Errorf("%s: %w", args[0], err)
		}
		dir, err := f.keyDir()
		if err != nil {
			return err
		}
		if err := dir.Add(cmd.Context(), ring.Keys()...); err != nil {
			return err
		}
		for _, key := range ring.Keys() {
			fmt.Fprintln(cmd.OutOrStdout(), key.Fingerprint())
		}
		return nil
	}
	return c
}

func newKeyExport(f *flags) *cobra.Command {
	c := &cobra.Command{
		Use:   "export [flags] FINGERPRINT FILE",
		Short: "Write a key to a file; - is standard output",
		Args:  cobra.ExactArgs(2),
	}
	secret := c.Flags().Bool("secret", false, "write the secret half, still protected by its passphrase if it has one")
	binary := c.Flags().Bool("binary", false, "write binary packets instead of ASCII armour")
	c.RunE = func(cmd *cobra.Command, args []string) error {
		key, err := f.findKey(args[0])
		if err != nil {
			return err
		}
		export := key.ExportPublic
		if *secret {
			export = key.ExportSecret
		}
		if args[1] == "-" {
			return export(cmd.OutOrStdout(), !*binary)
		}
		out, err := atomicfile.Create(args[1], &atomicfile.Options{Mode: 0o600, NoReplace: true})
		if err != nil {
			return err
		}
		defer out.Abort()
		if err := export(out, !*binary); err != nil {
			return err
		}
		return out.Commit()
	}
	return c
}

func newKeyID(*flags) *cobra.Command {
	return &cobra.Command{
		Use:   "id FILE",
		Short: "Print the IDs of the public keys in a PEM file, as policies name them",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			file, err := os.Open(args[0])
			if err != nil {
				return err
			}
			defer file.Close()
			keys, err := sign.ReadPublicKeys(file)
			if err != nil {
				return fmt.Errorf("%s: %w", args[0], err)
			}
			for _, k := range keys {
				id, err := sign.PublicKeyID(k)
				if err != nil {
					return err
				}
				fmt.Fprintln(cmd.OutOrStdout(), id)
			}
			return nil
		},
	}
}

// findKey finds the key in the key directory that a full fingerprint names.
func (f *flags) findKey(fingerprint string) (*sign.Key, error) {
	fp, err := sign.ParseFingerprint(fingerprint)
	if err != nil {
		return nil, usagef("%w", err)
	}
	dir, err := f.keyDir()
	if err != nil {
		return nil, err
	}
	return dir.Find(fp)
}

// keyEntry is one line of `key list --json`.
type keyEntry struct {
	Fingerprint sign.Fingerprint `json:"fingerprint"`
	Algorithm   string           `json:"algorithm"`
	Identities  []string         `json:"identities"`
	Created     time.Time        `json:"created"`
	Secret      bool             `json:"secret"`
	Protected   bool             `json:"protected"`
}

func newKeyList(f *flags) *cobra.Command {
	c := &cobra.Command{
		Use:   "list",
		Short: "List the keys in the key rings",
		Args:  cobra.NoArgs,
	}
	f.addJSON(c)
	secretOnly := c.Flags().Bool("secret", false, "list only keys whose secret half is there")
	c.RunE = func(cmd *cobra.Command, _ []string) error {
		dir, err := f.keyDir()
		if err != nil {
			return err
		}
		public, err := dir.Public()
		if err != nil {
			return err
		}
		secret, err := dir.Secret()
		if err != nil {
			return err
		}
		ring := public.With(secret.Keys()...)
		if *secretOnly {
			ring = secret
		}
		entries := []keyEntry{}
		for _, k := range ring.Keys() {
			entries = append(entries, keyEntry{
				Fingerprint: k.Fingerprint(), Algorithm: k.Algorithm(), Identities: k.Identities(),
				Created: k.Created().UTC(), Secret: k.HasSecret(), Protected: k.Protected(),
			})
		}
		out := cmd.OutOrStdout()
		if f.json {
			return printJSON(out, entries)
		}
		for _, e := range entries {
			half := "public"
			if e.Secret {
				half = "secret"
			}
			fmt.Fprintf(out, "%s %s %-8s %s %q\n", e.Fingerprint, half, e.Algorithm, e.Created.Format(time.DateOnly), strings.Join(e.Identities, ", "))
		}
		return nil
	}
	return c
}

func newKeyRemove(f *flags) *cobra.Command {
	c := &cobra.Command{
		Use:   "remove FINGERPRINT",
		Short: "Delete both halves of a key",
		Args:  cobra.ExactArgs(1),
	}
	c.RunE = func(cmd *cobra.Command, args []string) error {
		fp, err := sign.ParseFingerprint(args[0])
		if err != nil {
			return usagef("%w", err)
		}
		dir, err := f.keyDir()
		if err != nil {
			return err
		}
		return dir.Remove(cmd.Context(), fp)
	}
	return c
}

func (f *flags) addPassphrase(c *cobra.Command) {
	c.Flags().IntVar(&f.passphraseFD, "passphrase-fd", -1, "read the passphrase from this file descriptor (default: ask on the terminal)")
}

// passphrase reads a passphrase from the descriptor of --passphrase-fd or from
// the terminal; never from an argument or the environment, which others can see.
func (f *flags) passphrase(what string) ([]byte, error) {
	if f.passphraseFD >= 0 {
		file := os.NewFile(uintptr(f.passphraseFD), "passphrase")
		if file == nil {
			return nil, usagef("--passphrase-fd %d: not open", f.passphraseFD)
		}
		defer file.Close()
		b, err := io.ReadAll(io.LimitReader(file, 4096))
		if err != nil {
			return nil, fmt.Errorf("--passphrase-fd %d: %w", f.passphraseFD, err)
		}
		return []byte(strings.TrimRight(string(b), "\r\n")), nil
	}
	tty, err := os.OpenFile("/dev/tty", os.O_RDWR, 0)
	if err != nil {
		return nil, errors.New("a passphrase is needed and there is no terminal to ask on: use --passphrase-fd")
	}
	defer tty.Close()
	fmt.Fprintf(tty, "passphrase for %s: ", what)
	b, err := term.ReadPassword(int(tty.Fd()))
	fmt.Fprintln(tty)
	return b, err
}
