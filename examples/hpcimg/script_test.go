package main

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/registry"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/rogpeppe/go-internal/testscript"
	"golang.org/x/sys/unix"

	"hpcimg/image"
	imageregistry "hpcimg/image/registry"
	"hpcimg/internal/elfclosure"
	"hpcimg/internal/oracle"
	"hpcimg/sif"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"hpcimg": main})
}

// TestScripts runs testdata/script: one file for each behaviour. A script finds
// a registry at $REG with
//
//	$REG/demo:1       two layers with a shell; the second replaces and removes files
//	$REG/arm:1        the same for arm64
//	$REG/truncated:1  demo, whose layers break off half-way
//	$REG/flipped:1    demo, whose layers have a wrong byte
func TestScripts(t *testing.T) {
	oracle.UserNS(t)
	layers := demoLayers(t)
	testscript.Run(t, testscript.Params{
		Dir:                "testdata/script",
		RequireUniqueNames: true,
		Condition: func(cond string) (bool, error) {
			switch cond {
			case "root":
				return os.Getuid() == 0, nil
			case "fuse":
				return unix.Access("/dev/fuse", unix.R_OK|unix.W_OK) == nil, nil
			case "nvidia":
				_, err := os.Stat("/proc/driver/nvidia/version")
				return err == nil, nil
			}
			return false, fmt.Errorf("unknown condition %q", cond)
		},
		Setup: func(env *testscript.Env) error {
			server := httptest.NewServer(faulty(registry.New(registry.Logger(log.New(io.Discard, "", 0)))))
			env.Defer(server.Close)
			host := server.Listener.Addr().String()
			env.Setenv("REG", host)
			env.Setenv("HOME", env.WorkDir)
			env.Setenv("ARCH", runtime.GOARCH)
			env.Setenv("UID", strconv.Itoa(os.Getuid()))
			env.Setenv("PATH", os.Getenv("PATH"))
			if err := pushDemo(host, runtime.GOARCH, "demo", layers); err != nil {
				return err
			}
			other := "arm64"
			if runtime.GOARCH == other {
				other = "amd64"
			}
			env.Setenv("OTHERARCH", other)
			if err := pushDemo(host, other, "arm", layers); err != nil {
				return err
			}
			for _, repo := range []string{"truncated", "flipped"} {
				if err := pushDemo(host, runtime.GOARCH, repo, layers); err != nil {
					return err
				}
			}
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			// status N COMMAND...: COMMAND ends with status N.
			"status": cmdStatus,
			// onlyfiles DIR [NAME...]: DIR holds these files and no other.
			"onlyfiles": cmdOnlyFiles,
			// flip FILE OFFSET: changes one byte; a negative offset counts from the end.
			"flip": cmdFlip,
			// ocisif FILE: writes demo as an OCI-SIF of two layers.
			"ocisif": func(ts *testscript.TestScript, neg bool, args []string) {
				if neg || len(args) != 1 {
					ts.Fatalf("usage: ocisif FILE")
				}
				ts.Check(writeOCISIF(ts.MkAbs(args[0]), layers))
			},
			// defined SQUASHFS ENVIRONMENT RUNSCRIPT FILE: writes a SIF of SQUASHFS as Apptainer does of a definition file that
			// starts from demo, with these scripts.
			"defined": func(ts *testscript.TestScript, neg bool, args []string) {
				if neg || len(args) != 4 {
					ts.Fatalf("usage: defined SQUASHFS ENVIRONMENT RUNSCRIPT FILE")
				}
				ts.Check(writeDefined(ts.MkAbs(args[3]), ts.ReadFile(args[0]), ts.ReadFile(args[1]), ts.ReadFile(args[2])))
			},
		},
	})
}

func cmdStatus(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: status N COMMAND...")
	}
	err := ts.Exec(args[1], args[2:]...)
	got := 0
	if err != nil {
		text := err.Error()
		n, convErr := strconv.Atoi(strings.TrimPrefix(text, "exit status "))
		if convErr != nil {
			ts.Fatalf("%v", err)
		}
		got = n
	}
	if strconv.Itoa(got) != args[0] {
		ts.Fatalf("exit status %d, want %s", got, args[0])
	}
}

