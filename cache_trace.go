package modcache

import "context"

// StepKind says what a [Step] does.
type StepKind uint8

// What is done. The comments say which fields of a Step beside Key and Name, and which of its StepEnd beside Err, are set.
const (
	StepModule  StepKind = iota + 1 // Module, Bytes (of wasm): a caller waits for a module that isn't in memory; all that is done for it is below this
	StepWait                        // for the same module, which another caller loads, or perhaps another process compiles
	StepLookup                      // ask the store; Bytes that it found, 0 if none
	StepCompile                     // Bytes (of wasm); Bytes of machine code, 0 if that is for one use
	StepLoad                        // give machine code to wazero; Bytes of it
)

var stepKinds = [...]string{"unknown", "module", "wait", "lookup", "compile", "load"}

// String returns the kind in one word.
func (k StepKind) String() string { return nameOf(stepKinds[:], uint8(k)) }

// Step is a part of what a [Runtime] does to come by a module, as Options.Trace is told when it begins.
type Step struct {
	Kind   StepKind
	Key    Key
	Name   string // of the module, as in [Module.Name]; "" where it isn't known
	Module Fingerprint
	Bytes  int64
}

// StepEnd says how a [Step] ended.
type StepEnd struct {
	Bytes int64
	Err   error // of a lookup: why the store failed, or what was wrong with what it had
}

// traceKey is the key of the context that Options.Trace returned last.
type traceKey struct{}

// begin tells Options.Trace of a step. What is done in it gets the context that begin returns, and
// end is called after it.
func (c *Cache) begin(ctx context.Context, s Step) (_ context.Context, end func(StepEnd)) {
	if c.opts.Trace == nil {
		return ctx, func(StepEnd) {}
	}
	type answer struct {
		ctx context.Context
		end func(StepEnd)
	}
	a, _ := told(c, &c.tracerHung, "reports to Options.Trace", func() (a answer) {
		a.ctx, a.end = c.opts.Trace(parent(ctx), s)
		return a
	})
	if a.ctx != nil {
		ctx = context.WithValue(ctx, traceKey{}, a.ctx)
	}
	return ctx, func(e StepEnd) {
		if a.end != nil {
			told(c, &c.tracerHung, "reports to Options.Trace", func() struct{} { a.end(e); return struct{}{} })
		}
	}
}

// parent returns the context of the step that ctx is in, or ctx itself if it is in none.
func parent(ctx context.Context) context.Context {
	if p, ok := ctx.Value(traceKey{}).(context.Context); ok {
		return p
	}
	return ctx
}

// inStepOf returns ctx in the step that another context is in: that of a flight, for the caller who
// started it.
func (c *Cache) inStepOf(ctx, caller context.Context) context.Context {
	if c.opts.Trace == nil {
		return ctx
	}
	return context.WithValue(ctx, traceKey{}, parent(caller))
}

// forStore returns ctx with the values of the step that it is in, so that requests which a store makes can be
// traced too.
func (c *Cache) forStore(ctx context.Context) context.Context {
	if c.opts.Trace == nil {
		return ctx
	}
	return valued{ctx, parent(ctx)}
}

// valued is a context with more values.
type valued struct {
	context.Context
	more context.Context
}

func (v valued) Value(key any) any {
	if value := v.Context.Value(key); value != nil {
		return value
	}
	return v.more.Value(key)
}
