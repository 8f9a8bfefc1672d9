package image

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
)

const (
	defaultDaemon = "unix:///var/run/docker.sock"
	// maxDaemonAnswer bounds what a daemon may say when it refuses.
	maxDaemonAnswer = 64 << 10
	maxDaemonName   = 512
)

// daemonName is what a name or ID consists of. It goes into a query, where it is escaped.
var daemonName = pattern(`^[A-Za-z0-9][A-Za-z0-9._:/@-]*$`)

func validDaemonName(s string) bool {
	return len(s) <= maxDaemonName && daemonName().MatchString(s) && !slices.Contains(strings.Split(s, "/"), "..")
}

// openDaemon opens an image that Docker or Podman has: what their save commands write, which a daemon sends in one stream.
func openDaemon(ctx context.Context, ref Reference, o Options) (*Image, error) {
	client, base, err := daemonClient(o.Daemon.Address)
	if err != nil {
		return nil, err
	}
	defer client.CloseIdleConnections()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, base+"/images/get?names="+url.QueryEscape(ref.Path), nil)
	if err != nil {
		return nil, err
	}
	res, err := client.Do(req)
	if err != nil {
		return nil, daemonError(ctx, o, 0, err)
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return nil, refusedByDaemon(ctx, ref, o, res)
	}
	files, err := spoolArchive(ctx, "what the daemon has sent", res.Body, o.TempDir)
	if err != nil {
		return nil, err
	}
	// The archive has nothing but what was asked for; what the image is called in it the daemon decides.
	return openDockerArchive(ctx, files, Reference{Transport: TransportDockerArchive, Path: "the archive"}, o)
}

// daemonClient returns a client for an address as in DOCKER_HOST, and the URL that stands for it.
func daemonClient(address string) (*http.Client, string, error) {
	if address == "" {
		address = defaultDaemon
	}
	scheme, rest, _ := strings.Cut(address, "://")
	dialer := &net.Dialer{}
	transport := &http.Transport{DisableCompression: true}
	switch scheme {
	case "unix":
		if rest == "" {
			return nil, "", fmt.Errorf("daemon address %q has no path: %w", address, fs.ErrInvalid)
		}
		transport.DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) { return dialer.DialContext(ctx, "unix", rest) }
		return &http.Client{Transport: transport, CheckRedirect: noRedirect}, "http://daemon", nil
	case "tcp", "http":
		host, _, err := net.SplitHostPort(rest)
		if err != nil {
			return nil, "", fmt.Errorf("daemon address %q: %w", clip(address, 200), err)
		}
		if ip := net.ParseIP(host); host != "localhost" && (ip == nil || !ip.IsLoopback()) {
			return nil, "", unsupported("a daemon on another machine without encryption: forward its socket (ssh -L) and give that")
		}
		return &http.Client{Transport: transport, CheckRedirect: noRedirect}, "http://" + rest, nil
	}
	return nil, "", unsupported(fmt.Sprintf("daemon address %q: want unix:// or tcp://", clip(address, 200)))
}

func noRedirect(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }

// refusedByDaemon makes an error of what a daemon says.
func refusedByDaemon(ctx context.Context, ref Reference, o Options, res *http.Response) error {
	raw, err := io.ReadAll(io.LimitReader(res.Body, maxDaemonAnswer))
	if err != nil {
		return daemonError(ctx, o, res.StatusCode, err)
	}
	var answer struct {
		Message string `json:"message"`
		Cause   string `json:"cause"`
	}
	if json.Unmarshal(raw, &answer) != nil || answer.Message == "" {
		answer.Message = "status " + res.Status
	}
	text := printable(answer.Message, 300)
	lower := strings.ToLower(answer.Message + answer.Cause)
	for _, missing := range []string{"no such image", "image not known", "does not exist", "not found"} {
		if res.StatusCode == http.StatusNotFound || strings.Contains(lower, missing) {
			return fmt.Errorf("the daemon has no image %q: %w (%s)", clip(ref.Path, 140), fs.ErrNotExist, text)
		}
	}
	return daemonError(ctx, o, res.StatusCode, errors.New(text))
}

func daemonError(ctx context.Context, o Options, status int, err error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	address := o.Daemon.Address
	if address == "" {
		address = defaultDaemon
	}
	if e, ok := errors.AsType[*url.Error](err); ok {
		err = e.Err // the URL is made up
	}
	return &TransportError{Host: address, Op: "export", Status: status, Err: err}
}
