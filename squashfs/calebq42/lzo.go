//go:build hpcimg_gpl && !no_gpl

package calebq42

// withLZO says whether the module has its GPL part.
const withLZO = true
