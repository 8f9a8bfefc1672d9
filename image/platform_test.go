package image_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"hpcimg/image"
)

// platformIndex stores an image for each platform and an index of them. The label "is" tells the images apart.
func platformIndex(b blobs, mediaType string, platforms ...string) image.Descriptor {
	var entries []string
	for _, p := range platforms {
		parts := append(strings.Split(p, "/"), "")
		config := strings.Replace(goodConfig, `"config":{}`, `"config":{"Labels":{"is":"`+p+`"}}`, 1)
		config = strings.Replace(config, `"os":"linux","architecture":"amd64"`,
			fmt.Sprintf(`"os":%q,"architecture":%q,"variant":%q`, parts[0], parts[1], parts[2]), 1)
		d := configOf(config)(b)
		d.Platform = &image.Platform{OS: parts[0], Architecture: parts[1], Variant: parts[2]}
		entries = append(entries, jsonOf(d))
	}
	d := indexOf(strings.Join(entries, ","), `,"mediaType":"`+mediaType+`"`)(b)
	d.MediaType = mediaType
	return d
}

func TestPlatformSelection(t *testing.T) {
	for _, tc := range []struct {
		name string
		have []string
		want string
		is   string // "" for a *PlatformError
	}{
		{"exact", []string{"linux/arm64", "linux/amd64", "windows/amd64"}, "linux/amd64", "linux/amd64"},
		{"uname", []string{"linux/arm64", "linux/amd64"}, "linux/aarch64", "linux/arm64"},
		{"none", []string{"linux/arm64", "windows/amd64"}, "linux/amd64", ""},
		{"arm64 is v8", []string{"linux/amd64", "linux/arm64/v8"}, "linux/arm64", "linux/arm64/v8"},
		{"v8 is arm64", []string{"linux/amd64", "linux/arm64"}, "linux/arm64/v8", "linux/arm64"},
		{"arm is v7", []string{"linux/arm/v5", "linux/arm/v6", "linux/arm/v7"}, "linux/arm", "linux/arm/v7"},
		{"best arm", []string{"linux/arm/v5", "linux/arm/v6"}, "linux/arm/v7", "linux/arm/v6"},
		{"no newer arm", []string{"linux/arm/v7"}, "linux/arm/v6", ""},
		{"baseline of amd64", []string{"linux/amd64/v3", "linux/amd64"}, "linux/amd64", "linux/amd64"},
		{"no newer amd64", []string{"linux/amd64/v3"}, "linux/amd64", ""},
		{"newer amd64", []string{"linux/amd64", "linux/amd64/v2", "linux/amd64/v3", "linux/amd64/v4"}, "linux/amd64/v3", "linux/amd64/v3"},
		{"next best amd64", []string{"linux/amd64", "linux/amd64/v2"}, "linux/amd64/v3", "linux/amd64/v2"},
		{"strange variant", []string{"linux/amd64/x", "linux/amd64"}, "linux/amd64", "linux/amd64"},
		{"first of equals", []string{"linux/amd64", "linux/amd64"}, "linux/amd64", "linux/amd64"},
		{"attestation", []string{"unknown/unknown", "linux/amd64"}, "linux/amd64", "linux/amd64"},
		{"empty index", nil, "linux/amd64", ""},
	} {
		for _, mediaType := range []string{typeIndex, typeList} {
			t.Run(tc.name+"/"+mediaType, func(t *testing.T) {
				b := blobs{}
				root := platformIndex(b, mediaType, tc.have...)
				want, err := image.ParsePlatform(tc.want)
				if err != nil {
					t.Fatal(err)
				}
				img, err := image.New(t.Context(), root, b, &image.Options{Platform: &want})
				if tc.is == "" {
					pe, ok := errors.AsType[*image.PlatformError](err)
					if !ok {
						t.Fatalf("got %v, want *PlatformError", err)
					}
					if len(pe.Have) != len(tc.have) || pe.Want.Architecture != want.Architecture {
						t.Errorf("error %+v", pe)
					}
					return
				}
				if err != nil {
					t.Fatal(err)
				}
				if is := img.Config().Config.Labels["is"]; is != tc.is {
					t.Errorf("chose %s, want %s", is, tc.is)
				}
				if img.Root().Digest != root.Digest || img.Descriptor().Digest == root.Digest {
					t.Errorf("Root %s, Descriptor %s, index is %s", img.Root().Digest, img.Descriptor().Digest, root.Digest)
				}
			})
		}
	}
}

func TestPlatformOfSingleImage(t *testing.T) {
	b := blobs{}
	root := configOf(strings.Replace(goodConfig, "amd64", "s390x", 1))(b)
	_, err := image.New(t.Context(), root, b, amd64())
	pe, ok := errors.AsType[*image.PlatformError](err)
	if !ok || len(pe.Have) != 1 || pe.Have[0].Architecture != "s390x" || !strings.Contains(err.Error(), "linux/s390x") {
		t.Errorf("got %v, want *PlatformError that names linux/s390x", err)
	}
}

func TestParsePlatform(t *testing.T) {
	for in, want := range map[string]image.Platform{
		"linux/amd64":    {OS: "linux", Architecture: "amd64"},
		"linux/x86_64":   {OS: "linux", Architecture: "amd64"},
		"Linux/ARM64/v8": {OS: "linux", Architecture: "arm64"},
		"linux/arm/7":    {OS: "linux", Architecture: "arm", Variant: "v7"},
		"linux/amd64/v3": {OS: "linux", Architecture: "amd64", Variant: "v3"},
	} {
		got, err := image.ParsePlatform(in)
		if err != nil || got.OS != want.OS || got.Architecture != want.Architecture || got.Variant != want.Variant {
			t.Errorf("%s: %+v, %v", in, got, err)
		}
	}
	for _, bad := range []string{"", "linux", "linux/", "/amd64", "a/b/c/d"} {
		if _, err := image.ParsePlatform(bad); err == nil {
			t.Errorf("%q was accepted", bad)
		}
	}
}
