// Package sifedit changes a SIF file by way of a copy that replaces the original in one step.
//
// The module that does the change, sylabs/sif, writes in place and in an order that a crash can leave inconsistent, and trusts the header it
// reads. So it sees only files that the caller's check has passed, and only the copy; what it made is checked again before it is
// published.
package sifedit
