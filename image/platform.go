package image

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// ParsePlatform parses "os/architecture[/variant]". The names of Go and of OCI are the same; x86_64 and aarch64, which people
// read off uname, are understood as well.
func ParsePlatform(s string) (Platform, error) {
	parts := strings.Split(s, "/")
	if len(parts) < 2 || len(parts) > 3 || slices.Contains(parts, "") {
		return Platform{}, fmt.Errorf("image: platform %q is not of the form os/architecture[/variant]", clip(s, 80))
	}
	p := Platform{OS: strings.ToLower(parts[0]), Architecture: strings.ToLower(parts[1])}
	if len(parts) == 3 {
		p.Variant = strings.ToLower(parts[2])
	}
	return normalPlatform(p), nil
}

// normalPlatform replaces other names of a platform with the one that OCI uses, and drops variants that say nothing.
func normalPlatform(p Platform) Platform {
	p.OS, p.Architecture, p.Variant = strings.ToLower(p.OS), strings.ToLower(p.Architecture), strings.ToLower(p.Variant)
	switch p.Architecture {
	case "x86_64", "x86-64":
		p.Architecture = "amd64"
	case "aarch64":
		p.Architecture = "arm64"
	case "armhf":
		p.Architecture, p.Variant = "arm", cmp.Or(p.Variant, "v7")
	case "i386", "i686":
		p.Architecture = "386"
	}
	if p.Variant != "" && !strings.HasPrefix(p.Variant, "v") {
		p.Variant = "v" + p.Variant
	}
	switch {
	case p.Architecture == "amd64" && p.Variant == "v1", p.Architecture == "arm64" && p.Variant == "v8":
		p.Variant = ""
	case p.Architecture == "arm" && p.Variant == "":
		p.Variant = "v7"
	}
	return p
}

// platformRank says how well an image for have serves want: 0 not at all, higher is better. Without a variant in want only the
// baseline will do; with one, older variants of the same architecture run as well.
func platformRank(want, have Platform) int {
	want, have = normalPlatform(want), normalPlatform(have)
	if want.OS != have.OS || want.Architecture != have.Architecture {
		return 0
	}
	if want.OSVersion != "" && want.OSVersion != have.OSVersion {
		return 0
	}
	if want.Variant == have.Variant {
		return 100
	}
	w, h := variantLevel(want), variantLevel(have)
	if w < 0 || h < 0 || h > w {
		return 0
	}
	return 100 - (w - h)
}

// variantLevel orders the variants of one architecture; -1 is a variant that has no place in the order.
func variantLevel(p Platform) int {
	base := 1
	if p.Architecture == "arm64" {
		base = 8
	}
	if p.Variant == "" {
		return base
	}
	var level int
	if n, _ := fmt.Sscanf(p.Variant, "v%d", &level); n != 1 || level < base || level > 99 {
		return -1
	}
	return level
}

func platformString(p Platform) string {
	s := cmp.Or(p.OS, "unknown") + "/" + cmp.Or(p.Architecture, "unknown")
	if p.Variant != "" {
		s += "/" + p.Variant
	}
	return printable(s, 60)
}
