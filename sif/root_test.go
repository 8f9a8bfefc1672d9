package sif_test

import (
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/google/go-cmp/cmp"

	"hpcimg/internal/oracle"
	"hpcimg/sif"
)

func rootInput() *sif.RootInput {
	return &sif.RootInput{
		Config: sif.ImageConfig{
			Env:        []string{"PATH=/opt/bin:/bin", "LANG=C.UTF-8", "BARE", "1BAD=x", "app=image", "A.B=x", `Q="a" 'b' \ $HOME ` + "`id` } *\nend"},
			Entrypoint: []string{"/entry"},
			Cmd:        []string{"a b", "it's"},
			Labels:     map[string]string{"maintainer": "someone", "org.opencontainers.image.created": "theirs"},
		},
		Definition: sif.DefinitionFor("docker", "debian:12"),
		Labels:     map[string]string{"maintainer": "me"},
		Arch:       "amd64",
		BuildDate:  time.Date(2026, 3, 4, 5, 6, 7, 0, time.FixedZone("", 3600)),
		Tool:       "hpcimg", Version: "0.1",
	}
}

func rootFiles(t testing.TB, in *sif.RootInput) (map[string]sif.RootFile, *sif.Metadata) {
	t.Helper()
	files, metadata, err := sif.RootFiles(in)
	must(t, err)
	byPath := make(map[string]sif.RootFile)
	for _, f := range files {
		if parent := path.Dir(f.Path); parent != "." && byPath[parent].Mode&fs.ModeDir == 0 {
			t.Errorf("%s comes before its directory", f.Path)
		}
		if _, twice := byPath[f.Path]; twice || path.Clean(f.Path) != f.Path || strings.HasPrefix(f.Path, "/") {
			t.Errorf("path %q", f.Path)
		}
		byPath[f.Path] = f
	}
	return byPath, metadata
}

func TestRootFiles(t *testing.T) {
	files, _ := rootFiles(t, rootInput())
	type want struct {
		mode     fs.FileMode
		target   string
		existing sif.Existing
	}
	wants := map[string]want{
		"etc/hosts": {0o644, "", sif.Overwrite}, "etc/resolv.conf": {0o644, "", sif.Overwrite},
		".singularity.d/labels.json": {0o644, "", sif.Overwrite}, ".singularity.d/Singularity": {0o644, "", sif.MoveToHistory},
	}
	for dir := range strings.FieldsSeq(".singularity.d .singularity.d/libs .singularity.d/actions .singularity.d/env dev proc root var var/tmp tmp etc sys home") {
		wants[dir] = want{fs.ModeDir | 0o755, "", sif.KeepExisting}
	}
	for link, target := range map[string]string{
		"singularity": "runscript", ".run": "actions/run", ".exec": "actions/exec", ".test": "actions/test", ".shell": "actions/shell",
		"environment": "env/90-environment.sh",
	} {
		wants[link] = want{fs.ModeSymlink | 0o777, ".singularity.d/" + target, sif.ReplaceLink}
	}
	for script := range strings.FieldsSeq("actions/exec actions/run actions/shell actions/start actions/test runscript startscript " +
		"env/01-base.sh env/10-docker2singularity.sh env/90-environment.sh env/95-apps.sh env/99-base.sh env/99-runtimevars.sh") {
		wants[".singularity.d/"+script] = want{0o755, "", sif.Overwrite}
	}
	got := make(map[string]want)
	for p, f := range files {
		got[p] = want{f.Mode, f.Target, f.Existing}
	}
	if diff := cmp.Diff(wants, got, cmp.AllowUnexported(want{})); diff != "" {
		t.Fatalf("files (-want +got):\n%s", diff)
	}
	for _, p := range []string{"etc/hosts", "etc/resolv.conf"} {
		if len(files[p].Data) != 0 {
			t.Errorf("%s is not empty", p)
		}
	}
	if _, _, err := sif.RootFiles(&sif.RootInput{Arch: "vax"}); !errors.Is(err, sif.ErrArch) {
		t.Errorf("unknown architecture: %v", err)
	}
}

