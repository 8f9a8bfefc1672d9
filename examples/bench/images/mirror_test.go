package images_test

import (
	"os"
	"path/filepath"
	"testing"

	"hpcimg/examples/bench/images"
)

func TestAptMirror(t *testing.T) {
	for _, test := range []struct{ name, file, text, want string }{
		{"one line", "sources.list", "# deb http://no.example/ x main\ndeb http://mirror.example/debian x-updates main\ndeb [arch=amd64 signed-by=/k.gpg] http://mirror.example/debian x main contrib\n", "{http://mirror.example/debian x [main contrib] /k.gpg}"},
		{"cdrom is none", "sources.list", "deb cdrom:[disc]/ x main\ndeb http://mirror.example/debian x main\n", "{http://mirror.example/debian x [main] }"},
		{"deb822", "sources.list.d/debian.sources", "Types: deb deb-src\n# a comment\nURIs: https://mirror.example/debian\nSuites: x-updates x\nComponents: main\n contrib\nSigned-By: /k.gpg\n\nTypes: deb\nURIs: https://other.example/\nSuites: x\n", "{https://mirror.example/debian x [main contrib] /k.gpg}"},
		{"disabled", "sources.list.d/a.sources", "Enabled: no\nTypes: deb\nURIs: https://mirror.example/debian\nSuites: x\n", "no entry for x in the sources of apt"},
		{"none", "sources.list.d/a.list", "deb http://mirror.example/ y main\n", "no entry for x in the sources of apt"},
	} {
		t.Run(test.name, func(t *testing.T) {
			etc := t.TempDir()
			file := filepath.Join(etc, "apt", test.file)
			if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
				t.Fatal(err)
			}
			for name, text := range map[string]string{file: test.text, filepath.Join(etc, "os-release"): "ID=debian\nVERSION_CODENAME=x\n"} {
				if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			if got := images.AptMirror(etc); got != test.want {
				t.Errorf("got  %s\nwant %s", got, test.want)
			}
		})
	}
}
