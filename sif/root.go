package sif

import (
	"cmp"
	"io/fs"
	"maps"
	"strconv"
	"strings"
	"time"
)

// RootInput describes the image whose root file system is to be completed.
type RootInput struct {
	// Config is the config of the OCI image.
	Config ImageConfig
	// Definition is the definition file, as stored in the SIF too. For an image that came from a reference it is
	// DefinitionFor(...).
	Definition string
	// Labels are added to those of Config and to the build labels, and win over both.
	Labels map[string]string
	// Arch is the Go name of the architecture.
	Arch string
	// BuildDate is stored as a label, in UTC. A reproducible build passes the creation time of the OCI image. Zero: no label.
	BuildDate time.Time
	// Tool and Version become the label org.label-schema.usage.<tool>.version. Tool "": no label.
	Tool, Version string
	// BaseName and BaseDigest are the reference and manifest digest of the OCI image. "": no labels.
	BaseName, BaseDigest string
}

// Existing says what becomes of an entry of the layers that has the path of a RootFile. Paths are looked up without following symbolic
// links, so that no link in an image leads a file of ours elsewhere.
type Existing int

// The rules for existing entries.
const (
	// KeepExisting keeps whatever is there, be it a directory, a file or a link.
	KeepExisting Existing = iota
	// ReplaceLink replaces a symbolic link and keeps anything else.
	ReplaceLink
	// Overwrite replaces whatever is there, except that a directory is kept.
	Overwrite
	// MoveToHistory moves a regular file that is there to HistoryDir, under HistoryName of the number of entries in that directory,
	// and otherwise does what Overwrite does.
	MoveToHistory
)

// HistoryDir is where a former definition file of an image is kept. It is created (0755) if needed.
const HistoryDir = ".singularity.d/bootstrap_history"

// HistoryName returns the name in HistoryDir for the n-th former definition file, counted from 0.
func HistoryName(n int) string { return "Apptainer" + strconv.Itoa(n) }

// RootFile is a directory, a regular file or a symbolic link to be added to a root file system. All belong to root.
type RootFile struct {
	Path     string      // slash-separated, without a leading slash
	Mode     fs.FileMode // permission, and fs.ModeDir or fs.ModeSymlink
	Data     []byte      // of a file
	Target   string      // of a link
	Existing Existing
}

// RootFiles returns what a runtime expects in the root file system of an image that was not built by Apptainer: /.singularity.d with
// the scripts that set the environment and start things, mount points, and some old names. Parents come before children. The
// parents of every path are in the list too, except for the root; an existing parent that is not a directory is replaced
// if it is .singularity.d or below, and is otherwise left alone together with what would go into it.
//
// The second result is what `inspect` shows of these files, to be stored as NameInspectMetadata.
func RootFiles(in *RootInput) ([]RootFile, *Metadata, error) {
	var i RootInput
	if in != nil {
		i = *in
	}
	if _, err := archCode(i.Arch); err != nil {
		return nil, nil, err
	}
	labels := allLabels(&i)
	labelsText, err := labelsJSON(labels)
	if err != nil {
		return nil, nil, err
	}
	environment, runscript := environmentScript(i.Config.Env), Runscript(i.Config.Entrypoint, i.Config.Cmd)
	var files []RootFile
	for _, path := range rootDirectories() {
		files = append(files, RootFile{Path: path, Mode: fs.ModeDir | 0o755})
	}
	for _, link := range rootLinks() {
		files = append(files, RootFile{Path: link[0], Mode: fs.ModeSymlink | 0o777, Target: link[1], Existing: ReplaceLink})
	}
	add := func(path string, mode fs.FileMode, text string, existing Existing) {
		files = append(files, RootFile{Path: path, Mode: mode, Data: []byte(text), Existing: existing})
	}
	// Empty files for the runtime to bind those of the host over.
	add("etc/hosts", 0o644, "", Overwrite)
	add("etc/resolv.conf", 0o644, "", Overwrite)
	for _, script := range rootScripts() {
		add(".singularity.d/"+script.path, 0o755, script.text, Overwrite)
	}
	add(environmentPath, 0o755, environment, Overwrite)
	add(runscriptPath, 0o755, runscript, Overwrite)
	add(".singularity.d/labels.json", 0o644, labelsText, Overwrite)
	add(".singularity.d/Singularity", 0o644, i.Definition, MoveToHistory)
	return files, newMetadata(&i, labels, environment, runscript), nil
}

// KeepScripts has files leave in place those that the image has itself, as ReadAttributes has found them, and metadata tell of these.
func KeepScripts(files []RootFile, metadata *Metadata, own *Attributes) {
	if own == nil {
		return
	}
	a := &metadata.Data.Attributes
	maps.Copy(a.Environment, own.Environment)
	a.Runscript, a.Startscript = cmp.Or(own.Runscript, a.Runscript), cmp.Or(own.Startscript, a.Startscript)
	for i, f := range files {
		_, kept := own.Environment["/"+f.Path]
		if kept || f.Path == runscriptPath && own.Runscript != "" || f.Path == startscriptPath && own.Startscript != "" {
			files[i].Existing = KeepExisting
		}
	}
}

func rootDirectories() []string {
	return []string{
		".singularity.d", ".singularity.d/libs", ".singularity.d/actions", ".singularity.d/env",
		"dev", "proc", "root", "var", "var/tmp", "tmp", "etc", "sys", "home",
	}
}

func rootLinks() [][2]string {
	return [][2]string{
		{"singularity", ".singularity.d/runscript"},
		{".run", ".singularity.d/actions/run"},
		{".exec", ".singularity.d/actions/exec"},
		{".test", ".singularity.d/actions/test"},
		{".shell", ".singularity.d/actions/shell"},
		{"environment", ".singularity.d/env/90-environment.sh"},
	}
}

func newMetadata(in *RootInput, labels map[string]string, environment, runscript string) *Metadata {
	trim := func(s string) string { return strings.TrimRight(s, "\n") }
	return &Metadata{
		Type: "container",
		Data: MetadataData{Attributes: Attributes{
			Environment: map[string]string{
				"/" + environmentPath:                   trim(environment),
				"/.singularity.d/env/90-environment.sh": trim(customEnvironmentScript),
			},
			Labels:      maps.Clone(labels),
			Runscript:   trim(runscript),
			Deffile:     trim(in.Definition),
			Startscript: trim(startScript),
		}},
	}
}
