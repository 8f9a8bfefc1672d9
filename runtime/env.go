package runtime

import (
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"strings"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// DefaultPath is the PATH of images that set none.
const DefaultPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// EnvInput is what the environment of a command is made of.
type EnvInput struct {
	// Host is the environment of the caller. HOME, PATH and LD_LIBRARY_PATH are not taken from it, and neither are
	// shell functions.
	Host []string
	// Clean takes nothing from Host but TERM and the proxy settings.
	Clean bool
	// Image has the variables of the image's OCI configuration. PATH is set to the image's; any other variable keeps
	// the value that the host gives it.
	Image []string
	// Injections add theirs where nothing else sets them.
	Injections []Injection
	// Set has variables, "NAME=value", that win over all others.
	Set []string
	// Home is the home directory in the image.
	Home string
	// ImagePath and ImageName say what runs: APPTAINER_CONTAINER and APPTAINER_NAME, and their older names.
	ImagePath, ImageName string
}

// Environment computes the environment of a command. It is sorted, and each variable occurs once. Values are data: nothing
// is expanded, and no shell sees them.
func Environment(in EnvInput) []string {
	env := make(map[string]string)
	for name, value := range variables(in.Host) {
		if forwarded(name, in.Clean) {
			env[name] = value
		}
	}
	for name, value := range variables(in.Image) {
		if _, ok := env[name]; !ok || name == "PATH" {
			env[name] = value
		}
	}
	if env["PATH"] == "" {
		env["PATH"] = DefaultPath
	}
	if in.Home != "" {
		env["HOME"] = in.Home
	}
	if in.ImagePath != "" {
		env["APPTAINER_CONTAINER"], env["SINGULARITY_CONTAINER"] = in.ImagePath, in.ImagePath
	}
	if in.ImageName != "" {
		env["APPTAINER_NAME"], env["SINGULARITY_NAME"] = in.ImageName, in.ImageName
	}
	for _, inj := range in.Injections {
		for name, value := range variables(inj.Env) {
			if _, ok := env[name]; !ok {
				env[name] = value
			}
		}
	}
	maps.Copy(env, variables(in.Set))
	env["LD_LIBRARY_PATH"] = withLibDir(env["LD_LIBRARY_PATH"])
	list := make([]string, 0, len(env))
	for _, name := range slices.Sorted(maps.Keys(env)) {
		list = append(list, name+"="+env[name])
	}
	return list
}

// forwarded says whether a variable of the host is passed on.
func forwarded(name string, clean bool) bool {
	switch name {
	case "HOME", "PATH", "LD_LIBRARY_PATH":
		return false
	}
	if strings.HasPrefix(name, "BASH_FUNC_") || strings.ContainsRune(name, '%') {
		return false
	}
	if !clean {
		return true
	}
	switch strings.ToLower(name) {
	case "http_proxy", "https_proxy", "ftp_proxy", "all_proxy", "no_proxy":
		return true
	}
	return name == "TERM"
}

// withLibDir appends LibDir: the image's own settings come first, as in Apptainer.
func withLibDir(value string) string {
	if value == "" {
		return LibDir
	}
	for dir := range strings.SplitSeq(value, ":") {
		if dir == LibDir {
			return value
		}
	}
	return value + ":" + LibDir
}

// variables yields names and values of well-formed variables; of one that is there twice, the last value counts.
func variables(list []string) map[string]string {
	m := make(map[string]string, len(list))
	for _, kv := range list {
		if name, value, ok := strings.Cut(kv, "="); ok && name != "" && !strings.ContainsRune(kv, 0) {
			m[name] = value
		}
	}
	return m
}

// Command returns the command of an OCI image: its entry point followed by args, or by its default arguments if there are
// no args. Nothing is evaluated by a shell.
func Command(config ocispec.ImageConfig, args []string) ([]string, error) {
	argv := slices.Clone(config.Entrypoint)
	if len(args) > 0 {
		argv = append(argv, args...)
	} else {
		argv = append(argv, config.Cmd...)
	}
	if len(argv) == 0 {
		return nil, fmt.Errorf("runtime: the image has neither entry point nor command, and no arguments are given: %w", fs.ErrInvalid)
	}
	return argv, nil
}

// An Action is a script in a SIF that sets up its environment with a shell of the image.
type Action string

const (
	ActionExec  Action = "exec"  // runs the arguments
	ActionRun   Action = "run"   // runs the runscript with the arguments
	ActionShell Action = "shell" // starts a shell
	ActionTest  Action = "test"  // runs the test script
)

// Command returns the command that runs an action: for images whose environment is in scripts, and has no OCI
// configuration that Environment could read. It needs /bin/sh in the image.
func (a Action) Command(args []string) []string {
	return append([]string{"/.singularity.d/actions/" + string(a)}, args...)
}
