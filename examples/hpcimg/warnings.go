package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strings"
	"sync"
)

// warnings prints what the packages log at the level of warnings, each as one
// sentence: the message, the files that it is about, and the reason.
type warnings struct {
	mu    sync.Mutex
	w     io.Writer
	named []string // files to be reused that the command line names; of others nobody wants to know that they cannot be
}

// Enabled implements slog.Handler.
func (*warnings) Enabled(_ context.Context, level slog.Level) bool { return level >= slog.LevelWarn }

// Handle implements slog.Handler.
func (h *warnings) Handle(_ context.Context, r slog.Record) error {
	parts := []string{r.Message}
	unasked := false
	r.Attrs(func(a slog.Attr) bool {
		switch a.Key {
		case "key": // of an entry of the cache, which tells a person nothing
		case "path":
			unasked = !slices.Contains(h.named, a.Value.String())
			parts = append(parts, a.Value.String())
		default:
			parts = append(parts, strings.ReplaceAll(a.Value.String(), "\n", "; "))
		}
		return true
	})
	if unasked {
		return nil
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	_, err := fmt.Fprintf(h.w, "hpcimg: warning: %s\n", printable(strings.Join(parts, ": ")))
	return err
}

// WithAttrs implements slog.Handler. The packages add none.
func (h *warnings) WithAttrs([]slog.Attr) slog.Handler { return h }

// WithGroup implements slog.Handler.
func (h *warnings) WithGroup(string) slog.Handler { return h }
