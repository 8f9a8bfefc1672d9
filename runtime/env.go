package runtime

import (
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"strings"

	"hpcimg/sif"
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
	// Image has the variables of the image's OCI configuration. They win over those of the host.
	Image []string
	// Injections add theirs where nothing else sets them.
	Injections []Injection
	// Set has variables, "NAME=value", that win over all others. PREPEND_PATH and APPEND_PATH are put before and behind PATH, as
	// Apptainer has it.
	Set []string
	// Scripts says that the command is an Action, whose scripts come after this: PREPEND_PATH, APPEND_PATH and PATH of Set are left to
	// them. Use SetVariables for Set to win.
	Scripts bool
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
	maps.Copy(env, variables(in.Image))
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
	set := variables(in.Set)
	if in.Scripts {
		for _, name := range pathVariables {
			if value, ok := set[name]; ok {
				env["SING_USER_DEFINED_"+name] = value
			}
		}
	} else {
		set["PATH"] = extendedPath(set, env["PATH"])
	}
	for name, value := range set {
		if !isPathAddition(name) {
			env[name] = value
		}
	}
	env["LD_LIBRARY_PATH"] = withLibDir(env["LD_LIBRARY_PATH"])
	list := make([]string, 0, len(env))
	for _, name := range slices.Sorted(maps.Keys(env)) {
		list = append(list, name+"="+env[name])
	}
	return list
}

// pathVariables are those of Set that concern the search path.
var pathVariables = [...]string{"PREPEND_PATH", "PATH", "APPEND_PATH"}

func isPathAddition(name string) bool { return name == "PREPEND_PATH" || name == "APPEND_PATH" }

// extendedPath is the search path that the variables in set make of path.
func extendedPath(set map[string]string, path string) string {
	if p := set["PATH"]; p != "" {
		path = p
	}
	if p := set["PREPEND_PATH"]; p != "" {
		path = p + ":" + path
	}
	if p := set["APPEND_PATH"]; p != "" {
		path += ":" + p
	}
	return path
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
func Command(config sif.ImageConfig, args []string) ([]string, error) {
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

// SetVariables returns a command that gives variables, "NAME=value", to args, which it executes: behind an Action they win over what the
// scripts of the image set. PREPEND_PATH, PATH and APPEND_PATH, which EnvInput.Scripts leaves to the scripts, are left out, and so are
// names that no shell has. It needs /bin/sh in the image, unless there is nothing to set.
func SetVariables(set, args []string) []string {
	var words []string
	for name, value := range variables(set) {
		if isShellName(name) && !slices.Contains(pathVariables[:], name) {
			words = append(words, name+"="+value)
		}
	}
	if len(words) == 0 {
		return args
	}
	slices.Sort(words)
	const script = `while [ "$1" != -- ]; do export "$1"; shift; done; shift; exec "$@"`
	return slices.Concat([]string{"/bin/sh", "-c", script, "sh"}, words, []string{"--"}, args)
}

func isShellName(name string) bool {
	const letters, digits = "_ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz", "0123456789"
	return name != "" && strings.Contains(letters, name[:1]) && strings.Trim(name, letters+digits) == ""
}
