package image

import (
	"fmt"
	"slices"
	"strings"
)

// configFields are the names in an image config that encoding/json would accept in any letter case.
func configFields() []string {
	return []string{
		"created", "author", "architecture", "os", "os.version", "os.features", "variant", "config", "rootfs", "history",
		"type", "diff_ids", "User", "ExposedPorts", "Env", "Entrypoint", "Cmd", "Volumes", "WorkingDir", "Labels",
		"StopSignal", "ArgsEscaped", "created_by", "comment", "empty_layer",
	}
}

// parseConfig decodes and validates an image config against the manifest that names it.
func parseConfig(raw []byte, layers int) (*Config, error) {
	var c Config
	if err := decode("config", raw, configFields(), &c); err != nil {
		return nil, err
	}
	if len(c.RootFS.DiffIDs) == 0 && layers > 0 {
		return nil, documentError("config", "rootfs.diff_ids", "is missing: this is not an image in layers; "+
			"a SIF file in a registry is reached with oras://")
	}
	if c.RootFS.Type != "layers" && (c.RootFS.Type != "" || layers > 0) {
		return nil, documentError("config", "rootfs.type", "is %q, want \"layers\"", clip(c.RootFS.Type, 40))
	}
	if len(c.RootFS.DiffIDs) != layers {
		return nil, documentError("config", "rootfs.diff_ids", "has %d elements for %d layers", len(c.RootFS.DiffIDs), layers)
	}
	for i, d := range c.RootFS.DiffIDs {
		if err := validDigest(d); err != nil {
			return nil, documentError("config", fmt.Sprintf("rootfs.diff_ids[%d]", i), "%w", err)
		}
	}
	if err := validSettings(&c); err != nil {
		return nil, err
	}
	return &c, nil
}

// validSettings refuses strings that cannot be what they claim: no environment, argument or path holds a NUL byte, and a tool
// that passes them on in C would cut them there. Newlines are legitimate in values.
func validSettings(c *Config) error {
	s := &c.Config
	lists := []struct {
		field  string
		values []string
	}{{"Env", s.Env}, {"Entrypoint", s.Entrypoint}, {"Cmd", s.Cmd}}
	for _, l := range lists {
		for i, v := range l.values {
			if strings.ContainsRune(v, 0) {
				return documentError("config", fmt.Sprintf("config.%s[%d]", l.field, i), "contains a NUL byte")
			}
		}
	}
	for i, v := range s.Env {
		name, _, _ := strings.Cut(v, "=")
		if name == "" || strings.ContainsAny(name, "\n\r") {
			return documentError("config", fmt.Sprintf("config.Env[%d]", i), "has no usable name")
		}
	}
	for _, f := range [][2]string{
		{"config.User", s.User},
		{"config.WorkingDir", s.WorkingDir},
		{"config.StopSignal", s.StopSignal},
		{"os", c.OS},
		{"architecture", c.Architecture},
		{"variant", c.Variant},
	} {
		if strings.ContainsAny(f[1], "\x00\n\r") {
			return documentError("config", f[0], "contains a NUL byte or a newline")
		}
	}
	if slices.Contains(strings.Split(s.WorkingDir, "/"), "..") {
		return documentError("config", "config.WorkingDir", "%q has a .. in it", clip(s.WorkingDir, 80))
	}
	for k, v := range s.Labels {
		if strings.ContainsRune(k, 0) || strings.ContainsRune(v, 0) {
			return documentError("config", "config.Labels."+clip(strings.ReplaceAll(k, "\x00", "?"), 60), "contains a NUL byte")
		}
	}
	for v := range s.Volumes {
		if strings.ContainsRune(v, 0) {
			return documentError("config", "config.Volumes", "contains a NUL byte")
		}
	}
	return nil
}
