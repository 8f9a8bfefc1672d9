package convert

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"

	"hpcimg/convert/internal/index"
	"hpcimg/convert/internal/layer"
	"hpcimg/internal/meter"
)

// Stage is a part of a conversion.
type Stage string

// The stages of a conversion, in their order.
const (
	StageOpen    Stage = "open"    // check the options, create the destination
	StageLayer   Stage = "layer"   // read a layer and compress what is in it; Event.Done counts bytes as stored
	StageMerge   Stage = "merge"   // lay the layers over one another; counts layers
	StageRepack  Stage = "repack"  // make the segment of a layer from another, see Result.Layers
	StageWrite   Stage = "write"   // put the layers in their places, write the tables; counts bytes
	StagePublish Stage = "publish" // give the file its name
)

// Event says how far a conversion is.
type Event struct {
	Stage Stage
	Name  string // of the layer, abbreviated, if the stage is about one; "copy" while layers made beforehand are put into an OCI layout or archive
	Done  int64
	Total int64 // 0 if nobody knows
}

// progress returns the function that a meter is to call.
func progress(f func(Event)) func(meter.Reading) {
	if f == nil {
		return nil
	}
	return func(r meter.Reading) {
		f(Event{Stage: Stage(r.Stage), Name: r.Name, Done: r.Done, Total: r.Total})
	}
}

// Result says what a conversion has made.
type Result struct {
	Path       string        `json:"path"`
	Form       Form          `json:"form"`
	Size       int64         `json:"size"`
	Arch       string        `json:"arch,omitempty"`
	Digest     digest.Digest `json:"digest,omitempty"` // of an OCI image's manifest
	Entries    int           `json:"entries"`          // names in the image, the root included; 0 of a file that stays as it is
	Layers     []LayerResult `json:"layers"`           // bottom first; of a file that stays as it is, its pieces
	Warnings   []Warning     `json:"warnings,omitempty"`
	TableBytes int64         `json:"tableBytes"`
	Elapsed    time.Duration `json:"elapsedNs"`
}

// LayerResult says what has become of a layer.
type LayerResult struct {
	Digest  digest.Digest `json:"digest,omitempty"`
	DiffID  digest.Digest `json:"diffID,omitempty"`
	Size    int64         `json:"size,omitempty"` // as stored in the source
	Tar     int64         `json:"tar,omitempty"`  // uncompressed
	Entries int           `json:"entries"`
	Files   int           `json:"files"`   // regular files with contents in the result
	Hidden  int           `json:"hidden"`  // regular files that are not in the result
	Segment int64         `json:"segment"` // bytes in the result
	// Index and SegmentFrom say where the list of entries and the compressed files come from. If neither is OriginSource the
	// layer was not even fetched.
	Index       Origin `json:"indexFrom"`
	SegmentFrom Origin `json:"segmentFrom"`
	// Reused counts bytes of files that had not to be compressed, because an image of Options.Reuse has the same blocks.
	Reused int64 `json:"reused,omitempty"`
	// Repacked is true if the segment had to be made from another one, or the layer to be read twice: because layers above hide
	// more or less of it than they did before, or because symbolic links, hard links or entries that come twice made
	// other files visible than could be foreseen.
	Repacked bool          `json:"repacked,omitempty"`
	Elapsed  time.Duration `json:"elapsedNs"`
}

// Warning is something that was left out or put up with.
type Warning struct {
	Code    WarningCode `json:"code"`
	Detail  string      `json:"detail,omitempty"` // what the code says
	Count   int         `json:"count"`
	Example string      `json:"example,omitempty"` // path of the first case
}

// WarningCode names a kind of warning.
type WarningCode string

// The kinds of warnings.
const (
	// WarnXattr: extended attributes were dropped; Detail is their name.
	WarnXattr = WarningCode(layer.NoteXattr)
	// WarnMediaType: layers are not compressed in the way that their media type says.
	WarnMediaType = WarningCode(layer.NoteMediaType)
	// WarnLayerMetadata: .wh..wh.* entries that AUFS left in a layer were ignored.
	WarnLayerMetadata = WarningCode(layer.NoteMeta)
	// WarnArch: the programs in the image are for another architecture than its platform says.
	WarnArch WarningCode = "arch-differs"
	// WarnRestore: what a directory could not be given, for lack of privileges; Detail says of what kind.
	WarnRestore WarningCode = "not-restored"
	// WarnEstargz: the layer is not an eStargz but a tar stream compressed by gzip, because eStargz cannot have what is at Example; Detail
	// is why.
	WarnEstargz WarningCode = "no-estargz"
	// WarnLeft: what a directory has replaced could not be removed; Example is where it is now.
	WarnLeft WarningCode = "old-left"
	// WarnSocket: sockets in a directory were left out.
	WarnSocket = WarningCode(layer.NoteSocket)
)

// String describes the warning in a sentence, without control characters.
func (w Warning) String() string {
	s := w.text()
	switch {
	case w.Example == "":
		return s + times(w.Count)
	case w.Count > 1:
		return s + fmt.Sprintf(" (%d times, first of %q)", w.Count, w.Example)
	}
	return s + fmt.Sprintf(" (of %q)", w.Example)
}

func times(n int) string {
	if n < 2 {
		return ""
	}
	return fmt.Sprintf(" (%d times)", n)
}

func (w Warning) text() string {
	detail := strings.Trim(strconv.Quote(w.Detail), `"`)
	switch w.Code {
	case WarnXattr:
		return "the extended attribute " + detail + " was left out"
	case WarnMediaType:
		return "a layer is not compressed as its media type says: " + detail
	case WarnLayerMetadata:
		return "an entry that AUFS left in a layer was ignored"
	case WarnArch:
		return "the " + detail
	case WarnRestore:
		return "not restored, for lack of privileges: " + detail
	case WarnEstargz:
		return "the layer is gzip, not eStargz: " + detail
	case WarnLeft:
		return "what was replaced could not be removed"
	case WarnSocket:
		return "a socket was left out"
	}
	return strings.TrimSpace(string(w.Code) + " " + detail)
}

// maxWarnings bounds how many kinds of warnings a hostile image can make us remember.
const maxWarnings = 100

// warnings collects notes. It is safe for concurrent use.
type warnings struct {
	mu    sync.Mutex
	byKey map[[2]string]*Warning
}

// Note implements layer.Notes.
func (w *warnings) Note(code layer.Code, path, detail string) { w.add(code, path, detail, 1) }

func (w *warnings) add(code layer.Code, path, detail string, count int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.byKey == nil {
		w.byKey = make(map[[2]string]*Warning)
	}
	key := [2]string{string(code), detail}
	if len(w.byKey) >= maxWarnings && w.byKey[key] == nil {
		key[1] = "…"
	}
	if known := w.byKey[key]; known != nil {
		known.Count += count
		return
	}
	w.byKey[key] = &Warning{Code: WarningCode(code), Detail: key[1], Count: count, Example: path}
}

// notes returns what was collected, to be stored.
func (w *warnings) notes() (all []index.Note) {
	for _, one := range w.list() {
		all = append(all, index.Note{Code: layer.Code(one.Code), Path: one.Example, Detail: one.Detail, Count: one.Count})
	}
	return all
}

func (w *warnings) list() []Warning {
	w.mu.Lock()
	defer w.mu.Unlock()
	var all []Warning
	for _, one := range w.byKey {
		all = append(all, *one)
	}
	slices.SortFunc(all, func(a, b Warning) int {
		return cmp.Or(cmp.Compare(a.Code, b.Code), cmp.Compare(a.Detail, b.Detail))
	})
	return all
}
