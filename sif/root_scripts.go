package sif

// The scripts below are our own. What they share with those of other tools is the interface: paths, the order in which
// /.singularity.d/env is sourced, and the names of variables. Variables of our own start with two underscores, because one that has the name of
// a variable of the image would be exported in its place.

// Scripts that an image may have of its own.
const (
	runscriptPath   = ".singularity.d/runscript"
	startscriptPath = ".singularity.d/startscript"
)

type rootScript struct{ path, text string }

func rootScripts() []rootScript {
	return []rootScript{
		{"actions/exec", execAction},
		{"actions/run", runAction},
		{"actions/shell", shellAction},
		{"actions/start", startAction},
		{"actions/test", testAction},
		{"env/01-base.sh", baseEnvironmentScript},
		{"env/90-environment.sh", customEnvironmentScript},
		{"env/95-apps.sh", appsEnvironmentScript},
		{"env/99-base.sh", lastEnvironmentScript},
		{"env/99-runtimevars.sh", pathEnvironmentScript},
		{"startscript", startScript},
	}
}

// sourceEnvironment is the beginning of every action.
const sourceEnvironment = `#!/bin/sh
for __env_part in /.singularity.d/env/*.sh; do
	[ ! -f "$__env_part" ] || . "$__env_part"
done
unset __env_part
`

const execAction = sourceEnvironment + `exec "$@"
`

const runAction = sourceEnvironment + `if [ -n "${SINGULARITY_APPNAME:-}" ]; then
	for __script in "/scif/apps/$SINGULARITY_APPNAME/scif/runscript" /scif/apps/singularity/scif/runscript; do
		[ ! -x "$__script" ] || exec "$__script" "$@"
	done
	echo "run: app $SINGULARITY_APPNAME has no runscript" >&2
	exit 1
fi
[ ! -x /.singularity.d/runscript ] || exec /.singularity.d/runscript "$@"
exec /bin/sh "$@"
`

const testAction = sourceEnvironment + `if [ -n "${SINGULARITY_APPNAME:-}" ]; then
	for __script in "/scif/apps/$SINGULARITY_APPNAME/scif/test" /scif/apps/singularity/scif/test; do
		[ ! -x "$__script" ] || exec "$__script" "$@"
	done
	echo "test: app $SINGULARITY_APPNAME has no test" >&2
	exit 1
fi
[ ! -x /.singularity.d/test ] || exec /.singularity.d/test "$@"
exit 0
`

const shellAction = sourceEnvironment + `for __shell in "${SINGULARITY_SHELL:-}" /bin/bash /bin/sh; do
	[ -n "$__shell" ] && [ -x "$__shell" ] || continue
	SHELL=$__shell
	export SHELL
	case $__shell in
	/bin/bash) exec /bin/bash --norc "$@" ;;
	*) exec "$__shell" "$@" ;;
	esac
done
echo "shell: the image has no shell" >&2
exit 1
`

// An instance's first process stops until its container is set up; SIGCONT tells it that the start script takes over.
const startAction = `#!/bin/sh
kill -CONT 1
for __env_part in /.singularity.d/env/*.sh; do
	[ ! -f "$__env_part" ] || . "$__env_part"
done
unset __env_part
[ ! -x /.singularity.d/startscript ] || exec /.singularity.d/startscript "$@"
`

const baseEnvironmentScript = `#!/bin/sh
# Nothing to set before the variables of the image.
`

const customEnvironmentScript = `#!/bin/sh
# Variables of this image may be added here.
`

// SCIF apps: https://sci-f.github.io.
const appsEnvironmentScript = `#!/bin/sh
if [ -n "${SINGULARITY_APPNAME:-}" ]; then
	if [ ! -d "/scif/apps/$SINGULARITY_APPNAME" ]; then
		echo "the image has no app $SINGULARITY_APPNAME" >&2
		exit 1
	fi
	SCIF_APPS=/scif/apps
	SCIF_APPROOT=/scif/apps/$SINGULARITY_APPNAME
	export SINGULARITY_APPNAME SCIF_APPS SCIF_APPROOT
	PATH=$SCIF_APPROOT:$SCIF_APPS/singularity:$PATH
	for scif_dir in "$SCIF_APPROOT" "$SCIF_APPS/singularity"; do
		if [ -d "$scif_dir/bin" ]; then
			PATH=$scif_dir/bin:$PATH
			break
		fi
	done
	export PATH
	for scif_dir in "$SCIF_APPROOT" "$SCIF_APPS/singularity"; do
		if [ -d "$scif_dir/lib" ]; then
			LD_LIBRARY_PATH=$scif_dir/lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
			export LD_LIBRARY_PATH
			break
		fi
	done
	for scif_part in 01-base 90-environment; do
		for scif_dir in "$SCIF_APPROOT" "$SCIF_APPS/singularity"; do
			if [ -f "$scif_dir/scif/env/$scif_part.sh" ]; then
				. "$scif_dir/scif/env/$scif_part.sh"
				break
			fi
		done
	done
	unset scif_dir scif_part
fi
`

// Libraries of the host that a runtime binds into /.singularity.d/libs (GPU drivers) are found last.
const lastEnvironmentScript = `#!/bin/sh
LD_LIBRARY_PATH=${LD_LIBRARY_PATH:+$LD_LIBRARY_PATH:}/.singularity.d/libs
PS1=${PS1:-"Apptainer> "}
export LD_LIBRARY_PATH PS1
`

const pathEnvironmentScript = `#!/bin/sh
PATH=${SING_USER_DEFINED_PREPEND_PATH:+$SING_USER_DEFINED_PREPEND_PATH:}${PATH}
PATH=${PATH}${SING_USER_DEFINED_APPEND_PATH:+:$SING_USER_DEFINED_APPEND_PATH}
PATH=${SING_USER_DEFINED_PATH:-$PATH}
unset SING_USER_DEFINED_PREPEND_PATH SING_USER_DEFINED_APPEND_PATH SING_USER_DEFINED_PATH
export PATH
`

const startScript = `#!/bin/sh
`
