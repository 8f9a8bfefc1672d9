package image_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"runtime"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"

	"hpcimg/image"
)

const (
	typeManifest = "application/vnd.oci.image.manifest.v1+json"
	typeIndex    = "application/vnd.oci.image.index.v1+json"
	typeConfig   = "application/vnd.oci.image.config.v1+json"
	typeLayer    = "application/vnd.oci.image.layer.v1.tar+gzip"
	typeDocker   = "application/vnd.docker.distribution.manifest.v2+json"
	typeList     = "application/vnd.docker.distribution.manifest.list.v2+json"
)

// blobs is a source in memory.
type blobs map[digest.Digest][]byte

func (b blobs) Open(_ context.Context, d image.Descriptor) (io.ReadCloser, error) {
	raw, ok := b[d.Digest]
	if !ok {
		return nil, fs.ErrNotExist
	}
	return io.NopCloser(bytes.NewReader(raw)), nil
}

// put stores raw and returns its descriptor.
func (b blobs) put(mediaType, raw string) image.Descriptor {
	d := image.Descriptor{MediaType: mediaType, Digest: digest.FromString(raw), Size: int64(len(raw))}
	b[d.Digest] = []byte(raw)
	return d
}

// jsonOf is the descriptor in JSON, with replacements for whole members: `"size":3` and so on.
func jsonOf(d image.Descriptor, change ...string) string {
	raw, err := json.Marshal(d)
	if err != nil {
		panic(err)
	}
	s := string(raw)
	for i := 0; i < len(change); i += 2 {
		if !strings.Contains(s, change[i]) {
			panic(s + " has no " + change[i])
		}
		s = strings.Replace(s, change[i], change[i+1], 1)
	}
	return s
}

// goodConfig is a config for one layer on the platform that every test here asks for.
const goodConfig = `{"os":"linux","architecture":"amd64","config":{},"rootfs":{"type":"layers","diff_ids":["` + sha256Digest + `"]}}`

func amd64() *image.Options {
	return &image.Options{Platform: &image.Platform{OS: "linux", Architecture: "amd64"}}
}

// hostile is one way in which a manifest, index or config can be wrong.
type hostile struct {
	name string
	// field that the *DocumentError names; "" if want says it all
	field string
	want  error
	// make stores documents and returns the root
	make func(b blobs) image.Descriptor
}

// manifestOf stores a manifest with the given config and layers in JSON and returns its descriptor.
func manifestOf(config, layers, more string) func(b blobs) image.Descriptor {
	return func(b blobs) image.Descriptor {
		c := b.put(typeConfig, goodConfig)
		l := b.put(typeLayer, "layer")
		config, layers := config, layers
		if config == "" {
			config = jsonOf(c)
		}
		if layers == "" {
			layers = "[" + jsonOf(l) + "]"
		}
		return b.put(typeManifest, fmt.Sprintf(`{"schemaVersion":2,"config":%s,"layers":%s%s}`, config, layers, more))
	}
}

// configOf stores a manifest of one layer with this config.
func configOf(config string) func(b blobs) image.Descriptor {
	return func(b blobs) image.Descriptor {
		return manifestOf(jsonOf(b.put(typeConfig, config)), "", "")(b)
	}
}

// indexOf stores an index with these entries.
func indexOf(entries, more string) func(b blobs) image.Descriptor {
	return func(b blobs) image.Descriptor {
		return b.put(typeIndex, fmt.Sprintf(`{"schemaVersion":2,"manifests":[%s]%s}`, entries, more))
	}
}

func raw(mediaType, doc string) func(b blobs) image.Descriptor {
	return func(b blobs) image.Descriptor { return b.put(mediaType, doc) }
}

// layer is a good layer's descriptor with changes.
func layer(change ...string) string {
	return jsonOf(image.Descriptor{MediaType: typeLayer, Digest: digest.FromString("layer"), Size: 5}, change...)
}

// entry is a good index entry's descriptor with changes.
func entry(change ...string) string {
	d := image.Descriptor{
		MediaType: typeManifest, Digest: digest.FromString("m"), Size: 1,
		Platform: &image.Platform{OS: "linux", Architecture: "amd64"},
	}
	return jsonOf(d, change...)
}

