package atomicfile_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"hpcimg/internal/atomicfile"
)

// TestAbandoned: the names of this package are told from others, and those of processes that have ended from those of the rest.
func TestAbandoned(t *testing.T) {
	gone := exec.Command("true")
	if err := gone.Run(); err != nil {
		t.Fatal(err)
	}
	temp, err := atomicfile.Mkdir(filepath.Join(t.TempDir(), "a.part-b.sif"), func(string) {})
	if err != nil {
		t.Fatal(err)
	}
	f, err := atomicfile.CreateNamed(filepath.Join(t.TempDir(), strings.Repeat("n", 250)), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Abort()
	mine, long := filepath.Base(temp), filepath.Base(f.Name())
	ended := func(name string) string {
		return strings.Replace(name, "-"+strconv.Itoa(os.Getpid())+"-", "-"+strconv.Itoa(gone.Process.Pid)+"-", 1)
	}
	at := strings.LastIndex(mine, ".part-") + len(".part-")
	host := mine[at : at+8]
	other := strings.Replace(ended(mine), host, "0123abcd", 1)
	for _, tc := range []struct {
		name                 string
		temporary, abandoned bool
	}{
		{mine, true, false},
		{ended(mine), true, true},
		{long, true, false},
		{ended(long), true, true},
		{other, true, false},
		{strings.Replace(ended(mine), host, "", 1), true, false}, // where it cannot be told
		{ended(mine)[1:], false, false},
		{ended(mine) + "0", false, false},
		{strings.Replace(mine, host, host[1:], 1), false, false},
		{strings.Replace(mine, "-"+strconv.Itoa(os.Getpid())+"-", "-0-", 1), false, false},
		{".part-" + mine[at:], false, false},
		{"a.part-b.sif", false, false},
		{".part-", false, false},
		{"", false, false},
	} {
		if temporary, abandoned := atomicfile.Abandoned(tc.name); temporary != tc.temporary || abandoned != tc.abandoned {
			t.Errorf("%q: %v, %v, want %v, %v", tc.name, temporary, abandoned, tc.temporary, tc.abandoned)
		}
	}
}
