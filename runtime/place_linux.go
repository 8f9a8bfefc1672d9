package runtime

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"hpcimg/internal/fork"
)

type itemKind uint8

const (
	itemBind   itemKind = iota // a file or directory of the host
	itemTmpfs                  // an empty directory in memory
	itemProc                   // /proc of a new PID namespace
	itemDevpts                 // terminals of one's own
	itemData                   // a file with given contents
	itemLink                   // a symbolic link in a tmpfs
	itemImage                  // a file or directory of an image that this process serves
)

// item is a mount, with its place in the layout.
type item struct {
	kind     itemKind
	source   string // itemBind: path on the host; itemLink: what it points to
	image    *extra // itemImage
	inside   string // itemImage: path in it
	target   string // in the image, resolved when placed
	dir      bool
	readOnly bool
	devices  bool // device nodes have their effect
	data     []byte
	mode     uint32
	fd       fork.FD // of the source, or of the tmpfs
	layer    *layer
	made     []made // what has to be made before it is mounted, in a tmpfs
}

type made struct {
	entry
	in fork.FD
	at string // where that is
}

// place resolves the target of it and makes it a layer.
func (c *compiler) place(it *item) error {
	before := make([]int, len(c.layout.layers))
	for i, m := range c.layout.layers {
		before[i] = len(m.order)
	}
	want := nodeFile
	if it.dir {
		want = nodeDir
	}
	target, err := c.layout.ensure(it.target, want)
	if err != nil {
		return &BindError{Source: it.source, Target: it.target, Err: err}
	}
	if target == "/" {
		return &BindError{Source: it.source, Target: it.target, Err: errors.New("this is the root directory of the image")}
	}
	it.target = target
	for i, m := range c.layout.layers[1:] {
		for _, e := range m.order[before[i+1]:] {
			it.made = append(it.made, made{e, m.fd, m.at})
		}
	}
	it.layer = &layer{at: target}
	switch it.kind {
	case itemBind:
		it.fd = fork.FD(fmt.Sprintf("s%d", len(c.items)))
		it.layer.host, it.layer.tree = it.source, hostTree(it.source)
	case itemImage:
		it.fd = fork.FD(fmt.Sprintf("i%d", len(c.items)))
		it.layer.tree = insideTree{newSquashImage(c.ctx, it.image.reader), it.inside}
	case itemTmpfs:
		it.fd = fork.FD(fmt.Sprintf("t%d", len(c.items)))
		it.layer.fd = it.fd
	case itemData:
		it.fd = fork.FD(fmt.Sprintf("f%d", len(c.items)))
		it.layer.tree = dataTree{}
	case itemProc:
		it.layer.tree = hostTree("/proc")
	}
	c.layout.add(it.layer)
	c.items = append(c.items, it)
	return nil
}

// dataTree is a single file.
type dataTree struct{}

func (dataTree) lookup(string) (nodeKind, string, error) { return nodeFile, "", nil }

// bind places a bind of the host. Symbolic links on the host are followed now, and what they lead to is bound.
func (c *compiler) bind(source, target string, readOnly bool) error {
	real, err := filepath.EvalSymlinks(source)
	if err != nil {
		return &BindError{Source: source, Target: target, Err: err}
	}
	info, err := os.Stat(real)
	if err != nil {
		return &BindError{Source: source, Target: target, Err: err}
	}
	if !readOnly && c.hostPath(target) == real {
		return nil // visible already
	}
	devices := real == "/dev" || strings.HasPrefix(real, "/dev/") || info.Mode()&fs.ModeDevice != 0
	return c.place(&item{source: real, target: target, dir: info.IsDir(), readOnly: readOnly, devices: devices})
}

// hostPath returns the path on the host of what the command will see as name; "" if that does not come from there.
func (c *compiler) hostPath(name string) string {
	found, _, missing, err := c.layout.resolve(name)
	if err != nil || len(missing) > 0 {
		return ""
	}
	m, rel := c.layout.covering(found)
	if m.host == "" {
		return ""
	}
	return filepath.Join(m.host, rel)
}

