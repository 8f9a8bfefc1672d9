package runtime_test

import (
	"errors"
	"fmt"
	"io/fs"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	hpcrun "hpcimg/runtime"
	"hpcimg/sif"
)

func TestEnvironment(t *testing.T) {
	t.Parallel()
	host := []string{
		"HOME=/home/host", "PATH=/host/bin", "LD_LIBRARY_PATH=/host/lib", "TERM=xterm", "LANG=host", "http_proxy=p", "NO_PROXY=n",
		"BASH_FUNC_module%%=() { evil; }", "=bad", "NUL=\x00", "X=1", "X=2", "TEXT=a\nb=c $(d) `e`",
	}
	image := []string{"PATH=/image/bin", "LANG=image", "ONLY=image", "noequals"}
	for _, test := range []struct {
		name string
		in   hpcrun.EnvInput
		want []string
	}{
		{"nothing", hpcrun.EnvInput{}, []string{"LD_LIBRARY_PATH=/.singularity.d/libs", "PATH=" + hpcrun.DefaultPath}},
		{"host", hpcrun.EnvInput{Host: host, Image: image, Home: "/home/me", Set: []string{"SET=1", "X=3"}}, []string{
			"HOME=/home/me", "LANG=image", "LD_LIBRARY_PATH=/.singularity.d/libs", "NO_PROXY=n", "ONLY=image", "PATH=/image/bin", "SET=1",
			"TERM=xterm", "TEXT=a\nb=c $(d) `e`", "X=3", "http_proxy=p",
		}},
		{"clean", hpcrun.EnvInput{Host: host, Clean: true, Image: image, ImagePath: "/i.sif", ImageName: "i.sif"}, []string{
			"APPTAINER_CONTAINER=/i.sif", "APPTAINER_NAME=i.sif", "LANG=image", "LD_LIBRARY_PATH=/.singularity.d/libs", "NO_PROXY=n", "ONLY=image",
			"PATH=/image/bin", "SINGULARITY_CONTAINER=/i.sif", "SINGULARITY_NAME=i.sif", "TERM=xterm", "http_proxy=p",
		}},
		{"injected", hpcrun.EnvInput{
			Image:      []string{"LD_LIBRARY_PATH=/opt/lib", "A=image"},
			Injections: []hpcrun.Injection{{Env: []string{"A=injected", "B=injected", "C=injected"}}},
			Set:        []string{"C=set"},
		}, []string{"A=image", "B=injected", "C=set", "LD_LIBRARY_PATH=/opt/lib:/.singularity.d/libs", "PATH=" + hpcrun.DefaultPath}},
		{"libraries named already", hpcrun.EnvInput{Set: []string{"LD_LIBRARY_PATH=/.singularity.d/libs:/x"}}, []string{"LD_LIBRARY_PATH=/.singularity.d/libs:/x", "PATH=" + hpcrun.DefaultPath}},
		{"search path", hpcrun.EnvInput{Image: image[:1], Set: []string{"PREPEND_PATH=/a:/b", "APPEND_PATH=/c"}}, []string{
			"LD_LIBRARY_PATH=/.singularity.d/libs", "PATH=/a:/b:/image/bin:/c",
		}},
		{"another search path", hpcrun.EnvInput{Image: image[:1], Set: []string{"PATH=/p", "APPEND_PATH=/c"}}, []string{"LD_LIBRARY_PATH=/.singularity.d/libs", "PATH=/p:/c"}},
		{"scripts", hpcrun.EnvInput{Image: image[:1], Scripts: true, Set: []string{"X=1", "PATH=/p", "PREPEND_PATH=/a", "APPEND_PATH=/c"}}, []string{
			"LD_LIBRARY_PATH=/.singularity.d/libs", "PATH=/p", "SING_USER_DEFINED_APPEND_PATH=/c", "SING_USER_DEFINED_PATH=/p", "SING_USER_DEFINED_PREPEND_PATH=/a", "X=1",
		}},
	} {
		if diff := cmp.Diff(test.want, hpcrun.Environment(test.in)); diff != "" {
			t.Errorf("%s (-want +got)\n%s", test.name, diff)
		}
	}
}

func TestCommand(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		entry, cmd, args []string
		want             string
	}{
		{[]string{"e"}, nil, []string{"a"}, "e a"},
		{[]string{"e", "x"}, []string{"c"}, nil, "e x c"},
		{[]string{"e"}, []string{"c"}, []string{"a"}, "e a"},
		{nil, []string{"c", "d"}, nil, "c d"},
		{nil, []string{"c"}, []string{"a"}, "a"},
	} {
		got, err := hpcrun.Command(sif.ImageConfig{Entrypoint: test.entry, Cmd: test.cmd}, test.args)
		if err != nil || strings.Join(got, " ") != test.want {
			t.Errorf("%v: %v, %v", test, got, err)
		}
	}
	if _, err := hpcrun.Command(sif.ImageConfig{}, nil); !errors.Is(err, fs.ErrInvalid) {
		t.Errorf("nothing to run: %v", err)
	}
	if got := hpcrun.ActionRun.Command([]string{"a"}); strings.Join(got, " ") != "/.singularity.d/actions/run a" {
		t.Errorf("action: %v", got)
	}
}

