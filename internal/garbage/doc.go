// Package garbage says when it is worth it to collect garbage before the Go runtime would.
package garbage
