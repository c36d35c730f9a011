// Package debugpage shows what a [modcache.Cache] is doing, as a web page and as
// JSON. It is a package of its own so that only those who want it link net/http.
package debugpage

import (
	"bytes"
	"embed"
	"encoding/json"
	"fmt"
	"html/template"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/modcache/modcache"
	"github.com/modcache/modcache/internal/bounded"
	"github.com/modcache/modcache/internal/bytesize"
	"github.com/modcache/modcache/internal/option"
	"github.com/modcache/modcache/remote"
)

// Options configure [Handler]. Nil and zero fields mean the defaults.
type Options struct {
	// Recorder, if set, adds the slowest compiles, the reasons of misses and the
	// latest problems. It only knows what it observed.
	Recorder *Recorder

	// Disk is the store whose entries are listed. The default is that of the Cache, if
	// it is a Disk. For a Layered, name the Disk in it.
	Disk *modcache.Disk

	// Remotes are the stores on servers whose reports are shown too, by the names that they have on
	// the page, such as those of their layers. The map must not be changed any more.
	Remotes map[string]*remote.Store

	// MaxEntries bounds how many entries are read for a page; the default is 1000.
	// Negative lists none. If there are more, any of them may be missing.
	MaxEntries int
}

// validate returns a copy with the defaults filled in, but for Disk.
func (o *Options) validate() Options {
	var v Options
	if o != nil {
		v = *o
	}
	v.MaxEntries = option.Number(v.MaxEntries, 1000, 0)
	return v
}

// Handler returns a page about c for people, which needs no scripts, and the same
// figures as JSON for programs: to requests with ?format=json, or with an Accept
// header that names application/json and not text/html. It answers GET and HEAD,
// at whatever path it is mounted. Names in the JSON stay; others may be added.
//
// Don't expose it publicly. Like net/http/pprof, it is for operators: it shows
// which modules are in use, the cache's directory and the version of wazero, and each
// request reads up to MaxEntries small files. Put it on a loopback listener, or
// behind your authentication. It shows neither bytes of modules or code, nor
// the directory's key, nor the text of errors, in which a store may have put
// addresses and credentials.
//
// It works on until the Cache is closed, and shows the last counters after that. For a store
// or a file system that hangs, a request waits for some seconds, and shows the rest.
//
// A whole program: examples/pluginhost.
func Handler(c *modcache.Cache, o *Options) http.Handler {
	h := &handler{cache: c, o: o.validate(), walks: bounded.NewLane(1)}
	h.page = template.Must(template.New("").Funcs(functions).ParseFS(files, "page.html")).Lookup("page.html")
	return h
}

//go:embed page.html
var files embed.FS

type handler struct {
	cache *modcache.Cache
	o     Options
	page  *template.Template
	walks *bounded.Lane // of the directory, one at a time
}

func (h *handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	header := w.Header()
	header.Set("Cache-Control", "no-store")
	header.Set("Vary", "Accept")
	header.Set("X-Content-Type-Options", "nosniff")
	header.Set("Referrer-Policy", "no-referrer")
	header.Set("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'")
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		header.Set("Allow", "GET, HEAD")
		http.Error(w, "this page answers GET and HEAD only", http.StatusMethodNotAllowed)
		return
	}
	asJSON, err := wantsJSON(r)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	var body bytes.Buffer
	s := h.snapshot(r.Context())
	if asJSON {
		header.Set("Content-Type", "application/json")
		enc := json.NewEncoder(&body)
		enc.SetIndent("", "  ")
		err = enc.Encode(s)
	} else {
		header.Set("Content-Type", "text/html; charset=utf-8")
		err = h.page.Execute(&body, s)
	}
	if err != nil {
		http.Error(w, "the page could not be written", http.StatusInternalServerError)
		return
	}
	header.Set("Content-Length", strconv.Itoa(body.Len()))
	if r.Method == http.MethodGet {
		_, _ = w.Write(body.Bytes()) // a client that is gone misses nothing
	}
}

func wantsJSON(r *http.Request) (bool, error) {
	switch format := r.URL.Query().Get("format"); format {
	case "json":
		return true, nil
	case "html":
		return false, nil
	case "":
		accept := strings.ToLower(strings.Join(r.Header.Values("Accept"), ","))
		return strings.Contains(accept, "application/json") && !strings.Contains(accept, "text/html"), nil
	default:
		return false, fmt.Errorf("unknown format %.20q: json and html are known", format)
	}
}

// functions are what the page calls to write figures.
var functions = template.FuncMap{
	"bytes":   bytesize.Format[int64],
	"total":   bytesize.Format[uint64],
	"percent": func(ppm uint32) string { return fmt.Sprintf("%.1f %%", float64(ppm)/1e4) },
	"took":    formatDuration,
	"short":   shorten,
	"ago":     formatAge,
	"stamp":   func(t time.Time) string { return t.UTC().Format("2006-01-02 15:04:05 UTC") },
	"iso":     func(t time.Time) string { return t.UTC().Format(time.RFC3339) },
}

// shorten returns the beginning of a key or fingerprint, nothing if it is zero.
func shorten(id fmt.Stringer) string {
	s := id.String()
	if strings.Trim(s, "0") == "" {
		return ""
	}
	return s[:12]
}

// formatDuration writes d with three or four digits.
func formatDuration(d time.Duration) string {
	switch {
	case d <= 0:
		return "–"
	case d < 10*time.Millisecond:
		return d.Round(10 * time.Microsecond).String()
	case d < 10*time.Second:
		return d.Round(time.Millisecond).String()
	case d < time.Hour:
		return d.Round(100 * time.Millisecond).String()
	}
	return d.Round(time.Minute).String()
}

func formatAge(now, t time.Time) string {
	switch d := now.Sub(t); {
	case t.IsZero():
		return "–"
	case d < time.Minute:
		return "just now"
	case d < time.Hour:
		return fmt.Sprintf("%d min ago", d/time.Minute)
	case d < 48*time.Hour:
		return fmt.Sprintf("%d h ago", d/time.Hour)
	default:
		return fmt.Sprintf("%d days ago", d/(24*time.Hour))
	}
}
