package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"sync"
	"time"

	"github.com/tetratelabs/wazero"
	"github.com/tetratelabs/wazero/imports/wasi_snapshot_preview1"

	"github.com/modcache/modcache"
	"github.com/modcache/modcache/debugpage"
)

// host serves the plugins in a directory to a fixed set of tenants.
type host struct {
	dir     string
	timeout time.Duration // of a plugin's code; compiling it takes what it takes
	log     *log.Logger
	tenants map[string]*tenant

	cache    *modcache.Cache
	recorder debugpage.Recorder
	runtime  *modcache.Runtime
	slots    *modcache.SlotHost[*counter]
}

func newHost(ctx context.Context, dir, cacheDir string, tenants []string, logger *log.Logger) (_ *host, err error) {
	h := &host{dir: dir, timeout: 2 * time.Second, log: logger, tenants: make(map[string]*tenant)}
	for _, name := range tenants {
		h.tenants[name] = &tenant{
			quota:    modcache.NewSlotQuota(maxHandles),
			counters: make(map[string]*counter),
			plugins:  make(map[string]*plugin),
		}
	}
	if h.cache, err = modcache.Open(cacheDir, &modcache.Options{OnEvent: h.recorder.Observe}); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			_ = h.close(ctx)
		}
	}()
	config := wazero.NewRuntimeConfig().
		WithCloseOnContextDone(true). // so that the timeout ends a plugin that loops
		WithMemoryLimitPages(1024)    // 64 MiB
	if h.runtime, err = h.cache.NewRuntime(ctx, config); err != nil {
		return nil, err
	}
	if _, err = wasi_snapshot_preview1.Instantiate(ctx, h.runtime); err != nil {
		return nil, err
	}
	if h.slots, err = modcache.NewSlotHost[*counter](ctx, h.runtime); err != nil {
		return nil, err
	}
	if err = exportAPI(ctx, h.runtime, h.slots); err != nil {
		return nil, err
	}
	return h, nil
}

// close ends all plugins. No request may be under way.
func (h *host) close(ctx context.Context) error {
	if h.runtime != nil {
		_ = h.runtime.Close(ctx)
	}
	return h.cache.Close(ctx)
}

func (h *host) routes() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("POST /{tenant}/{plugin}", h.serve)
	// Only because this server listens on a loopback address.
	mux.Handle("GET /debug/modcache", debugpage.Handler(h.cache, &debugpage.Options{Recorder: &h.recorder}))
	return mux
}

func (h *host) serve(w http.ResponseWriter, r *http.Request) {
	t := h.tenants[r.PathValue("tenant")]
	if t == nil {
		http.Error(w, "no such tenant", http.StatusNotFound)
		return
	}
	p, err := h.plugin(t, r.PathValue("plugin"))
	if err != nil {
		http.Error(w, "no such plugin", http.StatusNotFound)
		return
	}
	request, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxRequest))
	if err != nil {
		http.Error(w, "the request is too large or broken", http.StatusBadRequest)
		return
	}
	response, err := p.handle(r.Context(), h, &call{tenant: t, request: request})
	if err == nil {
		_, _ = w.Write(response)
		return
	}
	h.log.Printf("plugin %s: %.300q", p.file, err.Error()) // which quotes names that the plugin chose
	if errors.Is(err, context.DeadlineExceeded) {          // perhaps because this machine is busy
		http.Error(w, "the plugin takes too long", http.StatusGatewayTimeout)
		return
	}
	http.Error(w, "the plugin failed", http.StatusBadGateway)
}

// plugin is a plugin as one tenant has it: an instance with a slot table of its own.
type plugin struct {
	file string

	mu       sync.Mutex  // an instance serves one request at a time
	seen     fs.FileInfo // of the file when it was last read
	again    time.Time   // when to read it again, though it is the same; 0 is never
	module   *modcache.Module
	instance *modcache.SlotModule[*counter] // of module
	said     said                           // by the instance
}

// retryAfter is how long what took too long to start is left alone.
const retryAfter = 30 * time.Second

var pluginName = regexp.MustCompile(`^[a-z0-9]{1,32}$`)