func TestEnvironmentText(t *testing.T) {
	files, _ := rootFiles(t, rootInput())
	want := `#!/bin/sh
export PATH="/opt/bin:/bin"
export LANG="${LANG:-"C.UTF-8"}"
export BARE="${BARE:-}"
export app="${app:-"image"}"
export Q="${Q:-"\"a\" 'b' \\ \$HOME ` + "\\`id\\`" + ` } *
end"}"
`
	got := string(files[".singularity.d/env/10-docker2singularity.sh"].Data)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Fatalf("(-want +got):\n%s", diff)
	}
	if _, ok := sif.ParseEnvironment(strings.TrimRight(got, "\n")); !ok {
		t.Error("refused the text without its last newline")
	}
	vars, ok := sif.ParseEnvironment(got)
	wantVars := []sif.Variable{
		{Name: "PATH", Value: "/opt/bin:/bin", Override: true},
		{Name: "LANG", Value: "C.UTF-8"},
		{Name: "BARE"},
		{Name: "app", Value: "image"},
		{Name: "Q", Value: `"a" 'b' \ $HOME ` + "`id` } *\nend"},
	}
	if diff := cmp.Diff(wantVars, vars); diff != "" || !ok {
		t.Fatalf("parsed %v (-want +got):\n%s", ok, diff)
	}
}

func TestMetadata(t *testing.T) {
	files, metadata := rootFiles(t, rootInput())
	labels := map[string]string{
		"maintainer":                                           "me",
		"org.label-schema.schema-version":                      "1.0",
		"org.label-schema.build-arch":                          "amd64",
		"org.label-schema.build-date":                          "Wednesday_4_March_2026_4:6:7_UTC",
		"org.label-schema.usage.hpcimg.version":                "0.1",
		"org.label-schema.usage.singularity.deffile.bootstrap": "docker",
		"org.label-schema.usage.singularity.deffile.from":      "debian:12",
		"org.opencontainers.image.architecture":                "amd64",
		"org.opencontainers.image.created":                     "theirs",
	}
	text := func(p string) string { return strings.TrimRight(string(files[p].Data), "\n") }
	want := &sif.Metadata{Type: "container", Data: sif.MetadataData{Attributes: sif.Attributes{
		Labels: labels,
		Environment: map[string]string{
			"/.singularity.d/env/10-docker2singularity.sh": text(".singularity.d/env/10-docker2singularity.sh"),
			"/.singularity.d/env/90-environment.sh":        text(".singularity.d/env/90-environment.sh"),
		},
		Runscript: text(".singularity.d/runscript"), Startscript: text(".singularity.d/startscript"), Deffile: "bootstrap: docker\nfrom: debian:12",
	}}}
	if diff := cmp.Diff(want, metadata); diff != "" {
		t.Fatalf("metadata (-want +got):\n%s", diff)
	}
	var stored map[string]string
	data := files[".singularity.d/labels.json"].Data
	must(t, json.Unmarshal(data, &stored))
	if diff := cmp.Diff(labels, stored); diff != "" || !strings.HasPrefix(string(data), "{\n\t\"maintainer\": \"me\",\n") {
		t.Fatalf("labels.json %s\n%s", data, diff)
	}
	encoded, err := json.Marshal(metadata)
	must(t, err)
	if !strings.HasPrefix(string(encoded), `{"data":{"attributes":{"environment":{"/.sing`) || !strings.HasSuffix(string(encoded), `"},"type":"container"}`[1:]) {
		t.Fatalf("JSON %s", encoded)
	}
}

// rootDir writes the scripts to disk with /.singularity.d replaced by a directory of the test.
func rootDir(t *testing.T, in *sif.RootInput) string {
	t.Helper()
	root := t.TempDir()
	files, _, err := sif.RootFiles(in)
	must(t, err)
	for _, f := range files {
		name := filepath.Join(root, f.Path)
		switch {
		case f.Mode.IsDir():
			must(t, os.MkdirAll(name, f.Mode.Perm()))
		case f.Mode&fs.ModeSymlink != 0:
			must(t, os.Symlink(f.Target, name))
		default:
			text := strings.ReplaceAll(string(f.Data), "/.singularity.d", root+"/.singularity.d")
			must(t, os.WriteFile(name, []byte(strings.ReplaceAll(text, "/scif/apps", root+"/scif/apps")), f.Mode))
		}
	}
	return root
}

