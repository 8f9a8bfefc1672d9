package runtime

import (
	"context"
	"fmt"
)

// A Session is shared by processes of one user on one node, such as the ranks of a job step: the first that starts a plan
// makes its namespaces and mounts, the others join them. So all are in one user namespace, as MPI over shared memory needs,
// and have one mount, with one cache.
//
// Only plans with Spec.Shared can be started in a session, and those that differ in what they mount are kept apart. Who came
// first leads: it hands descriptors of the namespaces to those who ask over a socket, which only processes of the same user
// reach. If it ends before the others, even by SIGKILL, one of them takes over, and serves the image as well if that is by
// FUSE; a read that was in progress then may fail. Nothing remains of a session but empty files, if all of its processes are killed at once;
// OpenSession removes what others have left like that.
//
// A Session may be used by many goroutines.
type Session struct{ session }

// Join starts a command in a session that somebody leads who was given the same specification, but for what is a command's own
// (arguments, environment, working directory, limits), the same files of the host and the same file of an image. It makes no
// plan, which saves much of the time that joining takes; Image.Admit is asked all the same. If nobody leads such a session, or
// it takes a plan to say, it returns neither a process nor an error: Compile and Plan.Start tell, and lead if nobody else does. Errors are
// those of Plan.Start, whose options these are; their Session is not looked at.
func (s *Session) Join(ctx context.Context, spec *Spec, o *StartOptions) (*Process, error) {
	var with StartOptions
	if o != nil {
		with = *o
	}
	with.Session = s
	return s.join(ctx, spec, &with)
}

// SessionError says that a session cannot be used.
type SessionError struct {
	// Path is the directory or file concerned.
	Path string
	Err  error
}

func (e *SessionError) Error() string {
	return fmt.Sprintf("runtime: session in %s: %v", e.Path, e.Err)
}

func (e *SessionError) Unwrap() error { return e.Err }
