// Package modcacheotel gives OpenTelemetry what a [modcache.Cache] does: spans for the modules that programs wait for,
// and metrics. It is a module of its own so that only those who want it get OpenTelemetry.
package modcacheotel

import (
	"context"
	"errors"

	"go.opentelemetry.io/contrib/bridges/prometheus"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/trace"

	promclient "github.com/prometheus/client_golang/prometheus"

	"github.com/modcache/modcache"
	"github.com/modcache/modcache/internal/brief"
	"github.com/modcache/modcache/modcacheprom"
)

const scope = "github.com/modcache/modcache/modcacheotel"

// Attributes of spans. All keys begin with "modcache.".
const (
	attrName   = attribute.Key("modcache.name")       // the module's name
	attrKey    = attribute.Key("modcache.key")        // what the store is asked for
	attrModule = attribute.Key("modcache.module")     // the module's fingerprint
	attrWasm   = attribute.Key("modcache.wasm_bytes") // the module's size
	attrCode   = attribute.Key("modcache.code_bytes") // the size of its machine code
	attrHit    = attribute.Key("modcache.hit")        // of a lookup: there was something that may be used
)

// Trace returns what goes into the Trace field of [modcache.Options]. Its spans are children of the span in the context
// with which a program compiles or instantiates a module, if there is one, and carry on into the context with which a
// store is asked. A nil p is [otel.GetTracerProvider], asked once.
//
//	modcache module          a caller waits for a module that isn't in memory
//	  modcache lookup        the store is asked for its code
//	  modcache wait          another caller or process is loading or compiling it
//	  modcache compile
//	  modcache load          wazero is given the code
//
// A module that is in memory has no span. Callers that want the same module at once share the steps of the first;
// the others have "modcache wait". What is wrong with a store shows in "modcache lookup", and never fails the module.
func Trace(p trace.TracerProvider) func(context.Context, modcache.Step) (context.Context, func(modcache.StepEnd)) {
	if p == nil {
		p = otel.GetTracerProvider()
	}
	tracer := p.Tracer(scope)
	return func(ctx context.Context, s modcache.Step) (context.Context, func(modcache.StepEnd)) {
		ctx, span := tracer.Start(ctx, "modcache "+s.Kind.String())
		if !span.IsRecording() {
			return ctx, func(modcache.StepEnd) { span.End() }
		}
		span.SetAttributes(attrKey.String(s.Key.String()))
		if s.Name != "" {
			span.SetAttributes(attrName.String(brief.Text(s.Name)))
		}
		if s.Module != (modcache.Fingerprint{}) {
			span.SetAttributes(attrModule.String(s.Module.String()))
		}
		if s.Bytes > 0 {
			span.SetAttributes(attrWasm.Int64(s.Bytes))
		}
		return ctx, func(e modcache.StepEnd) {
			if s.Kind == modcache.StepLookup {
				span.SetAttributes(attrHit.Bool(e.Bytes > 0))
			}
			if e.Bytes > 0 {
				span.SetAttributes(attrCode.Int64(e.Bytes))
			}
			if e.Err != nil {
				err := e.Err
				// Exporters lose a whole batch over a text that isn't UTF-8, and collectors refuse one that is too large.
				whole := err.Error()
				if text := brief.Text(whole); text != whole {
					err = errors.New(text)
				}
				span.RecordError(err)
				span.SetStatus(codes.Error, err.Error())
			}
			span.End()
		}
	}
}

// Producer returns the metrics of c for a reader of OpenTelemetry's SDK:
//
//	sdkmetric.NewPeriodicReader(exporter, sdkmetric.WithProducer(producer))
//
// They are the series of [modcacheprom.Collector], with the same names and the same options, so that one dashboard serves
// both. OpenTelemetry has no other way for a histogram that somebody else has counted.
func Producer(c *modcache.Cache, o *modcacheprom.Options) (sdkmetric.Producer, error) {
	collector, err := modcacheprom.New(c, o)
	if err != nil {
		return nil, err
	}
	registry := promclient.NewRegistry()
	if err := registry.Register(collector); err != nil {
		return nil, err
	}
	return prometheus.NewMetricProducer(prometheus.WithGatherer(registry)), nil
}