func cmdOnlyFiles(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 1 {
		ts.Fatalf("usage: onlyfiles DIR [NAME...]")
	}
	entries, err := os.ReadDir(ts.MkAbs(args[0]))
	ts.Check(err)
	var got []string
	for _, e := range entries {
		got = append(got, e.Name())
	}
	if strings.Join(got, " ") != strings.Join(args[1:], " ") {
		ts.Fatalf("%s holds %q, want %q", args[0], got, args[1:])
	}
}

func cmdFlip(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: flip FILE OFFSET")
	}
	path := ts.MkAbs(args[0])
	data, err := os.ReadFile(path)
	ts.Check(err)
	offset, err := strconv.Atoi(args[1])
	ts.Check(err)
	if offset < 0 {
		offset += len(data)
	}
	data[offset] ^= 0x20
	ts.Check(os.WriteFile(path, data, 0o755))
}

// faulty serves h, but damages the larger blobs of two repositories.
func faulty(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		truncate := strings.HasPrefix(r.URL.Path, "/v2/truncated/blobs/")
		flip := strings.HasPrefix(r.URL.Path, "/v2/flipped/blobs/")
		if r.Method != http.MethodGet || !truncate && !flip {
			h.ServeHTTP(w, r)
			return
		}
		rec := httptest.NewRecorder()
		h.ServeHTTP(rec, r)
		body := rec.Body.Bytes()
		maps.Copy(w.Header(), rec.Header())
		w.Header().Set("Content-Length", strconv.Itoa(len(body)))
		w.WriteHeader(rec.Code)
		switch {
		case len(body) < 10_000: // the configuration
			w.Write(body)
		case truncate:
			w.Write(body[:len(body)/2]) // the server then closes the connection
		default:
			body[len(body)/2] ^= 1
			w.Write(body)
		}
	})
}

func pushDemo(host, arch, repo string, layers [][]byte) error {
	config := image.Config{}
	config.OS, config.Architecture = "linux", arch
	config.Config = demoConfig()
	img, err := image.Build(config, image.LayerInput{Tar: layers[0]}, image.LayerInput{Tar: layers[1]})
	if err != nil {
		return err
	}
	_, err = imageregistry.Push(context.Background(), img, "docker://"+host+"/"+repo+":1", nil)
	return err
}

func demoConfig() ocispec.ImageConfig {
	return ocispec.ImageConfig{
		Env: []string{"PATH=/bin", "GREETING=hello"}, Cmd: []string{"/bin/sh", "-c", `echo "$GREETING world"`}, Labels: map[string]string{"title": "demo"},
	}
}

// writeDefined writes a SIF whose OCI configuration is that of demo, and whose scripts say more.
func writeDefined(path, root, environment, runscript string) (err error) {
	out, err := os.Create(path)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, out.Close()) }()
	w, err := sif.NewWriter(out, &sif.WriterOptions{Arch: runtime.GOARCH})
	if err != nil {
		return err
	}
	var meta sif.Metadata
	meta.Data.Attributes.Environment = map[string]string{"/.singularity.d/env/90-environment.sh": environment}
	meta.Data.Attributes.Runscript = runscript
	described, err := json.Marshal(meta)
	config, configErr := json.Marshal(demoConfig())
	err = errors.Join(err, configErr, w.AddJSON(sif.NameInspectMetadata, described), w.AddJSON(sif.NameOCIConfig, config))
	offset, beginErr := w.BeginPartition()
	_, writeErr := out.WriteAt([]byte(root), offset)
	err = errors.Join(err, beginErr, writeErr, w.EndPartition(int64(len(root))))
	_, closeErr := w.Close()
	return errors.Join(err, closeErr)
}

