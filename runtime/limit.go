package runtime

import (
	"fmt"
	"io/fs"
	"strconv"
	"strings"
)

// Unlimited is the value of a Limit that limits nothing.
const Unlimited = ^uint64(0)

// Limit is what a command may have of a resource, in the units of setrlimit(2): bytes, seconds, or things.
type Limit struct {
	// Name is that of a resource as in ulimits of Docker, which is that of setrlimit(2) without RLIMIT_, in lower case: as, core, cpu,
	// data, fsize, locks, memlock, msgqueue, nice, nofile, nproc, rss, rtprio, rttime, sigpending or stack.
	Name string
	// Soft is what holds; the command may raise it up to Hard. Unlimited is no limit.
	Soft, Hard uint64
}

// LimitError says that a limit cannot be raised: only root may have more than this process has itself, and not in a user
// namespace.
type LimitError struct {
	// Limit is what was asked for, Have the hard limit of this process.
	Limit Limit
	Have  uint64
}

func (e *LimitError) Error() string {
	return fmt.Sprintf("runtime: limit %s: a hard limit of %s is more than this process has, %s: only root can raise it, in limits.conf, in the batch system, or by starting this without a user namespace",
		e.Limit.Name, limitText(e.Limit.Hard), limitText(e.Have))
}

// Is makes it an error of missing permission.
func (e *LimitError) Is(target error) bool { return target == fs.ErrPermission }

func limitText(v uint64) string {
	if v == Unlimited {
		return "unlimited"
	}
	return strconv.FormatUint(v, 10)
}

// ParseLimit reads NAME=SOFT[:HARD]. Without HARD it is SOFT; "unlimited" and -1 are Unlimited.
func ParseLimit(s string) (Limit, error) {
	name, values, ok := strings.Cut(s, "=")
	soft, hard, both := strings.Cut(values, ":")
	if !both {
		hard = soft
	}
	l := Limit{Name: name}
	var err error
	if ok {
		if l.Soft, err = parseLimitValue(soft); err == nil {
			l.Hard, err = parseLimitValue(hard)
		}
	}
	if !ok || err != nil {
		return Limit{}, fmt.Errorf("runtime: limit %q: not NAME=SOFT[:HARD] with numbers: %w", s, fs.ErrInvalid)
	}
	return l, l.validate()
}

func parseLimitValue(s string) (uint64, error) {
	if s == "unlimited" || s == "-1" {
		return Unlimited, nil
	}
	return strconv.ParseUint(s, 10, 64)
}

// limitNames are the names that limits may have.
const limitNames = " as core cpu data fsize locks memlock msgqueue nice nofile nproc rss rtprio rttime sigpending stack "

func (l Limit) validate() error {
	why := ""
	switch {
	case l.Name == "" || strings.Contains(l.Name, " ") || !strings.Contains(limitNames, " "+l.Name+" "):
		why = "no such resource: one of" + strings.TrimRight(limitNames, " ")
	case l.Soft > l.Hard:
		why = fmt.Sprintf("the soft limit %s is above the hard limit %s", limitText(l.Soft), limitText(l.Hard))
	default:
		return nil
	}
	return fmt.Errorf("runtime: limit %q: %s: %w", l.Name, why, fs.ErrInvalid)
}
