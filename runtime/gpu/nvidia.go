package gpu

import (
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	hpcrun "hpcimg/runtime"
)

// NVIDIAOptions are the options of NVIDIA.
type NVIDIAOptions struct {
	// Host is searched; the zero value is this one.
	Host Host
	// Devices are the numbers of the GPUs to show; nil means all. It matters where the image does not see the host's
	// /dev: in a contained one. CUDA_VISIBLE_DEVICES chooses among those that are shown.
	Devices []int
	// Graphics adds what OpenGL and Vulkan need.
	Graphics bool
	// Env is the environment of the caller, whose variables for CUDA are passed on even to a clean one.
	Env []string
}

// NVIDIA returns what images need of the host's NVIDIA driver. Without a driver the error is fs.ErrNotExist.
func NVIDIA(o *NVIDIAOptions) (hpcrun.Injection, error) {
	if o == nil {
		o = &NVIDIAOptions{}
	}
	n := &nvidia{NVIDIAOptions: *o, inj: hpcrun.Injection{Name: "nvidia"}}
	cuda := n.Host.libraries("libcuda.so.1", "libnvidia-ml.so.1")
	if len(cuda) == 0 {
		return hpcrun.Injection{}, absent("NVIDIA driver libraries")
	}
	var anchors []string
	for _, file := range cuda {
		anchors = append(anchors, file)
	}
	slices.Sort(anchors)
	version := n.version(anchors)
	if version == "" {
		return hpcrun.Injection{}, absent("version of the NVIDIA driver")
	}
	n.devices()
	n.libraries(anchors, version)
	n.files(version)
	n.inj.Env = pass(n.Env, "CUDA_*", "NVIDIA_*", "NCCL_*")
	return n.inj, nil
}

type nvidia struct {
	NVIDIAOptions
	inj hpcrun.Injection
}

func (n *nvidia) note(text string) { n.inj.Notes = append(n.inj.Notes, text) }

// version is that of the kernel module, or of the library where the module's is not to be seen.
func (n *nvidia) version(anchors []string) string {
	number := regexp.MustCompile(`\b\d{3,}\.\d+(\.\d+)?\b`)
	if data, err := n.Host.read("/proc/driver/nvidia/version", maxText); err == nil {
		if v := number.FindString(string(data)); v != "" {
			return v
		}
	}
	for _, file := range anchors {
		if real, err := filepath.EvalSymlinks(n.Host.path(file)); err == nil {
			if _, v, ok := strings.Cut(path.Base(real), ".so."); ok && number.MatchString(v) {
				return v
			}
		}
	}
	return ""
}

func (n *nvidia) devices() {
	h := n.Host
	for _, name := range h.glob("/dev/nvidia[0-9]*") {
		number, err := strconv.Atoi(strings.TrimPrefix(name, "/dev/nvidia"))
		if err == nil && (n.Devices == nil || slices.Contains(n.Devices, number)) {
			n.inj.Binds = append(n.inj.Binds, h.bind(name, false))
		}
	}
	if len(n.inj.Binds) == 0 {
		n.note("there is no GPU device in /dev")
	}
	patterns := []string{
		"/dev/nvidiactl", "/dev/nvidia-uvm", "/dev/nvidia-uvm-tools", "/dev/nvidia-modeset", "/dev/nvidia-caps",
		"/dev/nvidia-caps-imex-channels", "/dev/gdrdrv", "/dev/nvidia-fs*",
	}
	if n.Graphics {
		patterns = append(patterns, "/dev/dri")
	}
	n.inj.Binds = append(n.inj.Binds, h.binds(false, patterns...)...)
	if !h.exists("/dev/nvidia-uvm") {
		n.note("/dev/nvidia-uvm does not exist: run nvidia-modprobe -u -c=0 on the host if CUDA finds no device")
	}
}

