package image

// ParseIndex decodes an image index, such as a registry's list of referrers, with the limits and the strictness of [Open]. The media type
// is what the index was announced as; it may be empty. The errors are *[DocumentError] and *[LimitError].
func ParseIndex(raw []byte, mediaType string, limits *Limits) (*Index, error) {
	var o Options
	if limits != nil {
		o.Limits = *limits
	}
	o = (&o).withDefaults()
	if int64(len(raw)) > o.Limits.ManifestBytes {
		return nil, &LimitError{What: "manifest bytes", Limit: o.Limits.ManifestBytes}
	}
	doc, err := parseDocument(raw, mediaType, o.Limits)
	if err != nil {
		return nil, bound("index", err)
	}
	if doc.index == nil {
		return nil, bound("index", documentError("index", "mediaType", "is %q, of an image", doc.mediaType))
	}
	return doc.index, nil
}
