package gpu_test

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	hpcrun "hpcimg/runtime"
	"hpcimg/runtime/gpu"
)

// library is an ELF shared library that has nothing but a SONAME.
func library(class elf.Class, machine elf.Machine, soname string) []byte {
	var b bytes.Buffer
	put := func(values ...any) {
		for _, v := range values {
			_ = binary.Write(&b, binary.LittleEndian, v)
		}
	}
	ident := [16]byte{0x7f, 'E', 'L', 'F', byte(class), 1, 1}
	if class == elf.ELFCLASS32 {
		put(elf.Header32{Ident: ident, Type: uint16(elf.ET_DYN), Machine: uint16(machine), Version: 1, Ehsize: 52})
		return b.Bytes()
	}
	const header, section, dyn = 64, 64, 48
	text := "\x00" + soname + "\x00"
	dynOff, strOff := uint64(header), uint64(header+dyn)
	put(elf.Header64{
		Ident: ident, Type: uint16(elf.ET_DYN), Machine: uint16(machine), Version: 1, Ehsize: header,
		Shoff: strOff + uint64(len(text)), Shentsize: section, Shnum: 3, Shstrndx: 1,
	})
	put(elf.Dyn64{Tag: int64(elf.DT_SONAME), Val: 1}, elf.Dyn64{Tag: int64(elf.DT_STRTAB)}, elf.Dyn64{})
	b.WriteString(text)
	put(elf.Section64{})
	put(elf.Section64{Type: uint32(elf.SHT_STRTAB), Off: strOff, Size: uint64(len(text))})
	put(elf.Section64{Type: uint32(elf.SHT_DYNAMIC), Off: dynOff, Size: dyn, Link: 1, Entsize: 16})
	return b.Bytes()
}

func cache(paths ...string) []byte {
	le := binary.LittleEndian
	b := append([]byte("glibc-ld.so.cache1.1"), make([]byte, 28)...)
	le.PutUint32(b[20:], uint32(len(paths)))
	at, text := len(b)+24*len(paths), ""
	for _, p := range paths {
		b = le.AppendUint32(b, 0x303)
		b = le.AppendUint32(b, uint32(at+len(text)))
		text += filepath.Base(p) + "\x00"
		b = le.AppendUint32(b, uint32(at+len(text)))
		text += p + "\x00"
		b = append(b, make([]byte, 12)...)
	}
	return append(b, text...)
}

func machine() elf.Machine {
	if runtime.GOARCH == "arm64" {
		return elf.EM_AARCH64
	}
	return elf.EM_X86_64
}

