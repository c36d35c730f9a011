package modcache

import (
	"context"
	"errors"

	"github.com/tetratelabs/wazero"
	"github.com/tetratelabs/wazero/api"
)

// NewTemplate is [Runtime.NewTemplate] for a module that calls host functions of h while it is
// made ready: the instance that Init runs in has the table t, its start functions included.
// If t is nil, it is a new one with the default options. t is closed when NewTemplate
// returns, whether Init ran or not.
//
// A handle that the guest got by then may be in the snapshot, but what it stood for is gone: in
// the tables of later instances, it finds nothing (SlotOptions.Narrow has the odds). Have the guest
// open what it needs after the snapshot.
//
// It fails if the host's runtime isn't a *Runtime, and with ErrClosed if t is closed.
func (h *SlotHost[T]) NewTemplate(ctx context.Context, m *Module, o *TemplateOptions, t *SlotTable[T]) (*Template, error) {
	const op = "make a template with a slot table"
	if t == nil {
		t = NewSlotTable[T](nil)
	}
	if !t.attach() {
		return nil, &SlotError{Op: op, Err: ErrClosed}
	}
	defer t.leave()
	r, ok := h.runtime.(*Runtime)
	if !ok {
		return nil, &SlotError{Op: op, Err: errors.New("the slot host's runtime was not made by a Cache")}
	}
	return r.newTemplate(ctx, m, o, func(ctx context.Context, compiled wazero.CompiledModule, config wazero.ModuleConfig) (api.Module, error) {
		mod, err := h.Instantiate(ctx, compiled, config, t)
		if err != nil {
			return nil, err
		}
		return mod.Module, nil
	})
}

// InstantiateTemplate is [Template.Instantiate] for an instance with a table, which is what it is
// in Instantiate: t, or a new one if t is nil, closed when the instance ends. The
// template must be of the host's runtime.
func (h *SlotHost[T]) InstantiateTemplate(ctx context.Context, tmpl *Template, config wazero.ModuleConfig, t *SlotTable[T]) (*SlotModule[T], error) {
	return h.instantiate(ctx, t, func(ctx context.Context, mark func(wazero.CompiledModule) wazero.CompiledModule) (api.Module, error) {
		if r, ok := h.runtime.(*Runtime); ok && r != tmpl.r {
			return nil, &SlotError{Op: "instantiate a template with a slot table", Err: errors.New("the template is of another Runtime than the slot host")}
		}
		return tmpl.instantiate(ctx, config, mark)
	})
}