func hostileDocuments() []hostile {
	layerDigest := string(digest.FromString("layer"))
	settings := func(s string) func(blobs) image.Descriptor {
		return configOf(strings.Replace(goodConfig, `"config":{}`, `"config":{`+s+`}`, 1))
	}
	rootfs := func(s string) func(blobs) image.Descriptor {
		return configOf(`{"os":"linux","architecture":"amd64","rootfs":` + s + `}`)
	}
	return []hostile{
		// D1, D2: digests and sizes
		{"config blob differs", "", image.ErrDigest, func(b blobs) image.Descriptor {
			d := manifestOf("", "", "")(b)
			b[digest.FromString(goodConfig)] = []byte(strings.Replace(goodConfig, "amd64", "arm64", 1))
			return d
		}},
		{"config blob is short", "", io.ErrUnexpectedEOF, func(b blobs) image.Descriptor {
			d := manifestOf("", "", "")(b)
			b[digest.FromString(goodConfig)] = []byte(goodConfig[:20])
			return d
		}},
		{"config blob is long", "", image.ErrDigest, func(b blobs) image.Descriptor {
			d := manifestOf("", "", "")(b)
			b[digest.FromString(goodConfig)] = []byte(goodConfig + " ")
			return d
		}},
		{"manifest blob differs", "", image.ErrDigest, func(b blobs) image.Descriptor {
			d := manifestOf("", "", "")(b)
			b[d.Digest] = bytes.Repeat([]byte{' '}, int(d.Size))
			return d
		}},
		{"layer size negative", "layers[0].size", image.ErrFormat, manifestOf("", "["+layer(`"size":5`, `"size":-1`)+"]", "")},
		{"layer size 2^63", "layers.size", image.ErrFormat, manifestOf("", "["+layer(`"size":5`, `"size":9223372036854775808`)+"]", "")},
		{"layer size is a string", "layers.size", image.ErrFormat, manifestOf("", "["+layer(`"size":5`, `"size":"5"`)+"]", "")},
		{"layer size fractional", "layers.size", image.ErrFormat, manifestOf("", "["+layer(`"size":5`, `"size":5.5`)+"]", "")},
		{
			"layer sizes overflow", "layers[1].size", image.ErrFormat,
			manifestOf("", "["+layer(`"size":5`, `"size":9223372036854775807`)+","+layer()+"]", ""),
		},
		{"config size negative", "config.size", image.ErrFormat, func(b blobs) image.Descriptor {
			c := b.put(typeConfig, goodConfig)
			return manifestOf(jsonOf(c, fmt.Sprintf(`"size":%d`, c.Size), `"size":-1`), "", "")(b)
		}},
		{"config size 1 TiB", "", image.ErrLimit, func(b blobs) image.Descriptor {
			c := b.put(typeConfig, goodConfig)
			return manifestOf(jsonOf(c, fmt.Sprintf(`"size":%d`, c.Size), `"size":1099511627776`), "", "")(b)
		}},
		{"entry size 1 TiB", "", image.ErrLimit, indexOf(entry(`"size":1`, `"size":1099511627776`), "")},
		{"entry size negative", "manifests[0].size", image.ErrFormat, indexOf(entry(`"size":1`, `"size":-1`), "")},

		// D3: one document, two meanings
		{"layers and manifests", "manifests", image.ErrFormat, manifestOf("", "", `,"manifests":[]`)},
		{"config and manifests", "manifests", image.ErrFormat, indexOf("", `,"config":{}`)},
		{"manifests in a manifest", "manifests", image.ErrFormat, raw(typeManifest, `{"schemaVersion":2,"manifests":[]}`)},
		{"layers in an index", "layers", image.ErrFormat, raw(typeIndex, `{"schemaVersion":2,"layers":[]}`)},

		// D4: media types
		{"media type contradicts descriptor", "mediaType", image.ErrFormat, manifestOf("", "", `,"mediaType":"`+typeDocker+`"`)},
		{"index calls itself manifest", "mediaType", image.ErrFormat, indexOf("", `,"mediaType":"`+typeManifest+`"`)},
		{"schema 1", "schemaVersion", errors.ErrUnsupported, raw("application/json", `{"schemaVersion":1,"fsLayers":[],"history":[]}`)},
		{
			"schema 1 by type", "schemaVersion", errors.ErrUnsupported,
			raw("application/vnd.docker.distribution.manifest.v1+prettyjws", `{"schemaVersion":2}`),
		},
		{"schema 3", "schemaVersion", image.ErrFormat, raw(typeManifest, `{"schemaVersion":3}`)},
		{"no schema", "schemaVersion", image.ErrFormat, raw(typeManifest, `{}`)},
		{"unknown media type", "mediaType", errors.ErrUnsupported, raw("application/vnd.example+json", `{"schemaVersion":2}`)},
		{"layer without media type", "layers[0].mediaType", image.ErrFormat, manifestOf("", "["+layer(typeLayer, "")+"]", "")},
		{"layer media type with space", "layers[0].mediaType", image.ErrFormat, manifestOf("", "["+layer(typeLayer, "a/b c")+"]", "")},
		{"layer media type long", "layers[0].mediaType", image.ErrFormat, manifestOf("", "["+layer(typeLayer, "a/"+strings.Repeat("b", 300))+"]", "")},

		// D5: urls
		{
			"thousand urls", "layers[0].urls", image.ErrFormat,
			manifestOf("", "["+layer(`"size":5`, `"size":5,"urls":[`+strings.Repeat(`"http://x",`, 999)+`"http://x"]`)+"]", ""),
		},

		// D6: embedded data
		{"data differs", "layers[0].data", image.ErrDigest, manifestOf("", "["+layer(`"size":5`, `"size":5,"data":"b3RoZXI="`)+"]", "")},
		{"data of other size", "layers[0].data", image.ErrDigest, manifestOf("", "["+layer(`"size":5`, `"size":6,"data":"bGF5ZXI="`)+"]", "")},
		{"data not base64", "", image.ErrFormat, manifestOf("", "["+layer(`"size":5`, `"size":5,"data":"%%%"`)+"]", "")},

		// D7: digests
		{"digest md5", "layers[0].digest", image.ErrFormat, manifestOf("", "["+layer(layerDigest, "md5:d41d8cd98f00b204e9800998ecf8427e")+"]", "")},
		{"digest is a path", "layers[0].digest", image.ErrFormat, manifestOf("", "["+layer(layerDigest, "sha256:../../../../etc/passwd")+"]", "")},
		{"digest short", "layers[0].digest", image.ErrFormat, manifestOf("", "["+layer(layerDigest, layerDigest[:60])+"]", "")},
		{"digest upper case", "layers[0].digest", image.ErrFormat, manifestOf("", "["+layer(layerDigest, "sha256:"+strings.ToUpper(layerDigest[7:]))+"]", "")},
		{"digest empty", "layers[0].digest", image.ErrFormat, manifestOf("", "["+layer(layerDigest, "")+"]", "")},
		{"config digest bad", "config.digest", image.ErrFormat, manifestOf(`{"mediaType":"`+typeConfig+`","digest":"x","size":1}`, "", "")},
		{"entry digest bad", "manifests[0].digest", image.ErrFormat, indexOf(entry(string(digest.FromString("m")), "sha256:x"), "")},
		{"subject digest bad", "subject.digest", image.ErrFormat, manifestOf("", "", `,"subject":{"mediaType":"a/b","digest":"sha256:x","size":1}`)},

		// D8: indexes
		{"index nested five deep", "manifests", image.ErrFormat, func(b blobs) image.Descriptor {
			d := manifestOf("", "", "")(b)
			for range 5 {
				d = indexOf(jsonOf(d), "")(b)
			}
			return d
		}},
		{"index of 20,000 entries", "", image.ErrLimit, indexOf(strings.Repeat(entry()+",", 19_999)+entry(), "")},
		{"index of a hundred indexes", "manifests", image.ErrFormat, func(b blobs) image.Descriptor {
			var entries []string
			for i := range 100 {
				entries = append(entries, jsonOf(indexOf("", fmt.Sprintf(`,"annotations":{"i":"%d"}`, i))(b)))
			}
			return indexOf(strings.Join(entries, ","), "")(b)
		}},

		// D9: size and shape of documents
		{"manifest of 5 MiB", "", image.ErrLimit, raw(typeManifest, `{"schemaVersion":2}`+strings.Repeat(" ", 5<<20))},
		{"20,000 layers", "", image.ErrLimit, manifestOf("", "["+strings.Repeat(layer()+",", 19_999)+layer()+"]", "")},
		{"a million empty layers", "", image.ErrFormat, manifestOf("", "["+strings.Repeat("{},", 999_999)+"{}]", "")},
		{"nested a thousand deep", "", image.ErrFormat, raw(typeManifest, `{"a":`+strings.Repeat("[", 1000)+strings.Repeat("]", 1000)+`}`)},
		{"duplicate layers", "layers", image.ErrFormat, manifestOf("", "", `,"layers":[]`)},
		{"layers in capitals", "Layers", image.ErrFormat, manifestOf("", "", `,"Layers":[]`)},
		{"duplicate digest", "layers[0].digest", image.ErrFormat, manifestOf("", "["+layer(`"size":5`, `"size":5,"digest":"`+sha256Digest+`"`)+"]", "")},
		{"digest in capitals", "layers[0].DIGEST", image.ErrFormat, manifestOf("", "["+layer(`"size":5`, `"size":5,"DIGEST":"`+sha256Digest+`"`)+"]", "")},
		{"data behind the document", "", image.ErrFormat, raw(typeManifest, `{"schemaVersion":2}{}`)},
		{"not an object", "", image.ErrFormat, raw(typeManifest, `[]`)},
		{"not JSON", "", image.ErrFormat, raw(typeManifest, "\x7fELF")},
		{"empty", "", image.ErrFormat, raw(typeManifest, "")},
		{"cut off", "", io.ErrUnexpectedEOF, raw(typeManifest, `{"schemaVersion":2,"config":`)},
		{"null", "", image.ErrFormat, raw(typeManifest, "null")},
		{"layers is an object", "layers", image.ErrFormat, manifestOf("", "{}", "")},
		{"no config", "config", image.ErrFormat, raw(typeManifest, `{"schemaVersion":2,"layers":[]}`)},
		{"null layer", "layers[0].digest", image.ErrFormat, manifestOf("", "[null]", "")},

		// D10, D11: configs
		{"artifact", "config.mediaType", errors.ErrUnsupported, manifestOf(
			`{"mediaType":"application/vnd.sylabs.sif.config.v1+json","digest":"`+sha256Digest+`","size":0}`, "", "")},
		{"no rootfs", "rootfs.diff_ids", image.ErrFormat, configOf(`{}`)},
		{"one diffID too few", "rootfs.diff_ids", image.ErrFormat, manifestOf("", "["+layer()+","+layer()+"]", "")},
		{"one diffID too many", "rootfs.diff_ids", image.ErrFormat, rootfs(`{"type":"layers","diff_ids":["` + sha256Digest + `","` + sha256Digest + `"]}`)},
		{"diffID bad", "rootfs.diff_ids[0]", image.ErrFormat, rootfs(`{"type":"layers","diff_ids":["sha256:../x"]}`)},
		{"rootfs type", "rootfs.type", image.ErrFormat, rootfs(`{"type":"layers+base","diff_ids":["` + sha256Digest + `"]}`)},
		{"NUL in environment", "config.Env[1]", image.ErrFormat, settings(`"Env":["A=b","C=\u0000d"]`)},
		{"environment without name", "config.Env[0]", image.ErrFormat, settings(`"Env":["=b"]`)},
		{"newline in name of environment", "config.Env[0]", image.ErrFormat, settings(`"Env":["A\nB=c"]`)},
		{"NUL in argument", "config.Cmd[0]", image.ErrFormat, settings(`"Cmd":["a\u0000b"]`)},
		{"NUL in entry point", "config.Entrypoint[0]", image.ErrFormat, settings(`"Entrypoint":["a\u0000b"]`)},
		{"NUL in label", "config.Labels.a", image.ErrFormat, settings(`"Labels":{"a":"b\u0000"}`)},
		{"NUL in volume", "config.Volumes", image.ErrFormat, settings(`"Volumes":{"/a\u0000":{}}`)},
		{"working directory outside", "config.WorkingDir", image.ErrFormat, settings(`"WorkingDir":"/../../etc"`)},
		{"newline in user", "config.User", image.ErrFormat, settings(`"User":"a\nb"`)},
		{"environment is a string", "config.Env", image.ErrFormat, settings(`"Env":"A=b"`)},
		{"config twice", "config", image.ErrFormat, configOf(strings.Replace(goodConfig, `"config":{}`, `"config":{},"config":{}`, 1))},
		{"config in capitals", "Config", image.ErrFormat, configOf(strings.Replace(goodConfig, `"config":{}`, `"Config":{}`, 1))},
	}
}

