package runtime

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
	"strings"
)

// Files of /etc are read whole; larger ones are left alone.
const maxEtc = 1 << 20

// hostUser is the user's line of the host's /etc/passwd. Users of a directory service are not there: theirs is made up.
func hostUser(uid, gid int) User {
	u := User{Name: "user", UID: uid, GID: gid, Home: "/", Shell: "/bin/sh"}
	if uid == 0 {
		u.Name, u.Home = "root", "/root"
	}
	data, err := readHostFile("/etc/passwd")
	if err != nil {
		return u
	}
	for line := range bytes.Lines(data) {
		f := strings.Split(strings.TrimRight(string(line), "\n"), ":")
		if len(f) == 7 && f[2] == strconv.Itoa(uid) {
			return User{Name: f[0], UID: uid, GID: gid, Home: f[5], Shell: f[6]}
		}
	}
	return u
}

// hostGroups are the lines of the host's /etc/group for the given groups, their members left out.
func hostGroups(gids []int) []string {
	names := make(map[int]string)
	if data, err := readHostFile("/etc/group"); err == nil {
		for line := range bytes.Lines(data) {
			f := strings.SplitN(string(line), ":", 4)
			if len(f) == 4 {
				if gid, err := strconv.Atoi(f[2]); err == nil {
					names[gid] = f[0]
				}
			}
		}
	}
	var lines []string
	seen := make(map[int]bool)
	for _, gid := range gids {
		if seen[gid] {
			continue
		}
		seen[gid] = true
		name := names[gid]
		if name == "" {
			name = fmt.Sprintf("group%d", gid)
		}
		lines = append(lines, fmt.Sprintf("%s:x:%d:", name, gid))
	}
	return lines
}

func readHostFile(name string) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return readBounded(f, name, maxEtc)
}

// withLines returns a passwd or group file to which lines are added, or in which they replace those with the same number.
// One pass does for all of them: an image may have as long a file as it likes, and a user many groups.
func withLines(file []byte, lines []string) []byte {
	number := func(s string) string {
		if f := strings.SplitN(s, ":", 4); len(f) > 3 {
			return f[2]
		}
		return ""
	}
	added := make(map[string]string, len(lines))
	for _, line := range lines {
		added[number(line)] = line
	}
	used := make(map[string]bool, len(lines))
	var b bytes.Buffer
	for old := range bytes.Lines(file) {
		text := strings.TrimRight(string(old), "\n")
		n := number(text)
		if line, ok := added[n]; ok {
			if used[n] {
				continue
			}
			text, used[n] = line, true
		}
		b.WriteString(text + "\n")
	}
	for _, line := range lines {
		if n := number(line); !used[n] {
			b.WriteString(line + "\n")
			used[n] = true
		}
	}
	return b.Bytes()
}

// sane says whether a field may stand in a line of passwd.
func sane(field string) bool { return !strings.ContainsAny(field, ":\n\x00") }

func (u User) line() string {
	shell := u.Shell
	if shell == "" {
		shell = "/bin/sh"
	}
	return fmt.Sprintf("%s:x:%d:%d::%s:%s", u.Name, u.UID, u.GID, u.Home, shell)
}
