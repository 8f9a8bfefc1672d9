package sif

import (
	"strings"
)

// runscriptMarker is the line by which runtimes recognise the run script of an OCI image. They then interpret the script themselves, which is
// what lets an image without a shell run. It must stand alone on its line.
const runscriptMarker = `eval "set ${SINGULARITY_OCI_RUN}"`

// evaluatedRunscript is the rest of the script after the branch in which words stay as they are.
const evaluatedRunscript = `else
    # The words as the shell sees them.
    CMDLINE_ARGS=""
    for OCI_ARG in "$@"; do
        CMDLINE_ARGS="${CMDLINE_ARGS} \"$OCI_ARG\""
    done
    if [ $# -gt 0 ]; then
        SINGULARITY_OCI_RUN="-- ${OCI_ENTRYPOINT} ${CMDLINE_ARGS}"
    else
        SINGULARITY_OCI_RUN="-- ${OCI_ENTRYPOINT} ${OCI_CMD}"
    fi
fi
` + runscriptMarker + `
if [ $# -eq 0 ]; then
    echo "the image has neither an entry point nor a command" >&2
    exit 1
fi
exec "$@"
`

// Runscript returns the run script of an OCI image:
//
//	entry point only    entry point and arguments
//	command only        command, or the arguments instead of it
//	both                entry point, and the arguments or else the command
//	neither             the arguments
//
// By default words are evaluated once more by the shell, arguments included, as users of Apptainer know it. With SINGULARITY_NO_EVAL
// set nothing is evaluated, as an OCI runtime does.
func Runscript(entrypoint, cmd []string) string {
	var b strings.Builder
	b.WriteString("#!/bin/sh\n")
	b.WriteString("OCI_ENTRYPOINT=" + singleQuote(joinQuoted(entrypoint)) + "\n")
	b.WriteString("OCI_CMD=" + singleQuote(joinQuoted(cmd)) + "\n")
	b.WriteString("\nif [ -n \"$SINGULARITY_NO_EVAL\" ]; then\n    # The words exactly as they are.\n")
	if len(cmd) > 0 {
		b.WriteString("    [ $# -gt 0 ] || set --" + spaced(cmd) + "\n")
	}
	if len(entrypoint) > 0 {
		b.WriteString("    set --" + spaced(entrypoint) + " \"$@\"\n")
	}
	b.WriteString("    SINGULARITY_OCI_RUN='-- \"$@\"'\n")
	b.WriteString(evaluatedRunscript)
	return b.String()
}

// singleQuote quotes s for a shell so that nothing in it is special.
func singleQuote(s string) string {
	s = strings.ReplaceAll(s, "\x00", "")
	return `'` + strings.ReplaceAll(s, `'`, `'"'"'`) + `'`
}

func joinQuoted(words []string) string {
	quoted := make([]string, len(words))
	for i, w := range words {
		quoted[i] = doubleQuote(w)
	}
	return strings.Join(quoted, " ")
}

func spaced(words []string) string {
	var b strings.Builder
	for _, w := range words {
		b.WriteString(" " + singleQuote(w))
	}
	return b.String()
}

// ParseRunscript reads entry point and command back from the run script of an OCI image, ours or that of Apptainer or SingularityCE,
// without running it. It is for images that carry no oci-config.json. ok is false for any other script.
func ParseRunscript(script string) (entrypoint, cmd []string, ok bool) {
	if !hasLine(script, runscriptMarker) {
		return nil, nil, false
	}
	rest, found := strings.CutPrefix(script, "#!/bin/sh\n")
	if !found {
		return nil, nil, false
	}
	entrypoint, rest, ok = parseWords(rest, "OCI_ENTRYPOINT=")
	if !ok {
		return nil, nil, false
	}
	cmd, _, ok = parseWords(rest, "OCI_CMD=")
	if !ok {
		return nil, nil, false
	}
	return entrypoint, cmd, true
}

func hasLine(text, line string) bool {
	return strings.Contains("\n"+text+"\n", "\n"+line+"\n")
}

// parseWords reads `NAME='"word" "word"'` and its newline.
func parseWords(s, assignment string) (words []string, rest string, ok bool) {
	s, ok = strings.CutPrefix(s, assignment)
	if !ok {
		return nil, "", false
	}
	list, rest, ok := unquoteSingle(s)
	if !ok || !strings.HasPrefix(rest, "\n") {
		return nil, "", false
	}
	for list = strings.Trim(list, " "); list != ""; list = strings.TrimLeft(list, " ") {
		var word string
		if word, list, ok = unquoteDouble(list); !ok {
			return nil, "", false
		}
		words = append(words, word)
	}
	return words, rest[1:], true
}

// unquoteSingle reads a quoted string off the front of s, if it is one that singleQuote could have made.
func unquoteSingle(s string) (value, rest string, ok bool) {
	const escaped = `'"'"'`
	s, ok = strings.CutPrefix(s, `'`)
	if !ok {
		return "", "", false
	}
	var b strings.Builder
	for {
		part, after, found := strings.Cut(s, `'`)
		if !found {
			return "", "", false
		}
		b.WriteString(part)
		if next, more := strings.CutPrefix(after, escaped[1:]); more {
			b.WriteByte('\'')
			s = next
			continue
		}
		return b.String(), after, true
	}
}
