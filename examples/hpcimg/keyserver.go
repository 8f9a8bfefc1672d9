package main

import (
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"hpcimg/sign"
	"hpcimg/sign/hkp"
)

const defaultKeyServer = "hkps://keys.openpgp.org"

// addServer adds --url, and returns what makes a client of it.
func (f *flags) addServer(c *cobra.Command) func() (*hkp.Client, error) {
	server := c.Flags().String("url", defaultKeyServer, "key server: hkps://, https://, hkp:// or http://HOST")
	return func() (*hkp.Client, error) {
		// Sites have their proxies in the environment.
		t := &http.Transport{Proxy: http.ProxyFromEnvironment, TLSHandshakeTimeout: 30 * time.Second, DisableKeepAlives: true}
		return hkp.New(*server, &hkp.Options{UserAgent: "hpcimg", Transport: t})
	}
}

// keyServerEntry is one line of `key search --json`.
type keyServerEntry struct {
	Fingerprint sign.Fingerprint `json:"fingerprint"`
	Identities  []string         `json:"identities"`
	Bits        int              `json:"bits,omitempty"`
	Created     time.Time        `json:"created,omitzero"`
	Expires     time.Time        `json:"expires,omitzero"`
	Revoked     bool             `json:"revoked,omitempty"`
	Expired     bool             `json:"expired,omitempty"`
}

func newKeySearch(f *flags) *cobra.Command {
	c := &cobra.Command{
		Use:   "search [flags] TEXT",
		Short: "Ask a key server who is called so; anybody may have sent a key with any name there",
		Args:  cobra.ExactArgs(1),
	}
	f.addJSON(c)
	client := f.addServer(c)
	c.RunE = func(cmd *cobra.Command, args []string) error {
		server, err := client()
		if err != nil {
			return err
		}
		found, err := server.Search(cmd.Context(), args[0])
		if err != nil {
			return err
		}
		entries := []keyServerEntry{}
		for _, e := range found {
			entries = append(entries, keyServerEntry{e.Fingerprint, e.Identities, e.Bits, e.Created, e.Expires, e.Revoked, e.Expired})
		}
		if f.json {
			return printJSON(cmd.OutOrStdout(), entries)
		}
		for _, e := range entries {
			note := ""
			if e.Revoked {
				note = " revoked"
			}
			fmt.Fprintf(cmd.OutOrStdout(), "%s %s %q%s\n", e.Fingerprint, e.Created.Format(time.DateOnly), strings.Join(e.Identities, ", "), note)
		}
		return nil
	}
	return c
}

func newKeyPull(f *flags) *cobra.Command {
	c := &cobra.Command{
		Use:   "pull [flags] FINGERPRINT",
		Short: "Get a key from a key server by its full fingerprint, and trust it",
		Args:  cobra.ExactArgs(1),
	}
	client := f.addServer(c)
	c.RunE = func(cmd *cobra.Command, args []string) error {
		fp, err := sign.ParseFingerprint(args[0])
		if err != nil {
			return usagef("%w", err)
		}
		server, err := client()
		if err != nil {
			return err
		}
		key, err := server.Get(cmd.Context(), fp)
		if err != nil {
			return err
		}
		dir, err := f.keyDir()
		if err != nil {
			return err
		}
		if err := dir.Add(cmd.Context(), key); err != nil {
			return err
		}
		_, err = fmt.Fprintln(cmd.OutOrStdout(), key)
		return err
	}
	return c
}

func newKeyPush(f *flags) *cobra.Command {
	c := &cobra.Command{
		Use:   "push [flags] FINGERPRINT",
		Short: "Send the public half of a key to a key server",
		Args:  cobra.ExactArgs(1),
	}
	client := f.addServer(c)
	c.RunE = func(cmd *cobra.Command, args []string) error {
		key, err := f.findKey(args[0])
		if err != nil {
			return err
		}
		server, err := client()
		if err != nil {
			return err
		}
		return server.Push(cmd.Context(), key.Public())
	}
	return c
}