func shells(t *testing.T) []string { return []string{oracle.Tool(t, "sh"), oracle.Tool(t, "bash")} }

func TestScriptSyntax(t *testing.T) {
	root := rootDir(t, rootInput())
	for _, sh := range shells(t) {
		must(t, filepath.WalkDir(filepath.Join(root, ".singularity.d"), func(name string, d fs.DirEntry, err error) error {
			if err != nil || !d.Type().IsRegular() || filepath.Base(name) == "labels.json" || filepath.Base(name) == "Singularity" {
				return err
			}
			if out, err := exec.Command(sh, "-n", name).CombinedOutput(); err != nil {
				t.Errorf("%s: %s -n %s: %s", sh, filepath.Base(sh), name, out)
			}
			return nil
		}))
	}
}

// run runs a script with a small environment and returns its output.
func run(t *testing.T, env []string, sh string, args ...string) (string, error) {
	t.Helper()
	cmd := exec.Command(sh, args...)
	cmd.Env = append([]string{"PATH=/usr/bin:/bin"}, env...)
	cmd.Dir = t.TempDir()
	out, err := cmd.Output()
	return string(out), err
}

func TestActions(t *testing.T) {
	in := rootInput()
	in.Config.Env = []string{"PATH=/opt/bin:/usr/bin:/bin", "LANG=C.UTF-8", "KEEP=image", "__x=1", `Q=a "b" $c } *`, "part=p", "shell=s", "OCI_ARG=o"}
	in.Config.Entrypoint, in.Config.Cmd = []string{"printf", "[%s]"}, []string{"default word", "$KEEP"}
	root := rootDir(t, in)
	action := func(name string) string { return filepath.Join(root, ".singularity.d/actions", name) }
	must(t, os.MkdirAll(filepath.Join(root, "scif/apps/tool/bin"), 0o755))
	must(t, os.MkdirAll(filepath.Join(root, "scif/apps/tool/scif"), 0o755))
	must(t, os.WriteFile(filepath.Join(root, "scif/apps/tool/scif/runscript"), []byte("#!/bin/sh\necho app \"$@\" $PATH\n"), 0o755))
	must(t, os.WriteFile(filepath.Join(root, ".singularity.d/test"), []byte("#!/bin/sh\necho tested \"$@\"\n"), 0o755))
	libs := root + "/.singularity.d/libs"
	tests := []struct {
		name string
		env  []string
		args []string
		want string
	}{
		{"exec", nil, []string{action("exec"), "printf", "%s|", "a b", "$x", "'"}, "a b|$x|'|"},
		{"variables", []string{"KEEP=outer"}, []string{action("exec"), "sh", "-c", `echo "$KEEP,$LANG,$Q,$PATH,$part,$shell,$OCI_ARG"`}, "outer,C.UTF-8,a \"b\" $c } *,/opt/bin:/usr/bin:/bin,p,s,o\n"},
		{"empty is not kept", []string{"KEEP="}, []string{action("exec"), "sh", "-c", `echo $KEEP`}, "image\n"},
		{"libs", nil, []string{action("exec"), "sh", "-c", `echo $LD_LIBRARY_PATH`}, libs + "\n"},
		{"libs last", []string{"LD_LIBRARY_PATH=/x"}, []string{action("exec"), "sh", "-c", `echo $LD_LIBRARY_PATH`}, "/x:" + libs + "\n"},
		{"path", []string{"SING_USER_DEFINED_PREPEND_PATH=/p", "SING_USER_DEFINED_APPEND_PATH=/a"}, []string{action("exec"), "sh", "-c", `echo $PATH$SING_USER_DEFINED_APPEND_PATH`}, "/p:/opt/bin:/usr/bin:/bin:/a\n"},
		{"whole path", []string{"SING_USER_DEFINED_PATH=/usr/bin:/bin"}, []string{action("exec"), "sh", "-c", `echo $PATH`}, "/usr/bin:/bin\n"},
		{"run", nil, []string{action("run")}, "[default word][$KEEP]"},
		{"run with arguments", nil, []string{action("run"), "x y", "z"}, "[x y][z]"},
		{"run app", []string{"SINGULARITY_APPNAME=tool"}, []string{action("run"), "x"}, "app x " + root + "/scif/apps/tool/bin:" + root + "/scif/apps/tool:" + root + "/scif/apps/singularity:/opt/bin:/usr/bin:/bin\n"},
		{"test", nil, []string{action("test"), "x"}, "tested x\n"},
		{"shell", nil, []string{action("shell"), "-c", "echo $SHELL"}, "/bin/bash\n"},
		{"chosen shell", []string{"SINGULARITY_SHELL=/bin/sh"}, []string{action("shell"), "-c", "echo $SHELL"}, "/bin/sh\n"},
	}
	for _, sh := range shells(t) {
		for _, tt := range tests {
			t.Run(filepath.Base(sh)+"/"+tt.name, func(t *testing.T) {
				got, err := run(t, tt.env, sh, tt.args...)
				if err != nil || got != tt.want {
					t.Fatalf("got %q, %v, want %q", got, err, tt.want)
				}
			})
		}
	}
}

