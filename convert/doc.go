// Package convert makes HPC images from container images.
package convert
