package images

import "fmt"

// AptMirror is aptMirror, printed.
func AptMirror(etc string) string {
	m, err := aptMirror(etc)
	if err != nil {
		return err.Error()
	}
	return fmt.Sprint(m)
}

// Later is later.
var Later = later