func TestRunscript(t *testing.T) {
	printer := []string{"printf", "[%s]"}
	noEval := []string{"SINGULARITY_NO_EVAL=1", "V=v"}
	eval := []string{"V=v"}
	hostile := []string{"it's", `"q"`, "`id`", "$V", "a  b", "*", `back\slash`, "-n", ";", "\n", "é"}
	tests := []struct {
		name            string
		entrypoint, cmd []string
		env, args       []string
		want            string
		fails           bool
	}{
		{"both", printer, []string{"c"}, eval, nil, "[c]", false},
		{"both, arguments", printer, []string{"c"}, eval, []string{"x"}, "[x]", false},
		{"entry point", []string{"printf", "[%s]", "e"}, nil, eval, nil, "[e]", false},
		{"entry point, arguments", printer, nil, eval, []string{"x", "y z"}, "[x][y z]", false},
		{"command", nil, []string{"printf", "[%s]", "c"}, eval, nil, "[c]", false},
		{"command, arguments", nil, []string{"c"}, eval, []string{"printf", "[%s]", "x"}, "[x]", false},
		{"neither", nil, nil, eval, nil, "", true},
		{"neither, arguments", nil, nil, eval, []string{"printf", "x"}, "x", false},
		{"hostile", printer, hostile, eval, nil, "[" + strings.Join(hostile, "][") + "]", false},
		{"argument evaluated", printer, nil, eval, []string{"$V"}, "[v]", false},
		{"both, no eval", printer, []string{"c"}, noEval, nil, "[c]", false},
		{"both, arguments, no eval", printer, []string{"c"}, noEval, []string{"$V", `"`}, `[$V]["]`, false},
		{"entry point, no eval", []string{"printf", "[%s]", "e"}, nil, noEval, nil, "[e]", false},
		{"command, no eval", nil, []string{"printf", "[%s]", "c"}, noEval, nil, "[c]", false},
		{"command, arguments, no eval", nil, []string{"c"}, noEval, []string{"printf", "[%s]", "$V"}, "[$V]", false},
		{"neither, no eval", nil, nil, noEval, nil, "", true},
		{"hostile, no eval", printer, hostile, noEval, nil, "[" + strings.Join(hostile, "][") + "]", false},
		{"leading dash", nil, []string{"-x"}, eval, []string{"printf", "%s", "-e"}, "-e", false},
	}
	for _, sh := range shells(t) {
		for _, tt := range tests {
			t.Run(filepath.Base(sh)+"/"+tt.name, func(t *testing.T) {
				script := sif.Runscript(tt.entrypoint, tt.cmd)
				name := filepath.Join(t.TempDir(), "runscript")
				must(t, os.WriteFile(name, []byte(script), 0o755))
				got, err := run(t, tt.env, sh, append([]string{name}, tt.args...)...)
				if got != tt.want || (err != nil) != tt.fails {
					t.Fatalf("got %q, %v, want %q\n%s", got, err, tt.want, script)
				}
				if !strings.Contains(script, "\neval \"set ${SINGULARITY_OCI_RUN}\"\n") {
					t.Fatalf("marker line is missing:\n%s", script)
				}
				entrypoint, cmd, ok := sif.ParseRunscript(script)
				if !ok || !cmp.Equal(entrypoint, tt.entrypoint) || !cmp.Equal(cmd, tt.cmd) {
					t.Fatalf("parsed %q %q %v", entrypoint, cmd, ok)
				}
			})
		}
	}
}