func TestHostileDocuments(t *testing.T) {
	for _, tc := range hostileDocuments() {
		t.Run(tc.name, func(t *testing.T) {
			b := blobs{}
			root := tc.make(b)
			img, err := image.New(t.Context(), root, b, amd64())
			if img != nil || !errors.Is(err, tc.want) {
				t.Fatalf("got %v; want %v", err, tc.want)
			}
			if len(err.Error()) > 2000 {
				t.Errorf("error of %d bytes", len(err.Error()))
			}
			doc, ok := errors.AsType[*image.DocumentError](err)
			if tc.field != "" && (!ok || doc.Field != tc.field) {
				t.Errorf("error %v does not name %s", err, tc.field)
			}
		})
	}
}

// TestHostileDocumentsAreCheap: no document makes us allocate more than 64 MiB, all in all, before it is refused.
func TestHostileDocumentsAreCheap(t *testing.T) {
	most, name := uint64(0), ""
	for _, tc := range hostileDocuments() {
		b := blobs{}
		root := tc.make(b)
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		_, err := image.New(t.Context(), root, b, amd64())
		runtime.ReadMemStats(&after)
		if n := after.TotalAlloc - before.TotalAlloc; n > most {
			most, name = n, tc.name
		}
		if err == nil {
			t.Errorf("%s: accepted", tc.name)
		}
	}
	t.Logf("%d documents, at most %d KiB: %s", len(hostileDocuments()), most>>10, name)
	if most > 64<<20 {
		t.Errorf("%s: %d bytes allocated", name, most)
	}
}

