package cache

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
)

// maxDocument is far above what registries accept as a manifest.
const maxDocument = 64 << 20

// Document returns the document with a key, which is made like those of segments: first the hexadecimal digits that tell in what directory
// it is. One that is not there is fs.ErrNotExist.
func (c *Cache) Document(ctx context.Context, key string) ([]byte, error) {
	e, err := c.Get(ctx, KindDocument, key)
	if err != nil {
		return nil, err
	}
	defer e.Close()
	return bytes.Clone(e.Meta()), nil
}

// PutDocument stores a document under a key, in place of the one that was there. Of several who do that at once, one wins. Between the
// old and the new one there may be none for a moment.
func (c *Cache) PutDocument(ctx context.Context, key string, document []byte) error {
	if len(document) > maxDocument {
		return &LimitError{What: "document " + key, Limit: maxDocument}
	}
	old, err := c.Document(ctx, key)
	switch {
	case err == nil && bytes.Equal(old, document):
		return nil
	case err == nil:
		if err := c.Remove(KindDocument, key); err != nil {
			return err
		}
	case !errors.Is(err, fs.ErrNotExist):
		return err
	}
	w, err := c.Create(KindDocument, key)
	if err != nil {
		return err
	}
	defer w.Abort()
	e, err := w.Commit(ctx, 0, document)
	if err != nil {
		return err
	}
	if err := e.Close(); err != nil {
		return fmt.Errorf("cache: %w", err)
	}
	return nil
}
