package sif

import (
	"strings"
)

const environmentPath = ".singularity.d/env/10-docker2singularity.sh"

// Variable is a variable that the environment script of an image sets.
type Variable struct {
	Name  string
	Value string
	// Override is set for PATH: it replaces a value from outside. Other variables keep one that is not empty.
	Override bool
}

// environmentScript sets the variables of an OCI config: PATH always, others unless they have a value. Names that a shell would not take are
// left out.
func environmentScript(env []string) string {
	var b strings.Builder
	b.WriteString("#!/bin/sh\n")
	for _, entry := range env {
		name, value, hasValue := strings.Cut(entry, "=")
		value = strings.ReplaceAll(value, "\x00", "")
		switch {
		case !isVariableName(name):
		case !hasValue:
			b.WriteString("export " + name + `="${` + name + `:-}"` + "\n")
		case name == "PATH":
			b.WriteString("export PATH=" + doubleQuote(value) + "\n")
		default:
			b.WriteString("export " + name + `="${` + name + ":-" + doubleQuote(value) + `}"` + "\n")
		}
	}
	return b.String()
}

func isVariableName(s string) bool {
	for i, c := range []byte(s) {
		letter := c == '_' || 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z'
		if !letter && (i == 0 || c < '0' || c > '9') {
			return false
		}
	}
	return s != ""
}

// doubleQuote quotes s for a shell so that nothing in it is special.
func doubleQuote(s string) string {
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`, "`", "\\`", `$`, `\$`).Replace(s) + `"`
}

// unquoteDouble reads a double-quoted string off the front of s, if it is one that doubleQuote could have made.
func unquoteDouble(s string) (value, rest string, ok bool) {
	if !strings.HasPrefix(s, `"`) {
		return "", "", false
	}
	var b strings.Builder
	for i := 1; i < len(s); i++ {
		switch c := s[i]; c {
		case '"':
			return b.String(), s[i+1:], true
		case '$', '`':
			return "", "", false
		case '\\':
			i++
			if i == len(s) || !strings.ContainsRune("\\\"`$", rune(s[i])) {
				return "", "", false
			}
			b.WriteByte(s[i])
		default:
			b.WriteByte(c)
		}
	}
	return "", "", false
}

// ParseEnvironment reads the script that converters leave in .singularity.d/env/10-docker2singularity.sh, without running it. It is for
// images that carry no oci-config.json. ok is false if the script holds anything that a converter does not write; then only a
// shell can tell what it does.
func ParseEnvironment(script string) (vars []Variable, ok bool) {
	rest, found := strings.CutPrefix(script, "#!/bin/sh\n")
	if !found {
		return nil, false
	}
	for rest != "" {
		if rest[0] == '\n' {
			rest = rest[1:]
			continue
		}
		var v Variable
		if v, rest, ok = parseExport(rest); !ok {
			return nil, false
		}
		vars = append(vars, v)
	}
	return vars, true
}

// OwnEnvironment reports whether scripts of the image set variables that its OCI configuration does not have: those of %environment in
// a definition file, of what %post has added, of SCIF apps. Only a shell can tell them. Scripts that converters leave in every
// image do not count.
func (a *Attributes) OwnEnvironment() bool {
	for path, script := range a.Environment {
		if path == "/"+environmentPath {
			if _, ok := ParseEnvironment(script); !ok {
				return true
			}
		} else if !onlyComments(script) {
			return true
		}
	}
	return false
}

// OwnRunscript reports whether the image has a run script of its own, %runscript of a definition file, and not the one that converters
// make of entry point and command of an OCI image.
func (a *Attributes) OwnRunscript() bool {
	_, _, made := ParseRunscript(a.Runscript)
	return !made && !onlyComments(a.Runscript)
}

func onlyComments(script string) bool {
	for line := range strings.Lines(script) {
		if line = strings.TrimSpace(line); line != "" && line[0] != '#' {
			return false
		}
	}
	return true
}

// parseExport reads one of the three forms of environmentScript, with its newline.
func parseExport(s string) (v Variable, rest string, ok bool) {
	s, ok = strings.CutPrefix(s, "export ")
	if !ok {
		return v, "", false
	}
	v.Name, s, ok = strings.Cut(s, "=")
	if !ok || !isVariableName(v.Name) {
		return v, "", false
	}
	if body, keep := strings.CutPrefix(s, `"${`+v.Name+":-"); keep {
		if s, keep = strings.CutPrefix(body, `}"`); !keep {
			if v.Value, s, ok = unquoteDouble(body); !ok {
				return v, "", false
			}
			if s, ok = strings.CutPrefix(s, `}"`); !ok {
				return v, "", false
			}
		}
	} else {
		v.Override = true
		if v.Value, s, ok = unquoteDouble(s); !ok {
			return v, "", false
		}
	}
	rest, ok = strings.CutPrefix(s, "\n")
	return v, rest, ok || s == "" // Metadata has the text without its last newline
}
