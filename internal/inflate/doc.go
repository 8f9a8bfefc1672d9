// Package inflate is a fast DEFLATE decoder.
package inflate
