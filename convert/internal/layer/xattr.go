package layer

import (
	"encoding/base64"
	"net/url"
	"strings"
)

// PAX records with extended attributes: a raw value, as most tools write it, and one in base64 under a URL-encoded name.
const (
	paxSchily     = "SCHILY.xattr."
	paxLibarchive = "LIBARCHIVE.xattr."
)

// paxXattrs returns the extended attributes of a tar entry, whatever their names.
func paxXattrs(records map[string]string) (map[string]string, error) {
	var all map[string]string
	size := 0
	for key, value := range records {
		name, ok := strings.CutPrefix(key, paxSchily)
		if !ok {
			encoded, isLibarchive := strings.CutPrefix(key, paxLibarchive)
			if !isLibarchive {
				continue
			}
			var err error
			if name, err = url.PathUnescape(encoded); err != nil {
				return nil, malformedf("extended attribute %q: %w", encoded, err)
			}
			if _, both := records[paxSchily+name]; both {
				continue
			}
			raw, err := base64.RawStdEncoding.DecodeString(strings.TrimRight(value, "="))
			if err != nil {
				return nil, malformedf("extended attribute %q: %w", name, err)
			}
			value = string(raw)
		}
		if len(name) == 0 || len(name) > MaxName || strings.IndexByte(name, 0) >= 0 {
			return nil, malformedf("extended attribute name %s", quote(name))
		}
		if size += len(name) + len(value); size > maxXattrs {
			return nil, &LimitError{What: "bytes in the extended attributes of a file", Limit: maxXattrs}
		}
		if all == nil {
			all = make(map[string]string)
		}
		all[name] = value
	}
	return all, nil
}

// KeepXattr is the policy for extended attributes. Kept are those that belong to a file wherever it is: user.*, trusted.*,
// file capabilities and IMA signatures. Left out are those that belong to the host or the build (security.selinux and
// other labels, what overlayfs notes in its layers), POSIX ACLs, for which squashfs has no room, and user.* on what is
// neither file nor directory, where Linux does not let anybody read it.
func KeepXattr(kind Kind, name string) bool {
	space, rest, _ := strings.Cut(name, ".")
	if rest == "" {
		return false
	}
	switch space {
	case "user":
		return (kind == File || kind == Dir) && !strings.HasPrefix(rest, "overlay.")
	case "trusted":
		return !strings.HasPrefix(rest, "overlay.")
	case "security":
		return rest == "capability" || rest == "ima"
	}
	return false
}

// KeepXattrs removes from all what is not kept, and calls dropped for it.
func KeepXattrs(kind Kind, all map[string]string, dropped func(name string)) map[string]string {
	for name := range all {
		if !KeepXattr(kind, name) {
			delete(all, name)
			dropped(name)
		}
	}
	if len(all) == 0 {
		return nil
	}
	return all
}
