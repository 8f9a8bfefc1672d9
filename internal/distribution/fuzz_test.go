package distribution_test

import (
	"fmt"
	"maps"
	"regexp"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"hpcimg/internal/distribution"
)

func challenges() map[string]string {
	return map[string]string{
		`Bearer realm="https://auth.docker.io/token",service="registry.docker.io"`:    "bearer map[realm:https://auth.docker.io/token service:registry.docker.io]",
		`Bearer realm="https://a/token",service="a",scope="repository:a/b:pull,push"`: "bearer map[realm:https://a/token scope:repository:a/b:pull,push service:a]",
		`BEARER Realm="https://a/token" , SERVICE=a`:                                  "bearer map[realm:https://a/token service:a]",
		`Basic realm="a \"quoted\" realm"`:                                            `basic map[realm:a "quoted" realm]`,
		`Basic`:                                                                       "basic map[]",
		`Negotiate, Basic realm=x`:                                                    "basic map[realm:x]",
		`Negotiate dG9rZW4=, Bearer realm="https://a"`:                                "bearer map[realm:https://a]",
		`Digest realm="a, Basic realm=b", nonce="x", Basic realm="c"`:                 "basic map[realm:c]",
		`Bearer realm="https://a",realm="https://evil"`:                               "bearer map[realm:https://a]",
		`Bearer realm="https://a`:                                                     "bearer map[realm:https://a]",
		`Bearer realm=https://a/token?x=y,service=b`:                                  "bearer map[realm:https://a/token?x=y service:b]",
		`Bearer error="invalid_token", realm="https://a"`:                             "bearer map[error:invalid_token realm:https://a]",
		``:                    " map[]",
		`,,, ,`:               " map[]",
		`=`:                   " map[]",
		`"`:                   " map[]",
		`Kerberos`:            " map[]",
		`Bearer`:              "bearer map[]",
		`Bearer =x,realm="a"`: "bearer map[]",
	}
}

func TestChallenges(t *testing.T) {
	for value, want := range challenges() {
		scheme, parameters := distribution.PickChallenge(value)
		if got := fmt.Sprint(scheme, " ", parameters); got != want {
			t.Errorf("%s: got %s, want %s", value, got, want)
		}
	}
}

// FuzzChallenge: whatever is parsed and written again means the same.
func FuzzChallenge(f *testing.F) {
	for value := range challenges() {
		f.Add(value)
	}
	f.Fuzz(func(t *testing.T, value string) {
		scheme, parameters := distribution.PickChallenge(value)
		if scheme != "" && scheme != "basic" && scheme != "bearer" {
			t.Fatalf("scheme %q", scheme)
		}
		if scheme == "" {
			return
		}
		var again []string
		for k, v := range parameters {
			v = strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(v)
			again = append(again, k+`="`+v+`"`)
		}
		if text := scheme + " " + strings.Join(again, ", "); len(text) < 16<<10 {
			scheme2, parameters2 := distribution.PickChallenge(text)
			if scheme2 != scheme || !maps.Equal(parameters, parameters2) {
				t.Fatalf("%q is %s %v, and %q is %s %v", value, scheme, parameters, text, scheme2, parameters2)
			}
		}
	})
}

// FuzzContentRange: what is accepted is what RFC 9110 writes, with numbers that fit.
func FuzzContentRange(f *testing.F) {
	for _, s := range []string{"bytes 0-0/1", "bytes 5-9/*", "bytes 0-9223372036854775807/*", "bytes */5", "bytes 1-", "bytes -1-2/3", "bytes 1-2/-1", "bytes +1-2/3", "items 0-1/2", ""} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		first, last, total, ok := distribution.ParseContentRange(s)
		if !ok {
			return
		}
		all := fmt.Sprint(total)
		if total == -1 {
			all = "*"
		}
		// Leading zeros are all that may differ.
		want := fmt.Sprintf("bytes %d-%d/%s", first, last, all)
		if got := leadingZeros.ReplaceAllString(s, "$1"); first < 0 || last < 0 || total < -1 || got != want {
			t.Fatalf("%q is %s", s, want)
		}
	})
}

var leadingZeros = regexp.MustCompile(`\b0+([0-9])`)

// FuzzPrintable: the result can be shown, is short, and shown again it is the same.
func FuzzPrintable(f *testing.F) {
	for _, s := range []string{"plain", "\x1b]0;x\a", "\u202eabc", "\xff\xfe", "ö", "a\nb", `\x1b`, "\u0085\u2028", strings.Repeat("ö", 100)} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		got := distribution.Printable(s, 50)
		if !utf8.ValidString(got) || strings.ContainsFunc(got, func(r rune) bool { return r != '\n' && !unicode.IsPrint(r) }) || len(got) > 50*4+3 {
			t.Fatalf("%q became %q", s, got)
		}
		if again := distribution.Printable(got, 1000); again != got {
			t.Fatalf("%q became %q", got, again)
		}
	})
}

// FuzzUploaded: what is accepted of a Range header is a number of bytes that fits.
func FuzzUploaded(f *testing.F) {
	for _, s := range []string{"0-0", "0-99", "bytes=0-5", "0-9223372036854775807", "0-9223372036854775806", "1-5", "-", "0--1", "0-+1", ""} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		n, ok := distribution.Uploaded(s)
		if !ok {
			return
		}
		want := fmt.Sprintf("0-%d", max(n-1, 0))
		if got := leadingZeros.ReplaceAllString(strings.TrimPrefix(s, "bytes="), "$1"); n < 0 || got != want {
			t.Fatalf("%q is %d bytes", s, n)
		}
	})
}
