package sif

import (
	"encoding/json"
	"fmt"
	"io"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
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

// Definition returns the definition file. The error is fs.ErrNotExist if there is none.
func (f *File) Definition() ([]byte, error) {
	for _, o := range f.objects {
		if o.Type == DataDefinition {
			return readObject(o, maxDefinition)
		}
	}
	return nil, notFound("definition file")
}

// JSON returns the bytes of the first JSON object with a name. The error is fs.ErrNotExist if there is none.
func (f *File) JSON(name string) ([]byte, error) {
	for _, o := range f.objects {
		if o.Type == DataJSON && o.Name == name {
			return readObject(o, maxJSON)
		}
	}
	return nil, notFound(name)
}

// Metadata returns the decoded inspect-metadata.json. The error is fs.ErrNotExist if there is none.
func (f *File) Metadata() (*Metadata, error) {
	m := new(Metadata)
	if err := f.decode(NameInspectMetadata, m); err != nil {
		return nil, err
	}
	return m, nil
}

// OCIConfig returns the decoded oci-config.json: the config of the OCI image that this one was made from, with its environment,
// entry point and command. The error is fs.ErrNotExist if there is none.
func (f *File) OCIConfig() (*ocispec.ImageConfig, error) {
	c := new(ocispec.ImageConfig)
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
		return &FormatError{Structure: name, Offset: f.offsetOf(name), Err: err}
	}
	return nil
}

func (f *File) offsetOf(name string) int64 {
	for _, o := range f.objects {
		if o.Type == DataJSON && o.Name == name {
			return o.Offset
		}
	}
	return 0
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
