// Package cache stores immutable, verified entries on disk for many processes and nodes.
package cache