// fakeHost makes a directory with files, and symbolic links where the contents start with "->".
func fakeHost(t *testing.T, files map[string]string) gpu.Host {
	root := t.TempDir()
	for name, data := range files {
		name = filepath.Join(root, name)
		err := os.MkdirAll(filepath.Dir(name), 0o755)
		if target, ok := strings.CutPrefix(data, "->"); ok {
			err = errors.Join(err, os.Symlink(target, name))
		} else {
			err = errors.Join(err, os.WriteFile(name, []byte(data), 0o644))
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return gpu.Host{Root: root}
}

func nvidiaFiles() map[string]string {
	lib := func(soname string) string { return string(library(elf.ELFCLASS64, machine(), soname)) }
	return map[string]string{
		"proc/driver/nvidia/version":           "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  560.35.03  Release Build  (x)\n",
		"usr/lib/nv/libcuda.so.560.35.03":      lib("libcuda.so.1"),
		"usr/lib/nv/libcuda.so.1":              "->libcuda.so.560.35.03",
		"usr/lib/nv/libnvidia-ml.so.560.35.03": lib("libnvidia-ml.so.1"),
		"usr/lib/nv/libnvidia-ml.so.1":         "->libnvidia-ml.so.560.35.03",
		"usr/lib/nv/libnvidia-nvvm70.so.4":     lib("libnvidia-nvvm70.so.4"),
		"usr/lib/nv/libcuda.so.535.1.1":        lib("libcuda.so.1"),
		"usr/lib/nv/libfake.so.560.35.03":      "no library",
		"usr/lib/nv/libforeign.so.560.35.03":   string(library(elf.ELFCLASS64, elf.EM_S390, "libforeign.so.1")),
		"usr/lib/nv32/libcuda.so.1":            string(library(elf.ELFCLASS32, elf.EM_386, "libcuda.so.1")),
		"etc/ld.so.cache":                      string(cache("/usr/lib/nv32/libcuda.so.1", "/usr/lib/nv/libcuda.so.1", "/usr/lib/nv/libnvidia-ml.so.1", "/usr/lib/nv/libc.so.6")),
		"dev/nvidia0":                          "", "dev/nvidia1": "", "dev/nvidiactl": "", "dev/nvidia-caps/nvidia-cap1": "",
		"usr/bin/nvidia-smi":                      "",
		"etc/OpenCL/vendors/nvidia.icd":           "",
		"lib/firmware/nvidia/560.35.03/gsp_x.bin": "",
		"run/nvidia-persistenced/socket":          "",
	}
}

func TestNVIDIA(t *testing.T) {
	t.Parallel()
	host := fakeHost(t, nvidiaFiles())
	inj, err := gpu.NVIDIA(&gpu.NVIDIAOptions{Host: host, Devices: []int{1}, Env: []string{"CUDA_VISIBLE_DEVICES=1", "PATH=x", "CUDAX=1"}})
	if err != nil {
		t.Fatal(err)
	}
	in := func(name string) string { return filepath.Join(host.Root, name) }
	want := hpcrun.Injection{
		Name: "nvidia",
		Binds: []hpcrun.Bind{
			{Source: in("/dev/nvidia1"), Target: "/dev/nvidia1"},
			{Source: in("/dev/nvidiactl"), Target: "/dev/nvidiactl"},
			{Source: in("/dev/nvidia-caps"), Target: "/dev/nvidia-caps"},
			{Source: in("/usr/bin/nvidia-smi"), Target: "/usr/bin/nvidia-smi", ReadOnly: true},
			{Source: in("/etc/OpenCL/vendors/nvidia.icd"), Target: "/etc/OpenCL/vendors/nvidia.icd", ReadOnly: true},
			{Source: in("/lib/firmware/nvidia/560.35.03/gsp_x.bin"), Target: "/lib/firmware/nvidia/560.35.03/gsp_x.bin", ReadOnly: true},
			{Source: in("/run/nvidia-persistenced/socket"), Target: "/run/nvidia-persistenced/socket"},
		},
		Libraries: []hpcrun.Library{
			{Source: in("/usr/lib/nv/libcuda.so.560.35.03"), Names: []string{"libcuda.so.560.35.03", "libcuda.so.1", "libcuda.so"}},
			{Source: in("/usr/lib/nv/libnvidia-ml.so.560.35.03"), Names: []string{"libnvidia-ml.so.560.35.03", "libnvidia-ml.so.1", "libnvidia-ml.so"}},
			{Source: in("/usr/lib/nv/libnvidia-nvvm70.so.4"), Names: []string{"libnvidia-nvvm70.so.4"}},
		},
		Env:   []string{"CUDA_VISIBLE_DEVICES=1"},
		Notes: []string{"/dev/nvidia-uvm does not exist: run nvidia-modprobe -u -c=0 on the host if CUDA finds no device"},
	}
	if diff := cmp.Diff(want, inj); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}

// TestNVIDIAVersion: where the module's version is not to be seen, the library's name has it.
func TestNVIDIAVersion(t *testing.T) {
	t.Parallel()
	files := nvidiaFiles()
	delete(files, "proc/driver/nvidia/version")
	inj, err := gpu.NVIDIA(&gpu.NVIDIAOptions{Host: fakeHost(t, files)})
	if err != nil || len(inj.Libraries) != 3 {
		t.Errorf("%+v, %v", inj.Libraries, err)
	}
}

func TestNVIDIAGraphics(t *testing.T) {
	t.Parallel()
	files := nvidiaFiles()
	files["usr/lib64/libGL.so.1"] = string(library(elf.ELFCLASS64, machine(), "libGL.so.1"))
	files["dev/dri/card0"] = ""
	files["usr/share/vulkan/icd.d/nvidia_icd.json"] = "{}"
	inj, err := gpu.NVIDIA(&gpu.NVIDIAOptions{Host: fakeHost(t, files), Graphics: true})
	if err != nil {
		t.Fatal(err)
	}
	targets := func(b hpcrun.Bind) bool {
		return b.Target == "/dev/dri" || b.Target == "/usr/share/vulkan/icd.d/nvidia_icd.json"
	}
	if !slices.ContainsFunc(inj.Binds, targets) || !slices.ContainsFunc(inj.Libraries, func(l hpcrun.Library) bool { return l.Names[0] == "libGL.so.1" }) {
		t.Errorf("%+v", inj)
	}
}

func TestROCm(t *testing.T) {
	t.Parallel()
	files := map[string]string{
		"dev/kfd": "", "dev/dri/renderD128": "",
		"usr/lib64/libnuma.so.1.0": string(library(elf.ELFCLASS64, machine(), "libnuma.so.1")), "usr/lib64/libnuma.so.1": "->libnuma.so.1.0",
		"etc/ld.so.cache": "damaged",
	}
	host := fakeHost(t, files)
	inj, err := gpu.ROCm(&gpu.ROCmOptions{Host: host, Libraries: true, Env: []string{"ROCR_VISIBLE_DEVICES=0", "HSA_X=1", "Y=1"}})
	if err != nil {
		t.Fatal(err)
	}
	want := hpcrun.Injection{
		Name:      "rocm",
		Binds:     []hpcrun.Bind{{Source: host.Root + "/dev/kfd", Target: "/dev/kfd"}, {Source: host.Root + "/dev/dri", Target: "/dev/dri"}},
		Libraries: []hpcrun.Library{{Source: host.Root + "/usr/lib64/libnuma.so.1.0", Names: []string{"libnuma.so.1.0", "libnuma.so.1"}}},
		Env:       []string{"ROCR_VISIBLE_DEVICES=0", "HSA_X=1"},
		Notes:     []string{"the devices are open to the groups video and render"},
	}
	if diff := cmp.Diff(want, inj); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}

func TestAbsent(t *testing.T) {
	t.Parallel()
	host := fakeHost(t, nil)
	if _, err := gpu.NVIDIA(&gpu.NVIDIAOptions{Host: host}); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("NVIDIA: %v", err)
	}
	if _, err := gpu.ROCm(&gpu.ROCmOptions{Host: host}); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("ROCm: %v", err)
	}
}

func ExampleNVIDIA() {
	_, err := gpu.NVIDIA(&gpu.NVIDIAOptions{Host: gpu.Host{Root: "/proc/self/fdinfo"}}) // a host without a driver
	fmt.Println(err, errors.Is(err, fs.ErrNotExist))
	// Output: gpu: no NVIDIA driver libraries on this host: file does not exist true
}

func ExampleROCm() {
	_, err := gpu.ROCm(&gpu.ROCmOptions{Host: gpu.Host{Root: "/proc/self/fdinfo"}})
	fmt.Println(err)
	// Output: gpu: no AMD GPU driver on this host: file does not exist
}
