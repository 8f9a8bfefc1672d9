package distribution

import (
	"fmt"
	"strconv"
	"strings"
	"unicode/utf8"
)

// Printable is s, shortened to about n bytes, with everything escaped that would move a terminal's cursor, change its title, or
// hide or reorder text. Newlines stay.
func Printable(s string, n int) string {
	s = Clip(s, n)
	odd := func(r rune) bool { return r != '\n' && !strconv.IsPrint(r) }
	if utf8.ValidString(s) && !strings.ContainsFunc(s, odd) {
		return s
	}
	var b []byte
	for s != "" {
		r, size := utf8.DecodeRuneInString(s)
		switch {
		case r == utf8.RuneError && size == 1:
			b = fmt.Appendf(b, `\x%02x`, s[0])
		case odd(r):
			quoted := strconv.QuoteRune(r)
			b = append(b, quoted[1:len(quoted)-1]...)
		default:
			b = append(b, s[:size]...)
		}
		s = s[size:]
	}
	return string(b)
}

// Clip shortens s to about n bytes and says so. It cuts between characters.
func Clip(s string, n int) string {
	if len(s) <= n {
		return s
	}
	for n > 0 && !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n] + "…"
}
