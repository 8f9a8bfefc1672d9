package sif

import (
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"strings"
)

const (
	maxDefinition = 4 << 20
	maxJSON       = 4 << 20
)

// Metadata is what `inspect` shows of an image: the JSON object named inspect-metadata.json.
type Metadata struct {
	Data MetadataData `json:"data"`
	Type string       `json:"type"` // "container"
}

// MetadataData is the one member of Metadata that matters.
type MetadataData struct {
	Attributes Attributes `json:"attributes"`
}

// Attributes describe a container or one of its SCIF apps.
type Attributes struct {
	Apps        map[string]*Attributes `json:"apps,omitempty"`
	Environment map[string]string      `json:"environment,omitempty"` // path of a script in the image -> its text
	Labels      map[string]string      `json:"labels,omitempty"`
	Runscript   string                 `json:"runscript,omitempty"`
	Test        string                 `json:"test,omitempty"`
	Helpfile    string                 `json:"helpfile,omitempty"`
	Deffile     string                 `json:"deffile,omitempty"`
	Startscript string                 `json:"startscript,omitempty"`
}

// Bounds of what ReadAttributes reads.
const (
	maxScript  = 1 << 20
	maxScripts = 64
)

// ReadAttributes reads the scripts in the root file system of an image that are its own: those of the environment that converters, definition
// files and SCIF apps make, and what it runs and starts. Scripts that every image has are left out, and so is what is not a regular file, no
// larger than 1 MiB. The result is nil if there are none.
func ReadAttributes(root fs.FS) *Attributes {
	for _, dir := range []string{".singularity.d", ".singularity.d/env"} {
		if info, err := fs.Lstat(root, dir); err != nil || !info.IsDir() {
			return nil
		}
	}
	var a Attributes
	a.Runscript, a.Startscript = readScript(root, runscriptPath), readScript(root, startscriptPath)
	for _, pattern := range []string{"10-docker*.sh", "9[0-4]-*.sh"} {
		names, err := fs.Glob(root, ".singularity.d/env/"+pattern)
		if err != nil {
			continue
		}
		for _, name := range names[:min(len(names), maxScripts)] {
			if text := readScript(root, name); text != "" {
				if a.Environment == nil {
					a.Environment = make(map[string]string)
				}
				a.Environment["/"+name] = text
			}
		}
	}
	if a.Runscript == "" && a.Startscript == "" && a.Environment == nil {
		return nil
	}
	return &a
}

// readScript returns a script without its last newline, as Attributes have it, or "".
func readScript(root fs.FS, name string) string {
	if info, err := fs.Lstat(root, name); err != nil || !info.Mode().IsRegular() || info.Size() > maxScript {
		return ""
	}
	f, err := root.Open(name)
	if err != nil {
		return ""
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxScript))
	if err != nil {
		return ""
	}
	return strings.TrimRight(string(text), "\n")
}

// Definition returns the definition file: the one in the group of the primary partition or, if that has none, the first. The error is
// fs.ErrNotExist if there is none.
func (f *File) Definition() ([]byte, error) {
	o, ok := f.describing(func(o Object) bool { return o.Type == DataDefinition })
	if !ok {
		return nil, notFound("definition file")
	}
	return readObject(o, maxDefinition)
}

// JSON returns the bytes of the JSON object with a name: the one in the group of the primary partition or, if that has none, the first. The
// error is fs.ErrNotExist if there is none.
func (f *File) JSON(name string) ([]byte, error) {
	o, ok := f.describing(isJSON(name))
	if !ok {
		return nil, notFound(name)
	}
	return readObject(o, maxJSON)
}

func isJSON(name string) func(Object) bool {
	return func(o Object) bool { return o.Type == DataJSON && o.Name == name }
}

// describing returns the object that says something of the primary partition. One of the same group comes first: it has been signed together with
// the partition, and a group that was added in front of it has not, whoever signed that.
func (f *File) describing(match func(Object) bool) (found Object, ok bool) {
	primary, err := f.Primary()
	for _, o := range f.objects {
		switch {
		case !match(o):
		case err == nil && o.GroupID == primary.GroupID:
			return o, true
		case !ok:
			found, ok = o, true
		}
	}
	return found, ok
}

// Metadata returns the decoded inspect-metadata.json. The error is fs.ErrNotExist if there is none.
func (f *File) Metadata() (*Metadata, error) {
	m := new(Metadata)
	if err := f.decode(NameInspectMetadata, m); err != nil {
		return nil, err
	}
	return m, nil
}

// ImageConfig is what an OCI image says about how to run it. It has the fields of the type of that name in
// github.com/opencontainers/image-spec, whose values convert from and to it: ImageConfig(config). It is a type of its own because importing that
// package makes every start of a program compile regular expressions, and programs that only run images have no other use for it.
type ImageConfig struct {
	User         string              `json:"User,omitempty"`
	ExposedPorts map[string]struct{} `json:"ExposedPorts,omitempty"`
	Env          []string            `json:"Env,omitempty"`
	Entrypoint   []string            `json:"Entrypoint,omitempty"`
	Cmd          []string            `json:"Cmd,omitempty"`
	Volumes      map[string]struct{} `json:"Volumes,omitempty"`
	WorkingDir   string              `json:"WorkingDir,omitempty"`
	Labels       map[string]string   `json:"Labels,omitempty"`
	StopSignal   string              `json:"StopSignal,omitempty"`
	// ArgsEscaped is Docker's for Windows.
	ArgsEscaped bool `json:"ArgsEscaped,omitempty"`
}

// OCIConfig returns the decoded oci-config.json: the config of the OCI image that this one was made from, with its environment,
// entry point and command. The error is fs.ErrNotExist if there is none.
func (f *File) OCIConfig() (*ImageConfig, error) {
	c := new(ImageConfig)
	if err := f.decode(NameOCIConfig, c); err != nil {
		return nil, err
	}
	return c, nil
}

func (f *File) decode(name string, v any) error {
	data, err := f.JSON(name)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(data, v); err != nil {
		o, _ := f.describing(isJSON(name))
		return &FormatError{Structure: name, Offset: o.Offset, Err: err}
	}
	return nil
}

func readObject(o Object, limit int64) ([]byte, error) {
	what := fmt.Sprintf("data object %d", o.ID)
	if o.Size > limit {
		return nil, &LimitError{What: fmt.Sprintf("size of %s (%v)", what, o.Type), Limit: limit}
	}
	data := make([]byte, o.Size)
	if _, err := io.ReadFull(o.Open(), data); err != nil {
		if err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		return nil, readError(what, o.Offset, err)
	}
	return data, nil
}
