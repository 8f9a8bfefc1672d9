package sif

import (
	"encoding/json"
	"fmt"
	"maps"
	"strings"
	"time"
)

// DefinitionFor returns the definition file of an image that was made from a reference: a bootstrap agent such as "docker", and what it is
// to take, such as "debian:12".
func DefinitionFor(bootstrap, from string) string {
	oneLine := strings.NewReplacer("\n", " ", "\r", " ")
	return "bootstrap: " + oneLine.Replace(bootstrap) + "\nfrom: " + oneLine.Replace(from) + "\n"
}

// allLabels merges the labels of the OCI image, those that describe the build, and those that the caller adds.
func allLabels(in *RootInput) map[string]string {
	labels := maps.Clone(in.Config.Labels)
	if labels == nil {
		labels = make(map[string]string)
	}
	labels["org.label-schema.schema-version"] = "1.0"
	labels["org.label-schema.build-arch"] = in.Arch
	if !in.BuildDate.IsZero() {
		labels["org.label-schema.build-date"] = buildDate(in.BuildDate)
	}
	if in.Tool != "" {
		labels["org.label-schema.usage."+in.Tool+".version"] = in.Version
	}
	for key, value := range definitionHeader(in.Definition) {
		labels["org.label-schema.usage.singularity.deffile."+key] = value
	}
	if in.BaseName != "" && in.BaseDigest != "" {
		labels["org.opencontainers.image.base.name"] = in.BaseName
		labels["org.opencontainers.image.base.digest"] = in.BaseDigest
	}
	setDefault(labels, "org.opencontainers.image.architecture", in.Arch)
	if !in.BuildDate.IsZero() {
		setDefault(labels, "org.opencontainers.image.created", in.BuildDate.UTC().Format(time.RFC3339))
	}
	maps.Copy(labels, in.Labels)
	return labels
}

func setDefault(labels map[string]string, key, value string) {
	if _, ok := labels[key]; !ok {
		labels[key] = value
	}
}

// buildDate writes a time the way the runtimes do: nothing is padded with zeros.
func buildDate(t time.Time) string {
	t = t.UTC()
	return fmt.Sprintf("%s_%d_%s_%d_%d:%d:%d_UTC", t.Weekday(), t.Day(), t.Month(), t.Year(), t.Hour(), t.Minute(), t.Second())
}

// definitionHeader returns the "key: value" lines that stand before the first section of a definition file.
func definitionHeader(text string) map[string]string {
	header := make(map[string]string)
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		if strings.HasPrefix(line, "%") {
			break
		}
		key, value, ok := strings.Cut(line, ":")
		if !ok || strings.HasPrefix(line, "#") {
			continue
		}
		header[strings.ToLower(strings.TrimSpace(key))] = strings.TrimSpace(value)
	}
	return header
}

func labelsJSON(labels map[string]string) (string, error) {
	text, err := json.MarshalIndent(labels, "", "\t")
	if err != nil {
		return "", fmt.Errorf("sif: labels: %w", err)
	}
	return string(text), nil
}
