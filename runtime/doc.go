// Package runtime runs commands in container images.
package runtime