func (h *host) plugin(t *tenant, name string) (*plugin, error) {
	if !pluginName.MatchString(name) {
		return nil, fs.ErrNotExist
	}
	file := filepath.Join(h.dir, name+".wasm")
	if _, err := os.Stat(file); err != nil {
		return nil, err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	p := t.plugins[name]
	if p == nil {
		p = &plugin{file: file}
		t.plugins[name] = p
	}
	return p, nil
}

func (p *plugin) handle(ctx context.Context, h *host, c *call) ([]byte, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return nil, err // a call would end the instance
	}
	if err := p.refresh(ctx, h, c.tenant); err != nil {
		return nil, err
	}
	f := p.instance.ExportedFunction("handle")
	if f == nil {
		return nil, errors.New("it exports no function handle")
	}
	p.said.left = maxSaid
	ctx, cancel := context.WithTimeout(context.WithValue(ctx, callKey{}, c), h.timeout)
	defer cancel()
	if _, err := f.Call(ctx); err != nil {
		// Who knows what state it is in. Its handles go with it, the tenant's counters stay.
		return nil, errors.Join(err, ctx.Err(), p.instance.Close(context.WithoutCancel(ctx)))
	}
	return c.response, nil
}

// refresh sees to it that there is an instance, of what is in the file if that works.
func (p *plugin) refresh(ctx context.Context, h *host, t *tenant) error {
	if err := p.update(ctx, h, t); err != nil {
		if p.module == nil {
			return err
		}
		h.log.Printf("plugin %s: keeping the version that works: %.300q", p.file, err.Error())
	}
	if p.instance.IsClosed() {
		return p.start(ctx, h, t, p.module)
	}
	return nil
}

// update changes to what is in the file, if that has changed. A file that doesn't work
// isn't tried again.
func (p *plugin) update(ctx context.Context, h *host, t *tenant) error {
	info, err := os.Stat(p.file)
	if err != nil {
		return err
	}
	s := p.seen
	same := s != nil && os.SameFile(info, s) && info.ModTime().Equal(s.ModTime()) && info.Size() == s.Size()
	if same && (p.again.IsZero() || time.Now().Before(p.again)) {
		switch {
		case p.module != nil:
		case p.again.IsZero():
			return errors.New("it never worked")
		default:
			return fmt.Errorf("it is left alone until %s: %w", p.again.Format(time.TimeOnly), context.DeadlineExceeded)
		}
		return nil
	}
	wasm, err := os.ReadFile(p.file)
	if err != nil {
		return err
	}
	module := modcache.NewModule(wasm).Named(filepath.Base(p.file))
	if p.module == nil || module.Fingerprint() != p.module.Fingerprint() {
		if err = p.start(ctx, h, t, module); err != nil && ctx.Err() != nil {
			return err // it says nothing about the module
		}
	}
	p.seen, p.again = info, time.Time{}
	if errors.Is(err, context.DeadlineExceeded) { // a busy machine may have been slow
		p.again = time.Now().Add(retryAfter)
	}
	return err
}

// start replaces the instance. The first tenant that asks for a module waits until it is
// compiled, the others find it.
func (p *plugin) start(ctx context.Context, h *host, t *tenant, module *modcache.Module) error {
	compiled, err := h.runtime.Compile(ctx, module)
	if err != nil {
		return fmt.Errorf("compile: %w", err)
	}
	defer compiled.Close(ctx) // the instance keeps what it needs
	for name, f := range compiled.ExportedFunctions() {
		if _, _, imported := f.Import(); imported { // wazero before v1.12 panics where that is looked up
			return fmt.Errorf("it exports %.100q, which it imports", name)
		}
	}
	p.said = said{h.log, filepath.Base(p.file), maxSaid}
	config := wazero.NewModuleConfig().WithName("").WithStartFunctions("_initialize").WithStderr(&p.said)
	table := modcache.NewSlotTable(&modcache.SlotOptions[*counter]{Quota: t.quota})
	starting, cancel := context.WithTimeout(context.WithValue(ctx, callKey{}, &call{tenant: t}), h.timeout)
	defer cancel()
	instance, err := h.slots.Instantiate(starting, compiled, config, table)
	if err != nil {
		return fmt.Errorf("start: %w", err)
	}
	if p.instance != nil {
		_ = p.instance.Close(ctx)
	}
	p.module, p.instance = module, instance
	return nil
}

// said is what a plugin writes to standard error: it goes to the host's log, which is everybody's, so bounded and under the plugin's name.
type said struct {
	log  *log.Logger
	name string
	left int // bytes, in this request
}

func (s *said) Write(b []byte) (int, error) {
	if s.left > 0 {
		text := b[:min(len(b), s.left)]
		s.left -= len(text) + 100 // and a line of ours around it
		s.log.Printf("plugin %s says %q", s.name, text)
	}
	return len(b), nil
}
