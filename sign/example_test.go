package sign_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"hpcimg/sign"
)

func ExampleGenerateKey() {
	key, err := sign.GenerateKey(&sign.KeyOptions{
		Name: "Site Images", Email: "images@site.example",
		Passphrase: []byte("correct horse"), Time: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC),
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(key.Identities(), key.Algorithm(), key.Protected(), len(key.Fingerprint()))
	// Output: [Site Images <images@site.example>] EdDSA true 40
}

func ExampleReadKeyring() {
	key, _ := sign.GenerateKey(&sign.KeyOptions{Name: "Site Images"})
	var armored bytes.Buffer
	_ = key.ExportPublic(&armored, true)

	ring, err := sign.ReadKeyring(&armored)
	if err != nil {
		fmt.Println(err)
		return
	}
	found, err := ring.Find(key.Fingerprint())
	fmt.Println(found.Identities(), found.HasSecret(), err)
	// Output: [Site Images] false <nil>
}

func ExampleOpenKeyDir() {
	home, _ := os.MkdirTemp("", "example")
	defer os.RemoveAll(home)
	dir, err := sign.OpenKeyDir(filepath.Join(home, "keys"))
	if err != nil {
		fmt.Println(err)
		return
	}
	key, _ := sign.GenerateKey(&sign.KeyOptions{Name: "Site Images"})
	fmt.Println(dir.Add(context.Background(), key))
	found, err := dir.Find(key.Fingerprint())
	fmt.Println(found.HasSecret(), err)
	fmt.Println(dir.Remove(context.Background(), key.Fingerprint()))
	_, err = dir.Find(key.Fingerprint())
	fmt.Println(errors.Is(err, fs.ErrNotExist))
	// Output:
	// <nil>
	// true <nil>
	// <nil>
	// true
}
