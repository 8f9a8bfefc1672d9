// Package merge lays layers over one another, by what is in them and without
// their contents.
//
// A [Tree] is a root directory in memory. [Tree.Apply] does to it what
// unpacking a layer would do to a directory on disk, entry by entry in the order of the
// archive, so that a tree after all layers is the root file system of the image.
// [Tree.AddRoot] adds what a runtime wants to find there.
//
// # Rules
//
// They are those of the OCI image specification where it speaks, and those of
// umoci and containerd where it does not:
//
//   - The directories of a path are looked up in the tree as it is, symbolic links
//     included, which are resolved inside the root; the last component is not.
//     Directories that are missing are made: mode 0755, owner 0. What is in their
//     way and is no directory is removed.
//   - A directory over a directory takes its attributes and keeps what is in it.
//     Anything else replaces what has the path, and all that is in it.
//   - A hard link is one more name of what its target is at that moment, which may
//     come from a layer below and lives on when the target is replaced or removed.
//     A missing target, a directory, and the link itself are errors.
//   - Whiteouts and opaque markers remove what comes from layers below and never
//     what this layer has added, be it before or after, nor the directories that lead
//     there.
//
// # Two passes
//
// What a file's path stands for can only be said once the symbolic links of all
// layers below are known, while the contents of a layer are best compressed knowing
// which of them the layers above hide. [Cover] is the guess that makes this possible:
// fed from the top, it says whether a path of a lower layer, taken literally,
// will be hidden. The tree has the truth: [Tree.Visible].
//
// # Untrusted input
//
// Symbolic links are followed 255 times at most for one path, resolved paths are
// bounded like those of Linux, and removing is linear in what there is to remove.
package merge
