package atomicfile

// LayerPrefix begins the names of files in which layers wait for their place in an image. Such a file loses its name as soon as it is
// open, where the system allows that; a process that is killed leaves the others behind, which [Abandoned] does not know.
const LayerPrefix = ".hpcimg-segment-"
