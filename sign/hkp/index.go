package hkp

import (
	"context"
	"fmt"
	"net/url"
	"strconv"
	"strings"
	"time"

	"hpcimg/sign"
)

const maxEntries = 1000

// Entry is what a server says of a key. Nothing of it is verified.
type Entry struct {
	// Fingerprint is empty if the server names the key by less than its fingerprint.
	Fingerprint sign.Fingerprint
	Identities  []string
	Bits        int
	// Created and Expires are zero if the server does not say, or the key does not expire.
	Created, Expires           time.Time
	Revoked, Disabled, Expired bool
}

// Search looks for keys by name, address or fingerprint.
func (c *Client) Search(ctx context.Context, text string) ([]Entry, error) {
	body, err := c.lookup(ctx, url.Values{"op": {"index"}, "options": {"mr"}, "fingerprint": {"on"}, "search": {text}})
	if err != nil {
		return nil, err
	}
	entries, err := parseIndex(string(body))
	if err != nil {
		return nil, fmt.Errorf("hkp: %s: %w", c.base.Host, err)
	}
	return entries, nil
}

// parseIndex reads the machine-readable index of section 5.2 of draft-shaw-openpgp-hkp. Lines of other kinds are passed over.
func parseIndex(text string) ([]Entry, error) {
	var entries []Entry
	for line := range strings.Lines(text) {
		fields := strings.Split(strings.TrimRight(line, "\r\n"), ":")
		switch fields[0] {
		case "pub":
			if len(entries) == maxEntries {
				return nil, &sign.LimitError{What: "number of keys in an answer", Limit: maxEntries}
			}
			entries = append(entries, parsePub(fields))
		case "uid":
			if len(entries) > 0 && len(fields) > 1 {
				e := &entries[len(entries)-1]
				if name, err := url.PathUnescape(fields[1]); err == nil && len(e.Identities) < maxEntries {
					e.Identities = append(e.Identities, name)
				}
			}
		}
	}
	return entries, nil
}

// parsePub reads pub:FINGERPRINT:ALGORITHM:BITS:CREATED:EXPIRES:FLAGS.
func parsePub(fields []string) Entry {
	field := func(i int) string {
		if i < len(fields) {
			return fields[i]
		}
		return ""
	}
	var e Entry
	if fp, err := sign.ParseFingerprint(field(1)); err == nil {
		e.Fingerprint = fp
	}
	if bits, err := strconv.ParseUint(field(3), 10, 16); err == nil {
		e.Bits = int(bits)
	}
	seconds := func(s string) time.Time {
		n, err := strconv.ParseInt(s, 10, 34)
		if err != nil || n <= 0 {
			return time.Time{}
		}
		return time.Unix(n, 0).UTC()
	}
	e.Created, e.Expires = seconds(field(4)), seconds(field(5))
	e.Revoked, e.Disabled, e.Expired = strings.Contains(field(6), "r"), strings.Contains(field(6), "d"), strings.Contains(field(6), "e")
	return e
}
