// Package hpcimg is the map of the module; it holds no code.
package hpcimg
