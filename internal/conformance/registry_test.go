//go:build linux

package conformance_test

import (
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"hpcimg/internal/oracle"
)

// startRegistry runs the registry program on a free port of the loopback device and returns its host:port.
func startRegistry(t *testing.T) string {
	t.Helper()
	program := oracle.Tool(t, "docker-registry")
	// Another process may take the port in between; then this one says so, and the next attempt has another port.
	var err error
	for range 3 {
		var host string
		if host, err = tryRegistry(t, program); err == nil {
			return host
		}
	}
	t.Fatal(err)
	return ""
}

func tryRegistry(t *testing.T, program string) (host string, err error) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	host = l.Addr().String()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	config := filepath.Join(dir, "config.yml")
	text := fmt.Sprintf("version: 0.1\nlog: {level: error}\nstorage: {filesystem: {rootdirectory: %s}}\nhttp: {addr: %q}\n", filepath.Join(dir, "data"), host)
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	var log strings.Builder
	cmd := exec.Command(program, "serve", config)
	cmd.Env = append(os.Environ(), "OTEL_TRACES_EXPORTER=none")
	cmd.Stdout, cmd.Stderr = &log, &log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	stop := func() {
		_ = cmd.Process.Kill()
		<-ended
	}
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
		select {
		case err := <-ended:
			return "", fmt.Errorf("docker-registry: %w\n%s", err, log.String())
		default:
		}
		resp, err := http.Get("http://" + host + "/v2/")
		if err != nil {
			continue
		}
		_ = resp.Body.Close()
		if resp.StatusCode == http.StatusOK {
			t.Cleanup(stop)
			return host, nil
		}
	}
	stop()
	return "", fmt.Errorf("docker-registry does not answer\n%s", log.String())
}