func TestParseRefuses(t *testing.T) {
	for _, script := range []string{"", "#!/bin/sh\n", "#!/bin/sh\nexec \"$@\"\n", "#!/bin/sh\nOCI_ENTRYPOINT='$(id)'\nOCI_CMD=''\neval \"set ${SINGULARITY_OCI_RUN}\"\n"} {
		if _, _, ok := sif.ParseRunscript(script); ok {
			t.Errorf("took run script %q", script)
		}
	}
	for _, script := range []string{"", "export A=b\n", "#!/bin/sh\nexport A=\"$(id)\"\n", "#!/bin/sh\nexport A=\"${B:-\"x\"}\"\n", "#!/bin/sh\nexport A=\"x\"; id\n", "#!/bin/sh\nexport A=\"x"} {
		if _, ok := sif.ParseEnvironment(script); ok {
			t.Errorf("took environment %q", script)
		}
	}
}

// TestOwnScripts tells scripts that a definition file has brought from those that are in every image of an OCI image.
func TestOwnScripts(t *testing.T) {
	_, metadata := rootFiles(t, rootInput())
	made := metadata.Data.Attributes
	if made.OwnEnvironment() || made.OwnRunscript() {
		t.Errorf("of a converted image: environment %v, run script %v", made.OwnEnvironment(), made.OwnRunscript())
	}
	const path = "/.singularity.d/env/"
	for _, test := range []struct {
		file, script string
		own          bool
	}{
		{"90-environment.sh", "#!/bin/sh\n# Copyright\n\n    # indented\n", false},
		{"90-environment.sh", "#!/bin/sh\n    export A=1", true},
		{"91-environment.sh", "export A=1", true},
		{"94-appsbase.sh", "export SCIF_APPDATA_a=/scif/data/a", true},
		{"10-docker2singularity.sh", "#!/bin/sh\nexport A=\"${A:-\"1\"}\"", false},
		{"10-docker2singularity.sh", "#!/bin/sh\nexport A=\"$(id)\"", true},
	} {
		a := sif.Attributes{Environment: map[string]string{path + test.file: test.script}}
		if got := a.OwnEnvironment(); got != test.own {
			t.Errorf("%s %q: %v", test.file, test.script, got)
		}
	}
	for script, own := range map[string]bool{"": false, "#!/bin/sh\n": false, "#!/bin/sh\n\n    exec app \"$@\"": true, "#!/bin/sh\nOCI_ENTRYPOINT=''\nexec app": true} {
		if a := (sif.Attributes{Runscript: script}); a.OwnRunscript() != own {
			t.Errorf("run script %q: %v", script, !own)
		}
	}
}

// TestReadAttributes finds the scripts that an image has of its own, and has them kept.
func TestReadAttributes(t *testing.T) {
	file := func(text string) *fstest.MapFile { return &fstest.MapFile{Data: []byte(text), Mode: 0o755} }
	const env = ".singularity.d/env/"
	root := fstest.MapFS{
		env + "01-base.sh": file("#!/bin/sh\n"), env + "10-docker2singularity.sh": file("#!/bin/sh\n"), env + "90-environment.sh": file("export A=1\n"),
		env + "91-environment.sh": file("export B=1\n"), env + "99-base.sh": file("export C=1\n"), env + "93-large.sh": file(strings.Repeat("#", 1<<20+1)),
		env + "92-link.sh":         {Data: []byte("90-environment.sh"), Mode: fs.ModeSymlink | 0o777},
		".singularity.d/runscript": file("#!/bin/sh\nexec app\n"),
	}
	got := sif.ReadAttributes(root)
	want := &sif.Attributes{Runscript: "#!/bin/sh\nexec app", Environment: map[string]string{
		"/" + env + "10-docker2singularity.sh": "#!/bin/sh", "/" + env + "90-environment.sh": "export A=1", "/" + env + "91-environment.sh": "export B=1",
	}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Fatalf("(-want +got)\n%s", diff)
	}
	files, metadata, err := sif.RootFiles(rootInput())
	must(t, err)
	started := metadata.Data.Attributes.Startscript
	sif.KeepScripts(files, metadata, got)
	rules := map[string]sif.Existing{}
	for _, f := range files {
		rules[f.Path] = f.Existing
	}
	for path, rule := range map[string]sif.Existing{
		env + "10-docker2singularity.sh": sif.KeepExisting, env + "90-environment.sh": sif.KeepExisting, ".singularity.d/runscript": sif.KeepExisting,
		".singularity.d/startscript": sif.Overwrite, ".singularity.d/actions/exec": sif.Overwrite,
	} {
		if rules[path] != rule {
			t.Errorf("%s: rule %d", path, rules[path])
		}
	}
	a := metadata.Data.Attributes
	if diff := cmp.Diff(want.Environment, a.Environment); diff != "" || a.Runscript != want.Runscript || a.Startscript != started {
		t.Errorf("metadata %+v\n%s", a, diff)
	}
	for name := range root {
		delete(root, name)
	}
	if got := sif.ReadAttributes(root); got != nil {
		t.Errorf("of nothing: %+v", got)
	}
	root[".singularity.d"] = &fstest.MapFile{Data: []byte("elsewhere"), Mode: fs.ModeSymlink | 0o777}
	root["elsewhere/env/90-environment.sh"] = file("export A=1\n")
	if got := sif.ReadAttributes(root); got != nil {
		t.Errorf("behind a link: %+v", got)
	}
}

