// Package testtree is the one language in which tests write file trees, and the one way in which they compare them.
//
// A [Tree] is a list of entries. It becomes a tar stream, a directory on disk, or the [Listing] that one expects to find:
//
//	tree := testtree.Tree{
//		testtree.Dir("usr/bin", 0o755),
//		testtree.File("usr/bin/su", 0o4755, "#!/bin/sh\n", testtree.Xattr("security.capability", value)),
//		testtree.Hardlink("usr/bin/sudo", "usr/bin/su"),
//		testtree.Symlink("bin", "usr/bin"),
//		testtree.Char("dev/null", 0o666, 1, 3),
//		testtree.Whiteout("etc/motd"),
//	}
//	layer := tree.Tar(nil)
//	if diff := testtree.Diff(tree.Listing(), got, nil); diff != "" {
//		t.Errorf("(-want +got)\n%s", diff)
//	}
//
// Modes are written as in chmod(1): 0o4755 is setuid. Paths have no leading slash. Owner and group are 0 and the modification
// time is [DefaultTime] unless an option says otherwise.
//
// # Listings
//
// [Walk] lists a directory on disk, [FromFS] an [io/fs.FS] whose FileInfo has methods for ownership, links, devices and xattrs, by
// the names that squashfs.FileInfo uses. A [Node] holds no inode number and no time finer than a second, so that a directory, a
// tar stream, a kernel mount and our reader give equal listings for the same tree. [Diff] says what differs in a bounded
// number of lines, however large the trees are.
package testtree