// system places what every command expects: /proc, /sys, /dev, /tmp and files of /etc.
func (c *compiler) system() error {
	etc := c.etc() // read before anything covers the image
	pid := c.spec.Namespaces.PID || c.spec.Contain == ContainAll
	omit := c.spec.Omit
	for _, s := range []struct {
		omit bool
		item item
	}{
		{omit.Proc || pid, item{source: "/proc", target: "/proc", devices: true}},
		{omit.Proc || !pid, item{kind: itemProc, target: "/proc"}},
		{omit.Sys, item{source: "/sys", target: "/sys", devices: true}},
		{omit.Dev || c.spec.Contain != ContainNone, item{source: "/dev", target: "/dev", devices: true}},
		{omit.Dev || c.spec.Contain == ContainNone, item{kind: itemTmpfs, target: "/dev", mode: 0o755, devices: true}},
	} {
		if s.omit {
			continue
		}
		s.item.dir = true
		// A link here leads to another directory of the image, which programs then take for the kernel's.
		if kind, _, err := c.image.lookup(s.item.target[1:]); err == nil && kind == nodeLink {
			return &BindError{Target: s.item.target, Err: errors.New("is a symbolic link in the image")}
		}
		if err := c.place(&s.item); err != nil {
			return err
		}
	}
	if !omit.Dev && c.spec.Contain != ContainNone {
		if err := c.minimalDev(); err != nil {
			return err
		}
	}
	if !omit.Tmp {
		if err := c.tmp(); err != nil {
			return err
		}
	}
	for _, it := range etc {
		if err := c.place(it); err != nil {
			c.note("%v", err)
		}
	}
	return nil
}

func (c *compiler) tmp() error {
	for _, dir := range []string{"/tmp", "/var/tmp"} {
		if found, kind, _, err := c.layout.resolve(dir); dir != "/tmp" && err == nil && kind == nodeDir && slices.ContainsFunc(c.items, func(it *item) bool { return it.target == found }) {
			continue // a link to /tmp
		}
		var err error
		if c.spec.Contain == ContainNone {
			err = c.bind(dir, dir, false)
		} else {
			err = c.place(&item{kind: itemTmpfs, target: dir, dir: true, mode: 0o1777})
		}
		if err != nil {
			if dir == "/tmp" {
				return err
			}
			c.note("%v", err)
		}
	}
	return nil
}

// minimalDev fills /dev of a contained command. Nodes are bound: a user namespace may not make any.
func (c *compiler) minimalDev() error {
	for _, name := range []string{"null", "zero", "full", "random", "urandom", "tty"} {
		if err := c.bind("/dev/"+name, "/dev/"+name, false); err != nil {
			c.note("%v", err)
		}
	}
	dev, _ := c.layout.covering("/dev")
	links := [][2]string{{"/proc/self/fd", "fd"}, {"fd/0", "stdin"}, {"fd/1", "stdout"}, {"fd/2", "stderr"}, {"pts/ptmx", "ptmx"}}
	for _, l := range links {
		c.items = append(c.items, &item{kind: itemLink, source: l[0], target: l[1], fd: dev.fd, layer: dev})
	}
	if err := c.place(&item{kind: itemTmpfs, target: "/dev/shm", dir: true, mode: 0o1777}); err != nil {
		return err
	}
	return c.place(&item{kind: itemDevpts, target: "/dev/pts", dir: true})
}

// etc returns the files of /etc that make name lookups work: those of the host, and the image's with the user added.
func (c *compiler) etc() []*item {
	c.user = c.userLine()
	if c.spec.Omit.Etc {
		return nil
	}
	var items []*item
	for _, name := range []string{"/etc/resolv.conf", "/etc/hosts", "/etc/localtime"} {
		// Through the stub that the name may be: a bind pins the file that it leads to now.
		real, err := filepath.EvalSymlinks(name)
		if err != nil {
			continue
		}
		if info, err := os.Stat(real); err != nil || !info.Mode().IsRegular() {
			continue
		}
		// The image's localtime is mostly a link into its time zones, one of which would become another.
		if kind, _, err := c.image.lookup(name[1:]); name == "/etc/localtime" && (err != nil || kind == nodeLink) {
			continue
		}
		items = append(items, &item{source: real, target: name})
	}
	gids := c.host.groups
	if c.spec.Identity != IdentitySame {
		gids = []int{0}
	}
	for _, f := range []struct {
		name  string
		lines []string
	}{{"/etc/passwd", []string{c.user.line()}}, {"/etc/group", hostGroups(gids)}} {
		data, err := c.readImage(f.name)
		if err != nil {
			c.note("%s is left as it is: %v", f.name, err)
			continue
		}
		items = append(items, &item{kind: itemData, target: f.name, data: withLines(data, f.lines)})
	}
	return items
}

// readImage reads a file of the image; one that does not exist is empty.
func (c *compiler) readImage(name string) ([]byte, error) {
	found, kind, missing, err := c.layout.resolve(name)
	if err != nil || len(missing) > 0 {
		return nil, err
	}
	if kind != nodeFile {
		return nil, notRegular(found)
	}
	return c.image.readFile(found[1:], maxEtc)
}

func (c *compiler) userLine() User {
	u := hostUser(c.host.uid, c.host.gid)
	if c.spec.User != nil {
		u = *c.spec.User
	}
	if c.homeGiven = c.spec.Home.Source != ""; !c.homeGiven {
		c.spec.Home.Source = u.Home
	}
	if c.spec.Home.Target == "" {
		c.spec.Home.Target = c.spec.Home.Source
	}
	u.Home = c.spec.Home.Target
	if c.spec.Identity != IdentitySame {
		u.Name, u.UID, u.GID = "root", 0, 0
	}
	for _, field := range []*string{&u.Name, &u.Home, &u.Shell} {
		if !sane(*field) {
			*field = ""
		}
	}
	return u
}

