// Package registry writes images to OCI registries and asks registries questions. Reading an image from one needs only package
// image: image.Open with a docker:// reference.
//
//	img, err := image.Open(ctx, "oci:/data/layout:v1", nil)
//	if err != nil {
//		return err
//	}
//	desc, err := registry.Push(ctx, img, "docker://registry.example.org/tools/gcc:13", &registry.PushOptions{
//		Registry: image.RegistryOptions{Credentials: registry.DockerConfig(path)},
//	})
//
// # Pushing
//
// [Push] asks for each blob before it sends it, uploads several at a time, and puts the manifest last, so that the tag never names
// an image that is not whole. Blobs that the repository has are not sent, those that another one of the registry has are mounted, and an
// upload that breaks goes on where the registry says that it stands. Content is verified on its way out: a damaged layout cannot damage a registry. The manifest is
// pushed as it is stored, so its digest stays the same.
//
// # Questions
//
// A [Client] lists tags and referrers, and resolves references without reading images. It keeps connections and tokens between calls.
//
// # Credentials
//
// Requests are anonymous unless the caller passes credentials. [DockerConfig] is the way that people expect: the file that docker
// login and podman login write, with the credential helpers it names. No package of this module reads environment variables or
// home directories by itself; the caller says where the file is.
//
// # Mirrors
//
// [Mirrors] reads the registries.conf that Podman, Buildah and Skopeo share, for RegistryOptions.Mirrors of an image that is opened.
//
// # Errors
//
// The same as of image.Open: fs.ErrNotExist, *image.UnauthorizedError, *image.TransportError, *image.DigestError and
// *image.ReferenceError.
//
// # Concurrency
//
// A [Client] may be used by many goroutines. Callbacks come from one goroutine at a time.
//
// # Compatibility
//
// Tested with Docker's registry program and with go-containerregistry's. The protocol is the OCI distribution specification,
// https://github.com/opencontainers/distribution-spec.
package registry