func TestSetVariables(t *testing.T) {
	t.Parallel()
	args := []string{"printenv", "--", "A"}
	set := []string{"PATH=/x", "APPEND_PATH=/y", "not a name=1", "1=2", "ümlaut=1"}
	if got := hpcrun.SetVariables(set, args); !slices.Equal(got, args) {
		t.Errorf("nothing to set: %q", got)
	}
	value := "a\nb=c $(d) `e` 'f' \" --"
	argv := hpcrun.SetVariables(append(set, "A="+value, "_b2=", "A2=--"), []string{"/bin/sh", "-c", `printf '%s|' "$A" "${_b2-unset}" "$A2" "$@"`, "sh", "--", "x y"})
	out, err := exec.Command(argv[0], argv[1:]...).Output()
	if want := value + "||--|--|x y|"; err != nil || string(out) != want {
		t.Errorf("got %q, %v, want %q", out, err, want)
	}
}

func TestParseBind(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		text string
		want hpcrun.Bind
	}{
		{"/a", hpcrun.Bind{Source: "/a"}},
		{"/a:/b", hpcrun.Bind{Source: "/a", Target: "/b"}},
		{"/a:/b:ro", hpcrun.Bind{Source: "/a", Target: "/b", ReadOnly: true}},
		{"/a::ro", hpcrun.Bind{Source: "/a", ReadOnly: true}},
		{`/a\:b\\c:/d:rw`, hpcrun.Bind{Source: `/a:b\c`, Target: "/d"}},
		{`/a\b`, hpcrun.Bind{Source: `/a\b`}},
	} {
		if got, err := hpcrun.ParseBind(test.text); err != nil || got != test.want {
			t.Errorf("%s: %+v, %v", test.text, got, err)
		}
	}
	for _, text := range []string{"", ":/b", "/a:/b:ro:x", "/a:/b:wat"} {
		if _, err := hpcrun.ParseBind(text); !errors.Is(err, fs.ErrInvalid) {
			t.Errorf("%q: %v", text, err)
		}
	}
}

func TestExitCode(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		err  error
		want int
	}{
		{nil, 0},
		{errors.New("x"), hpcrun.ExitSetup},
		{&exec.Error{Err: exec.ErrNotFound}, hpcrun.ExitSetup},
		{&hpcrun.SetupError{Err: fs.ErrNotExist}, hpcrun.ExitSetup},
		{&hpcrun.SetupError{Err: fs.ErrNotExist, Exec: true}, hpcrun.ExitNotFound},
		{fmt.Errorf("x: %w", &hpcrun.SetupError{Err: fs.ErrPermission, Exec: true}), hpcrun.ExitNotExecutable},
		{&hpcrun.MemoryError{Need: 2 << 20, Have: 1 << 20}, hpcrun.ExitSetup},
	} {
		if got := hpcrun.ExitCode(test.err); got != test.want {
			t.Errorf("%v: %d, want %d", test.err, got, test.want)
		}
	}
}

func ExampleEnvironment() {
	env := hpcrun.Environment(hpcrun.EnvInput{
		Host:  []string{"PATH=/usr/bin", "LANG=C.UTF-8", "HOME=/home/ada"},
		Image: []string{"PATH=/opt/conda/bin:/usr/bin"},
		Set:   []string{"OMP_NUM_THREADS=4"},
		Home:  "/home/ada",
	})
	fmt.Println(strings.Join(env, "\n"))
	// Output:
	// HOME=/home/ada
	// LANG=C.UTF-8
	// LD_LIBRARY_PATH=/.singularity.d/libs
	// OMP_NUM_THREADS=4
	// PATH=/opt/conda/bin:/usr/bin
}

func ExampleCommand() {
	config := sif.ImageConfig{Entrypoint: []string{"python3"}, Cmd: []string{"-i"}}
	argv, _ := hpcrun.Command(config, []string{"train.py", "--epochs=3"})
	fmt.Println(argv)
	// Output: [python3 train.py --epochs=3]
}

func ExampleParseBind() {
	b, err := hpcrun.ParseBind("/scratch/ada:/data:ro")
	fmt.Println(b.Source, b.Target, b.ReadOnly, err)
	// Output: /scratch/ada /data true <nil>
}