func FuzzRunscript(f *testing.F) {
	f.Add("printf", "it's", "$x `y` \"z\" \\")
	f.Fuzz(func(t *testing.T, entry, cmd, value string) {
		if strings.ContainsRune(entry+cmd+value, 0) {
			return // no program can be given such a word
		}
		gotEntry, gotCmd, ok := sif.ParseRunscript(sif.Runscript([]string{entry}, []string{cmd, entry}))
		if !ok || !cmp.Equal(gotEntry, []string{entry}) || !cmp.Equal(gotCmd, []string{cmd, entry}) {
			t.Fatalf("run script: %q %q %v", gotEntry, gotCmd, ok)
		}
		sif.ParseRunscript(entry)
		sif.ParseEnvironment(entry)
		files, _, err := sif.RootFiles(&sif.RootInput{Arch: "amd64", Config: sif.ImageConfig{Env: []string{"A=" + value, "PATH=" + entry}}})
		must(t, err)
		for _, file := range files {
			if path.Base(file.Path) == "10-docker2singularity.sh" {
				vars, ok := sif.ParseEnvironment(string(file.Data))
				if !ok || !cmp.Equal(vars, []sif.Variable{{Name: "A", Value: value}, {Name: "PATH", Value: entry, Override: true}}) {
					t.Fatalf("environment: %+v %v", vars, ok)
				}
			}
		}
	})
}

// FuzzParseEnvironment reads scripts that somebody else has written: what is taken is nothing but variables, and means the same when it is
// written again.
func FuzzParseEnvironment(f *testing.F) {
	f.Add("#!/bin/sh\nexport PATH=\"/bin\"\nexport A=\"${A:-\"x\\\"y\"}\"\nexport B=\"${B:-}\"\n")
	f.Add("#!/bin/sh\nexport A=\"$(id)\"\n")
	f.Fuzz(func(t *testing.T, script string) {
		a := sif.Attributes{Environment: map[string]string{"/.singularity.d/env/10-docker2singularity.sh": script}, Runscript: script}
		vars, ok := sif.ParseEnvironment(script)
		if a.OwnRunscript(); ok == a.OwnEnvironment() {
			t.Fatalf("%q: read %v, and yet has more %v", script, ok, ok)
		}
		if _, _, also := sif.ParseRunscript(script); !ok || also {
			return
		}
		total := 0
		for _, v := range vars {
			if total += len(v.Name) + len(v.Value); v.Name == "" || strings.ContainsAny(v.Name, "=\" $`\\\n;") {
				t.Fatalf("%q is no name, in %q", v.Name, script)
			}
		}
		if total > len(script) {
			t.Fatalf("%d bytes of %q", total, script)
		}
		again, ok := sif.ParseEnvironment(script + "\n\n")
		if !ok || !cmp.Equal(again, vars) {
			t.Fatalf("with empty lines: %v, %v", again, vars)
		}
	})
}