// writeOCISIF writes an OCI-SIF as SingularityCE does that keeps layers apart.
func writeOCISIF(path string, layers [][]byte) (err error) {
	out, err := os.Create(path)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, out.Close()) }()
	w, err := sif.NewOCIWriter(out, &sif.OCIWriterOptions{Blobs: len(layers) + 2})
	if err != nil {
		return err
	}
	add := func(mediaType string, data []byte) image.Descriptor {
		d, addErr := w.AddBlob(bytes.NewReader(data))
		err = errors.Join(err, addErr)
		return image.Descriptor{MediaType: mediaType, Digest: digest.Digest(d), Size: int64(len(data))}
	}
	encode := func(v any) []byte {
		raw, encodeErr := json.Marshal(v)
		err = errors.Join(err, encodeErr)
		return raw
	}
	config := image.Config{}
	config.OS, config.Architecture, config.RootFS.Type = "linux", runtime.GOARCH, "layers"
	config.Config.Env = []string{"PATH=/bin"}
	manifest := image.Manifest{MediaType: ocispec.MediaTypeImageManifest}
	manifest.SchemaVersion = 2
	for _, data := range layers {
		d := add(ocispec.MediaTypeImageLayer, data)
		manifest.Layers = append(manifest.Layers, d)
		config.RootFS.DiffIDs = append(config.RootFS.DiffIDs, d.Digest)
	}
	manifest.Config = add(ocispec.MediaTypeImageConfig, encode(config))
	index := image.Index{MediaType: ocispec.MediaTypeImageIndex}
	index.SchemaVersion = 2
	index.Manifests = []image.Descriptor{add(ocispec.MediaTypeImageManifest, encode(manifest))}
	_, closeErr := w.Close(bytes.NewReader(encode(index)))
	return errors.Join(err, closeErr)
}

// demoLayers makes the layers from the shell of the machine.
func demoLayers(t *testing.T) [][]byte {
	t.Helper()
	shell, err := filepath.EvalSymlinks("/bin/sh")
	if err != nil {
		t.Fatal(err)
	}
	files, err := elfclosure.Closure(shell)
	if err != nil {
		t.Fatal(err)
	}
	var base, patch bytes.Buffer
	tw := tar.NewWriter(&base)
	for _, dir := range []string{"bin", "etc", "proc", "sys", "dev", "tmp", "srv"} {
		putTar(t, tw, &tar.Header{Typeflag: tar.TypeDir, Name: dir + "/", Mode: 0o755}, "")
	}
	for _, name := range files {
		data, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		dest := strings.TrimPrefix(name, "/")
		if name == shell {
			dest = "bin/sh"
		}
		putTar(t, tw, &tar.Header{Typeflag: tar.TypeReg, Name: dest, Mode: 0o755}, string(data))
	}
	putTar(t, tw, &tar.Header{Typeflag: tar.TypeReg, Name: "srv/version", Mode: 0o644, Uid: 12, Gid: 34}, "1\n")
	putTar(t, tw, &tar.Header{Typeflag: tar.TypeReg, Name: "srv/old", Mode: 0o644}, "old\n")
	putTar(t, tw, &tar.Header{Typeflag: tar.TypeSymlink, Name: "srv/link", Linkname: "version"}, "")
	putTar(t, tw, &tar.Header{Typeflag: tar.TypeReg, Name: "bin/plain", Mode: 0o644}, "not a program\n")
	tw.Close()
	tw = tar.NewWriter(&patch)
	putTar(t, tw, &tar.Header{Typeflag: tar.TypeReg, Name: "srv/version", Mode: 0o644, Uid: 12, Gid: 34}, "2\n")
	putTar(t, tw, &tar.Header{Typeflag: tar.TypeReg, Name: "srv/.wh.old", Mode: 0o644}, "")
	tw.Close()
	return [][]byte{base.Bytes(), patch.Bytes()}
}

func putTar(t *testing.T, tw *tar.Writer, h *tar.Header, data string) {
	t.Helper()
	h.Size = int64(len(data))
	if err := tw.WriteHeader(h); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(tw, data); err != nil {
		t.Fatal(err)
	}
}
