package convert

import (
	"encoding/json"
	"io"

	"hpcimg/convert/internal/layer"
	"hpcimg/convert/internal/merge"
	"hpcimg/sif"
)

// sifOutput is what a SIF has beside the squashfs.
type sifOutput struct {
	writer     *sif.Writer
	options    sif.WriterOptions
	definition string
	metadata   []byte
	config     []byte // "" if the source has none
	provenance []byte // nil if there is none to be stated
	root       []merge.RootFile
}

func newSIFOutput(src *Source, o *Options, arch string) (*sifOutput, error) {
	definition := o.SIF.Definition
	if definition == "" {
		definition = src.definition
	}
	buildDate := o.Time
	if buildDate.IsZero() {
		buildDate = src.created()
	}
	files, metadata, err := sif.RootFiles(&sif.RootInput{
		Config: sif.ImageConfig(src.config.Config), Definition: definition, Labels: o.SIF.Labels, Arch: arch, BuildDate: buildDate,
		Tool: o.SIF.Tool, Version: o.SIF.Version, BaseName: src.baseName, BaseDigest: src.baseDigest,
	})
	if err != nil {
		return nil, err
	}
	sif.KeepScripts(files, metadata, src.scripts())
	s := &sifOutput{definition: definition}
	s.options = sif.WriterOptions{Arch: arch, ID: o.SIF.ID, Time: o.Time}
	if s.metadata, err = json.Marshal(metadata); err != nil {
		return nil, err
	}
	if src.arch != "" { // an image
		if s.config, err = json.Marshal(src.config.Config); err != nil {
			return nil, err
		}
	}
	if s.provenance, err = src.provenance(o); err != nil {
		return nil, err
	}
	for _, f := range files {
		s.root = append(s.root, merge.RootFile{
			Path: f.Path, Mode: f.Mode, Data: f.Data, Target: f.Target, Rule: rootRule(f.Existing),
		})
	}
	return s, nil
}

func rootRule(e sif.Existing) merge.Rule {
	switch e {
	case sif.ReplaceLink:
		return merge.ReplaceLink
	case sif.Overwrite:
		return merge.Overwrite
	case sif.MoveToHistory:
		return merge.Move
	}
	return merge.Keep
}

// begin writes what stands before the partition, and returns where that begins.
func (s *sifOutput) begin(w io.WriterAt) (int64, error) {
	var err error
	if s.writer, err = sif.NewWriter(w, &s.options); err != nil {
		return 0, err
	}
	if err := s.writer.AddDefinition([]byte(s.definition)); err != nil {
		return 0, err
	}
	if err := s.writer.AddJSON(sif.NameInspectMetadata, s.metadata); err != nil {
		return 0, err
	}
	if s.config != nil {
		if err := s.writer.AddJSON(sif.NameOCIConfig, s.config); err != nil {
			return 0, err
		}
	}
	return s.writer.BeginPartition()
}

// end completes the file, with a partition of size bytes and the index of the layers, if there is one.
func (s *sifOutput) end(size int64, bundle []byte) (int64, error) {
	if err := s.writer.EndPartition(size); err != nil {
		return 0, err
	}
	if s.provenance != nil {
		if err := s.writer.AddGeneric(ProvenanceObject, s.provenance); err != nil {
			return 0, err
		}
	}
	if bundle != nil {
		if err := s.writer.AddGeneric(ReuseObject, bundle); err != nil {
			return 0, err
		}
	}
	return s.writer.Close()
}

// cover returns, as entries of a layer, the files that replace files of the layers.
func (s *sifOutput) cover() *layer.List {
	entries := new(layer.List)
	for _, f := range s.root {
		if f.Rule == merge.Overwrite {
			entries.Append(layer.Entry{Path: f.Path, Kind: layer.Dir}) // hides a file, but nothing in a directory
		}
	}
	return entries
}

func (s *sifOutput) addRoot(t *merge.Tree, modTime uint32) error {
	return t.AddRoot(s.root, modTime, sif.HistoryDir, sif.HistoryName)
}
