package hkp

// ParseIndex is parseIndex.
var ParseIndex = parseIndex