// TestGoodDocuments keeps the table above honest: what its cases change is accepted as it is, and so are oddities that occur.
func TestGoodDocuments(t *testing.T) {
	for _, tc := range []struct {
		name string
		make func(b blobs) image.Descriptor
	}{
		{"plain", manifestOf("", "", "")},
		{"with its media type", manifestOf("", "", `,"mediaType":"`+typeManifest+`"`)},
		{"announced as JSON", func(b blobs) image.Descriptor {
			d := manifestOf("", "", "")(b)
			d.MediaType = "application/json"
			return d
		}},
		{"Docker manifest without its media type", func(b blobs) image.Descriptor {
			d := manifestOf("", "", "")(b)
			d.MediaType = typeDocker
			return d
		}},
		{"sha512", func(b blobs) image.Descriptor {
			d := manifestOf("", "", "")(b)
			r := b[d.Digest]
			d.Digest = digest.SHA512.FromBytes(r)
			b[d.Digest] = r
			return d
		}},
		{"foreign layer", manifestOf("", "["+layer(typeLayer, "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip", `"size":5`, `"size":5,"urls":["http://127.0.0.1:1/never"]`)+"]", "")},
		{"embedded layer", manifestOf("", "["+layer(`"size":5`, `"size":5,"data":"bGF5ZXI="`)+"]", "")},
		{"unknown members", manifestOf("", "", `,"x":{"y":1},"annotations":{"Layers":"a","layers":"b"}`)},
		{"labels in both cases", configOf(strings.Replace(goodConfig, `"config":{}`, `"config":{"Labels":{"Author":"a","author":"b"}}`, 1))},
		{"newline in value", configOf(strings.Replace(goodConfig, `"config":{}`, `"config":{"Env":["A=b\nc"]}`, 1))},
		{"no platform in config", configOf(strings.Replace(goodConfig, `"os":"linux","architecture":"amd64",`, "", 1))},
		{"index four deep", func(b blobs) image.Descriptor {
			d := manifestOf("", "", "")(b)
			for range 4 {
				d = indexOf(jsonOf(d), "")(b)
			}
			return d
		}},
		{"artifact beside the image", func(b blobs) image.Descriptor {
			d := manifestOf("", "", "")(b)
			artifact := b.put(typeManifest, `{"schemaVersion":2,"config":{"mediaType":"a/b","digest":"`+sha256Digest+`","size":0},"layers":[]}`)
			return indexOf(jsonOf(artifact)+","+jsonOf(d), "")(b)
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			b := blobs{}
			img, err := image.New(t.Context(), tc.make(b), b, amd64())
			if err != nil {
				t.Fatal(err)
			}
			if got := string(readLayer(t, img.Layers()[0])); got != "layer" {
				t.Errorf("layer is %q", got)
			}
		})
	}
}