// notBound are directories that are never bound for being the working directory: they are the image's business.
var notBound = []string{"/", "/bin", "/etc", "/lib", "/lib64", "/mnt", "/opt", "/sbin", "/usr", "/var"}

// userDirs places home and working directory.
func (c *compiler) userDirs() error {
	home := c.spec.Home
	if !c.spec.Omit.Home && home.Target != "" && home.Target != "/" {
		if err := c.placeHome(home); err != nil {
			return err
		}
	}
	dir := c.spec.HostDir
	if dir == "" || c.spec.Omit.HostDir || c.spec.Contain != ContainNone || slices.Contains(notBound, path.Clean(dir)) {
		return nil
	}
	if err := c.bind(dir, dir, false); err != nil {
		c.note("working directory: %v", err)
	}
	return nil
}

func (c *compiler) placeHome(home Home) error {
	c.home = home.Target
	var err error
	if info, statErr := os.Stat(home.Source); c.homeGiven && statErr == nil && !info.IsDir() {
		err = &BindError{Source: home.Source, Target: home.Target, Err: unix.ENOTDIR}
	} else if c.spec.Contain == ContainNone || c.homeGiven {
		err = c.bind(home.Source, home.Target, false)
	} else {
		err = c.place(&item{kind: itemTmpfs, target: home.Target, dir: true, mode: 0o700})
	}
	if err == nil {
		return nil
	}
	c.home = ""
	if c.homeGiven {
		return err
	}
	c.note("no home directory: %v", err)
	return nil
}

func (c *compiler) binds() error {
	for _, b := range c.spec.binds() {
		source, err := filepath.Abs(b.Source)
		if err != nil {
			return &BindError{Source: b.Source, Target: b.target(), Err: err}
		}
		if b.ImageDir != "" {
			err = c.bindImage(b, source)
		} else {
			err = c.bind(source, path.Clean(b.target()), b.ReadOnly)
		}
		if b.Optional && errors.Is(err, fs.ErrNotExist) {
			c.note("%v", err)
			continue
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// libraries places injected libraries in a directory of their own.
func (c *compiler) libraries() error {
	var dir *item
	for _, inj := range c.spec.Injections {
		for _, note := range inj.Notes {
			c.note("%s: %s", inj.Name, note)
		}
		for _, lib := range inj.Libraries {
			if dir == nil {
				dir = &item{kind: itemTmpfs, target: LibDir, dir: true, mode: 0o755}
				if err := c.place(dir); err != nil {
					return err
				}
			}
			if err := c.library(dir, lib); err != nil {
				return err
			}
		}
	}
	return nil
}

func (c *compiler) library(dir *item, lib Library) error {
	for i, name := range lib.Names {
		if name == "" || strings.Contains(name, "/") || name == "." || name == ".." {
			return &BindError{Source: lib.Source, Target: name, Err: fs.ErrInvalid}
		}
		if _, taken := dir.layer.made[name]; taken {
			continue
		}
		if i == 0 {
			if err := c.bind(lib.Source, path.Join(dir.target, name), true); err != nil {
				return err
			}
			continue
		}
		dir.layer.made[name] = nodeFile
		c.items = append(c.items, &item{kind: itemLink, source: lib.Names[0], target: name, fd: dir.fd, layer: dir.layer})
	}
	return nil
}

// workDir decides where the command starts, and sets PWD to it if there is one.
func (c *compiler) workDir() error {
	defer func() {
		for i, kv := range c.spec.Env {
			if strings.HasPrefix(kv, "PWD=") {
				c.spec.Env = slices.Clone(c.spec.Env) // the caller's
				c.spec.Env[i] = "PWD=" + c.cwd
			}
		}
	}()
	if c.spec.Dir != "" {
		found, kind, missing, err := c.layout.resolve(c.spec.Dir)
		if err == nil && (len(missing) > 0 || kind != nodeDir) {
			why := unix.ENOENT
			if len(missing) == 0 {
				why = unix.ENOTDIR
			}
			err = &fs.PathError{Op: "chdir", Path: path.Join(append([]string{found}, missing...)...), Err: why}
		}
		c.cwd = c.spec.Dir
		return err
	}
	c.cwd = "/"
	for _, dir := range []string{c.spec.HostDir, c.home} {
		if dir == "" {
			continue
		}
		if _, kind, missing, err := c.layout.resolve(dir); err == nil && len(missing) == 0 && kind == nodeDir {
			c.cwd = dir
			return nil
		}
	}
	return nil
}