// links are the names without a version that programs open, by SONAME.
var links = map[string]string{
	"libcuda.so.1":               "libcuda.so",
	"libnvidia-ml.so.1":          "libnvidia-ml.so",
	"libnvidia-opticalflow.so.1": "libnvidia-opticalflow.so",
	"libnvidia-encode.so.1":      "libnvidia-encode.so",
	"libnvcuvid.so.1":            "libnvcuvid.so",
	"libnvidia-fbc.so.1":         "libnvidia-fbc.so",
}

// libraries collects those of the driver's version, and a few that have versions of their own.
func (n *nvidia) libraries(anchors []string, version string) {
	h := n.Host
	patterns := []string{"*.so." + version, "vdpau/*.so." + version, "libnvidia-nvvm70.so.*"}
	if n.Graphics {
		patterns = append(patterns, "libnvidia-egl-gbm.so.*", "libnvidia-egl-wayland*.so.*", "libnvidia-egl-xcb.so.*", "libnvidia-egl-xlib.so.*")
	}
	taken := make(map[string]bool)
	for _, anchor := range anchors {
		for _, pattern := range patterns {
			for _, file := range h.glob(path.Join(path.Dir(anchor), pattern)) {
				n.library(file, taken)
			}
		}
	}
	if n.Graphics {
		glvnd := []string{"libGL.so.1", "libEGL.so.1", "libGLX.so.0", "libOpenGL.so.0", "libGLdispatch.so.0", "libGLESv1_CM.so.1", "libGLESv2.so.2"}
		found := h.libraries(glvnd...)
		for _, name := range glvnd {
			if file, ok := found[name]; ok {
				n.library(file, taken)
			}
		}
	}
	if found, ok := h.libraries("libOpenCL.so.1")["libOpenCL.so.1"]; ok {
		n.library(found, taken)
	}
}

func (n *nvidia) library(file string, taken map[string]bool) {
	real, err := filepath.EvalSymlinks(n.Host.path(file))
	if err != nil || taken[real] || !n.Host.native(file) {
		return
	}
	taken[real] = true
	lib := hpcrun.Library{Source: real, Names: []string{path.Base(real)}}
	soname := n.Host.soname(file)
	for _, name := range []string{soname, links[soname]} {
		if name != "" && !slices.Contains(lib.Names, name) {
			lib.Names = append(lib.Names, name)
		}
	}
	n.inj.Libraries = append(n.inj.Libraries, lib)
}

// files are programs, configuration and sockets; each where it is on the host.
func (n *nvidia) files(version string) {
	h := n.Host
	for _, name := range []string{
		"nvidia-smi", "nvidia-debugdump", "nvidia-persistenced", "nvidia-cuda-mps-control", "nvidia-cuda-mps-server", "nvidia-imex", "nvidia-imex-ctl",
	} {
		for _, dir := range []string{"/usr/bin", "/usr/local/bin", "/usr/sbin", "/opt/bin"} {
			if h.exists(path.Join(dir, name)) {
				n.inj.Binds = append(n.inj.Binds, h.bind(path.Join(dir, name), true))
				break
			}
		}
	}
	config := []string{
		"/etc/OpenCL/vendors/nvidia.icd", "/usr/share/nvidia/nvoptix.bin", "/etc/cufile.json",
		"/lib/firmware/nvidia/" + version + "/gsp*.bin",
	}
	if n.Graphics {
		config = append(
			config, "/usr/share/glvnd/egl_vendor.d/10_nvidia.json", "/usr/share/egl/egl_external_platform.d/*nvidia*.json",
			"/usr/share/vulkan/icd.d/nvidia_icd*.json", "/etc/vulkan/icd.d/nvidia_icd*.json",
			"/usr/share/vulkan/implicit_layer.d/nvidia_layers.json", "/etc/vulkan/implicit_layer.d/nvidia_layers.json",
		)
	}
	n.inj.Binds = append(n.inj.Binds, h.binds(true, config...)...)
	n.inj.Binds = append(n.inj.Binds, h.binds(false, "/run/nvidia-persistenced/socket", "/run/nvidia-fabricmanager/socket", "/tmp/nvidia-mps")...)
}
