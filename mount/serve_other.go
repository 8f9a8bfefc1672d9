//go:build !linux

package mount

import "os"

// Server answers the requests of one FUSE mount, on Linux.
type Server struct{}

// Serve is for Linux.
func Serve(*os.File, Tree, *ServeOptions) (*Server, error) { return nil, unsupported() }

// Wait returns when the file system is no longer mounted.
func (s *Server) Wait() error { return unsupported() }

// Close ends the server.
func (s *Server) Close() error { return unsupported() }
